// What the kernel tests and benchmarks enumerate: backends, weight formats, shapes. A new one is one line in
// a table.
#pragma once

#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "quant/quant_weight.h"

namespace nbl {

struct BackendCase {
  std::string name;  // "cpu avx2 exact16", "ref"
  std::shared_ptr<Backend> backend;
  // What is promised of y = x W^T: relative RMS against float64 of the dequantized weights, and whether these
  // are the ones that the tool rounds to value_type or the plain products of code and scale.
  double int_tolerance = 0, float_tolerance = 0;
  bool rounds = false;
};
// Every backend of this build on this machine, in every precision it promises something for.
std::vector<BackendCase> all_backends();
// One per instruction set, default precision: for whole steps and timings.
std::vector<BackendCase> default_backends(int threads);

struct FormatCase {
  const char* name;
  WeightFormat format;
  int bits;
  int64_t group_size;  // -1: the whole row
  bool symmetric, permuted;
  DType value_type, scale_type;
};
const std::vector<FormatCase>& format_cases();

// A random weight of that format. Zeros reach 0 and the largest code; a few scales are subnormal halves.
QuantWeight random_weight(const FormatCase& format, int64_t n, int64_t k, std::mt19937& random);
// The value of W[n, k_order[p]] in double, with or without the rounding to value_type.
double exact_value(const QuantWeight& w, int64_t n, int64_t p, bool rounded);
// y[m, N] in double.
std::vector<double> exact_product(const QuantWeight& w, const std::vector<float>& x, int64_t m, bool rounded);
// RMS of the error over RMS of what is expected, or over `size` where that is larger.
double relative_rms(const std::vector<double>& expected, const float* actual, double size = 0);
// RMS that m products would have if x were random of its size: sums that happen to cancel must not be the
// measure.
double expected_rms(const QuantWeight& w, const std::vector<float>& x, int64_t m);

std::vector<float> random_row(int64_t n, std::mt19937& random, float scale = 1);

}  // namespace nbl

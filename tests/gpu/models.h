// Random weights of every format and random decoders made of them, with what they mean in double precision.
#pragma once

#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "tests/support/decoder_parts.h"

namespace nbl::gpu_test {

struct FormatCase {
  const char* name;
  WeightFormat format;
  int bits;
  int64_t group_size;        // 0: one group for all of K
  DType value_type, scale_type;
  bool permuted;
};
// Every format the loaders know, with the group sizes that occur and some that do not.
const std::vector<FormatCase>& formats();

QuantWeight random_weight(const FormatCase& format, int64_t n, int64_t k, uint32_t seed);
// As random_weight, but with the permutation of another weight: for fusing.
QuantWeight random_weight_like(const QuantWeight& other, const FormatCase& format, int64_t n, uint32_t seed);
std::vector<float> random_values(int64_t count, float deviation, uint32_t seed);

// y[m, N] in double.
std::vector<double> exact_matmul(const QuantWeight& w, const float* x, int64_t m);
// ||got - want|| / ||want||; infinite when a value is not finite.
double relative_error(const float* got, const double* want, int64_t count);

struct ModelOptions {
  FormatCase format = {"f16", WeightFormat::kFloat, 0, 0, DType::kF16, DType::kF32, false};
  int64_t hidden = 128, inner = 256, layers = 2, heads = 4, kv_heads = 2, head_dim = 32, vocab = 320;
  bool fused = true, biases = false, head_norms = false, layer_norms = false;
  int64_t window = 0, rotary_dim = -1;  // -1: head_dim
  testing::TestRope rope = testing::TestRope::kPlain;
  bool still_layers = false;            // every second one does not turn
  Activation activation = Activation::kSilu;
  double outlier_threshold = -1;        // of the matrices of the blocks
  int spoiled = -1;                     // of the first block: q, k, v, gate, up, output, down; one of its scales is spoiled_scale
  float spoiled_scale = 0;
  uint32_t seed = 1;
};

// A decoder on a backend, and the same weights plainly. exact_logits() runs the whole sequence from nothing, in double.
class TestModel {
 public:
  static Result<std::unique_ptr<TestModel>> create(const Backend& backend, const ModelOptions& options);
  std::shared_ptr<const Decoder> decoder() const { return decoder_; }
  // [tokens.size(), vocab]; the call that ends at tokens.size().
  std::vector<double> exact_logits(const std::vector<int32_t>& tokens) const;

 private:
  struct PlainBlock {
    std::vector<QuantWeight> qkv, gate_up;
    QuantWeight output, down;
  };
  std::vector<double> linear(const QuantWeight& w, const std::vector<double>& given, const float* bias) const;

  std::shared_ptr<Decoder> decoder_;
  std::vector<PlainBlock> blocks_;
  QuantWeight head_;
  std::vector<uint16_t> table_;
};

}  // namespace nbl::gpu_test

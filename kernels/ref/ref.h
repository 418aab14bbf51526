// The reference backend: what every operation means, in double, as plainly as possible.
//
// Other backends are checked against it. Weights are dequantized once, with the rounding that the tool which made the
// checkpoint does; everything else is double.
#pragma once

#include <vector>

#include "kernels/backend.h"

namespace nbl::ref {

// [N, K] row-major in natural column order.
class Weight : public PackedWeight {
 public:
  Weight(WeightSpec spec, std::vector<float> values) : PackedWeight(std::move(spec)), values_(std::move(values)) {}
  int64_t bytes() const override { return static_cast<int64_t>(values_.size() * sizeof(float)); }
  std::string kernel() const override { return "ref float64"; }
  const float* values() const { return values_.data(); }

 private:
  std::vector<float> values_;
};

// Keys and values of every layer, [position][kv_heads * head_dim], keys after rotation.
class Cache : public KvCache {
 public:
  Cache(const DecoderConfig& config, int64_t capacity);
  int64_t length() const override { return length_; }
  int64_t capacity() const override { return capacity_; }
  int64_t bytes() const override;
  void truncate(int64_t length) override { length_ = length; }
  void set_length(int64_t length) { length_ = length; }
  double* key(int64_t layer, int64_t position) { return keys_[layer].data() + position * width_; }
  double* value(int64_t layer, int64_t position) { return values_[layer].data() + position * width_; }

 private:
  int64_t width_, capacity_, length_ = 0;
  std::vector<std::vector<double>> keys_, values_;
};

using Row = std::vector<double>;

// y = W x + bias; `outliers` counts those of x (kernels/outliers.h).
Row multiply(const Linear& linear, const Row& x, int64_t& outliers);
// RMS: x / sqrt(mean(x^2) + eps) * w.  Layer: (x - mean) / sqrt(variance + eps) * w + b.
void normalize(const Norm& norm, double* x, int64_t width);
double activate(Activation activation, double x);
// Runs one token at `position` through layer `layer`; h is the residual stream.
void run_block(const Decoder& decoder, int64_t layer, Cache& cache, int64_t position, const Row& cosine, const Row& sine, Row& h,
               int64_t& outliers);

}  // namespace nbl::ref

// QuantWeight: one linear layer's weights in their plain meaning, whatever file format they came from.
//
// AWQ, GPTQ, compressed-tensors and LLM.int8 all become `int group`; bitsandbytes NF4 and FP4 become `codebook`;
// everything else is `float`. Loaders (src/quant) make it, backends (kernels) repack it into their own layout.
// Plain data: kernels may include this header.
//
//   W[n, k_order[p]] = round( (codes[n,p] - zeros[n, p/group_size]) * scales[n, p/group_size] )     int group
//   W[n, p]          = round( codebook[codes[n,p]] * scales[n, p/group_size] )                      codebook
//   W[n, p]          = dense[n, p]                                                                  float
//
// N = out_features, K = in_features, y[m,N] = x[m,K] * W^T. `round` is the rounding to value_type that the tool which
// made the checkpoint does when it dequantizes (formats.md 2.1, 3.1, 4.4); value_type kF32 means none.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "base/dtype.h"

namespace nbl {

enum class WeightFormat : uint8_t { kFloat, kIntGroup, kCodebook };

// What is known of a weight before a byte of it is read.
struct WeightSpec {
  WeightFormat format = WeightFormat::kFloat;
  int64_t out_features = 0;          // N
  int64_t in_features = 0;           // K
  int bits = 0;                      // int group: 2..8; codebook: 4; float: 0
  int64_t group_size = 0;            // columns (in k_order) that share a scale, 1..K; 0 for float
  DType value_type = DType::kF32;    // the type of the dequantized value: kF16, kBF16 or kF32
  DType scale_type = DType::kF32;    // the narrowest type that holds every scale exactly: kF16, kBF16 or kF32
  bool symmetric = false;            // int group: every zero is 2^(bits-1)
  bool permuted = false;             // k_order is not the identity (GPTQ act-order)
  double outlier_threshold = -1;     // of LLM.int8 (kernels/outliers.h); negative: activations are not rounded to 8 bits
  std::string source;                // "awq gemm", "gptq v1", "bitsandbytes nf4", ... for `describe`

  int64_t groups() const { return group_size > 0 ? (in_features + group_size - 1) / group_size : 0; }
};

struct QuantWeight : WeightSpec {
  std::vector<uint8_t> codes;        // [N, K], one code a byte, columns in k_order
  std::vector<float> scales;         // [N, groups()]
  std::vector<uint8_t> zeros;        // [N, groups()], int group only
  std::array<float, 16> codebook{};  // codebook only
  std::vector<int32_t> k_order;      // [K]: position -> column of x; empty when the identity

  // float: [N, K] of value_type, row-major. Points into the checkpoint's mapping, or into dense_owned.
  const void* dense = nullptr;
  std::vector<uint8_t> dense_owned;
};

inline float round_to(DType type, float value) {
  if (type == DType::kF16) return f16_to_float(float_to_f16(value));
  if (type == DType::kBF16) return bf16_to_float(float_to_bf16(value));
  return value;
}

// W[n, k_order[p]] as float32. For references and for odd shapes: one element at a time is slow.
inline float weight_value(const QuantWeight& w, int64_t n, int64_t p) {
  const int64_t at = n * w.in_features + p;
  switch (w.format) {
    case WeightFormat::kIntGroup: {
      const int64_t group = n * w.groups() + p / w.group_size;
      return round_to(w.value_type, static_cast<float>(w.codes[at] - w.zeros[group]) * w.scales[group]);
    }
    case WeightFormat::kCodebook:
      return round_to(w.value_type, w.codebook[w.codes[at] & 15] * w.scales[n * w.groups() + p / w.group_size]);
    case WeightFormat::kFloat: break;
  }
  if (w.value_type == DType::kF32) return static_cast<const float*>(w.dense)[at];
  const uint16_t half = static_cast<const uint16_t*>(w.dense)[at];
  return w.value_type == DType::kF16 ? f16_to_float(half) : bf16_to_float(half);
}

}  // namespace nbl

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

// Codes as a checkpoint packs them, for a backend that unpacks them itself: a view into the file. Columns are in the
// file's order, which is that of x. The layouts, for a matrix [N, K] of `bits` each:
//
//   kAlongInputs    words [ceil(K * bits / 32), N]: column n is one little-endian stream of bits               (GPTQ)
//   kAlongOutputs   words [K, N / 8], bits 4: output 8c + j is nibble `places >> 4j & 15` of word c             (AWQ)
//   kRows           bytes [N, K * bits / 8], bits 4 or 8: of two codes in a byte the first in the high nibble   (bitsandbytes),
//                   or, low_first, in the low one                                                               (compressed-tensors)
//   kFloats         values [N, K] of `type`, not quantized yet: how is in QuantizationRule                        (made while loading)
//   kRandom         no bytes, columns in k_order: code i = n * K + p is byte i % 8 of random_codes(seed, i / 8)   (made to measure speed)
struct StoredCodes {
  enum class Layout : uint8_t { kNone, kAlongInputs, kAlongOutputs, kRows, kFloats, kRandom };
  Layout layout = Layout::kNone;
  const uint8_t* data = nullptr;     // may be unaligned
  uint32_t places = 0;
  uint8_t flip = 0;                  // exclusive-or'ed to every code: 0x80 makes int8 an offset of 128
  bool low_first = false;
  DType type = DType::kF32;          // of kFloats
  uint64_t seed = 0;
};

// Scales as a checkpoint stores them, maybe unaligned: [groups, N] of this type, or [N, groups] by rows. With a map they are
// the codes of bitsandbytes' double quantization (kU8, by rows): scale i of the matrix is
// map[code] * nested[i / nested_block] + offset, the product rounded before the sum.
struct StoredScales {
  const uint8_t* data = nullptr;     // null: `scales` has them
  DType type = DType::kF16;
  bool by_rows = false;
  const uint8_t* map = nullptr;      // float32 [256]; null: `data` are the scales
  const uint8_t* nested = nullptr;   // float32 [ceil(N * groups / nested_block)], with a map
  int64_t nested_block = 256;
  float offset = 0;
};

// What the values of a group become whose largest magnitude is `most`; every operation is rounded to float32.
//   codebook    code[number of steps below v * (1 / most)], scale = most
//   int group   8 bits: nearest(half(v) * (127 / most)) + 128, scale = most * kInt8Scale, most being that of half(v)
// Where all values are 0 these quotients are 0 too.
constexpr float kInt8Scale = 7.874015718698502e-3f;  // 1 / 127, as bitsandbytes writes it
struct QuantizationRule {
  float steps[15] = {};              // ascending
  uint8_t code[16] = {};
};

struct QuantWeight : WeightSpec {
  std::vector<uint8_t> codes;        // [N, K], one code a byte, columns in k_order; empty when `stored` has them
  std::vector<float> scales;         // [N, groups()]
  std::vector<uint8_t> zeros;        // [N, groups()], int group only
  std::array<float, 16> codebook{};  // codebook only
  std::vector<int32_t> k_order;      // [K]: position -> column of x; empty when the identity

  // Only in a weight that was loaded for a backend that takes them (Backend::takes_stored).
  StoredCodes stored;
  StoredScales stored_scales;        // then `scales` is empty
  StoredCodes stored_zeros;          // of the matrix [N, groups()], kAlongOutputs; then `zeros` is empty
  int64_t stored_rows = 0;           // of the matrix that these three are of, where this weight is some of its rows (rows_of), in
  int64_t stored_first = 0;          // eights; stored_first is its row 0. 0: there are no others
  QuantizationRule rule;             // of kFloats; then `scales` is empty, or has what the rule's have become since

  // float: [N, K] of value_type, row-major. Points into the checkpoint's mapping, or into dense_owned.
  const void* dense = nullptr;
  std::vector<uint8_t> dense_owned;
};

// Eight codes of kRandom at a time, those at 8 * index ..: one to a byte, the first in the lowest (splitmix64).
#ifdef __CUDACC__
__host__ __device__
#endif
inline uint64_t random_codes(uint64_t seed, uint64_t index) {
  uint64_t z = seed + (index + 1) * 0x9E3779B97F4A7C15ull;
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ z >> 27) * 0x94D049BB133111EBull;
  return z ^ z >> 31;
}

inline float round_to(DType type, float value) {
  if (type == DType::kF16) return f16_to_float(float_to_f16(value));
  if (type == DType::kBF16) return bf16_to_float(float_to_bf16(value));
  return value;
}

// W[n, k_order[p]] as float32, of plain codes. For references and for odd shapes: one element at a time is slow.
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

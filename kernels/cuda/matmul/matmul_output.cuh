// What the matrix kernels share: the table of code pairs, ranges of K, and where a result goes.
#pragma once

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/matmul/matmul.h"
#include "kernels/cuda/weights/tile_math.cuh"

namespace nbl::cuda {

constexpr int kPairTableBytes = 256 * 32 * 4;  // kCode4: the values of every pair of codes, one copy a bank

__device__ __forceinline__ void fill_pair_table(uint32_t* table, const unsigned* code_pairs, int thread,
                                                int threads) {
  for (int i = thread; i < 256 * 8; i += threads) {
    const uint32_t v = __ldg(code_pairs + i / 8);
    reinterpret_cast<uint4*>(table)[i] = make_uint4(v, v, v, v);
  }
}

// Splits range `total` into `parts` nearly equal ones: where part i begins. total * parts is less than 2^32: a matrix has
// fewer strips and records than that by far, and a division of 64 bits takes a kernel a hundred instructions.
NBL_HD int part_begin(int total, int parts, int i) {
  return static_cast<int>(static_cast<unsigned>(total) * static_cast<unsigned>(i) / static_cast<unsigned>(parts));
}

// What put_rows() will add to: to be asked for early, since it comes from memory.
__device__ __forceinline__ float2 residual_rows(const Tiles& w, const Output& o, int strip, int g, int64_t token) {
  const int64_t row = static_cast<int64_t>(strip) * kStripRows + g;
  if (o.kind != Output::Kind::kAdd) return make_float2(0.f, 0.f);
  const float* at = o.values + token * o.pitch + row;
  return make_float2(row < w.rows ? *at : 0.f, row + 8 < w.rows ? at[8] : 0.f);
}

// The results of rows g and g+8 of a strip for one token.
__device__ __forceinline__ void put_rows(const Tiles& w, const Output& o, int strip, int g, int64_t token,
                                         float v0, float v1, float2 residual) {
  const int64_t row = static_cast<int64_t>(strip) * kStripRows + g;
  if (w.row_scale != nullptr) v0 *= w.row_scale[row], v1 *= w.row_scale[row + 8];
  if (o.kind == Output::Kind::kGate) {
    const int64_t i = static_cast<int64_t>(strip) * 8 + g;
    if (i >= w.rows / 2) return;
    if (o.bias != nullptr) v0 += o.bias[i], v1 += o.bias[w.rows / 2 + i];
    const int64_t column = o.place != nullptr ? o.place[i] : i;
    static_cast<__half*>(o.half_values)[ActivationLayout(o.pitch, o.blocked).at(token, column)] =
        to_half(activate(o.activation, v0) * v1);
    return;
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    if (row + 8 * r >= w.rows) continue;
    float v = r == 0 ? v0 : v1;
    if (o.bias != nullptr) v += o.bias[row + 8 * r];
    o.values[token * o.pitch + row + 8 * r] = (r == 0 ? residual.x : residual.y) + v;
  }
}
__device__ __forceinline__ void put_rows(const Tiles& w, const Output& o, int strip, int g, int64_t token,
                                         float v0, float v1) {
  put_rows(w, o, strip, g, token, v0, v1, residual_rows(w, o, strip, g, token));
}

}  // namespace nbl::cuda

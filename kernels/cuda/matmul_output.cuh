// What the matrix kernels share: the table of code pairs, ranges of K, and where a result goes.
#pragma once

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/tile_math.cuh"

namespace nbl::cuda {

constexpr int kPairTableBytes = 256 * 32 * 4;  // kCode4: the values of every pair of codes, one copy a bank

__device__ __forceinline__ void fill_pair_table(uint32_t* table, const unsigned* code_pairs, int thread,
                                                int threads) {
  for (int i = thread; i < 256 * 8; i += threads) {
    const uint32_t v = __ldg(code_pairs + i / 8);
    reinterpret_cast<uint4*>(table)[i] = make_uint4(v, v, v, v);
  }
}

// Splits range `total` into `parts` nearly equal ones: where part i begins.
NBL_HD int part_begin(int total, int parts, int i) {
  return static_cast<int>(static_cast<int64_t>(total) * i / parts);
}

// The results of rows g and g+8 of a strip for one token.
__device__ __forceinline__ void put_rows(const Tiles& w, const Output& o, int strip, int g, int64_t token,
                                         float v0, float v1) {
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
    float* at = o.values + token * o.pitch + row + 8 * r;
    *at = o.kind == Output::Kind::kAdd ? *at + v : v;
  }
}

}  // namespace nbl::cuda

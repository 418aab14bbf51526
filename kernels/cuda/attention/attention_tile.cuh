// Mask and running softmax of one tile of scores, as the kernels for many queries have them: queries g and g + 8 of a warp, and
// keys 8n + 2t and 8n + 2t + 1 of the tile, in a lane of mma or wgmma. In float32.
#pragma once

#include "kernels/cuda/attention/attention.cuh"

namespace nbl::cuda {

struct RunningSoftmax {
  float top[2] = {kNoScore, kNoScore}, sum[2] = {0.f, 0.f};  // sum: of what this lane has seen

  // Scores become weights, packed in pairs as operand A of the values' product; the result is what earlier sums are multiplied by.
  // key, position: of score[0][0]; edge: not every key is visible to every query.
  template <int N>
  __device__ __forceinline__ float2 add(float (&score)[N][4], bool edge, int key, int position, int64_t window, uint32_t (&weights)[N][2]) {
    float highest[2] = {top[0], top[1]}, shrink[2];
#pragma unroll
    for (int n = 0; n < N; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (edge) {
          const int k = key + n * 8 + i % 2, at = position + i / 2 * 8;
          if (k > at || (window > 0 && k <= at - window)) score[n][i] = kNoScore;
        }
        highest[i / 2] = fmaxf(highest[i / 2], score[n][i]);
      }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      highest[r] = fmaxf(highest[r], __shfl_xor_sync(~0u, highest[r], 1));
      highest[r] = fmaxf(highest[r], __shfl_xor_sync(~0u, highest[r], 2));
      shrink[r] = exp2_fast(top[r] - highest[r]);
      top[r] = highest[r];
      sum[r] *= shrink[r];
    }
#pragma unroll
    for (int n = 0; n < N; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        // A row that has seen nothing visible yet has no maximum: its weights are zero, not exp(0).
        if (edge && score[n][i] <= kNoScore)
          score[n][i] = 0.f;
        else
          score[n][i] = exp2_fast(score[n][i] - highest[i / 2]);
        sum[i / 2] += score[n][i];
      }
      weights[n][0] = bits_of(__floats2half2_rn(score[n][0], score[n][1]));
      weights[n][1] = bits_of(__floats2half2_rn(score[n][2], score[n][3]));
    }
    return make_float2(shrink[0], shrink[1]);
  }
  // The sum of all keys that query g + 8r has seen.
  __device__ __forceinline__ float total(int r) const {
    const float v = sum[r] + __shfl_xor_sync(~0u, sum[r], 1);
    return v + __shfl_xor_sync(~0u, v, 2);
  }
};

}  // namespace nbl::cuda

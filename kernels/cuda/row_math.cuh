// Reductions over a warp, norms and rotary angles, as every kernel does them.
#pragma once

#include "kernels/cuda/plan/step.h"

namespace nbl::cuda {

__device__ __forceinline__ float2 warp_sum(float2 v) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    v.x += __shfl_xor_sync(~0u, v.x, step);
    v.y += __shfl_xor_sync(~0u, v.y, step);
  }
  return v;
}

// Keeps the larger of two values, of equals the one with the lower id. An id of 2^31-1 stands for nothing.
__device__ __forceinline__ void keep_better(float& value, int32_t& id, float other, int32_t other_id) {
  if (other_id != 0x7fffffff && (id == 0x7fffffff || other > value || (other == value && other_id < id))) value = other, id = other_id;
}
// The same over the warp, in every lane.
__device__ __forceinline__ void warp_best(float& value, int32_t& id) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    const float other = __shfl_xor_sync(~0u, value, step);
    const int32_t other_id = __shfl_xor_sync(~0u, id, step);
    keep_better(value, id, other, other_id);
  }
}

// sums = {sum of v, sum of v*v} -> {mean, 1 / deviation}; the mean of an RMS norm is 0.
__device__ __forceinline__ float2 norm_factors(const DeviceNorm& norm, float2 sums, int64_t width) {
  const float mean = norm.kind == Norm::Kind::kLayer ? sums.x / width : 0.f;
  return make_float2(mean, rsqrtf(fmaxf(sums.y / width - mean * mean, 0.f) + norm.epsilon));
}
__device__ __forceinline__ float norm_value(const DeviceNorm& norm, float v, float2 factors, int64_t i) {
  const float n = (v - factors.x) * factors.y * norm.weight[i];
  return norm.bias != nullptr ? n + norm.bias[i] : n;
}

// Cosine and sine of one position and frequency: the angle in float32, as kernels/rope.h forms it.
__device__ __forceinline__ float2 turn(int32_t position, float frequency, float factor) {
  float s, c;
  sincosf(__fmul_rn(static_cast<float>(position), frequency), &s, &c);
  return make_float2(c * factor, s * factor);
}

}  // namespace nbl::cuda

// Everything of a step that works on one row at a time: embedding, angles, norms, biases, gates, the largest logit.
// Bound: the bytes of the rows; all of it together is a few per cent of a step.
#include <cuda_bf16.h>

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/row_math.cuh"
#include "kernels/cuda/step.h"
#include "kernels/cuda/tile_math.cuh"

namespace nbl::cuda {
namespace {

__global__ void embed_rows(const int32_t* tokens, const void* table, DType type, float* h, int64_t hidden) {
  const int64_t row = blockIdx.x, from = tokens[row] * hidden;
  for (int64_t i = threadIdx.x; i < hidden; i += blockDim.x) {
    float v;
    if (type == DType::kF32) v = static_cast<const float*>(table)[from + i];
    else if (type == DType::kF16) v = __half2float(static_cast<const __half*>(table)[from + i]);
    else v = __bfloat162float(static_cast<const __nv_bfloat16*>(table)[from + i]);
    h[row * hidden + i] = v;
  }
}

__global__ void turn_rows(const int32_t* positions, const int32_t* sequence_of, const float* inv_freq, bool per_sequence, int half,
                          float factor, float2* turns) {
  const int row = blockIdx.x;
  const float* frequency = per_sequence ? inv_freq + static_cast<int64_t>(sequence_of[row]) * half : inv_freq;
  for (int i = threadIdx.x; i < half; i += blockDim.x) {
    turns[static_cast<int64_t>(row) * half + i] = turn(positions[row], frequency[i], factor);
  }
}

constexpr int kNormThreads = 512;

// Two passes over a row; the second one finds it in the first-level cache.
__global__ void __launch_bounds__(kNormThreads) normalize_rows(DeviceNorm norm, const float* h, int64_t width, const int32_t* row_list,
                                                               __half* x, int64_t pitch, const int32_t* place) {
  __shared__ float2 partial[kNormThreads / 32];
  const int64_t row = row_list != nullptr ? row_list[blockIdx.x] : blockIdx.x;
  const float* from = h + row * width;
  __half* to = x + blockIdx.x * pitch;
  float2 sums = make_float2(0.f, 0.f);
#pragma unroll 8
  for (int i = threadIdx.x; i < width; i += kNormThreads) {
    const float v = from[i];
    sums.x += v, sums.y += v * v;
  }
  sums = warp_sum(sums);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sums;
  __syncthreads();
  sums = make_float2(0.f, 0.f);
  for (int i = 0; i < kNormThreads / 32; ++i) sums.x += partial[i].x, sums.y += partial[i].y;
  const float2 s = norm_factors(norm, sums, width);
#pragma unroll 8
  for (int i = threadIdx.x; i < width; i += kNormThreads) {
    const float v = norm.weight != nullptr ? norm_value(norm, from[i], s, i) : from[i];
    to[place != nullptr ? place[i] : i] = to_half(v);
  }
}

__global__ void __launch_bounds__(kNormThreads) round_each_row(__half* x, int64_t pitch, int width, float threshold, unsigned long long* outliers) {
  __shared__ float tops[kNormThreads / 32];
  __half* row = x + blockIdx.x * pitch;
  float top = 0.f;
  unsigned kept = 0;
  for (int i = threadIdx.x; i < width; i += kNormThreads) {
    const float size = fabsf(__half2float(row[i]));
    if (threshold > 0.f && size >= threshold) ++kept;
    else top = fmaxf(top, size);
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    top = fmaxf(top, __shfl_xor_sync(~0u, top, step));
    kept += __shfl_xor_sync(~0u, kept, step);
  }
  if (threadIdx.x % 32 == 0) {
    tops[threadIdx.x / 32] = top;
    if (kept > 0) atomicAdd(outliers, static_cast<unsigned long long>(kept));
  }
  __syncthreads();
  top = 0.f;
  for (int i = 0; i < kNormThreads / 32; ++i) top = fmaxf(top, tops[i]);
  if (!(top > 0.f)) return;
  const float scale = top / 127.f;
  for (int i = threadIdx.x; i < width; i += kNormThreads) {
    const float v = __half2float(row[i]);
    if (!(threshold > 0.f && fabsf(v) >= threshold)) row[i] = to_half(rintf(v / scale) * scale);
  }
}

__global__ void add_bias_rows(float* values, const float* bias, int64_t width, int64_t pitch) {
  float* row = values + blockIdx.x * pitch;
  for (int64_t i = threadIdx.x; i < width; i += blockDim.x) row[i] += bias[i];
}

__global__ void gate_rows(GateInput in, Activation activation, int64_t width, __half* act, int64_t pitch, const int32_t* place) {
  const int64_t row = blockIdx.y, i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (i >= width) return;
  const int64_t g = row * in.pitch + (in.interleaved ? i / 8 * 16 + i % 8 : i);
  const int64_t u = in.interleaved ? g + 8 : g + width;
  float a, b;
  if (in.half) {
    a = __half2float(static_cast<const __half*>(in.values)[g]), b = __half2float(static_cast<const __half*>(in.values)[u]);
  } else {
    a = static_cast<const float*>(in.values)[g], b = static_cast<const float*>(in.values)[u];
  }
  if (in.bias != nullptr) a += in.bias[i];
  if (in.second_bias != nullptr) b += in.second_bias[i];
  act[row * pitch + (place != nullptr ? place[i] : i)] = to_half(activate(activation, a) * b);
}

__global__ void __launch_bounds__(1024) arg_max_rows(const float* logits, int64_t vocab, int32_t* ids) {
  __shared__ float best_value[32];
  __shared__ int32_t best_id[32];
  const float* row = logits + blockIdx.x * vocab;
  float value = -INFINITY;
  int32_t id = 0x7fffffff;
  for (int64_t i = threadIdx.x; i < vocab; i += 1024) {
    if (row[i] > value || id == 0x7fffffff) value = row[i], id = static_cast<int32_t>(i);
  }
  warp_best(value, id);
  if (threadIdx.x % 32 == 0) best_value[threadIdx.x / 32] = value, best_id[threadIdx.x / 32] = id;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  value = best_value[threadIdx.x], id = best_id[threadIdx.x];
  warp_best(value, id);
  if (threadIdx.x == 0) ids[blockIdx.x] = id;
}

}  // namespace

Status embed(const StepRows& step, const void* table, DType type, float* h, int64_t hidden, cudaStream_t stream) {
  embed_rows<<<step.rows, 256, 0, stream>>>(step.tokens, table, type, h, hidden);
  NBL_LAUNCHED("embed_rows");
  return {};
}

Status turn_angles(const StepRows& step, const float* inv_freq, bool per_sequence, int rotary_half, float factor, cudaStream_t stream) {
  if (rotary_half == 0) return {};
  turn_rows<<<step.rows, 64, 0, stream>>>(step.positions, step.sequence_of, inv_freq, per_sequence, rotary_half, factor, step.turns);
  NBL_LAUNCHED("turn_rows");
  return {};
}

Status normalize(const DeviceNorm& norm, const float* h, int64_t width, const int32_t* row_list, int rows, void* x, int64_t pitch,
                 const int32_t* place, cudaStream_t stream) {
  normalize_rows<<<rows, kNormThreads, 0, stream>>>(norm, h, width, row_list, static_cast<__half*>(x), pitch, place);
  NBL_LAUNCHED("normalize_rows");
  return {};
}

Status round_rows(void* x, int64_t pitch, int64_t width, int rows, double threshold, unsigned long long* outliers, cudaStream_t stream) {
  round_each_row<<<rows, kNormThreads, 0, stream>>>(static_cast<__half*>(x), pitch, static_cast<int>(width), static_cast<float>(threshold), outliers);
  NBL_LAUNCHED("round_each_row");
  return {};
}

Status add_bias(float* values, const float* bias, int64_t width, int64_t pitch, int rows, cudaStream_t stream) {
  if (bias == nullptr) return {};
  add_bias_rows<<<rows, 256, 0, stream>>>(values, bias, width, pitch);
  NBL_LAUNCHED("add_bias_rows");
  return {};
}

Status gate(const GateInput& in, Activation activation, int64_t width, int rows, void* act, int64_t pitch, const int32_t* place,
            cudaStream_t stream) {
  gate_rows<<<dim3(static_cast<unsigned>((width + 255) / 256), rows), 256, 0, stream>>>(in, activation, width, static_cast<__half*>(act),
                                                                                       pitch, place);
  NBL_LAUNCHED("gate_rows");
  return {};
}

Status arg_max(const float* logits, int64_t vocab, int rows, int32_t* ids, cudaStream_t stream) {
  arg_max_rows<<<rows, 1024, 0, stream>>>(logits, vocab, ids);
  NBL_LAUNCHED("arg_max_rows");
  return {};
}

}  // namespace nbl::cuda

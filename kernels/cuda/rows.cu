// Everything of a step that works on one row at a time: embedding, angles, norms, biases, gates, the largest logit.
// Bound: the bytes of the rows; all of it together is a few per cent of a step.
#include <cuda_bf16.h>

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/plan/step.h"
#include "kernels/cuda/row_math.cuh"
#include "kernels/cuda/weights/tile_math.cuh"

namespace nbl::cuda {
namespace {

__device__ __forceinline__ float to_float(float v) { return v; }
__device__ __forceinline__ float to_float(__half v) { return __half2float(v); }
__device__ __forceinline__ float to_float(__nv_bfloat16 v) { return __bfloat162float(v); }

template <typename T>
__device__ __forceinline__ void embed_row(const T* from, float* to, int64_t hidden) {
  int64_t done = 0;
  if (hidden % 8 == 0 && reinterpret_cast<uintptr_t>(from) % 16 == 0) {
    constexpr int kValues = 16 / sizeof(T);
    for (int64_t i = threadIdx.x * kValues; i < hidden; i += blockDim.x * kValues) {
      alignas(16) T v[kValues];
      *reinterpret_cast<uint4*>(v) = *reinterpret_cast<const uint4*>(from + i);
#pragma unroll
      for (int j = 0; j < kValues; j += 4) {
        *reinterpret_cast<float4*>(to + i + j) = make_float4(to_float(v[j]), to_float(v[j + 1]), to_float(v[j + 2]), to_float(v[j + 3]));
      }
    }
    done = hidden;
  }
  for (int64_t i = done + threadIdx.x; i < hidden; i += blockDim.x) to[i] = to_float(from[i]);
}

__global__ void __launch_bounds__(512) embed_rows(const int32_t* tokens, const void* table, DType type, float* h, int64_t hidden) {
  const int64_t row = blockIdx.x, from = tokens[row] * hidden;
  float* to = h + row * hidden;
  if (type == DType::kF32) embed_row(static_cast<const float*>(table) + from, to, hidden);
  else if (type == DType::kF16) embed_row(static_cast<const __half*>(table) + from, to, hidden);
  else embed_row(static_cast<const __nv_bfloat16*>(table) + from, to, hidden);
}

__global__ void turn_rows(const int32_t* positions, const int32_t* sequence_of, const float* inv_freq, bool per_sequence, int half,
                          float factor, float2* turns) {
  let_next_begin();
  await_previous();
  const int row = blockIdx.x;
  const float* frequency = per_sequence ? inv_freq + static_cast<int64_t>(sequence_of[row]) * half : inv_freq;
  for (int i = threadIdx.x; i < half; i += blockDim.x) {
    turns[static_cast<int64_t>(row) * half + i] = turn(positions[row], frequency[i], factor);
  }
}

constexpr int kNormThreads = 512;

__device__ __forceinline__ float2 block_sum(float2 sums) {
  __shared__ float2 partial[kNormThreads / 32];
  sums = warp_sum(sums);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sums;
  __syncthreads();
  sums = make_float2(0.f, 0.f);
#pragma unroll
  for (int i = 0; i < kNormThreads / 32; ++i) sums.x += partial[i].x, sums.y += partial[i].y;
  return sums;
}

__global__ void __launch_bounds__(kNormThreads) normalize_rows(DeviceNorm norm, const float* h, int64_t width, const int32_t* row_list,
                                                               __half* x, ActivationLayout layout, const int32_t* place) {
  let_next_begin();
  await_previous();
  const float* from = h + (row_list != nullptr ? row_list[blockIdx.x] : blockIdx.x) * width;
  float2 sums = make_float2(0.f, 0.f);
  for (int i = threadIdx.x; i < width; i += kNormThreads) sums.x += from[i], sums.y += from[i] * from[i];
  const float2 s = norm_factors(norm, block_sum(sums), width);
  for (int i = threadIdx.x; i < width; i += kNormThreads) {
    const float v = norm.weight != nullptr ? norm_value(norm, from[i], s, i) : from[i];
    x[layout.at(blockIdx.x, place != nullptr ? place[i] : i)] = to_half(v);
  }
}

// The same for widths that are a multiple of 4 and at most V * 4 * kNormThreads: a row stays in registers, and the weights are
// asked for together with it, so that a row takes little more than one trip to memory.
template <int V>
__global__ void __launch_bounds__(kNormThreads) normalize_short_rows(DeviceNorm norm, const float* h, int64_t width, const int32_t* row_list,
                                                                     __half* x, ActivationLayout layout, const int32_t* place) {
  let_next_begin();
  const float* from = h + (row_list != nullptr ? row_list[blockIdx.x] : blockIdx.x) * width;
  float4 v[V], weight[V];
  float2 sums = make_float2(0.f, 0.f);
#pragma unroll
  for (int k = 0; k < V; ++k) {
    const int i = (k * kNormThreads + threadIdx.x) * 4;
    weight[k] = i < width && norm.weight != nullptr ? *reinterpret_cast<const float4*>(norm.weight + i) : make_float4(1.f, 1.f, 1.f, 1.f);
  }
  await_previous();
#pragma unroll
  for (int k = 0; k < V; ++k) {
    const int i = (k * kNormThreads + threadIdx.x) * 4;
    v[k] = i < width ? *reinterpret_cast<const float4*>(from + i) : make_float4(0.f, 0.f, 0.f, 0.f);
    sums.x += v[k].x + v[k].y + v[k].z + v[k].w;
    sums.y += v[k].x * v[k].x + v[k].y * v[k].y + v[k].z * v[k].z + v[k].w * v[k].w;
  }
  const float2 s = norm.weight != nullptr ? norm_factors(norm, block_sum(sums), width) : make_float2(0.f, 1.f);
#pragma unroll
  for (int k = 0; k < V; ++k) {
    const int i = (k * kNormThreads + threadIdx.x) * 4;
    if (i >= width) continue;
    float out[4] = {(v[k].x - s.x) * s.y * weight[k].x, (v[k].y - s.x) * s.y * weight[k].y, (v[k].z - s.x) * s.y * weight[k].z,
                    (v[k].w - s.x) * s.y * weight[k].w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (norm.bias != nullptr) out[j] += norm.bias[i + j];
      if (place != nullptr) x[layout.at(blockIdx.x, place[i + j])] = to_half(out[j]);
    }
    if (place != nullptr) continue;
    // Both layouts keep the two columns of an even pair together.
#pragma unroll
    for (int j = 0; j < 4; j += 2) {
      *reinterpret_cast<__half2*>(x + layout.at(blockIdx.x, i + j)) = __halves2half2(to_half(out[j]), to_half(out[j + 1]));
    }
  }
}

__global__ void __launch_bounds__(kNormThreads) round_each_row(__half* x, ActivationLayout layout, int width, float threshold,
                                                               unsigned long long* outliers) {
  __shared__ float tops[kNormThreads / 32];
  const auto at = [&](int i) -> __half& { return x[layout.at(blockIdx.x, i)]; };
  float top = 0.f;
  unsigned kept = 0;
  for (int i = threadIdx.x; i < width; i += kNormThreads) {
    const float size = fabsf(__half2float(at(i)));
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
    const float v = __half2float(at(i));
    if (!(threshold > 0.f && fabsf(v) >= threshold)) at(i) = to_half(rintf(v / scale) * scale);
  }
}

__global__ void add_bias_rows(float* values, const float* bias, int64_t width, int64_t pitch) {
  float* row = values + blockIdx.x * pitch;
  for (int64_t i = threadIdx.x; i < width; i += blockDim.x) row[i] += bias[i];
}

// Eight columns a thread: interleaved values have eight of the gate beside eight of up.
__global__ void gate_rows(GateInput in, Activation activation, int64_t width, __half* act, ActivationLayout layout,
                          const int32_t* place) {
  const int64_t row = blockIdx.y, first = (blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x) * 8;
  if (first >= width) return;
  const int64_t g = row * in.pitch + (in.interleaved ? first * 2 : first), u = in.interleaved ? g + 8 : g + width;
  const int count = static_cast<int>(min(static_cast<int64_t>(8), width - first));
  alignas(16) __half a[8], b[8], out[8];
  if (in.half && in.interleaved) {
    *reinterpret_cast<uint4*>(a) = *reinterpret_cast<const uint4*>(static_cast<const __half*>(in.values) + g);
    *reinterpret_cast<uint4*>(b) = *reinterpret_cast<const uint4*>(static_cast<const __half*>(in.values) + u);
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if (i >= count) continue;
    float gate, up;
    if (in.half && in.interleaved) gate = __half2float(a[i]), up = __half2float(b[i]);
    else if (in.half) gate = __half2float(static_cast<const __half*>(in.values)[g + i]), up = __half2float(static_cast<const __half*>(in.values)[u + i]);
    else gate = static_cast<const float*>(in.values)[g + i], up = static_cast<const float*>(in.values)[u + i];
    if (in.bias != nullptr) gate += in.bias[first + i];
    if (in.second_bias != nullptr) up += in.second_bias[first + i];
    out[i] = to_half(activate(activation, gate) * up);
  }
  if (place == nullptr && !layout.blocked && count == 8) {
    *reinterpret_cast<uint4*>(act + layout.at(row, first)) = *reinterpret_cast<const uint4*>(out);
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if (i < count) act[layout.at(row, place != nullptr ? place[first + i] : first + i)] = out[i];
  }
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
  embed_rows<<<step.rows, 512, 0, stream>>>(step.tokens, table, type, h, hidden);
  NBL_LAUNCHED("embed_rows");
  return {};
}

Status turn_angles(const StepRows& step, const float* inv_freq, bool per_sequence, int rotary_half, float factor, const DeviceTraits& traits,
                   cudaStream_t stream) {
  if (rotary_half == 0) return {};
  NBL_CUDA(launch_after(traits.early_launch, turn_rows, step.rows, 64, 0, stream, step.positions, step.sequence_of, inv_freq, per_sequence,
                        rotary_half, factor, step.turns));
  return {};
}

Status normalize(const DeviceNorm& norm, const float* h, int64_t width, const int32_t* row_list, int rows, void* x,
                 const ActivationLayout& layout, const int32_t* place, const DeviceTraits& traits, cudaStream_t stream) {
  auto* kernel = width % 4 != 0 || width > 4 * 4 * kNormThreads ? normalize_rows
                 : width <= 4 * kNormThreads                      ? normalize_short_rows<1>
                 : width <= 2 * 4 * kNormThreads                  ? normalize_short_rows<2>
                                                                  : normalize_short_rows<4>;
  NBL_CUDA(launch_after(traits.early_launch, kernel, rows, kNormThreads, 0, stream, norm, h, width, row_list, static_cast<__half*>(x), layout,
                        place));
  return {};
}

Status round_rows(void* x, const ActivationLayout& layout, int64_t width, int rows, double threshold, unsigned long long* outliers,
                  cudaStream_t stream) {
  round_each_row<<<rows, kNormThreads, 0, stream>>>(static_cast<__half*>(x), layout, static_cast<int>(width), static_cast<float>(threshold),
                                                    outliers);
  NBL_LAUNCHED("round_each_row");
  return {};
}

Status add_bias(float* values, const float* bias, int64_t width, int64_t pitch, int rows, cudaStream_t stream) {
  if (bias == nullptr) return {};
  add_bias_rows<<<rows, 256, 0, stream>>>(values, bias, width, pitch);
  NBL_LAUNCHED("add_bias_rows");
  return {};
}

Status gate(const GateInput& in, Activation activation, int64_t width, int rows, void* act, const ActivationLayout& layout,
            const int32_t* place, cudaStream_t stream) {
  gate_rows<<<dim3(static_cast<unsigned>((width + 2047) / 2048), rows), 256, 0, stream>>>(in, activation, width, static_cast<__half*>(act),
                                                                                       layout, place);
  NBL_LAUNCHED("gate_rows");
  return {};
}

Status arg_max(const float* logits, int64_t vocab, int rows, int32_t* ids, cudaStream_t stream) {
  arg_max_rows<<<rows, 1024, 0, stream>>>(logits, vocab, ids);
  NBL_LAUNCHED("arg_max_rows");
  return {};
}

}  // namespace nbl::cuda

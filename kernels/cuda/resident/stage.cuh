// The input of an operation of the resident kernel: found in tagged words or the embedding table, normed or gated or put
// together, and left as f16 in shared memory in the order in which the matrix wants it, with the sums of its groups.
#pragma once

#include <cuda_bf16.h>

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/resident/device.cuh"
#include "kernels/cuda/resident/record_product.cuh"
#include "kernels/cuda/resident/words.cuh"

#if __CUDA_ARCH__ >= 900
namespace nbl::cuda {

// Rounds vector v (columns 8v .. 8v+7; zero beyond the width) and puts it where the matrix wants it.
__device__ __forceinline__ void put_vector(const ResidentOp& op, int v, const float (&value)[8], __half* x, float* sums) {
  __half2 h[4];
  float sum = 0.f;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    h[i] = __halves2half2(to_half(value[2 * i]), to_half(value[2 * i + 1]));
    const float2 f = __half22float2(h[i]);
    sum += f.x + f.y;
  }
  const bool inside = 8 * v < op.padded_k;
  const XOrder order = x_order(op.codes, op.group_blocks);
  if (op.in_place != nullptr) {
    if (inside) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int column = op.in_place[8 * v + i];
        x[2 * x_word(order, column / 8, column % 8 / 2) + column % 2] = i % 2 ? h[i / 2].y : h[i / 2].x;
      }
    }
    return;
  }
  if (inside) {
    if (order == XOrder::kPaired) {
#pragma unroll
      for (int i = 0; i < 4; ++i) reinterpret_cast<uint32_t*>(x)[x_word(order, v, i)] = bits_of(h[i]);
    } else {
      const bool split = order == XOrder::kSplit;
      const uint32_t second = bits_of(h[1]), third = bits_of(h[2]);
      *reinterpret_cast<uint4*>(x + 8 * v) = make_uint4(bits_of(h[0]), split ? third : second, split ? second : third, bits_of(h[3]));
    }
  }
  const int lanes = 4 * op.group_blocks;  // vectors of a group
  for (int step = 1; step < lanes; step *= 2) sum += __shfl_xor_sync(~0u, sum, step);
  if (inside && lanes > 0 && v % lanes == 0) sums[v / lanes] = sum * (1.f / kCodeUnit);
}

// The sums where a permutation scattered x.
__device__ __forceinline__ void sum_groups(const ResidentOp& op, const __half* x, float* sums, int tid) {
  const int lanes = 4 * op.group_blocks;
  if (lanes == 0) return;
  const int vectors = op.padded_k / 8;
  const XOrder order = x_order(op.codes, op.group_blocks);
  for (int v = tid; v < (vectors + 31) / 32 * 32; v += kConsumerThreads) {
    float sum = 0.f;
    if (v < vectors) {
      for (int i = 0; i < 4; ++i) {
        const float2 f = __half22float2(reinterpret_cast<const __half2*>(x)[x_word(order, v, i)]);
        sum += f.x + f.y;
      }
    }
    for (int step = 1; step < lanes; step *= 2) sum += __shfl_xor_sync(~0u, sum, step);
    if (v < vectors && v % lanes == 0) sums[v / lanes] = sum * (1.f / kCodeUnit);
  }
}

__device__ __forceinline__ float table_value(const void* table, DType type, int64_t i) {
  if (type == DType::kF32) return static_cast<const float*>(table)[i];
  if (type == DType::kF16) return __half2float(static_cast<const __half*>(table)[i]);
  return __bfloat162float(static_cast<const __nv_bfloat16*>(table)[i]);
}

// Columns column .. column + 7 of a vector that nobody writes; zero beyond the width.
__device__ __forceinline__ void load_floats(const float* from, int column, int width, float (&value)[8]) {
  if (column + 8 <= width) {
    const float4 a = __ldg(reinterpret_cast<const float4*>(from + column)), b = __ldg(reinterpret_cast<const float4*>(from + column) + 1);
    value[0] = a.x, value[1] = a.y, value[2] = a.z, value[3] = a.w, value[4] = b.x, value[5] = b.y, value[6] = b.z, value[7] = b.w;
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) value[i] = column + i < width ? __ldg(from + column + i) : 0.f;
  }
}
// The same of tagged words.
__device__ __forceinline__ void get_floats(const uint2* words, uint32_t tag, int column, int width, float (&value)[8]) {
  uint32_t bits[8];
  get_words<4>(words + column, tag, min(8, width - column), bits);
#pragma unroll
  for (int i = 0; i < 8; ++i) value[i] = __uint_as_float(bits[i]);
}

// Columns of the token's row of the table.
__device__ __forceinline__ void get_row(const ResidentStep& step, int64_t row, int column, int width, float (&value)[8]) {
  const int count = min(8, width - column);
  if (step.table_type == DType::kF32) {
#pragma unroll
    for (int i = 0; i < 8; ++i) value[i] = i < count ? static_cast<const float*>(step.table)[row + column + i] : 0.f;
  } else {
    const bool f16 = step.table_type == DType::kF16;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const uint32_t bits = i < count ? static_cast<const uint16_t*>(step.table)[row + column + i] : 0u;
      value[i] = f16 ? __half2float(__ushort_as_half(static_cast<unsigned short>(bits))) : __uint_as_float(bits << 16);
    }
  }
}

// norm(h), or of the token's row of the table; `shared` is room for one float2 a warp. A thread has one
// vector, or, where the rows are longer, reads them twice: registers are few.
__device__ __forceinline__ void load_residual(const ResidentStep& step, const ResidentOp& op, uint32_t tag, int64_t row, int column,
                                              float (&value)[8]) {
  if (op.input == ResidentInput::kResidual) {
    get_floats(op.input_words, tag, column, op.width, value);
  } else {
    get_row(step, row, column, op.width, value);
  }
}
__device__ __forceinline__ void stage_normed(const ResidentStep& step, const ResidentOp& op, uint32_t tag, __half* x, float* sums,
                                             float2* shared, int tid) {
  const int width = op.width, vectors = (op.padded_k / 8 + 31) / 32 * 32;
  const int64_t row = op.input == ResidentInput::kEmbedding ? static_cast<int64_t>(*step.token) * width : 0;
  float value[8], weight[8];
  float2 total = make_float2(0.f, 0.f);
  load_floats(op.norm.weight, 8 * tid, width, weight);
#pragma unroll 1
  for (int v = vectors > kConsumerThreads ? tid + (vectors - 1) / kConsumerThreads * kConsumerThreads : tid; v >= 0;
       v -= kConsumerThreads) {  // the first one last: it is kept
    load_residual(step, op, tag, row, 8 * v, value);
#pragma unroll
    for (int i = 0; i < 8; ++i) total.x += value[i], total.y += value[i] * value[i];
  }
  total = warp_sum(total);
  if (tid % 32 == 0) shared[tid / 32] = total;
  consumers_meet();
  total = shared[tid % kConsumerWarps];
#pragma unroll
  for (int step = kConsumerWarps / 2; step > 0; step /= 2) {
    total.x += __shfl_xor_sync(~0u, total.x, step);
    total.y += __shfl_xor_sync(~0u, total.y, step);
  }
  const float2 factors = norm_factors(op.norm, total, width);
#pragma unroll 1
  for (int v = tid; v < vectors; v += kConsumerThreads) {
    if (v != tid) {
      load_floats(op.norm.weight, 8 * v, width, weight);
      load_residual(step, op, tag, row, 8 * v, value);
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) value[i] = (value[i] - factors.x) * factors.y * weight[i];  // 0 beyond the width: weight is
    if (op.norm.bias != nullptr) {
      load_floats(op.norm.bias, 8 * v, width, weight);
#pragma unroll
      for (int i = 0; i < 8; ++i) value[i] += weight[i];
    }
    put_vector(op, v, value, x, sums);
  }
}

// The other inputs: load(column, value) gives columns column .. column + 7, zero beyond the width.
template <typename Load>
__device__ __forceinline__ void stage_plain(const ResidentOp& op, __half* x, float* sums, int tid, Load load) {
  const int vectors = (op.padded_k / 8 + 31) / 32 * 32;
#pragma unroll 1
  for (int v = tid; v < vectors; v += kConsumerThreads) {
    float value[8] = {};
    if (8 * v < op.width) load(8 * v, value);
    put_vector(op, v, value, x, sums);
  }
}

// act: four vectors of a thread are under way at once.
__device__ __forceinline__ void stage_gated(const ResidentOp& op, uint32_t tag, __half* x, float* sums, int tid) {
  constexpr int kAtOnce = 4;
  const int vectors = (op.padded_k / 8 + 31) / 32 * 32, words = (op.width + 1) / 2;
#pragma unroll 1
  for (int first = tid; first < vectors; first += kAtOnce * kConsumerThreads) {
    uint4 got[kAtOnce][2];
    bool there;
    do {
      there = true;
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int word = 4 * (first + j * kConsumerThreads) + 2 * i;
          got[j][i] = word < words ? load_words(op.input_words + word) : make_uint4(0u, tag, 0u, tag);
          if (word + 1 == words) got[j][i].z = 0u, got[j][i].w = tag;
        }
      }
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        there = there && got[j][0].y == tag && got[j][0].w == tag && got[j][1].y == tag && got[j][1].w == tag;
      }
    } while (!there);
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int v = first + j * kConsumerThreads;
      if (v >= vectors) break;
      const uint32_t pairs[4] = {got[j][0].x, got[j][0].z, got[j][1].x, got[j][1].z};
      float value[8];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 f = __half22float2(half2_of(pairs[i]));
        value[2 * i] = f.x, value[2 * i + 1] = f.y;
      }
      put_vector(op, v, value, x, sums);
    }
  }
}

__device__ __forceinline__ void stage(const ResidentStep& step, const ResidentOp& op, uint32_t tag, __half* x, float* sums, float2* shared,
                                      int tid) {
  switch (op.input) {
    case ResidentInput::kEmbedding:
    case ResidentInput::kResidual:
      stage_normed(step, op, tag, x, sums, shared, tid);
      break;
    case ResidentInput::kAttention:
      stage_plain(op, x, sums, tid, [&](int column, float(&value)[8]) {
        // A vector lies in one head. Four splits at a time, all of them asked for at once.
        const int head_dim = step.head_dim, splits = step.splits, head = column / head_dim;
        const uint4* states = step.part_states + head * splits;
        const uint2* parts = step.parts + (head * splits * head_dim + column - head * head_dim) / 2;
        float highest = kNoScore, total = 0.f;
        for (int first = 0; first < splits; first += 4) {
          uint4 state_words[4], words[4][2];
          bool there;
          do {
            there = true;
#pragma unroll
            for (int j = 0; j < 4; ++j) {
              if (first + j >= splits) continue;
              state_words[j] = load_words(reinterpret_cast<const uint2*>(states + first + j));
              words[j][0] = load_words(parts + (first + j) * head_dim / 2);
              words[j][1] = load_words(parts + (first + j) * head_dim / 2 + 2);
            }
#pragma unroll
            for (int j = 0; j < 4; ++j) {
              if (first + j >= splits) continue;
              there = there && state_words[j].y == tag && state_words[j].w == tag && words[j][0].y == tag && words[j][0].w == tag &&
                      words[j][1].y == tag && words[j][1].w == tag;
            }
          } while (!there);
          float2 state[4];
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            state[j] = first + j < splits ? make_float2(__uint_as_float(state_words[j].x), __uint_as_float(state_words[j].z))
                                          : make_float2(kNoScore, 0.f);
          }
          const float before = highest;
#pragma unroll
          for (int j = 0; j < 4; ++j) highest = fmaxf(highest, state[j].x);
          const float shrink = exp2f(before - highest);
          total *= shrink;
#pragma unroll
          for (int i = 0; i < 8; ++i) value[i] *= shrink;
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            if (first + j >= splits) continue;
            const float by = state[j].y * exp2f(state[j].x - highest);
            total += by;
            const uint32_t pairs[4] = {words[j][0].x, words[j][0].z, words[j][1].x, words[j][1].z};
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              const float2 f = __half22float2(half2_of(pairs[i]));
              value[2 * i] += f.x * by, value[2 * i + 1] += f.y * by;
            }
          }
        }
        const float scale = 1.f / total;
#pragma unroll
        for (int i = 0; i < 8; ++i) value[i] *= scale;
      });
      break;
    case ResidentInput::kGated:
      stage_gated(op, tag, x, sums, tid);
      break;
    case ResidentInput::kGateUp:
      stage_plain(op, x, sums, tid, [&](int column, float(&value)[8]) {
        float up[8];
        const uint2* ups = op.input_words + op.width;
        get_floats(op.input_words, tag, column, op.width, value);
        get_floats(ups, tag, column, op.width, up);
#pragma unroll
        for (int i = 0; i < 8; ++i) value[i] = activate(op.activation, value[i]) * up[i];
      });
      break;
  }
  if (op.in_place != nullptr) {
    consumers_meet();
    sum_groups(op, x, sums, tid);
  }
  consumers_meet();
}

}  // namespace nbl::cuda
#endif

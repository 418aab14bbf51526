// Decode attention of one task: one new token of one sequence, up to four query heads of one kv head, one split of the
// positions. Used by the kernel of attention.cu and by the resident kernel.
//
// The query heads are normed and turned into shared memory; the split that holds the last position does the same with
// the new key and appends it and the value. Then every warp walks over positions with its own running softmax: 8, 16 or
// 32 lanes share a position (8 dimensions a lane, one 16-byte load of K and of V), four positions in flight a lane.
// Bound: the bytes of K and V.
#pragma once

#include "kernels/cuda/row_math.cuh"
#include "kernels/cuda/weights/tile_math.cuh"

namespace nbl::cuda {

constexpr float kNoScore = -1e30f;

struct AttentionTask {
  int kv_head, first_head, head_count;  // query heads first_head .. first_head + head_count - 1
  int split, splits;
};

__device__ __forceinline__ AttentionTask attention_task(int heads, int kv_heads, int heads_per_task, int index, int splits) {
  const int group = heads / kv_heads, chunks = attention_tasks_per_kv_head(heads, kv_heads, heads_per_task);
  AttentionTask task;
  task.split = index % splits;
  task.splits = splits;
  task.kv_head = index / splits / chunks;
  const int offset = index / splits % chunks * heads_per_task;
  task.first_head = task.kv_head * group + offset;
  task.head_count = min(heads_per_task, group - offset);
  return task;
}

// Norm and rotation of one head by one warp: out[i] for i < head_dim. `row` is global, `out` is shared; a turn is
// recomputed from the frequency when turns is null.
__device__ __forceinline__ void prepare_head(const AttentionShape& a, const DeviceNorm& norm, const float* row, const float2* turns,
                                             float scale, float* out, int lane) {
  float2 factors = make_float2(0.f, 1.f);
  if (norm.weight != nullptr) {
    float2 sums = make_float2(0.f, 0.f);
    for (int i = lane; i < a.head_dim; i += 32) {
      const float v = __ldcg(row + i);
      sums.x += v, sums.y += v * v;
    }
    factors = norm_factors(norm, warp_sum(sums), a.head_dim);
  }
  auto value = [&](int i) {
    const float v = __ldcg(row + i);
    return norm.weight != nullptr ? norm_value(norm, v, factors, i) : v;
  };
  for (int i = lane; i < a.rotary_half; i += 32) {
    const float2 cs = turns[i];
    const float x = value(i), y = value(i + a.rotary_half);
    out[i] = (x * cs.x - y * cs.y) * scale;
    out[i + a.rotary_half] = (y * cs.x + x * cs.y) * scale;
  }
  for (int i = 2 * a.rotary_half + lane; i < a.head_dim; i += 32) out[i] = value(i) * scale;
}

__device__ __forceinline__ int64_t cache_row(const AttentionShape& a, const StepSequence& s, int what, int kv_head) {
  return ((static_cast<int64_t>(a.layer) * 2 + what) * a.kv_heads + kv_head) * s.capacity;
}
__device__ __forceinline__ __half* cache_head(const AttentionShape& a, const StepSequence& s, int what, int kv_head) {
  return static_cast<__half*>(s.cache) + cache_row(a, s, what, kv_head) * a.head_dim;
}

// A head of an int8 cache: value = byte * scale of its position.
struct ByteHead {
  int8_t* bytes;    // [capacity][head_dim]
  __half* scales;   // [capacity]
};
__device__ __forceinline__ ByteHead byte_head(const AttentionShape& a, const StepSequence& s, int what, int kv_head) {
  const int64_t row = cache_row(a, s, what, kv_head);
  return {static_cast<int8_t*>(s.cache) + row * a.head_dim, s.scales + row};
}

// Puts a head down at a position, by one warp; value(i) is asked for by the lane that writes it.
template <typename Value>
__device__ __forceinline__ void put_bytes(const ByteHead& head, int64_t position, int head_dim, int lane, Value value) {
  uint32_t top = 0;  // magnitudes compared by their bits: NaN is above all, and is then the scale
  for (int i = lane; i < head_dim; i += 32) top = max(top, __float_as_uint(fabsf(value(i))));
#pragma unroll
  for (int step = 16; step > 0; step /= 2) top = max(top, __shfl_xor_sync(~0u, top, step));
  const __half scale = to_half(__uint_as_float(top) / 127.f);
  const float by = __half2float(scale) > 0.f ? 1.f / __half2float(scale) : 0.f;
  for (int i = lane; i < head_dim; i += 32) {
    head.bytes[position * head_dim + i] = static_cast<int8_t>(fminf(fmaxf(rintf(value(i) * by), -127.f), 127.f));
  }
  if (lane == 0) head.scales[position] = scale;
}

// Two of the eight values that a lane has loaded of a position: f16 in four words, or bytes in two.
template <bool kBytes>
__device__ __forceinline__ float2 pair_of(const uint4& v, int i) {
  if (kBytes) {  // 2^23 + (byte + 128) put together as a float
    const uint32_t word = (i < 2 ? v.x : v.y) ^ 0x80808080u;
    const uint32_t low = __byte_perm(word, 0x4b000000u, 0x7440u + i % 2 * 2), high = __byte_perm(word, 0x4b000000u, 0x7441u + i % 2 * 2);
    return make_float2(__uint_as_float(low) - 8388736.f, __uint_as_float(high) - 8388736.f);
  }
  const uint32_t words[4] = {v.x, v.y, v.z, v.w};
  return __half22float2(half2_of(words[i]));
}

// Shared memory of a task in floats: the queries (and new key), running states, half the warps' sums.
__host__ __device__ __forceinline__ int attention_shared_floats(int head_dim, int warps) {
  return (kHeadsPerTask + 1) * head_dim + warps * kHeadsPerTask * 2 + warps / 2 * kHeadsPerTask * head_dim;
}

// L lanes share a position. sync() is a barrier of the `warps` warps that run the task. qkv is the row of this token.
template <int L, bool kBytes = false, typename Sync>
__device__ void attend(const AttentionShape& a, const StepSequence& s, const AttentionTask& task, const float* qkv, const float2* turns,
                       float* part, float2* part_state, float* shared, int warp, int warps, int lane, Sync sync) {
  constexpr int kAtOnce = 32 / L, kUnroll = 4;
  const int d = a.head_dim;
  float* q = shared;                                   // [4][d], times scale * log2(e)
  float* fresh = q + kHeadsPerTask * d;                // [d] the new key
  float* state = fresh + d;                            // [warps][4][2]
  float* sums = state + warps * kHeadsPerTask * 2;     // [warps/2][4][d]
  const int length = s.length + 1;
  const int from = a.window > 0 && length > a.window ? static_cast<int>(length - a.window) : 0;
  const int per_split = (length - from + task.splits - 1) / task.splits;
  const int begin = from + task.split * per_split, end = min(length, begin + per_split);
  __half* keys = cache_head(a, s, 0, task.kv_head);
  __half* values = cache_head(a, s, 1, task.kv_head);
  const ByteHead key_bytes = byte_head(a, s, 0, task.kv_head), value_bytes = byte_head(a, s, 1, task.kv_head);

  const bool appends = begin < length && end == length;
  for (int item = warp; item < kHeadsPerTask + 2; item += warps) {
    if (item < kHeadsPerTask) {
      if (item < task.head_count) {
        prepare_head(a, a.q_norm, qkv + (task.first_head + item) * d, turns, a.scale * 1.44269504f, q + item * d, lane);
      } else {
        for (int i = lane; i < d; i += 32) q[item * d + i] = 0.f;
      }
    } else if (appends && item == kHeadsPerTask) {
      prepare_head(a, a.k_norm, qkv + (a.heads + task.kv_head) * d, turns, 1.f, fresh, lane);
      __syncwarp();
      if (kBytes) put_bytes(key_bytes, length - 1, d, lane, [&](int i) { return fresh[i]; });
      else for (int i = lane; i < d; i += 32) keys[static_cast<int64_t>(length - 1) * d + i] = to_half(fresh[i]);
    } else if (appends) {
      const float* row = qkv + (a.heads + a.kv_heads + task.kv_head) * d;
      if (kBytes) put_bytes(value_bytes, length - 1, d, lane, [&](int i) { return __ldcg(row + i); });
      else for (int i = lane; i < d; i += 32) values[static_cast<int64_t>(length - 1) * d + i] = to_half(__ldcg(row + i));
    }
  }
  sync();

  const int sub = lane / L, dim = lane % L * 8;
  const bool mine = dim < d;
  float o[kHeadsPerTask][8] = {}, top[kHeadsPerTask], sum[kHeadsPerTask];
#pragma unroll
  for (int h = 0; h < kHeadsPerTask; ++h) top[h] = kNoScore, sum[h] = 0.f;
  for (int base = begin + warp * kAtOnce * kUnroll; base < end; base += warps * kAtOnce * kUnroll) {
    uint4 kv[kUnroll], vv[kUnroll];
    float key_scale[kUnroll], value_scale[kUnroll];  // of bytes
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int position = base + u * kAtOnce + sub;
      const bool valid = mine && position < end;
      const int64_t at = static_cast<int64_t>(position) * d + dim;
      if (kBytes) {
        const uint2 k8 = valid ? *reinterpret_cast<const uint2*>(key_bytes.bytes + at) : make_uint2(0, 0);
        const uint2 v8 = valid ? *reinterpret_cast<const uint2*>(value_bytes.bytes + at) : make_uint2(0, 0);
        kv[u] = make_uint4(k8.x, k8.y, 0, 0), vv[u] = make_uint4(v8.x, v8.y, 0, 0);
        key_scale[u] = position < end ? __half2float(key_bytes.scales[position]) : 0.f;
        value_scale[u] = position < end ? __half2float(value_bytes.scales[position]) : 0.f;
      } else {
        kv[u] = valid ? *reinterpret_cast<const uint4*>(keys + at) : make_uint4(0, 0, 0, 0);
        vv[u] = valid ? *reinterpret_cast<const uint4*>(values + at) : make_uint4(0, 0, 0, 0);
      }
    }
    float score[kUnroll][kHeadsPerTask];
#pragma unroll
    for (int h = 0; h < kHeadsPerTask; ++h) {
      float4 qa = make_float4(0, 0, 0, 0), qb = qa;
      if (mine) qa = *reinterpret_cast<const float4*>(q + h * d + dim), qb = *reinterpret_cast<const float4*>(q + h * d + dim + 4);
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const float2 k0 = pair_of<kBytes>(kv[u], 0), k1 = pair_of<kBytes>(kv[u], 1), k2 = pair_of<kBytes>(kv[u], 2), k3 = pair_of<kBytes>(kv[u], 3);
        score[u][h] = qa.x * k0.x + qa.y * k0.y + qa.z * k1.x + qa.w * k1.y + qb.x * k2.x + qb.y * k2.y + qb.z * k3.x + qb.w * k3.y;
      }
    }
#pragma unroll
    for (int step = L / 2; step > 0; step /= 2) {
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
#pragma unroll
        for (int h = 0; h < kHeadsPerTask; ++h) score[u][h] += __shfl_xor_sync(~0u, score[u][h], step);
      }
    }
    if (kBytes) {
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
#pragma unroll
        for (int h = 0; h < kHeadsPerTask; ++h) score[u][h] *= key_scale[u];
      }
    }
#pragma unroll
    for (int h = 0; h < kHeadsPerTask; ++h) {
      float highest = top[h];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        if (base + u * kAtOnce + sub < end) highest = fmaxf(highest, score[u][h]);
      }
      const float shrink = exp2f(top[h] - highest);
      top[h] = highest;
      sum[h] *= shrink;
#pragma unroll
      for (int i = 0; i < 8; ++i) o[h][i] *= shrink;
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const float p = base + u * kAtOnce + sub < end ? exp2f(score[u][h] - highest) : 0.f;
        sum[h] += p;
        const float scaled = kBytes ? p * value_scale[u] : p;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float2 v = pair_of<kBytes>(vv[u], i);
          o[h][2 * i] += scaled * v.x, o[h][2 * i + 1] += scaled * v.y;
        }
      }
    }
  }

  // Put the positions of a warp together, then the warps: first to one scale, then halving the number of sums.
#pragma unroll
  for (int h = 0; h < kHeadsPerTask; ++h) {
#pragma unroll
    for (int step = L; step < 32; step *= 2) {
      const float other_top = __shfl_xor_sync(~0u, top[h], step), other_sum = __shfl_xor_sync(~0u, sum[h], step);
      const float highest = fmaxf(top[h], other_top), mine_by = exp2f(top[h] - highest), other_by = exp2f(other_top - highest);
      top[h] = highest;
      sum[h] = sum[h] * mine_by + other_sum * other_by;
#pragma unroll
      for (int i = 0; i < 8; ++i) o[h][i] = o[h][i] * mine_by + __shfl_xor_sync(~0u, o[h][i], step) * other_by;
    }
    if (lane == 0) state[(warp * kHeadsPerTask + h) * 2] = top[h], state[(warp * kHeadsPerTask + h) * 2 + 1] = sum[h];
  }
  sync();
  float highest[kHeadsPerTask], total[kHeadsPerTask];
#pragma unroll
  for (int h = 0; h < kHeadsPerTask; ++h) {
    highest[h] = kNoScore, total[h] = 0.f;
    for (int w = 0; w < warps; ++w) highest[h] = fmaxf(highest[h], state[(w * kHeadsPerTask + h) * 2]);
    for (int w = 0; w < warps; ++w) {
      total[h] += state[(w * kHeadsPerTask + h) * 2 + 1] * exp2f(state[(w * kHeadsPerTask + h) * 2] - highest[h]);
    }
    const float by = exp2f(top[h] - highest[h]);
#pragma unroll
    for (int i = 0; i < 8; ++i) o[h][i] *= by;
  }
  const bool writes = mine && sub == 0;
  for (int half = warps / 2; half > 0; half /= 2) {
    if (warp >= half && warp < 2 * half && writes) {
#pragma unroll
      for (int h = 0; h < kHeadsPerTask; ++h) {
#pragma unroll
        for (int i = 0; i < 8; ++i) sums[((warp - half) * kHeadsPerTask + h) * d + dim + i] = o[h][i];
      }
    }
    sync();
    if (warp < half && writes) {
#pragma unroll
      for (int h = 0; h < kHeadsPerTask; ++h) {
#pragma unroll
        for (int i = 0; i < 8; ++i) o[h][i] += sums[(warp * kHeadsPerTask + h) * d + dim + i];
      }
    }
    sync();
  }
  if (warp != 0) return;
#pragma unroll
  for (int h = 0; h < kHeadsPerTask; ++h) {
    if (h >= task.head_count) continue;
    const int64_t at = static_cast<int64_t>(task.first_head + h) * task.splits + task.split;
    if (lane == 0) part_state[at] = make_float2(highest[h], total[h]);
    if (writes) {
#pragma unroll
      for (int i = 0; i < 8; ++i) part[at * d + dim + i] = o[h][i];
    }
  }
}

// One element of the result: the splits of one head, each with its own scale.
__device__ __forceinline__ float merged(const float* part, const float2* part_state, int64_t head, int splits, int head_dim, int i) {
  float highest = kNoScore, total = 0.f, value = 0.f;
  for (int s = 0; s < splits; ++s) highest = fmaxf(highest, __ldcg(&part_state[head * splits + s]).x);
  for (int s = 0; s < splits; ++s) {
    const float2 state = __ldcg(&part_state[head * splits + s]);
    const float by = exp2f(state.x - highest);
    total += state.y * by;
    value += __ldcg(part + (head * splits + s) * head_dim + i) * by;
  }
  return value / total;
}

}  // namespace nbl::cuda

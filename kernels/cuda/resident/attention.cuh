// Attention of one new token in the resident kernel: one split of the positions of one kv head, for up to
// eight of its query heads at once, on tensor cores.
//
// A warp takes 16 positions at a time: scores S[heads, positions] = Q K^T with Q as operand A and rows of K
// as operand B, then O^T[dimensions, heads] += V^T P^T: S comes out of the first product as the second one
// wants P. Both products may permute what they sum over and V^T its rows, so that all loads of K and V are 16
// contiguous bytes a lane:
//   K  lane 4g+t: dimensions 32b + 8t .. +7 of position g of eight, as tile.h
//   V  lane 4g+t: dimensions 64c + 8g .. +7 of positions 2t, 2t+1, 2t+8 and 2t+9
// The first keys are asked for before the queries are ready. Each warp keeps its own softmax (maximum and sum
// of exp2); the warps are put together in shared memory, in order. Bound: the bytes of K and V.
#pragma once

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/resident/program.h"
#include "kernels/cuda/resident/words.cuh"

namespace nbl::cuda {

constexpr int kMmaPositions = 16;  // of a warp at a time

// Query heads first .. first + count - 1 belong to kv_head.
struct MmaTask {
  int kv_head, first_head, head_count, begin, end;  // positions begin .. end - 1
  int split, splits;
};
__device__ __forceinline__ int mma_tasks_per_kv_head(int heads, int kv_heads) { return (heads / kv_heads + kMmaHeads - 1) / kMmaHeads; }
// `positions` counts the new one.
__device__ __forceinline__ MmaTask mma_task(int heads, int kv_heads, int64_t window, int positions, int index, int splits) {
  const int group = heads / kv_heads, chunks = mma_tasks_per_kv_head(heads, kv_heads);
  MmaTask task;
  task.split = index % splits;
  task.splits = splits;
  task.kv_head = index / splits / chunks;
  const int offset = index / splits % chunks * kMmaHeads;
  task.first_head = task.kv_head * group + offset;
  task.head_count = min(kMmaHeads, group - offset);
  const int from = window > 0 && positions > window ? static_cast<int>(positions - window) : 0;
  const int per_split = (positions - from + splits - 1) / splits;
  task.begin = from + task.split * per_split;
  task.end = min(positions, task.begin + per_split);
  return task;
}

// Rows of K: positions g and 8+g from `first`; those outside [from, to) stay as they are.
template <int D>
__device__ __forceinline__ void load_keys(uint4 (&k)[2][D / 32], const __half* keys, int first, int from, int to, int lane) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int row = first + 8 * i + (lane >> 2);
    if (row < from || row >= to) continue;
#pragma unroll
    for (int b = 0; b < D / 32; ++b)
      k[i][b] = *reinterpret_cast<const uint4*>(keys + static_cast<int64_t>(row) * D + 32 * b + 8 * (lane & 3));
  }
}

// One head of qkv as floats in shared memory, normed and turned in place by one warp.
template <int D>
__device__ __forceinline__ void fetch_head(const AttentionShape& a, const DeviceNorm* norm, const uint2* words, uint32_t tag,
                                           const float2* turns, float scale, float* out, int lane) {
  float value[D / 32];
#pragma unroll
  for (int i = 0; i < D / 64; ++i) get_pair(words + 2 * (lane + 32 * i), tag, value[2 * i], value[2 * i + 1]);
  float2 factors = make_float2(0.f, 1.f);
  if (norm != nullptr && norm->weight != nullptr) {
    float2 sums = make_float2(0.f, 0.f);
#pragma unroll
    for (int i = 0; i < D / 32; ++i) sums.x += value[i], sums.y += value[i] * value[i];
    factors = norm_factors(*norm, warp_sum(sums), D);
#pragma unroll
    for (int i = 0; i < D / 32; ++i) value[i] = norm_value(*norm, value[i], factors, 2 * (lane + 32 * (i / 2)) + i % 2);
  }
#pragma unroll
  for (int i = 0; i < D / 64; ++i) {
    *reinterpret_cast<float2*>(out + 2 * (lane + 32 * i)) = make_float2(value[2 * i] * scale, value[2 * i + 1] * scale);
  }
  __syncwarp();
  for (int i = lane; norm != nullptr && i < a.rotary_half; i += 32) {
    const float2 cs = turns[i];
    const float x = out[i], y = out[i + a.rotary_half];
    out[i] = x * cs.x - y * cs.y;
    out[i + a.rotary_half] = y * cs.x + x * cs.y;
  }
  __syncwarp();
}

// qkv: words of this token's row. meet() is a barrier of the `warps` warps that are here.
template <int D, typename Meet>
__device__ __forceinline__ void attend_mma(const AttentionShape& a, const StepSequence& s, const MmaTask& task, const uint2* qkv,
                                           uint32_t in_tag, const float2* turns, uint2* parts, uint4* part_states, uint32_t out_tag,
                                           unsigned char* shared, int tid, int warps, Meet meet) {
  const int warp = tid >> 5, lane = tid & 31, g = lane >> 2, t = lane & 3;
  __half* q = reinterpret_cast<__half*>(shared);                          // [8][D], times scale * log2(e)
  float* raw = reinterpret_cast<float*>(q + kMmaHeads * D);               // [10][D] before rounding; the last two are the new key and value
  float2* states = reinterpret_cast<float2*>(raw + (kMmaHeads + 2) * D);  // [warps][8]
  float* sums = reinterpret_cast<float*>(states + warps * kMmaHeads);     // [warps][8][D + 4]
  __half* keys = cache_head(a, s, 0, task.kv_head);
  __half* values = cache_head(a, s, 1, task.kv_head);

  const int stride = warps * kMmaPositions;
  int first = task.begin + warp * kMmaPositions;
  uint4 k[2][D / 32];
#pragma unroll
  for (int i = 0; i < 2 * D / 32; ++i) k[i / (D / 32)][i % (D / 32)] = make_uint4(0, 0, 0, 0);
  load_keys<D>(k, keys, first, task.begin, min(task.end, s.length), lane);

  const bool appends = task.end == s.length + 1 && task.begin < task.end;
  for (int item = warp; item < kMmaHeads + 2; item += warps) {
    if (item < kMmaHeads) {
      float* out = raw + item * D;
      if (item < task.head_count) {
        fetch_head<D>(a, &a.q_norm, qkv + (task.first_head + item) * D, in_tag, turns, a.scale * 1.44269504f, out, lane);
      }
      for (int i = lane; i < D; i += 32) q[item * D + i] = item < task.head_count ? to_half(out[i]) : __half(0.f);
    } else if (appends) {
      // The new key, then the new value.
      const bool value = item > kMmaHeads;
      float* fresh = raw + item * D;
      fetch_head<D>(a, value ? nullptr : &a.k_norm, qkv + (a.heads + (value ? a.kv_heads : 0) + task.kv_head) * D, in_tag, turns, 1.f,
                    fresh, lane);
      for (int i = lane; i < D; i += 32) (value ? values : keys)[static_cast<int64_t>(s.length) * D + i] = to_half(fresh[i]);
    }
  }
  meet();

  float o[D / 16][4] = {};
  float top = kNoScore, sum = 0.f;  // of head g, equal in the four lanes of g
  for (; first < task.end; first += stride) {
    load_keys<D>(k, keys, first, s.length, task.end, lane);  // the new position, if it is here
    float score[2][4] = {};
#pragma unroll
    for (int b = 0; b < D / 32; ++b) {
      const uint4 qa = *reinterpret_cast<const uint4*>(q + g * D + 32 * b + 8 * t);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        mma(score[i], qa.x, 0u, qa.y, 0u, k[i][b].x, k[i][b].y);
        mma(score[i], qa.z, 0u, qa.w, 0u, k[i][b].z, k[i][b].w);
      }
    }
    // score[i][j]: head g, position first + 8i + 2t + j.
    float highest = top;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        if (first + 8 * i + 2 * t + j >= task.end) score[i][j] = kNoScore;
        highest = fmaxf(highest, score[i][j]);
      }
    }
    highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 1));
    highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 2));
    const float shrink = exp2f(top - highest);
    top = highest;
    float p[2][2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int j = 0; j < 2; ++j) p[i][j] = first + 8 * i + 2 * t + j < task.end ? exp2f(score[i][j] - highest) : 0.f;
    }
    sum = sum * shrink + ((p[0][0] + p[0][1]) + (p[1][0] + p[1][1]));
    const float shrink0 = __shfl_sync(~0u, shrink, 8 * t), shrink1 = __shfl_sync(~0u, shrink, 8 * t + 4);  // of heads 2t and 2t+1
    const uint32_t p0 = bits_of(__floats2half2_rn(p[0][0], p[0][1])), p1 = bits_of(__floats2half2_rn(p[1][0], p[1][1]));
    if (first + stride < task.end) load_keys<D>(k, keys, first + stride, task.begin, min(task.end, s.length), lane);
    const __half* rows = values + static_cast<int64_t>(first + 2 * t) * D + 8 * g;  // positions 2t, 2t+1, 8+2t, 9+2t
#pragma unroll
    for (int c = 0; c < D / 64; ++c) {
      uint4 v[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int row = (j & 1) + (j >> 1) * 8;
        v[j] = first + 2 * t + row < task.end ? *reinterpret_cast<const uint4*>(rows + row * D + 64 * c) : make_uint4(0, 0, 0, 0);
      }
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        float(&sums_of)[4] = o[4 * c + w];
        sums_of[0] *= shrink0, sums_of[1] *= shrink1, sums_of[2] *= shrink0, sums_of[3] *= shrink1;
        uint32_t r[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) r[j] = w == 0 ? v[j].x : w == 1 ? v[j].y : w == 2 ? v[j].z : v[j].w;
        mma(sums_of, __byte_perm(r[0], r[1], 0x5410), __byte_perm(r[0], r[1], 0x7632), __byte_perm(r[2], r[3], 0x5410),
            __byte_perm(r[2], r[3], 0x7632), p0, p1);
      }
    }
  }
  sum += __shfl_xor_sync(~0u, sum, 1);
  sum += __shfl_xor_sync(~0u, sum, 2);
  if (t == 0) states[warp * kMmaHeads + g] = make_float2(top, sum);
    // o[i][0], o[i][1]: dimension 64c + 8g + 2w of heads 2t and 2t+1; o[i][2], o[i][3]: the dimension behind
    // it.
#pragma unroll
  for (int i = 0; i < D / 16; ++i) {
    const int dim = 64 * (i / 4) + 8 * g + 2 * (i % 4);
    float* at = sums + (warp * kMmaHeads + 2 * t) * (D + 4) + dim;
    *reinterpret_cast<float2*>(at) = make_float2(o[i][0], o[i][2]);
    *reinterpret_cast<float2*>(at + D + 4) = make_float2(o[i][1], o[i][3]);
  }
  meet();
  for (int i = tid; i < task.head_count * (D / 4); i += warps * 32) {
    const int head = i / (D / 4), dim = i % (D / 4) * 4;
    float highest = kNoScore, total = 0.f;
    for (int w = 0; w < warps; ++w) highest = fmaxf(highest, states[w * kMmaHeads + head].x);
    float4 v = make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll 4
    for (int w = 0; w < warps; ++w) {
      const float2 state = states[w * kMmaHeads + head];
      const float by = exp2f(state.x - highest);
      const float4 u = *reinterpret_cast<const float4*>(sums + (w * kMmaHeads + head) * (D + 4) + dim);
      total += state.y * by;
      v.x += u.x * by, v.y += u.y * by, v.z += u.z * by, v.w += u.w * by;
    }
    const int64_t at = static_cast<int64_t>(task.first_head + head) * task.splits + task.split;
    const float scale = total > 0.f ? 1.f / total : 0.f;
    if (dim == 0) put_state(part_states + at, highest, total, out_tag);
    uint2* to = parts + (at * D + dim) / 2;
    put_word(to, bits_of(__halves2half2(to_half(v.x * scale), to_half(v.y * scale))), out_tag);
    put_word(to + 1, bits_of(__halves2half2(to_half(v.z * scale), to_half(v.w * scale))), out_tag);
  }
}

}  // namespace nbl::cuda

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
// of exp2); the warps are put together in shared memory, in order. The CTAs that hold the splits of a head exchange
// their sums: each puts together one part of the dimensions, in the order of the splits, so that the next operation
// reads each value once. Bound: the bytes of K and V.
#pragma once

#include "kernels/cuda/attention/attention.cuh"
#include "kernels/cuda/resident/program.h"
#include "kernels/cuda/resident/words.cuh"

namespace nbl::cuda {

constexpr int kMmaPositions = 16;  // of a warp at a time

// A task and its positions begin .. end - 1.
struct MmaTask : AttentionTask {
  int begin, end;
};
// `positions` counts the new one.
__device__ __forceinline__ MmaTask mma_task(int heads, int kv_heads, int64_t window, int positions, int index, int splits) {
  MmaTask task{attention_task(heads, kv_heads, kMmaHeads, index, splits), 0, 0};
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

// Rows of V: of positions first + 2t, +1, +8 and +9; zero outside [from, to).
template <int D>
__device__ __forceinline__ void load_values(uint4 (&v)[D / 64][4], const __half* values, int first, int from, int to, int lane) {
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const int row = first + 2 * (lane & 3) + (j & 1) + (j >> 1) * 8;
    if (row < from || row >= to) continue;
#pragma unroll
    for (int c = 0; c < D / 64; ++c)
      v[c][j] = *reinterpret_cast<const uint4*>(values + static_cast<int64_t>(row) * D + 64 * c + 8 * (lane >> 2));
  }
}

// One head of qkv by one warp, normed, turned and multiplied by `scale`: lane l has dimensions 2l and 2l+1, and of longer
// heads 64 + 2l and 64 + 2l+1. `scratch` is room for the head where less than all of it turns.
template <int D>
__device__ __forceinline__ void fetch_head(const AttentionShape& a, const DeviceNorm& norm, const uint2* words, uint32_t tag,
                                           const float2* turns, float scale, float* scratch, float2 (&value)[D / 64], int lane) {
  uint4 found[D / 64];
  wait_for(
      found, D / 64, [&](uint4& v, int i, bool wanted) { load_words(v, words + 2 * (lane + 32 * i), wanted); },
      [&](const uint4& v) { return words_there(v, tag); });
#pragma unroll
  for (int i = 0; i < D / 64; ++i) value[i] = make_float2(__uint_as_float(found[i].x), __uint_as_float(found[i].z));
  if (norm.weight != nullptr) {
    float2 sums = make_float2(0.f, 0.f);
#pragma unroll
    for (int i = 0; i < D / 64; ++i) sums.x += value[i].x + value[i].y, sums.y += value[i].x * value[i].x + value[i].y * value[i].y;
    const float2 factors = norm_factors(norm, warp_sum(sums), D);
#pragma unroll
    for (int i = 0; i < D / 64; ++i) {
      const int dim = 64 * i + 2 * lane;
      value[i] = make_float2(norm_value(norm, value[i].x, factors, dim), norm_value(norm, value[i].y, factors, dim + 1));
    }
  }
#pragma unroll
  for (int i = 0; i < D / 64; ++i) value[i].x *= scale, value[i].y *= scale;
  if (2 * a.rotary_half == D) {
    if constexpr (D == 128) {
      const float4 cs = *reinterpret_cast<const float4*>(turns + 2 * lane);
      const float2 low = value[0], high = value[1];
      value[0] = make_float2(low.x * cs.x - high.x * cs.y, low.y * cs.z - high.y * cs.w);
      value[1] = make_float2(high.x * cs.x + low.x * cs.y, high.y * cs.z + low.y * cs.w);
    } else {
      const float4 cs = *reinterpret_cast<const float4*>(turns + 2 * (lane % 16));
      const float2 other = make_float2(__shfl_xor_sync(~0u, value[0].x, 16), __shfl_xor_sync(~0u, value[0].y, 16));
      const float sign = lane < 16 ? -1.f : 1.f;
      value[0] = make_float2(value[0].x * cs.x + sign * other.x * cs.y, value[0].y * cs.z + sign * other.y * cs.w);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < D / 64; ++i) *reinterpret_cast<float2*>(scratch + 64 * i + 2 * lane) = value[i];
  __syncwarp();
  for (int i = lane; i < a.rotary_half; i += 32) {
    const float2 cs = turns[i];
    const float x = scratch[i], y = scratch[i + a.rotary_half];
    scratch[i] = x * cs.x - y * cs.y;
    scratch[i + a.rotary_half] = y * cs.x + x * cs.y;
  }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < D / 64; ++i) value[i] = *reinterpret_cast<const float2*>(scratch + 64 * i + 2 * lane);
}

// Where attention of a token comes from and goes to.
struct AttentionWords {
  const uint2* qkv;
  uint32_t in_tag;
  uint2* parts;         // [heads][splits][D / 2] of two f16, each split divided by its sum
  uint4* part_states;   // [heads][splits] maximum, sum
  uint32_t* out;        // [heads * D] f16
  const int32_t* place; // of each column, null: where it is
  uint32_t out_tag;
};

// Two columns of what attention gives.
__device__ __forceinline__ void put_attended(const AttentionWords& words, int column, float2 value) {
  const int first = words.place != nullptr ? __ldg(words.place + column) : column;
  const int second = words.place != nullptr ? __ldg(words.place + column + 1) : column + 1;
  put_half(words.out + first, to_half(value.x), words.out_tag);
  put_half(words.out + second, to_half(value.y), words.out_tag);
}

// Puts the splits of the task's heads together, of which this CTA does one slice of the dimensions: a thread does two of a head.
template <int D>
__device__ __forceinline__ void merge_splits(const MmaTask& task, const AttentionWords& words, int tid) {
  constexpr int kAtOnce = 8;
  const int slice = task.head_count * (D / 2) / task.splits;  // words
#pragma unroll 1
  for (int i = tid; i < slice; i += kConsumerThreads) {
    const int word = task.split * slice + i, head = task.first_head + word / (D / 2), dim = word % (D / 2);
    const uint4* states = words.part_states + static_cast<int64_t>(head) * task.splits;
    const uint2* parts = words.parts + static_cast<int64_t>(head) * task.splits * (D / 2) + dim;
    float highest = kNoScore, total = 0.f;
    float2 sum = make_float2(0.f, 0.f);
#pragma unroll 1
    for (int first = 0; first < task.splits; first += kAtOnce) {
      uint4 state[kAtOnce];
      uint2 part[kAtOnce];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        state[j] = make_uint4(__float_as_uint(kNoScore), words.out_tag, 0, words.out_tag), part[j] = make_uint2(0, words.out_tag);
        load_words(state[j], reinterpret_cast<const uint2*>(states + first + j), first + j < task.splits);
        load_word(part[j], parts + (first + j) * (D / 2), first + j < task.splits);
      }
      bool missing;
      do {
        missing = false;
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) {
          const bool no_state = !words_there(state[j], words.out_tag), no_part = part[j].y != words.out_tag;
          load_words(state[j], reinterpret_cast<const uint2*>(states + first + j), no_state);
          load_word(part[j], parts + (first + j) * (D / 2), no_part);
          missing = missing || no_state || no_part;
        }
      } while (missing);
      float top = highest;
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) top = fmaxf(top, __uint_as_float(state[j].x));
      const float shrink = exp2_fast(highest - top);
      highest = top, total *= shrink, sum.x *= shrink, sum.y *= shrink;
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const float by = __uint_as_float(state[j].z) * exp2_fast(__uint_as_float(state[j].x) - top);
        const float2 f = __half22float2(half2_of(part[j].x));
        total += by, sum.x += f.x * by, sum.y += f.y * by;
      }
    }
    put_attended(words, head * D + 2 * dim, make_float2(sum.x / total, sum.y / total));
  }
}

// meet() is a barrier of the consumer warps, all of which are here.
template <int D, typename Meet>
__device__ __forceinline__ void attend_mma(const AttentionShape& a, const StepSequence& s, const MmaTask& task, const AttentionWords& words,
                                           const float2* turns, unsigned char* shared, int tid, Meet meet) {
  const int warp = tid >> 5, lane = tid & 31, g = lane >> 2, t = lane & 3;
  __half* q = reinterpret_cast<__half*>(shared);                          // [8][D], times scale * log2(e)
  __half* fresh = q + kMmaHeads * D;                                      // [2][D], the new key and value
  float* scratch = reinterpret_cast<float*>(fresh + 2 * D);               // [warps][D]
  float2* states = reinterpret_cast<float2*>(scratch + kConsumerWarps * D);        // [warps][8]
  float* sums = reinterpret_cast<float*>(states + kConsumerWarps * kMmaHeads);     // [warps][room][D + 4]
  const int room = mma_task_heads(a.heads, a.kv_heads);
  __half* keys = cache_head(a, s, 0, task.kv_head);
  __half* values = cache_head(a, s, 1, task.kv_head);

  constexpr int kStride = kConsumerWarps * kMmaPositions;
  int first = task.begin + warp * kMmaPositions;
  uint4 k[2][D / 32];
#pragma unroll
  for (int i = 0; i < 2 * D / 32; ++i) k[i / (D / 32)][i % (D / 32)] = make_uint4(0, 0, 0, 0);
  load_keys<D>(k, keys, first, task.begin, min(task.end, s.length), lane);
  uint4 v[D / 64][4];
#pragma unroll
  for (int i = 0; i < D / 16; ++i) v[i / 4][i % 4] = make_uint4(0, 0, 0, 0);
  load_values<D>(v, values, first, task.begin, min(task.end, s.length), lane);

  const bool appends = task.end == s.length + 1 && task.begin < task.end;
  const auto put = [lane](__half* to, const float2(&value)[D / 64]) {
#pragma unroll
    for (int i = 0; i < D / 64; ++i) *reinterpret_cast<__half2*>(to + 64 * i + 2 * lane) = to_half2(value[i].x, value[i].y);
  };
  // Heads, the new key and value, then heads that are not there: as much as can be by different warps at once.
  for (int slot = warp; slot < kMmaHeads + 1; slot += kConsumerWarps) {
    float2 value[D / 64] = {};
    if (slot != task.head_count) {
      const bool there = slot < task.head_count;
      const int item = there ? slot : slot - 1;
      if (there) {
        fetch_head<D>(a, a.q_norm, words.qkv + (task.first_head + item) * D, words.in_tag, turns, a.scale * 1.44269504f, scratch + warp * D,
                      value, lane);
      }
      put(q + item * D, value);
    } else if (appends) {
      const uint2* of_key = words.qkv + (a.heads + task.kv_head) * D;
      const auto load_value = [&](uint4& u, int i, bool wanted) { load_words(u, of_key + a.kv_heads * D + 2 * (lane + 32 * i), wanted); };
      uint4 found[D / 64];
#pragma unroll
      for (int i = 0; i < D / 64; ++i) load_value(found[i], i, true);
      fetch_head<D>(a, a.k_norm, of_key, words.in_tag, turns, 1.f, scratch + warp * D, value, lane);
      put(fresh, value);
      put(keys + static_cast<int64_t>(s.length) * D, value);
      wait_again(found, load_value, [&](const uint4& u) { return words_there(u, words.in_tag); });
#pragma unroll
      for (int i = 0; i < D / 64; ++i) value[i] = make_float2(__uint_as_float(found[i].x), __uint_as_float(found[i].z));
      put(fresh + D, value);
      put(values + static_cast<int64_t>(s.length) * D, value);
    }
  }
  meet();

  float o[D / 16][4] = {};
  float top = kNoScore, sum = 0.f;  // of head g, equal in the four lanes of g
  for (; first < task.end; first += kStride) {
    const int ahead = s.length - first;  // where the new position is, whose key and value come from shared memory
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (ahead != 8 * i + g) continue;
#pragma unroll
      for (int b = 0; b < D / 32; ++b) k[i][b] = *reinterpret_cast<const uint4*>(fresh + 32 * b + 8 * t);
    }
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
    const float shrink = exp2_fast(top - highest);
    top = highest;
    float p[2][2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int j = 0; j < 2; ++j) p[i][j] = first + 8 * i + 2 * t + j < task.end ? exp2_fast(score[i][j] - highest) : 0.f;
    }
    sum = sum * shrink + ((p[0][0] + p[0][1]) + (p[1][0] + p[1][1]));
    const float shrink0 = __shfl_sync(~0u, shrink, 8 * t), shrink1 = __shfl_sync(~0u, shrink, 8 * t + 4);  // of heads 2t and 2t+1
    const uint32_t p0 = bits_of(__floats2half2_rn(p[0][0], p[0][1])), p1 = bits_of(__floats2half2_rn(p[1][0], p[1][1]));
    if (first + kStride < task.end) load_keys<D>(k, keys, first + kStride, task.begin, min(task.end, s.length), lane);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (ahead != 2 * t + (j & 1) + (j >> 1) * 8) continue;
#pragma unroll
      for (int c = 0; c < D / 64; ++c) v[c][j] = *reinterpret_cast<const uint4*>(fresh + D + 64 * c + 8 * g);
    }
    const int valid = task.end - first - 2 * t;                  // positions behind it count nothing
#pragma unroll
    for (int c = 0; c < D / 64; ++c) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if ((j & 1) + (j >> 1) * 8 >= valid) v[c][j] = make_uint4(0, 0, 0, 0);
      }
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        float(&sums_of)[4] = o[4 * c + w];
        sums_of[0] *= shrink0, sums_of[1] *= shrink1, sums_of[2] *= shrink0, sums_of[3] *= shrink1;
        uint32_t r[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) r[j] = w == 0 ? v[c][j].x : w == 1 ? v[c][j].y : w == 2 ? v[c][j].z : v[c][j].w;
        mma(sums_of, __byte_perm(r[0], r[1], 0x5410), __byte_perm(r[0], r[1], 0x7632), __byte_perm(r[2], r[3], 0x5410),
            __byte_perm(r[2], r[3], 0x7632), p0, p1);
      }
    }
    if (first + kStride < task.end) load_values<D>(v, values, first + kStride, task.begin, min(task.end, s.length), lane);
  }
  sum += __shfl_xor_sync(~0u, sum, 1);
  sum += __shfl_xor_sync(~0u, sum, 2);
  if (t == 0) states[warp * kMmaHeads + g] = make_float2(top, sum);
  // o[i][0], o[i][1]: dimension 64c + 8g + 2w of heads 2t and 2t+1; o[i][2], o[i][3]: the dimension behind
  // it.
#pragma unroll
  for (int i = 0; i < D / 16; ++i) {
    const int dim = 64 * (i / 4) + 8 * g + 2 * (i % 4);
    float* at = sums + (warp * room + 2 * t) * (D + 4) + dim;
    if (2 * t < room) *reinterpret_cast<float2*>(at) = make_float2(o[i][0], o[i][2]);
    if (2 * t + 1 < room) *reinterpret_cast<float2*>(at + D + 4) = make_float2(o[i][1], o[i][3]);
  }
  meet();
  for (int i = tid; i < task.head_count * (D / 2); i += kConsumerThreads) {
    const int head = i / (D / 2), dim = i % (D / 2) * 2;
    float2 state[kConsumerWarps], part[kConsumerWarps];
#pragma unroll
    for (int w = 0; w < kConsumerWarps; ++w) {
      state[w] = states[w * kMmaHeads + head];
      part[w] = *reinterpret_cast<const float2*>(sums + (w * room + head) * (D + 4) + dim);
    }
    float highest = state[0].x, total = 0.f;
#pragma unroll
    for (int w = 1; w < kConsumerWarps; ++w) highest = fmaxf(highest, state[w].x);
    float2 v = make_float2(0.f, 0.f);
#pragma unroll
    for (int w = 0; w < kConsumerWarps; ++w) {
      const float by = exp2_fast(state[w].x - highest);
      total += state[w].y * by;
      v.x += part[w].x * by, v.y += part[w].y * by;
    }
    const float scale = total > 0.f ? 1.f / total : 0.f;
    v.x *= scale, v.y *= scale;
    if (task.splits == 1) {
      put_attended(words, (task.first_head + head) * D + dim, v);
      continue;
    }
    const int64_t at = static_cast<int64_t>(task.first_head + head) * task.splits + task.split;
    if (dim == 0) put_state(words.part_states + at, highest, total, words.out_tag);
    put_word(words.parts + (at * D + dim) / 2, bits_of(to_half2(v.x, v.y)), words.out_tag);
  }
  if (task.splits > 1) merge_splits<D>(task, words, tid);
}

}  // namespace nbl::cuda

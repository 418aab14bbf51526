// Decode attention on the tensor core: one new token a sequence, head_dim up to 128.
//
// A CTA is one sequence, up to eight query heads of one kv head and one split of the positions. Each of its warps takes 16
// positions at a time and brings their keys and values by cp.async to a place of its own: the first ones are on their way
// before the queries are there, the next keys come while this chunk's values are summed, and the next values while the
// next keys are multiplied. The CTA norms and turns the queries, and the split that holds the last position does so with the
// new key, appends it and the value, and puts both where cp.async would have brought them. Keys
// are operand A of the scores as they lie in the cache, and the query heads the eight columns; values are operand A of the
// result, transposed on their way from shared memory. The warps' sums meet in shared memory; the last split of
// a task to finish puts all of them together, in their order. Bound: the bytes of K and V.
#include <algorithm>

#include "kernels/cuda/attention/attention.cuh"
#include "kernels/cuda/launch.h"

namespace nbl::cuda {
namespace {

constexpr int kMaxWarps = 16, kChunk = 16;  // positions that a warp has at a time
constexpr int kHeads = 8;                   // heads of a task: the rows 0 to 7 of an mma

template <int D>
constexpr int kRowBytes = D * 2;
template <int D>
constexpr int kWarpBytes = 2 * kChunk * kRowBytes<D>;  // keys, then values

// The other way round for a matrix of 8 x 8 that lies over a warp as mma has it.
__device__ __forceinline__ uint32_t transposed(uint32_t v) {
  uint32_t out;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(v));
  return out;
}

// Where the 16 bytes `column` of a position of the chunk stand: so that eight positions of one column lie in eight banks.
template <int D>
__device__ __forceinline__ int place_in_chunk(int position, int column) {
  return position * kRowBytes<D> + (column ^ (position & 7)) * 16;
}

// As prepare_head(), from shared memory; every lane calls put(i, value) for its part of the head.
template <typename Put>
__device__ __forceinline__ void turn_head(const AttentionShape& a, const DeviceNorm& norm, const float* head, const float2* turns,
                                          float scale, int lane, Put put) {
  float2 factors = make_float2(0.f, 1.f);
  if (norm.weight != nullptr) {
    float2 sums = make_float2(0.f, 0.f);
    for (int i = lane; i < a.head_dim; i += 32) sums.x += head[i], sums.y += head[i] * head[i];
    factors = norm_factors(norm, warp_sum(sums), a.head_dim);
  }
  auto value = [&](int i) { return norm.weight != nullptr ? norm_value(norm, head[i], factors, i) : head[i]; };
  for (int i = lane; i < a.rotary_half; i += 32) {
    const float2 cs = turns[i];
    const float x = value(i), y = value(i + a.rotary_half);
    put(i, (x * cs.x - y * cs.y) * scale);
    put(i + a.rotary_half, (y * cs.x + x * cs.y) * scale);
  }
  for (int i = 2 * a.rotary_half + lane; i < a.head_dim; i += 32) put(i, value(i) * scale);
}

// D: head_dim rounded up to 64 or 128.
template <int D>
__global__ void __launch_bounds__(kMaxWarps * 32, 1)
    decode_heads(AttentionShape a, StepRows step, const float* qkv, int splits, DecodeScratch scratch,
                 __half* x, ActivationLayout layout, const int32_t* place) {
  extern __shared__ __align__(128) unsigned char chunks_at[];
  __shared__ __align__(16) float raw[kHeads + 2][D];       // queries, key and value as they come from the matrix
  __shared__ float2 turns[D / 2];
  __shared__ __align__(16) __half queries[kHeads][D + 8];
  __shared__ __align__(16) __half fresh[2][D];             // the new key and value
  __shared__ float2 states[kMaxWarps][kHeads];
  __shared__ bool is_last;
  let_next_begin();
  const int tid = threadIdx.x, threads = blockDim.x, warps = threads / 32, lane = tid & 31, warp = tid >> 5, g = lane >> 2,
            t = lane & 3;
  const int row = blockIdx.y, d = a.head_dim, task = blockIdx.x / splits;
  const AttentionTask work = attention_task(a.heads, a.kv_heads, kHeads, blockIdx.x, splits);
  const int split = work.split, kv_head = work.kv_head, first_head = work.first_head, head_count = work.head_count;
  // What the draws of the step before have changed may still stand in the first-level cache.
  StepSequence s;
  s.cache = reinterpret_cast<void*>(__ldcg(reinterpret_cast<const unsigned long long*>(&step.sequences[row].cache)));
  s.capacity = __ldcg(reinterpret_cast<const long long*>(&step.sequences[row].capacity));
  s.length = __ldcg(&step.sequences[row].length);
  const int length = s.length + 1;
  const int lowest = a.window > 0 && length > a.window ? static_cast<int>(length - a.window) : 0;
  const int per_split = (length - lowest + splits - 1) / splits;
  const int begin = lowest + split * per_split, end = min(length, begin + per_split);
  __half* keys = cache_head(a, s, 0, kv_head);
  __half* values = cache_head(a, s, 1, kv_head);

  // Keys and values of earlier steps. Those of this one are put in later.
  unsigned char* const keys_at = chunks_at + warp * kWarpBytes<D>;
  unsigned char* const values_at = keys_at + kChunk * kRowBytes<D>;
  constexpr int kColumns = D / 8, kAtOnce = 32 / kColumns;  // of 16 bytes; positions
  const int column = lane % kColumns, at0 = lane / kColumns;
  // What a lane brings of position at0 + i * kAtOnce, and where to.
  auto fetch = [&](const __half* from, unsigned char* to, int base) {
    const int count = column * 8 < d ? min(end, length - 1) - base : 0;
    from += static_cast<int64_t>(base + at0) * d + column * 8;
#pragma unroll
    for (int i = 0; i < kChunk / kAtOnce; ++i) {
      const int at = at0 + i * kAtOnce;
      copy16_or_zero(to + place_in_chunk<D>(at, column), from, at < count);
      from += kAtOnce * d;
    }
    copy_commit();
  };
  const int first_base = begin + warp * kChunk;
  fetch(keys, keys_at, first_base);
  fetch(values, values_at, first_base);

  await_previous();
  const bool appends = begin < length && end == length;
  {
    const float* from = qkv + static_cast<int64_t>(row) * (a.heads + 2 * a.kv_heads) * d;
    const float2* turns_from = step.turns + static_cast<int64_t>(row) * a.rotary_half;
    const int vectors = d / 4, rows = head_count + (appends ? 2 : 0);
#pragma unroll 4
    for (int i = tid; i < rows * vectors; i += threads) {
      const int item = i / vectors;
      const int head = item < head_count ? first_head + item : a.heads + kv_head + (item - head_count) * a.kv_heads;
      reinterpret_cast<float4*>(raw[item])[i % vectors] = __ldcg(reinterpret_cast<const float4*>(from + head * d) + i % vectors);
    }
    for (int i = tid; i < a.rotary_half; i += threads) turns[i] = __ldcg(turns_from + i);
    for (int i = tid; i < kHeads * (D + 8) / 2; i += threads) reinterpret_cast<uint32_t*>(queries)[i] = 0;
  }
  __syncthreads();
  for (int item = warp; item < head_count + (appends ? 2 : 0); item += warps) {
    if (item < head_count) {
      turn_head(a, a.q_norm, raw[item], turns, a.scale * 1.44269504f, lane, [&](int i, float v) { queries[item][i] = to_half(v); });
      continue;
    }
    // Several tasks of a kv head write the same.
    const int what = item - head_count;
    __half* to = (what == 0 ? keys : values) + static_cast<int64_t>(length - 1) * d;
    auto put = [&](int i, float v) { fresh[what][i] = to[i] = to_half(v); };
    if (what == 0) {
      turn_head(a, a.k_norm, raw[item], turns, 1.f, lane, put);
    } else {
      for (int i = lane; i < d; i += 32) put(i, raw[item][i]);
    }
  }
  __syncthreads();

  constexpr int kTiles = D / 16;
  uint32_t q[kTiles][2];
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
    q[i][0] = *reinterpret_cast<const uint32_t*>(&queries[g][16 * i + 2 * t]);
    q[i][1] = *reinterpret_cast<const uint32_t*>(&queries[g][16 * i + 2 * t + 8]);
  }
  float o[kTiles][4] = {};  // dimensions 16i + g and 16i + g + 8 of heads 2t and 2t + 1
  float top[2] = {kNoScore, kNoScore}, sum[2] = {};
  // A matrix of 8 positions and 8 dimensions is brought by eight lanes, which have a position each.
  const int key_position = lane % 16, key_column = lane / 16, value_position = lane % 8 + lane / 16 * 8, value_column = lane / 8 % 2;
  for (int base = first_base; base < end; base += warps * kChunk) {
    const int next = base + warps * kChunk;
    const bool has_new = appends && base + kChunk >= length;
    copy_wait<1>();
    __syncwarp();
    if (has_new) {
      if (lane * 8 < d) {
        *reinterpret_cast<uint4*>(keys_at + place_in_chunk<D>(length - 1 - base, lane)) = reinterpret_cast<const uint4*>(fresh[0])[lane];
      }
      __syncwarp();
    }
    float score[4] = {}, odd_score[4] = {};  // positions g and g + 8, heads 2t and 2t + 1
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
      uint32_t k[4];
      load_matrix4(k, keys_at + place_in_chunk<D>(key_position, 2 * i + key_column));
      mma(i % 2 == 0 ? score : odd_score, k[0], k[1], k[2], k[3], q[i][0], q[i][1]);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) score[i] += odd_score[i];
    __syncwarp();
    fetch(keys, keys_at, next);

    float shrink[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      if (base + g >= end) score[h] = kNoScore;
      if (base + g + 8 >= end) score[h + 2] = kNoScore;
      float highest = fmaxf(top[h], fmaxf(score[h], score[h + 2]));
#pragma unroll
      for (int step = 4; step < 32; step *= 2) highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, step));
      shrink[h] = exp2f(top[h] - highest);
      top[h] = highest;
      score[h] = score[h] <= kNoScore ? 0.f : exp2f(score[h] - highest);
      score[h + 2] = score[h + 2] <= kNoScore ? 0.f : exp2f(score[h + 2] - highest);
      sum[h] = sum[h] * shrink[h] + score[h] + score[h + 2];
    }
    const uint32_t p0 = transposed(bits_of(__floats2half2_rn(score[0], score[1]))),
                   p1 = transposed(bits_of(__floats2half2_rn(score[2], score[3])));
    copy_wait<1>();
    __syncwarp();
    if (has_new) {
      if (lane * 8 < d) {
        *reinterpret_cast<uint4*>(values_at + place_in_chunk<D>(length - 1 - base, lane)) = reinterpret_cast<const uint4*>(fresh[1])[lane];
      }
      __syncwarp();
    }
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
      uint32_t v[4];
      load_matrix4_transposed(v, values_at + place_in_chunk<D>(value_position, 2 * i + value_column));
#pragma unroll
      for (int j = 0; j < 4; ++j) o[i][j] *= shrink[j % 2];
      mma(o[i], v[0], v[1], v[2], v[3], p0, p1);
    }
    __syncwarp();
    fetch(values, values_at, next);
  }
  copy_wait<0>();
  __syncwarp();
  // What a warp has summed goes where its chunks were.
  auto output_of = [&](int w, int h) { return reinterpret_cast<float*>(chunks_at + w * kWarpBytes<D>) + h * D; };
#pragma unroll
  for (int h = 0; h < 2; ++h) {
#pragma unroll
    for (int step = 4; step < 32; step *= 2) sum[h] += __shfl_xor_sync(~0u, sum[h], step);
    if (g == 0) states[warp][2 * t + h] = make_float2(top[h], sum[h]);
    if (2 * t + h >= head_count) continue;
    float* to = output_of(warp, 2 * t + h);
#pragma unroll
    for (int i = 0; i < kTiles; ++i) to[16 * i + g] = o[i][h], to[16 * i + g + 8] = o[i][h + 2];
  }
  __syncthreads();

  const int64_t first_state = (static_cast<int64_t>(row) * a.heads + first_head) * splits;
  auto store = [&](int h, int i, float value) {
    const int column = (first_head + h) * d + i;
    x[layout.at(row, place != nullptr ? place[column] : column)] = to_half(value);
  };
  for (int item = tid; item < head_count * d; item += threads) {
    const int h = item / d, i = item % d;
    float highest = kNoScore, total = 0.f, value = 0.f;
    for (int w = 0; w < warps; ++w) highest = fmaxf(highest, states[w][h].x);
    for (int w = 0; w < warps; ++w) {
      const float by = exp2f(states[w][h].x - highest);
      total += states[w][h].y * by;
      value += output_of(w, h)[i] * by;
    }
    if (splits == 1) {
      store(h, i, value / total);
    } else {
      const int64_t at = first_state + h * splits + split;
      __stcg(scratch.part + at * d + i, value);
      if (i == 0) __stcg(scratch.part_state + at, make_float2(highest, total));
    }
  }
  if (splits == 1) return;
  __threadfence();
  __syncthreads();
  unsigned* ticket = scratch.tickets + row * (gridDim.x / splits) + task;
  if (tid == 0) {
    is_last = atomicAdd(ticket, 1u) == static_cast<unsigned>(splits) - 1;
    if (is_last) *ticket = 0;
  }
  __syncthreads();
  if (!is_last) return;
  __threadfence();
  for (int item = tid; item < head_count * d; item += threads) {
    store(item / d, item % d,
          merged(scratch.part, scratch.part_state,
                 static_cast<int64_t>(row) * a.heads + first_head + item / d, splits, d, item % d));
  }
}

// Shared memory of a CTA besides the chunks, with what the system takes, rounded up.
constexpr int kStaticBytes = 12 << 10;
int chunk_limit(int shared_optin) { return shared_optin - kStaticBytes; }

}  // namespace

bool decodes_on_tensor_core(const AttentionShape& a) { return a.head_dim <= 128 && a.head_dim % 8 == 0; }

Status decode_on_tensor_core(const AttentionShape& a, const StepRows& step, const float* qkv, int splits,
                             const DecodeScratch& scratch, void* x, const ActivationLayout& layout,
                             const int32_t* place, const DeviceTraits& traits, cudaStream_t stream) {
  const int tasks = attention_tasks(a.heads, a.kv_heads, kHeads);
  // As many warps a CTA as let every CTA be on the GPU at once, some 16 a multiprocessor: what they have asked for is what
  // keeps the memory busy.
  const int warp_bytes = a.head_dim <= 64 ? kWarpBytes<64> : kWarpBytes<128>;
  const int a_multiprocessor = (tasks * splits * step.rows + traits.multiprocessors - 1) / traits.multiprocessors;
  int warps = kMaxWarps;
  const int most = chunk_limit(traits.shared_optin) / warp_bytes;
  while (warps > 1 && (warps > most || (warps > 4 && a_multiprocessor * warps > kMaxWarps))) warps /= 2;
  NBL_CUDA(launch_after(traits.early_launch, a.head_dim <= 64 ? decode_heads<64> : decode_heads<128>, dim3(tasks * splits, step.rows),
                        warps * 32, warps * warp_bytes, stream, a, step, qkv, splits, scratch, static_cast<__half*>(x), layout, place));
  return {};
}

Status prepare_decode_attention(const DeviceTraits& traits) {
  const int limit = chunk_limit(traits.shared_optin);
  constexpr auto shared = cudaFuncAttributeMaxDynamicSharedMemorySize;
  NBL_CUDA(cudaFuncSetAttribute(decode_heads<64>, shared, std::min(limit, kMaxWarps * kWarpBytes<64>)));
  NBL_CUDA(cudaFuncSetAttribute(decode_heads<128>, shared, std::min(limit, kMaxWarps * kWarpBytes<128>)));
  return {};
}

}  // namespace nbl::cuda

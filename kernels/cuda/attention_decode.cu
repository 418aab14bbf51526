// Decode attention on the tensor core: one new token a sequence, head_dim up to 128.
//
// A CTA is one sequence, up to eight query heads of one kv head and one split of the positions. It norms and
// turns the queries, and the split that holds the last position does so with the new key and appends it and
// the value. Then each of four warps takes 16 positions at a time. The query heads are the rows of operand A;
// keys are operand B as they lie in the cache, with the same permutation of dimensions on both sides that
// tile.h has; values are paired up from two positions in registers. The warps' sums meet in shared memory;
// the last split of a task to finish puts all of them together, in their order. Bound: the bytes of K and V.
#include <algorithm>

#include "kernels/cuda/attention.cuh"

namespace nbl::cuda {
namespace {

constexpr int kWarps = 4, kHeads = 8;  // heads of a task: the rows 0 to 7 of an mma

// Rows 0 to 7 of c[16x8] += a[16x16] * b[16x8]; rows 8 to 15 of a are zero.
__device__ __forceinline__ void mma_upper(float& c0, float& c1, uint32_t a0, uint32_t a2, uint32_t b0,
                                          uint32_t b1) {
  [[maybe_unused]] float unused0, unused1;
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%6,%5,%6},{%7,%8},{%0,%1,%9,%9};"
      : "+f"(c0), "+f"(c1), "=f"(unused0), "=f"(unused1)
      : "r"(a0), "r"(a2), "r"(0), "r"(b0), "r"(b1), "f"(0.f));
#else
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5},{%6},{%0,%1,%7,%7};"
               : "+f"(c0), "+f"(c1), "=f"(unused0), "=f"(unused1)
               : "r"(a0), "r"(0), "r"(b0), "f"(0.f));
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5},{%6},{%0,%1,%7,%7};"
               : "+f"(c0), "+f"(c1), "=f"(unused0), "=f"(unused1)
               : "r"(a2), "r"(0), "r"(b1), "f"(0.f));
#endif
}

__device__ __forceinline__ uint4 load16(const __half* p, bool valid) {
  return valid ? *reinterpret_cast<const uint4*>(p) : make_uint4(0, 0, 0, 0);
}

// D: head_dim rounded up to 64 or 128.
template <int D>
__global__ void __launch_bounds__(kWarps * 32, 3)
    decode_heads(AttentionShape a, StepRows step, const float* qkv, int splits, DecodeScratch scratch,
                 __half* x, ActivationLayout layout, const int32_t* place) {
  __shared__ __align__(16) __half queries[kHeads][D + 8];
  __shared__ float prepared[kWarps][D];
  __shared__ float2 states[kWarps][kHeads];
  __shared__ __align__(16) float outputs[kWarps][kHeads][D];
  __shared__ bool is_last;
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5, g = lane >> 2, t = lane & 3;
  const int row = blockIdx.y, d = a.head_dim, group = a.heads / a.kv_heads,
            chunks = (group + kHeads - 1) / kHeads;
  const int split = blockIdx.x % splits, task = blockIdx.x / splits, kv_head = task / chunks;
  const int first_head = kv_head * group + task % chunks * kHeads,
            head_count = min(kHeads, group - task % chunks * kHeads);
  const StepSequence s = step.sequences[row];
  const float* from = qkv + static_cast<int64_t>(row) * (a.heads + 2 * a.kv_heads) * d;
  const float2* turns = step.turns + static_cast<int64_t>(row) * a.rotary_half;
  const int length = s.length + 1;
  const int lowest = a.window > 0 && length > a.window ? static_cast<int>(length - a.window) : 0;
  const int per_split = (length - lowest + splits - 1) / splits;
  const int begin = lowest + split * per_split, end = min(length, begin + per_split);
  __half* keys = cache_head(a, s, 0, kv_head);
  __half* values = cache_head(a, s, 1, kv_head);

  for (int item = warp; item < kHeads + 2; item += kWarps) {
    float* out = prepared[warp];
    if (item < kHeads) {
      const bool valid = item < head_count;
      if (valid)
        prepare_head(a, a.q_norm, from + (first_head + item) * d, turns, a.scale * 1.44269504f, out, lane);
      __syncwarp();
      for (int i = lane; i < D; i += 32) queries[item][i] = valid && i < d ? to_half(out[i]) : __half(0.f);
      __syncwarp();
    } else if (begin < length && end == length) {  // several tasks of a kv head write the same
      const int64_t at = static_cast<int64_t>(length - 1) * d;
      if (item == kHeads) {
        prepare_head(a, a.k_norm, from + (a.heads + kv_head) * d, turns, 1.f, out, lane);
        __syncwarp();
        for (int i = lane; i < d; i += 32) keys[at + i] = to_half(out[i]);
      } else {
        for (int i = lane; i < d; i += 32)
          values[at + i] = to_half(__ldcg(from + (a.heads + a.kv_heads + kv_head) * d + i));
      }
    }
  }
  __syncthreads();

  uint4 q[D / 32];
#pragma unroll
  for (int b = 0; b < D / 32; ++b) q[b] = *reinterpret_cast<const uint4*>(&queries[g][32 * b + 8 * t]);
  float o[D / 64][8][2] = {};  // dimensions 64c + 16t + j and 64c + 16t + 8 + j of head g
  float top = kNoScore, sum = 0.f;
  for (int base = begin + warp * 16; base < end; base += kWarps * 16) {
    uint4 k[2][D / 32], v[4][D / 64];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int position = base + 8 * j + g;
#pragma unroll
      for (int b = 0; b < D / 32; ++b) {
        k[j][b] = load16(keys + static_cast<int64_t>(position) * d + 32 * b + 8 * t,
                         position < end && 32 * b + 8 * t < d);
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int position = base + i / 2 * 8 + 2 * t + i % 2;
#pragma unroll
      for (int c = 0; c < D / 64; ++c) {
        v[i][c] = load16(values + static_cast<int64_t>(position) * d + 64 * c + 8 * g,
                         position < end && 64 * c + 8 * g < d);
      }
    }
    float score[2][2] = {};
#pragma unroll
    for (int b = 0; b < D / 32; ++b) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        mma_upper(score[j][0], score[j][1], q[b].x, q[b].y, k[j][b].x, k[j][b].y);
        mma_upper(score[j][0], score[j][1], q[b].z, q[b].w, k[j][b].z, k[j][b].w);
      }
    }
    float highest = top;
#pragma unroll
    for (int j = 0; j < 2; ++j) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if (base + 8 * j + 2 * t + i >= end) score[j][i] = kNoScore;
        highest = fmaxf(highest, score[j][i]);
      }
    }
    highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 1));
    highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 2));
    const float shrink = exp2f(top - highest);
    top = highest;
    sum *= shrink;
#pragma unroll
    for (int j = 0; j < 2; ++j) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        score[j][i] = score[j][i] <= kNoScore ? 0.f : exp2f(score[j][i] - highest);
        sum += score[j][i];
      }
    }
    const uint32_t p0 = bits_of(__floats2half2_rn(score[0][0], score[0][1])),
                   p1 = bits_of(__floats2half2_rn(score[1][0], score[1][1]));
#pragma unroll
    for (int c = 0; c < D / 64; ++c) {
      const uint32_t* words[4] = {&v[0][c].x, &v[1][c].x, &v[2][c].x, &v[3][c].x};
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const uint32_t pick = j % 2 == 0 ? 0x5410 : 0x7632;
        o[c][j][0] *= shrink, o[c][j][1] *= shrink;
        mma_upper(o[c][j][0], o[c][j][1], p0, p1, __byte_perm(words[0][j / 2], words[1][j / 2], pick),
                  __byte_perm(words[2][j / 2], words[3][j / 2], pick));
      }
    }
  }
  sum += __shfl_xor_sync(~0u, sum, 1);
  sum += __shfl_xor_sync(~0u, sum, 2);
  if (t == 0) states[warp][g] = make_float2(top, sum);
  if (g < head_count) {
#pragma unroll
    for (int c = 0; c < D / 64; ++c) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float4* to = reinterpret_cast<float4*>(&outputs[warp][g][64 * c + 16 * t + 8 * i]);
        to[0] = make_float4(o[c][0][i], o[c][1][i], o[c][2][i], o[c][3][i]);
        to[1] = make_float4(o[c][4][i], o[c][5][i], o[c][6][i], o[c][7][i]);
      }
    }
  }
  __syncthreads();

  const int64_t first_state = (static_cast<int64_t>(row) * a.heads + first_head) * splits;
  auto store = [&](int h, int i, float value) {
    const int column = (first_head + h) * d + i;
    x[layout.at(row, place != nullptr ? place[column] : column)] = to_half(value);
  };
  for (int item = tid; item < head_count * d; item += kWarps * 32) {
    const int h = item / d, i = item % d;
    float highest = kNoScore, total = 0.f, value = 0.f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) highest = fmaxf(highest, states[w][h].x);
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float by = exp2f(states[w][h].x - highest);
      total += states[w][h].y * by;
      value += outputs[w][h][i] * by;
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
  for (int item = tid; item < head_count * d; item += kWarps * 32) {
    store(item / d, item % d,
          merged(scratch.part, scratch.part_state,
                 static_cast<int64_t>(row) * a.heads + first_head + item / d, splits, d, item % d));
  }
}

}  // namespace

bool decodes_on_tensor_core(const AttentionShape& a) { return a.head_dim <= 128 && a.head_dim % 8 == 0; }

Status decode_on_tensor_core(const AttentionShape& a, const StepRows& step, const float* qkv, int splits,
                             const DecodeScratch& scratch, void* x, const ActivationLayout& layout,
                             const int32_t* place, cudaStream_t stream) {
  const int tasks = a.kv_heads * ((a.heads / a.kv_heads + kHeads - 1) / kHeads);
  auto* kernel = a.head_dim <= 64 ? decode_heads<64> : decode_heads<128>;
  kernel<<<dim3(tasks * splits, step.rows), kWarps * 32, 0, stream>>>(a, step, qkv, splits, scratch,
                                                                      static_cast<__half*>(x), layout, place);
  NBL_LAUNCHED("decode_heads");
  return {};
}

}  // namespace nbl::cuda

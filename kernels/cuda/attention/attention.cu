// Attention of a step: decode (one new token a sequence) and prefill (many).
//
// Decode, where attention_decode.cu cannot: a CTA is one task of attention.cuh; merge_rows puts a sequence's splits together.
// Prefill (after FlashAttention-2, arXiv:2307.08691): a CTA is 64 queries of one head, 16 a warp; keys and values come in
// tiles through a double buffer of shared memory; scores and sums stay in registers as mma accumulators, the softmax runs
// in float32 with its maximum and sum. Tiles that the causal mask or the sliding window hides are not visited.
// Bound: 4 * head_dim * (visible pairs) operations a head over the rate of mma.sync.
#include <algorithm>

#include "kernels/cuda/attention/attention_tile.cuh"

namespace nbl::cuda {
namespace {

constexpr int kDecodeWarps = 8;

// Rows whose cache is of the other type are for the other kernel.
template <int L, bool kBytes>
__global__ void __launch_bounds__(kDecodeWarps * 32) decode_tasks(AttentionShape a, StepRows step, const float* qkv, int splits, float* part,
                                                                 float2* part_state) {
  extern __shared__ __align__(16) float shared_floats[];
  const int row = blockIdx.y;
  const StepSequence s = step.sequences[row];
  if ((s.scales != nullptr) != kBytes) return;
  const AttentionTask task = attention_task(a.heads, a.kv_heads, kHeadsPerTask, blockIdx.x, splits);
  const int64_t heads_before = static_cast<int64_t>(row) * a.heads * splits;
  attend<L, kBytes>(a, s, task, qkv + static_cast<int64_t>(row) * (a.heads + 2 * a.kv_heads) * a.head_dim,
            step.turns + static_cast<int64_t>(row) * a.rotary_half, part + heads_before * a.head_dim, part_state + heads_before, shared_floats,
            threadIdx.x / 32, kDecodeWarps, threadIdx.x % 32, [] { __syncthreads(); });
}

__global__ void merge_rows(int heads, int head_dim, int splits, const float* part, const float2* part_state, __half* x,
                           ActivationLayout layout, const int32_t* place) {
  const int64_t row = blockIdx.y;
  const int column = blockIdx.x * blockDim.x + threadIdx.x;
  if (column >= heads * head_dim) return;
  const float v = merged(part, part_state, row * heads + column / head_dim, splits, head_dim, column % head_dim);
  x[layout.at(row, place != nullptr ? place[column] : column)] = to_half(v);
}

// One warp a head of a row: queries to q, keys and values to the cache.
__global__ void __launch_bounds__(128) rotate_rows(AttentionShape a, StepRows step, const float* qkv, __half* q) {
  extern __shared__ float heads_out[];
  const int row = blockIdx.x, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const StepSequence s = step.sequences[step.sequence_of[row]];
  const int64_t position = step.positions[row];
  const float* from = qkv + static_cast<int64_t>(row) * (a.heads + 2 * a.kv_heads) * a.head_dim;
  const float2* turns = step.turns + static_cast<int64_t>(row) * a.rotary_half;
  float* out = heads_out + warp * a.head_dim;
  for (int head = warp; head < a.heads + 2 * a.kv_heads; head += 4) {
    const float* source = from + head * a.head_dim;
    __half* to = nullptr;
    const int what = head < a.heads + a.kv_heads ? 0 : 1, kv_head = head - a.heads - what * a.kv_heads;
    if (head < a.heads) {
      prepare_head(a, a.q_norm, source, turns, a.scale * 1.44269504f, out, lane);
      to = q + (static_cast<int64_t>(row) * a.heads + head) * a.head_dim;
    } else if (head < a.heads + a.kv_heads) {
      prepare_head(a, a.k_norm, source, turns, 1.f, out, lane);
    } else {
      for (int i = lane; i < a.head_dim; i += 32) out[i] = source[i];
    }
    __syncwarp();
    if (head >= a.heads && s.scales != nullptr) {
      put_bytes(byte_head(a, s, what, kv_head), position, a.head_dim, lane, [&](int i) { return out[i]; });
    } else {
      if (head >= a.heads) to = cache_head(a, s, what, kv_head) + position * a.head_dim;
      for (int i = lane; i < a.head_dim; i += 32) to[i] = to_half(out[i]);
    }
    __syncwarp();
  }
}

// The same where all dimensions turn: a lane has two neighbours of each half, so that heads stay in registers.
__global__ void __launch_bounds__(256) rotate_whole_rows(AttentionShape a, StepRows step, const float* qkv, __half* q) {
  const int row = blockIdx.x, warp = threadIdx.x / 32, lane = threadIdx.x % 32, half = a.rotary_half;
  const StepSequence s = step.sequences[step.sequence_of[row]];
  const int64_t position = step.positions[row];
  const float* from = qkv + static_cast<int64_t>(row) * (a.heads + 2 * a.kv_heads) * a.head_dim;
  for (int p = 2 * lane; p < half; p += 64) {
    const float4 cs = *reinterpret_cast<const float4*>(step.turns + static_cast<int64_t>(row) * half + p);
#pragma unroll 3
    for (int head = warp; head < a.heads + 2 * a.kv_heads; head += 8) {
      float2 lo = *reinterpret_cast<const float2*>(from + head * a.head_dim + p);
      float2 hi = *reinterpret_cast<const float2*>(from + head * a.head_dim + p + half);
      __half* to;
      if (head >= a.heads + a.kv_heads) {
        to = cache_head(a, s, 1, head - a.heads - a.kv_heads) + position * a.head_dim;
      } else {
        const bool query = head < a.heads;
        const float scale = query ? a.scale * 1.44269504f : 1.f;
        const float2 x = lo, y = hi;
        lo = make_float2((x.x * cs.x - y.x * cs.y) * scale, (x.y * cs.z - y.y * cs.w) * scale);
        hi = make_float2((y.x * cs.x + x.x * cs.y) * scale, (y.y * cs.z + x.y * cs.w) * scale);
        to = query ? q + (static_cast<int64_t>(row) * a.heads + head) * a.head_dim : cache_head(a, s, 0, head - a.heads) + position * a.head_dim;
      }
      *reinterpret_cast<__half2*>(to + p) = __halves2half2(to_half(lo.x), to_half(lo.y));
      *reinterpret_cast<__half2*>(to + p + half) = __halves2half2(to_half(hi.x), to_half(hi.y));
    }
  }
}

// Eight values of a head of an int8 cache, as f16, to shared memory; zeros where there is nothing.
__device__ __forceinline__ void put_halves(void* to, const ByteHead& head, int64_t position, int dim, int head_dim, bool there) {
  uint4 out = make_uint4(0, 0, 0, 0);
  if (there && dim < head_dim) {
    const uint2 bytes = *reinterpret_cast<const uint2*>(head.bytes + position * head_dim + dim);
    const float scale = __half2float(head.scales[position]);
    const uint4 words = make_uint4(bytes.x, bytes.y, 0, 0);
    uint32_t* halves = &out.x;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 v = pair_of<true>(words, i);
      halves[i] = bits_of(__floats2half2_rn(v.x * scale, v.y * scale));
    }
  }
  *reinterpret_cast<uint4*>(to) = out;
}

// D: head_dim rounded up to 64, 128 or 256. KT: keys a tile.
template <int D, int KT>
__global__ void __launch_bounds__(128) prefill_tiles(AttentionShape a, StepRows step, const QueryTile* tiles, const __half* q, __half* x,
                                                     ActivationLayout layout, const int32_t* place) {
  extern __shared__ __align__(128) unsigned char shared[];
  constexpr int kRow = D * 2 + 16;  // bytes; the 16 keep ldmatrix free of bank conflicts
  constexpr int kTile = KT * kRow;
  const int tid = threadIdx.x, warp = tid / 32, lane = tid % 32, g = lane / 4, t = lane % 4;
  const QueryTile tile = tiles[blockIdx.x];
  const StepSequence s = step.sequences[tile.sequence];
  const int head = blockIdx.y, kv_head = head / (a.heads / a.kv_heads), d = a.head_dim;
  const __half* keys = cache_head(a, s, 0, kv_head);
  const __half* values = cache_head(a, s, 1, kv_head);
  const ByteHead key_bytes = byte_head(a, s, 0, kv_head), value_bytes = byte_head(a, s, 1, kv_head);
  const int first = tile.first + warp * 16;              // this warp's first query among the sequence's rows
  const int last_position = s.length + min(tile.first + 63, s.count - 1);
  const int lowest = a.window > 0 ? static_cast<int>(max(static_cast<int64_t>(0), s.length + tile.first - a.window + 1)) : 0;
  const int tile_begin = lowest / KT, tile_end = last_position / KT + 1;

  uint32_t qa[D / 16][4];
#pragma unroll
  for (int k = 0; k < D / 16; ++k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = first + g + i % 2 * 8, column = k * 16 + 2 * t + i / 2 * 8;
      const bool valid = row < s.count && column < d;
      qa[k][i] = valid ? *reinterpret_cast<const uint32_t*>(q + (static_cast<int64_t>(s.first_row + row) * a.heads + head) * d + column) : 0u;
    }
  }
  auto fetch = [&](int kv_tile) {
    if (kv_tile < tile_end) {
      unsigned char* to = shared + (kv_tile - tile_begin) % 2 * 2 * kTile;
      for (int i = tid; i < KT * (D / 8); i += 128) {
        const int row = i / (D / 8), v = i % (D / 8);
        const int position = kv_tile * KT + row;
        if (s.scales != nullptr) {
          put_halves(to + row * kRow + v * 16, key_bytes, position, v * 8, d, position <= last_position);
          put_halves(to + kTile + row * kRow + v * 16, value_bytes, position, v * 8, d, position <= last_position);
        } else if (position <= last_position && v * 8 < d) {
          copy16(to + row * kRow + v * 16, keys + static_cast<int64_t>(position) * d + v * 8);
          copy16(to + kTile + row * kRow + v * 16, values + static_cast<int64_t>(position) * d + v * 8);
        } else {
          *reinterpret_cast<uint4*>(to + row * kRow + v * 16) = make_uint4(0, 0, 0, 0);
          *reinterpret_cast<uint4*>(to + kTile + row * kRow + v * 16) = make_uint4(0, 0, 0, 0);
        }
      }
    }
    copy_commit();
  };
  float o[D / 8][4] = {};
  RunningSoftmax softmax;
  fetch(tile_begin);
  for (int kv_tile = tile_begin; kv_tile < tile_end; ++kv_tile) {
    fetch(kv_tile + 1);
    copy_wait<1>();
    __syncthreads();
    const unsigned char* k_tile = shared + (kv_tile - tile_begin) % 2 * 2 * kTile;
    const unsigned char* v_tile = k_tile + kTile;
    float score[KT / 8][4] = {};
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
#pragma unroll
      for (int n = 0; n < KT / 8; n += 2) {
        uint32_t b[4];  // keys 8n.. and 8n+8.., dimensions 16k.. and 16k+8.. of each
        load_matrix4(b, k_tile + (n * 8 + lane % 8 + lane / 16 * 8) * kRow + (k * 16 + lane / 8 % 2 * 8) * 2);
        mma(score[n], qa[k][0], qa[k][1], qa[k][2], qa[k][3], b[0], b[1]);
        mma(score[n + 1], qa[k][0], qa[k][1], qa[k][2], qa[k][3], b[2], b[3]);
      }
    }
    const bool edge = kv_tile * KT + KT - 1 > s.length + first || (a.window > 0 && kv_tile * KT <= s.length + first + 15 - a.window);
    uint32_t p[KT / 8][2];
    const float2 shrink = softmax.add(score, edge, kv_tile * KT + 2 * t, s.length + first + g, a.window, p);
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
      o[n][0] *= shrink.x, o[n][1] *= shrink.x;
      o[n][2] *= shrink.y, o[n][3] *= shrink.y;
    }
#pragma unroll
    for (int k = 0; k < KT / 16; ++k) {
#pragma unroll
      for (int n = 0; n < D / 8; n += 2) {
        uint32_t b[4];  // keys 16k.. and 16k+8.. for dimensions 8n.., then for 8n+8..
        load_matrix4_transposed(b, v_tile + (k * 16 + lane % 16) * kRow + (n * 8 + lane / 16 * 8) * 2);
        mma(o[n], p[2 * k][0], p[2 * k][1], p[2 * k + 1][0], p[2 * k + 1][1], b[0], b[1]);
        mma(o[n + 1], p[2 * k][0], p[2 * k][1], p[2 * k + 1][0], p[2 * k + 1][1], b[2], b[3]);
      }
    }
    __syncthreads();
  }
  copy_wait<0>();
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float total = softmax.total(r);
    const int row = first + g + 8 * r;
    if (row >= s.count) continue;
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int dim = n * 8 + 2 * t + i;
        if (dim >= d) continue;
        const int column = head * d + dim;
        x[layout.at(s.first_row + row, place != nullptr ? place[column] : column)] = to_half(o[n][2 * r + i] / total);
      }
    }
  }
}

template <int D, int KT>
constexpr int prefill_shared() { return 4 * KT * (D * 2 + 16); }

}  // namespace

Status decode_attention(const AttentionShape& a, const StepRows& step, const float* qkv, int splits, const DecodeScratch& scratch, void* x,
                        const ActivationLayout& layout, const int32_t* place, const DeviceTraits& traits, cudaStream_t stream) {
  if (decodes_on_tensor_core(a) && !step.has_byte_caches) {
    return decode_on_tensor_core(a, step, qkv, splits, scratch, x, layout, place, traits, stream);
  }
  const dim3 grid(attention_tasks(a.heads, a.kv_heads, kHeadsPerTask) * splits, step.rows);
  const int bytes = attention_shared_floats(a.head_dim, kDecodeWarps) * 4;
  const auto launch = [&](auto* kernel) -> Status {
    kernel<<<grid, kDecodeWarps * 32, bytes, stream>>>(a, step, qkv, splits, scratch.part, scratch.part_state);
    NBL_LAUNCHED("decode_tasks");
    return {};
  };
  if (step.has_byte_caches) {
    NBL_RETURN_IF_ERROR(launch(a.head_dim <= 64 ? decode_tasks<8, true> : a.head_dim <= 128 ? decode_tasks<16, true> : decode_tasks<32, true>));
  }
  if (step.has_half_caches) {
    NBL_RETURN_IF_ERROR(launch(a.head_dim <= 64 ? decode_tasks<8, false> : a.head_dim <= 128 ? decode_tasks<16, false> : decode_tasks<32, false>));
  }
  merge_rows<<<dim3((a.heads * a.head_dim + 255) / 256, step.rows), 256, 0, stream>>>(
      a.heads, a.head_dim, splits, scratch.part, scratch.part_state, static_cast<__half*>(x), layout, place);
  NBL_LAUNCHED("merge_rows");
  return {};
}

Status rotate_and_append(const AttentionShape& a, const StepRows& step, const float* qkv, void* q, cudaStream_t stream) {
  if (!step.has_byte_caches && 2 * a.rotary_half == a.head_dim && a.rotary_half % 2 == 0 && a.q_norm.weight == nullptr && a.k_norm.weight == nullptr) {
    rotate_whole_rows<<<step.rows, 256, 0, stream>>>(a, step, qkv, static_cast<__half*>(q));
  } else {
    rotate_rows<<<step.rows, 128, 4 * a.head_dim * 4, stream>>>(a, step, qkv, static_cast<__half*>(q));
  }
  NBL_LAUNCHED("rotate_rows");
  return {};
}

Status prefill_attention(const AttentionShape& a, const StepRows& step, const QueryTile* tiles, int tile_count, int tile_rows, const void* q,
                         void* x, const ActivationLayout& layout, const int32_t* place, cudaStream_t stream) {
  if (tile_rows == kWideQueryTile) return prefill_attention_wgmma(a, step, tiles, tile_count, q, x, layout, place, stream);
  int device = 0, available = 0;  // sm_75 has too little shared memory for 64 keys of 128 dimensions
  NBL_CUDA(cudaGetDevice(&device));
  NBL_CUDA(cudaDeviceGetAttribute(&available, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  const dim3 grid(tile_count, a.heads);
  const __half* queries = static_cast<const __half*>(q);
  __half* out = static_cast<__half*>(x);
  const auto launch = [&](auto* kernel, int bytes) { kernel<<<grid, 128, bytes, stream>>>(a, step, tiles, queries, out, layout, place); };
  if (a.head_dim <= 64) launch(prefill_tiles<64, 64>, prefill_shared<64, 64>());
  else if (a.head_dim > 128) launch(prefill_tiles<256, 16>, prefill_shared<256, 16>());
  else if (available >= prefill_shared<128, 64>()) launch(prefill_tiles<128, 64>, prefill_shared<128, 64>());
  else launch(prefill_tiles<128, 32>, prefill_shared<128, 32>());
  NBL_LAUNCHED("prefill_tiles");
  return {};
}

Status prepare_attention(const DeviceTraits& traits) {
  if (traits.sm == 90) NBL_RETURN_IF_ERROR(prepare_attention_wgmma());
  NBL_RETURN_IF_ERROR(prepare_decode_attention(traits));
  const auto shared = cudaFuncAttributeMaxDynamicSharedMemorySize;
  NBL_CUDA(cudaFuncSetAttribute(prefill_tiles<64, 64>, shared, prefill_shared<64, 64>()));
  const int available = traits.shared_optin;
  NBL_CUDA(cudaFuncSetAttribute(prefill_tiles<128, 64>, shared, std::min(available, prefill_shared<128, 64>())));
  NBL_CUDA(cudaFuncSetAttribute(prefill_tiles<128, 32>, shared, prefill_shared<128, 32>()));
  NBL_CUDA(cudaFuncSetAttribute(prefill_tiles<256, 16>, shared, prefill_shared<256, 16>()));
  return {};
}

}  // namespace nbl::cuda

// Attention of many new tokens by the matrix units of sm_90, head_dim up to 128 (after FlashAttention-2,
// arXiv:2307.08691).
//
// A CTA is 192 queries of one head, 64 for each of three groups of four warps: one's softmax runs beside the
// others' products. Queries, and tiles of 64 keys and values in a double buffer, lie in shared memory as
// wgmma reads them; scores and sums stay in registers, the softmax runs in float32 with its maximum and sum.
// Tiles that the causal mask or the sliding window hides are not visited; the longest tasks come first.
// Bound: 4 * head_dim * (visible pairs) operations a head over the rate of wgmma.
//
// Compiled for sm_90a only, whatever the other files are compiled for.
#include "kernels/cuda/attention/attention_tile.cuh"
#include "kernels/cuda/wgmma.cuh"

namespace nbl::cuda {
namespace {

constexpr int kQueries = kWideQueryTile, kKeys = 64, kThreads = kQueries / 64 * 128;

// D: head_dim rounded up to 64 or 128.
template <int D>
__global__ void __launch_bounds__(kThreads, 1)
    prefill_wgmma(AttentionShape a, StepRows step, const QueryTile* tiles, int tile_count, const __half* q,
                  __half* x, ActivationLayout layout, const int32_t* place) {
  extern __shared__ unsigned char unaligned[];
  constexpr int kHalves = D / 64, kChunks = D / 8;
  constexpr int kQueryBytes = kQueries * 128, kTileBytes = kKeys * 128;  // of 64 dimensions
  const uint32_t shared = (shared_address(unaligned) + 1023) & ~1023u, ring = shared + kHalves * kQueryBytes;
  const int tid = threadIdx.x, warp = tid / 32, lane = tid % 32, g = lane / 4, t = lane % 4, group = warp / 4;
  const QueryTile tile = tiles[tile_count - 1 - blockIdx.y];
  const StepSequence s = step.sequences[tile.sequence];
  const int head = blockIdx.x, kv_head = head / (a.heads / a.kv_heads), d = a.head_dim;
  const __half* keys = cache_head(a, s, 0, kv_head);
  const __half* values = cache_head(a, s, 1, kv_head);
  const int last_position = s.length + min(tile.first + kQueries, s.count) - 1;
  const int lowest =
      a.window > 0 ? static_cast<int>(max(static_cast<int64_t>(0), s.length + tile.first - a.window + 1)) : 0;
  const int tile_begin = lowest / kKeys, tile_end = last_position / kKeys + 1;

  // Where chunk c of row r stands in a matrix of `rows` rows.
  auto place_of = [](int r, int c, int rows) {
    return static_cast<uint32_t>(c / 8 * rows * 128 + r * 128 + ((c % 8 ^ (r & 7)) << 4));
  };
  auto fetch = [&](int kv_tile) {
    if (kv_tile < tile_end) {
      const uint32_t to = ring + (kv_tile - tile_begin) % 2 * 2 * kHalves * kTileBytes;
#pragma unroll
      for (int i = tid; i < kKeys * kChunks; i += kThreads) {
        const int r = i / kChunks, c = i % kChunks, position = kv_tile * kKeys + r;
        const bool valid = position <= last_position && c * 8 < d;
        const int64_t at = valid ? static_cast<int64_t>(position) * d + c * 8 : 0;
        copy16_or_zero(to + place_of(r, c, kKeys), keys + at, valid);
        copy16_or_zero(to + kHalves * kTileBytes + place_of(r, c, kKeys), values + at, valid);
      }
    }
    copy_commit();
  };
#pragma unroll
  for (int i = tid; i < kQueries * kChunks; i += kThreads) {
    const int r = i / kChunks, c = i % kChunks, row = tile.first + r;
    const bool valid = row < s.count && c * 8 < d;
    copy16_or_zero(shared + place_of(r, c, kQueries),
                   valid ? q + (static_cast<int64_t>(s.first_row + row) * a.heads + head) * d + c * 8 : q,
                   valid);
  }
  fetch(tile_begin);

  float o[kHalves][8][4] = {};
  RunningSoftmax softmax;
  const int first = tile.first + group * 64;  // of this group's queries among the sequence's rows
  const int row0 = first + warp % 4 * 16 + g, position0 = s.length + row0;
  for (int kv_tile = tile_begin; kv_tile < tile_end; ++kv_tile) {
    copy_wait<0>();
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();  // the tile is there, and all are done with the one before
    fetch(kv_tile + 1);
    const int key0 = kv_tile * kKeys;
    // All of the group's queries before this tile, or all beyond the window: nothing to do.
    if (key0 > s.length + first + 63 || (a.window > 0 && key0 + kKeys - 1 <= s.length + first - a.window))
      continue;
    const uint32_t k_tile = ring + (kv_tile - tile_begin) % 2 * 2 * kHalves * kTileBytes,
                   v_tile = k_tile + kHalves * kTileBytes;
    float score[8][4];
    hold(score);
    wgmma_begin();
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
      wgmma(score, operand(shared + k / 4 * kQueryBytes + group * 8192 + k % 4 * 32),
            operand(k_tile + k / 4 * kTileBytes + k % 4 * 32), k > 0);
    }
    wgmma_commit();
    wgmma_wait<0>();
    hold(score);
    const bool edge =
        key0 + kKeys - 1 > s.length + first || (a.window > 0 && key0 <= s.length + first + 63 - a.window);
    uint32_t p[8][2];
    const float2 shrink = softmax.add(score, edge, key0 + 2 * t, position0, a.window, p);
#pragma unroll
    for (int c = 0; c < kHalves; ++c) {
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        o[c][n][0] *= shrink.x, o[c][n][1] *= shrink.x;
        o[c][n][2] *= shrink.y, o[c][n][3] *= shrink.y;
      }
    }
#pragma unroll
    for (int c = 0; c < kHalves; ++c) hold(o[c]);
    wgmma_begin();
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) {
#pragma unroll
      for (int c = 0; c < kHalves; ++c) {
        wgmma_rows(o[c], p[2 * k][0], p[2 * k][1], p[2 * k + 1][0], p[2 * k + 1][1],
                   operand(v_tile + c * kTileBytes + k * 2048));
      }
    }
    wgmma_commit();
    wgmma_wait<0>();
#pragma unroll
    for (int c = 0; c < kHalves; ++c) hold(o[c]);
  }
  copy_wait<0>();
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float by = 1.f / softmax.total(r);
    const int row = row0 + 8 * r;
    if (row >= s.count) continue;
#pragma unroll
    for (int c = 0; c < kHalves; ++c) {
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        const int dim = c * 64 + n * 8 + 2 * t, column = head * d + dim;
        if (dim >= d) continue;
        const __half v0 = to_half(o[c][n][2 * r] * by), v1 = to_half(o[c][n][2 * r + 1] * by);
        if (place != nullptr) {
          x[layout.at(s.first_row + row, place[column])] = v0;
          x[layout.at(s.first_row + row, place[column + 1])] = v1;
        } else {
          *reinterpret_cast<__half2*>(x + layout.at(s.first_row + row, column)) = __halves2half2(v0, v1);
        }
      }
    }
  }
}

template <int D>
constexpr int shared_bytes() {
  return 1024 + D / 64 * (kQueries + 4 * kKeys) * 128;
}

}  // namespace

Status prefill_attention_wgmma(const AttentionShape& a, const StepRows& step, const QueryTile* tiles,
                               int tile_count, const void* q, void* x, const ActivationLayout& layout,
                               const int32_t* place, cudaStream_t stream) {
  const dim3 grid(a.heads, tile_count);
  const auto* queries = static_cast<const __half*>(q);
  auto* out = static_cast<__half*>(x);
  if (a.head_dim <= 64) {
    prefill_wgmma<64><<<grid, kThreads, shared_bytes<64>(), stream>>>(a, step, tiles, tile_count, queries,
                                                                      out, layout, place);
  } else {
    prefill_wgmma<128><<<grid, kThreads, shared_bytes<128>(), stream>>>(a, step, tiles, tile_count, queries,
                                                                        out, layout, place);
  }
  NBL_LAUNCHED("prefill_wgmma");
  return {};
}

Status prepare_attention_wgmma() {
  NBL_CUDA(cudaFuncSetAttribute(prefill_wgmma<64>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                shared_bytes<64>()));
  NBL_CUDA(cudaFuncSetAttribute(prefill_wgmma<128>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                shared_bytes<128>()));
  return {};
}

}  // namespace nbl::cuda

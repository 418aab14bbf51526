// Matrix product over tiles (tile.h) by the matrix units of sm_90, for 17 tokens and more: y[T, N] = x[T, K]
// * W^T.
//
// A CTA owns 16 strips (256 rows), 32 or 64 tokens and a range of records. Every warp brings the records of
// its strip by bulk copies through a ring of its own; x, which lies in memory as wgmma reads it
// (ActivationLayout), comes through a ring that all share, and that the warps fill in turn, two records after
// the last use, when the others have most likely left the stage. A bulk copy takes a warp a hundred cycles to
// send off: no warp has many. Four groups of four warps each turn the codes of their strips into operand A in
// registers, where a lane of wgmma holds what a lane of mma.m16n8k16 holds; four groups, so that some decode
// while others multiply. Products of one group are summed by the matrix unit in float32 and folded with the
// group's scale into the float32 result. Bound: the weights' bytes up to some 40 tokens, then 2*N*K*T over
// the rate of wgmma. Where strips are too few to fill the GPU, the CTAs of a cluster share the records of a
// tile and add their sums through distributed shared memory in the order of K: no memory, no tickets, and the
// same bits every time.
//
// Compiled for sm_90a only, whatever the other files are compiled for.
#include <algorithm>

#include "kernels/cuda/matmul_output.cuh"
#include "kernels/cuda/wgmma.cuh"

namespace nbl::cuda {
namespace {

constexpr int kWarps = 16, kThreads = kWarps * 32, kMaxStages = 8;
constexpr int kLag = 2;  // records between the last use of a stage of x and its refill

template <Codes C, int N>
NBL_HD constexpr int x_stage_bytes() {
  return record_columns(C) / 64 * N * 128;
}
NBL_HD int code_stage_bytes(int record_bytes) { return (kWarps * record_bytes + 1023) / 1024 * 1024; }

// G: blocks of 32 columns that share a scale.
template <Codes C, int N, int G>
__global__ void __launch_bounds__(kThreads, 1)
    wgmma_matmul(Tiles w, const __half* x, int64_t x_pitch, int tokens, Output out, int stages) {
  extern __shared__ unsigned char unaligned[];
  constexpr int kParts = record_columns(C) / 64, kPartBytes = N * 128, kBlocks = record_columns(C) / 32,
                NT = N / 8;
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5, g = lane >> 2, t = lane & 3;
  unsigned char* shared = unaligned + (1024 - (shared_address(unaligned) & 1023)) % 1024;
  const int stage_bytes = x_stage_bytes<C, N>() + code_stage_bytes(w.record_bytes);
  unsigned char* ring = shared;
  uint32_t* pairs = nullptr;
  unsigned char* rest = ring + stages * stage_bytes;
  if constexpr (C == Codes::kCode4) {
    pairs = reinterpret_cast<uint32_t*>(rest);
    rest += kPairTableBytes;
    fill_pair_table(pairs, w.code_pairs, tid, kThreads);
  }
  const uint32_t x_full = shared_address(rest), x_empty = x_full + kMaxStages * 8,
                 codes_full = x_empty + (1 + warp) * kMaxStages * 8;
  if (lane == 0) {
    for (int s = 0; s < stages; ++s) {
      if (warp == 0) barrier_init(x_full + 8 * s, 1), barrier_init(x_empty + 8 * s, kWarps);
      barrier_init(codes_full + 8 * s, 1);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  const int rank = blockIdx.y, ranks = gridDim.y;
  const int begin = part_begin(w.records, ranks, rank), end = part_begin(w.records, ranks, rank + 1);
  const int token0 = blockIdx.z * N;
  const int strip = blockIdx.x * kWarps + warp;

  uint64_t once;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(once));
  // A strip beyond the matrix repeats the last one; its results are dropped.
  const unsigned char* const codes_from =
      w.data + static_cast<int64_t>(min(strip, w.strips - 1)) * w.records * w.record_bytes;
  const unsigned char* const x_from = reinterpret_cast<const unsigned char*>(x) +
                                      static_cast<int64_t>(token0 >> 6) * (x_pitch >> 6) * 8192 +
                                      (token0 & 63) * 128;
  // Both by lane 0 only.
  auto fetch_codes = [&](int record, int slot) {
    barrier_expect(codes_full + 8 * slot, w.record_bytes);
    bulk_copy_once(shared_address(ring + slot * stage_bytes) + x_stage_bytes<C, N>() + warp * w.record_bytes,
                   codes_from + static_cast<int64_t>(record) * w.record_bytes, w.record_bytes,
                   codes_full + 8 * slot, once);
  };
  auto fetch_x = [&](int record, int slot) {
    const uint32_t to = shared_address(ring + slot * stage_bytes);
    const unsigned char* from = x_from + static_cast<int64_t>(record) * kParts * 8192;
    barrier_expect(x_full + 8 * slot, kParts * kPartBytes);
    if constexpr (N == 64) {
      bulk_copy(to, from, kParts * kPartBytes, x_full + 8 * slot);
    } else {
#pragma unroll
      for (int part = 0; part < kParts; ++part)
        bulk_copy(to + part * kPartBytes, from + part * 8192, kPartBytes, x_full + 8 * slot);
    }
  };
  if (lane == 0) {
    if (warp < stages && begin + warp < end) fetch_x(begin + warp, warp);
    for (int s = 0; s < stages && begin + s < end; ++s) fetch_codes(begin + s, s);
  }

  float acc[NT][4] = {};
  int slot = 0;
  uint32_t phase = 0;
  for (int record = begin; record < end; ++record) {
    const int done = record - begin;
    if (done >= kLag && warp == done % kWarps && record - kLag + stages < end) {
      const int reused = done - kLag, reused_slot = reused % stages;
      barrier_wait(x_empty + 8 * reused_slot, reused / stages & 1);
      if (lane == 0) fetch_x(record - kLag + stages, reused_slot);
      __syncwarp();
    }
    barrier_wait(codes_full + 8 * slot, phase);
    const unsigned char* stage = ring + slot * stage_bytes;
    const uint32_t x_at = shared_address(stage);
    const unsigned char* codes_at = stage + x_stage_bytes<C, N>() + warp * w.record_bytes;
    LaneCodes<C> codes;
    codes.load(codes_at, lane);
    // When the last product of a record is under way, every code and scale of it is in registers: the stage
    // may be filled.
    auto refill = [&]() {
      if (lane == 0 && record + stages < end) fetch_codes(record + stages, slot);
      __syncwarp();
    };
    if constexpr (C == Codes::kHalf) {
      barrier_wait(x_full + 8 * slot, phase);
      hold(acc);
      wgmma_begin();
#pragma unroll
      for (int b = 0; b < kBlocks; ++b) {
        const uint32_t(&v)[LaneCodes<C>::kWords] = codes.w;
        const uint32_t at = x_at + b / 2 * kPartBytes + b % 2 * 64;
        wgmma(acc, v[8 * b], v[8 * b + 4], v[8 * b + 1], v[8 * b + 5], operand(at), 1);
        wgmma(acc, v[8 * b + 2], v[8 * b + 6], v[8 * b + 3], v[8 * b + 7], operand(at + 32), 1);
      }
      wgmma_commit();
      refill();
      wgmma_wait<0>();
      hold(acc);
    } else {
      float sum[NT][4];
      GroupMeta metas[kBlocks / G];
#pragma unroll
      for (int i = 0; i < kBlocks / G; ++i)
        metas[i] = load_meta<C>(codes_at + code_bytes(C) + i * w.group_bytes, w.wide_scales, g);
#pragma unroll
      for (int b = 0; b < kBlocks; ++b) {
        const GroupMeta& meta = metas[b / G];
        uint32_t a0[4], a1[4];
        codes.expand(b, 0, pairs, lane, a0);
        codes.expand(b, 1, pairs, lane, a1);
        if constexpr (has_zeros(C)) {
          subtract_zero(a0, meta.zero0);
          subtract_zero(a1, meta.zero1);
        }
        const uint32_t at = x_at + b / 2 * kPartBytes + b % 2 * 64;
        if (b == 0) barrier_wait(x_full + 8 * slot, phase);
        if (b % G == 0) hold(sum);
        wgmma_begin();
        wgmma(sum, a0[0], a1[0], a0[1], a1[1], operand(at), b % G != 0);
        wgmma(sum, a0[2], a1[2], a0[3], a1[3], operand(at + 32), 1);
        wgmma_commit();
        if (b == kBlocks - 1) refill();
        if ((b + 1) % G == 0) {
          wgmma_wait<0>();
          hold(sum);
#pragma unroll
          for (int n = 0; n < NT; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) acc[n][i] += (i < 2 ? meta.scale0 : meta.scale1) * sum[n][i];
          }
        } else {
          wgmma_wait<1>();
        }
      }
    }
    __syncwarp();
    if (lane == 0) barrier_arrive(x_empty + 8 * slot);
    if (++slot == stages) slot = 0, phase ^= 1;
  }

  if (ranks == 1) {
    if (strip >= w.strips) return;
#pragma unroll
    for (int n = 0; n < NT; ++n) {
      const int token = token0 + n * 8 + 2 * t;
      if (token < tokens) put_rows(w, out, strip, g, token, acc[n][0], acc[n][2]);
      if (token + 1 < tokens) put_rows(w, out, strip, g, token + 1, acc[n][1], acc[n][3]);
    }
    return;
  }
  // Every rank lays its sums into the ring, which nothing uses any more, and adds up its share of all of
  // them.
  float4* sums = reinterpret_cast<float4*>(ring);
  __syncthreads();
#pragma unroll
  for (int n = 0; n < NT; ++n)
    sums[n * kThreads + tid] = make_float4(acc[n][0], acc[n][1], acc[n][2], acc[n][3]);
  cluster_sync();
  constexpr int kItems = NT * kThreads;
  for (int item = part_begin(kItems, ranks, rank) + tid; item < part_begin(kItems, ranks, rank + 1);
       item += kThreads) {
    float4 v = make_float4(0.f, 0.f, 0.f, 0.f);
    for (int r = 0; r < ranks; ++r) {
      const float4 part = load_of_rank(shared_address(sums + item), r);
      v = make_float4(v.x + part.x, v.y + part.y, v.z + part.z, v.w + part.w);
    }
    const int n = item / kThreads, item_strip = blockIdx.x * kWarps + item / 32 % kWarps,
              item_lane = item % 32;
    const int token = token0 + n * 8 + 2 * (item_lane & 3);
    if (item_strip >= w.strips) continue;
    if (token < tokens) put_rows(w, out, item_strip, item_lane >> 2, token, v.x, v.z);
    if (token + 1 < tokens) put_rows(w, out, item_strip, item_lane >> 2, token + 1, v.y, v.w);
  }
  cluster_sync();
}

template <Codes C, int N>
int shared_bytes(const Tiles& w, int stages) {
  return 1024 + stages * (x_stage_bytes<C, N>() + code_stage_bytes(w.record_bytes)) +
         (C == Codes::kCode4 ? kPairTableBytes : 0) + (2 + kWarps) * kMaxStages * 8;
}

// How many CTAs of a cluster share a tile: fewer rounds over the GPU against more sums to exchange.
int choose_ranks(int tiles, int records, const DeviceTraits& traits) {
  int best = 1;
  float best_cost = 0;
  for (int ranks = 1; ranks <= std::min(8, records); ++ranks) {
    const int at_once = ranks == 1 ? traits.multiprocessors : traits.cluster_slots[ranks];
    if (at_once == 0) continue;
    const int rounds = (tiles * ranks + at_once - 1) / at_once;
    const float cost = static_cast<float>(rounds) *
                       (static_cast<float>((records + ranks - 1) / ranks) + (ranks == 1 ? 2.f : 4.f));
    if (ranks == 1 || cost < best_cost) best = ranks, best_cost = cost;
  }
  return best;
}

cudaLaunchConfig_t launch_config(cudaLaunchAttribute& cluster, int tiles, int ranks, int token_tiles,
                                 int bytes, cudaStream_t stream) {
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(tiles, ranks, token_tiles);
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = bytes;
  config.stream = stream;
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {1, static_cast<unsigned>(ranks), 1};
  config.attrs = &cluster;
  config.numAttrs = ranks > 1 ? 1 : 0;
  return config;
}

template <Codes C, int N, int G>
Status launch(const Tiles& w, const void* x, int64_t x_pitch, int tokens, const Output& out,
              const DeviceTraits& traits, cudaStream_t stream) {
  int stages = kMaxStages;
  while (stages > 2 && shared_bytes<C, N>(w, stages) > traits.shared_optin) --stages;
  const int tiles = (w.strips + kWarps - 1) / kWarps, token_tiles = (tokens + N - 1) / N;
  const int ranks = choose_ranks(tiles * token_tiles, w.records, traits);
  cudaLaunchAttribute cluster;
  const cudaLaunchConfig_t config =
      launch_config(cluster, tiles, ranks, token_tiles, shared_bytes<C, N>(w, stages), stream);
  NBL_CUDA(cudaLaunchKernelEx(&config, wgmma_matmul<C, N, G>, w, static_cast<const __half*>(x), x_pitch,
                              tokens, out, stages));
  return {};
}

template <Codes C, int G>
Status launch_tokens(const Tiles& w, const void* x, int64_t x_pitch, int tokens, const Output& out,
                     const DeviceTraits& traits, cudaStream_t stream) {
  if (tokens <= 32) return launch<C, 32, G>(w, x, x_pitch, tokens, out, traits, stream);
  return launch<C, 64, G>(w, x, x_pitch, tokens, out, traits, stream);
}

template <Codes C>
Status launch_group(const Tiles& w, const void* x, int64_t x_pitch, int tokens, const Output& out,
                    const DeviceTraits& traits, cudaStream_t stream) {
  if (w.group == 32) return launch_tokens<C, 1>(w, x, x_pitch, tokens, out, traits, stream);
  if (w.group == 64) return launch_tokens<C, 2>(w, x, x_pitch, tokens, out, traits, stream);
  return launch_tokens<C, 4>(w, x, x_pitch, tokens, out, traits, stream);
}

template <Codes C, int G>
Status raise_limit(int available) {
  NBL_CUDA(
      cudaFuncSetAttribute(wgmma_matmul<C, 32, G>, cudaFuncAttributeMaxDynamicSharedMemorySize, available));
  NBL_CUDA(
      cudaFuncSetAttribute(wgmma_matmul<C, 64, G>, cudaFuncAttributeMaxDynamicSharedMemorySize, available));
  return {};
}
template <Codes C>
Status raise_limits(int available) {
  NBL_RETURN_IF_ERROR((raise_limit<C, 1>(available)));
  NBL_RETURN_IF_ERROR((raise_limit<C, 2>(available)));
  return raise_limit<C, 4>(available);
}

}  // namespace

Status matmul_wgmma(const Tiles& w, const void* x, int64_t x_pitch, int tokens, const Output& out,
                    const DeviceTraits& traits, cudaStream_t stream) {
  switch (w.codes) {
    case Codes::kInt2:
      return launch_group<Codes::kInt2>(w, x, x_pitch, tokens, out, traits, stream);
    case Codes::kInt3:
      return launch_group<Codes::kInt3>(w, x, x_pitch, tokens, out, traits, stream);
    case Codes::kInt4:
      return launch_group<Codes::kInt4>(w, x, x_pitch, tokens, out, traits, stream);
    case Codes::kInt8:
      return launch_group<Codes::kInt8>(w, x, x_pitch, tokens, out, traits, stream);
    case Codes::kCode4:
      return launch_group<Codes::kCode4>(w, x, x_pitch, tokens, out, traits, stream);
    case Codes::kHalf:
      return launch_tokens<Codes::kHalf, 2>(w, x, x_pitch, tokens, out, traits, stream);
  }
  return error(Code::kInternal, "no kernel for these codes");
}

Status prepare_matmul_wgmma(DeviceTraits& traits) {
  const int available = traits.shared_optin;
  NBL_RETURN_IF_ERROR(raise_limits<Codes::kInt2>(available));
  NBL_RETURN_IF_ERROR(raise_limits<Codes::kInt3>(available));
  NBL_RETURN_IF_ERROR(raise_limits<Codes::kInt4>(available));
  NBL_RETURN_IF_ERROR(raise_limits<Codes::kInt8>(available));
  NBL_RETURN_IF_ERROR(raise_limits<Codes::kCode4>(available));
  NBL_RETURN_IF_ERROR((raise_limit<Codes::kHalf, 2>(available)));
  for (int ranks = 2; ranks <= 8; ++ranks) {
    cudaLaunchAttribute cluster;
    const cudaLaunchConfig_t config = launch_config(cluster, 64, ranks, 1, available, nullptr);
    int clusters = 0;
    NBL_CUDA(cudaOccupancyMaxActiveClusters(&clusters, wgmma_matmul<Codes::kInt4, 64, 4>, &config));
    traits.cluster_slots[ranks] = clusters * ranks;
  }
  return {};
}

}  // namespace nbl::cuda

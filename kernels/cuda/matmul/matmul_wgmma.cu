// Matrix product over tiles (tile.h) by the matrix units of sm_90, for 9 tokens and more: y[T, N] = x[T, K] * W^T.
//
// A CTA owns 16 strips (256 rows), 16, 32, 64 or 128 tokens and a range of records. Every warp brings the records of its strip by
// bulk copies through a ring of its own; x, which lies in memory as wgmma reads it (ActivationLayout), comes through a ring
// that all share, and that the warps fill in turn, two records after the last use, when the others have most likely left
// the stage. A bulk copy takes a warp a hundred cycles to send off: no warp has many. Four groups of four warps each turn
// the codes of their strips into operand A in registers, where a lane of wgmma holds what a lane of mma.m16n8k16 holds.
//
// Integer codes with f16 scales become the weight itself, (code - zero) * scale rounded once to f16: the number that the
// checkpoint stands for. Then one sum in the matrix unit goes through all of K, and a warp decodes the next columns while
// the products of the last 96 are under way. Codes with float32 scales and codebooks become weights for more than 64 tokens;
// fewer are summed group by group in the matrix unit and folded with the group's scale into a float32 result of their own
// (steps of 12 to 64 tokens in NF4 are 6 to 11 % shorter that way).
//
// Bound: the weights' bytes up to some 40 tokens, then 2*N*K*T over the rate of wgmma. Where strips are too few to fill the
// GPU, the CTAs of a cluster share the records of a tile and add their sums through distributed shared memory in the order
// of K: no memory, no tickets, and the same bits every time.
//
// Compiled for sm_90a only, whatever the other files are compiled for.
#include <algorithm>
#include <type_traits>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/matmul/matmul_output.cuh"
#include "kernels/cuda/wgmma.cuh"

namespace nbl::cuda {
namespace {

constexpr int kWarps = 16, kThreads = kWarps * 32, kMaxStages = 8;
constexpr int kMaxRanks = 8;  // CTAs of a cluster
constexpr int kLag = 2;  // records between the last use of a stage of x and its refill

template <Codes C, int N>
NBL_HD constexpr int x_stage_bytes() {
  return record_columns(C) / 64 * N * 128;
}
NBL_HD int code_stage_bytes(int record_bytes) { return (kWarps * record_bytes + 1023) / 1024 * 1024; }

// Scales of rows g and g+8 for one group of a record, and what takes the zero off the code in f16.
struct HalfMeta {
  __half2 scale[2];      // both halves the same
  __half2 zero[2];       // 1024 + zero
  __half2 high_zero[2];  // -(64 + zero), kInt4
};
constexpr uint32_t kCodeBase = 0x64006400u;  // 1024 | code is 1024 + code

// (v & Mask) | base in one instruction, as long as base is a register to the compiler and not a number.
template <uint32_t Mask>
__device__ __forceinline__ __half2 pick_codes(uint32_t v, uint32_t base) {
  uint32_t out;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(out) : "r"(v), "n"(Mask), "r"(base));
  return half2_of(out);
}

template <Codes C>
__device__ __forceinline__ HalfMeta load_half_meta(const unsigned char* meta, int g) {
  const uint32_t scales = reinterpret_cast<const uint32_t*>(meta)[g], zeros = reinterpret_cast<const uint16_t*>(meta + 32)[g];
  HalfMeta m;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    m.scale[r] = half2_of(__byte_perm(scales, 0, r == 0 ? 0x1010 : 0x3232));
    m.zero[r] = half2_of(__byte_perm(zeros, 0x64u, r == 0 ? 0x4040 : 0x4141));
    if (C == Codes::kInt4) m.high_zero[r] = __hsub2(half2_of(0x63806380u), m.zero[r]);  // 960 - (1024 + zero)
  }
  return m;
}

// Columns 8t .. 8t+7 of block b, row r, as weights.
template <Codes C>
__device__ __forceinline__ void expand_weights(const LaneCodes<C>& codes, int b, int r, const HalfMeta& m, uint32_t base,
                                               uint32_t (&out)[4]) {
  if constexpr (C == Codes::kInt4) {
    // The high nibbles stay where they are: 1024 + 16 * code.
    const uint32_t v = codes.w[b / 2 * 4 + b % 2 * 2 + r], above = v >> 8;
    const __half2 sixteenth = half2_of(0x2c002c00u);
    const __half2 q[4] = {__hsub2(pick_codes<0x000f000fu>(v, base), m.zero[r]),
                          __hfma2(pick_codes<0x00f000f0u>(v, base), sixteenth, m.high_zero[r]),
                          __hsub2(pick_codes<0x000f000fu>(above, base), m.zero[r]),
                          __hfma2(pick_codes<0x00f000f0u>(above, base), sixteenth, m.high_zero[r])};
#pragma unroll
    for (int i = 0; i < 4; ++i) out[i] = bits_of(__hmul2(q[i], m.scale[r]));
  } else {
    codes.expand(b, r, nullptr, 0, out);
#pragma unroll
    for (int i = 0; i < 4; ++i) out[i] = bits_of(__hmul2(__hsub2(half2_of(out[i] | base), m.zero[r]), m.scale[r]));
  }
}

// The same with float32 scales.
struct FloatMeta {
  float scale[2];
  __half2 zero[2];  // 1024 + zero
};
template <Codes C>
__device__ __forceinline__ FloatMeta load_float_meta(const unsigned char* meta, bool wide_scales, int g) {
  constexpr float unit = has_zeros(C) ? 1.f / kCodeUnit : 1.f;
  const GroupMeta m = load_meta<C>(meta, wide_scales, g);
  return {{m.scale0 * unit, m.scale1 * unit}, {half2_of(m.zero0 | kCodeBase), half2_of(m.zero1 | kCodeBase)}};
}
template <Codes C>
__device__ __forceinline__ void expand_weights(const LaneCodes<C>& codes, int b, int r, const FloatMeta& m, uint32_t base,
                                               const uint32_t* pairs, int lane, uint32_t (&out)[4]) {
  codes.expand(b, r, pairs, lane, out);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 v = __half22float2(has_zeros(C) ? __hsub2(half2_of(out[i] | base), m.zero[r]) : half2_of(out[i]));
    out[i] = bits_of(to_half2(v.x * m.scale[r], v.y * m.scale[r]));
  }
}

// G: blocks of 32 columns that share a scale. kHalfScales: integer codes with f16 scales.
template <Codes C, int N, int G, bool kHalfScales>
__global__ void __launch_bounds__(kThreads, 1)
    wgmma_matmul(Tiles w, const __half* x, int64_t x_pitch, int tokens, Output out, int stages) {
  extern __shared__ unsigned char unaligned[];
  constexpr int kParts = record_columns(C) / 64, kPartBytes = N * 128, kBlocks = record_columns(C) / 32,
                NT = N / 8;
  constexpr bool kWeights = C != Codes::kHalf && (kHalfScales || N > 64);  // codes become weights, see above
  let_next_begin();
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5, g = lane >> 2;
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
    barriers_are_ready();
  }
  __syncthreads();
  const int rank = blockIdx.y, ranks = gridDim.y;
  const int begin = part_begin(w.records, ranks, rank), end = part_begin(w.records, ranks, rank + 1);
  const int token0 = blockIdx.z * N;
  const int strip = blockIdx.x * kWarps + warp;

  const uint64_t once = read_once();
  // A strip beyond the matrix repeats the last one; its results are dropped.
  const unsigned char* const codes_from =
      w.data + static_cast<int64_t>(min(strip, w.strips - 1)) * w.records * w.record_bytes;
  const unsigned char* const x_from = reinterpret_cast<const unsigned char*>(x) +
                                      static_cast<int64_t>(token0 >> 6) * (x_pitch >> 6) * 8192 +
                                      (token0 & 63) * 128;
  // Both by lane 0 only.
  auto fetch_codes = [&](int record, int slot) {
    barrier_expect(codes_full + 8 * slot, w.record_bytes);
    bulk_copy(shared_address(ring + slot * stage_bytes) + x_stage_bytes<C, N>() + warp * w.record_bytes,
                   codes_from + static_cast<int64_t>(record) * w.record_bytes, w.record_bytes,
                   codes_full + 8 * slot, once);
  };
  auto fetch_x = [&](int record, int slot) {
    const uint32_t to = shared_address(ring + slot * stage_bytes);
    const unsigned char* from = x_from + static_cast<int64_t>(record) * kParts * 8192;
    constexpr int kBlockBytes = N < 64 ? kPartBytes : 8192;  // of a part of 64 tokens at most
    const int blocks = N > 64 && token0 + 64 < tokens ? 2 : 1;
    barrier_expect(x_full + 8 * slot, blocks * kParts * kBlockBytes);
    if constexpr (N == 64) {
      bulk_copy(to, from, kParts * kBlockBytes, x_full + 8 * slot);
    } else {
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        bulk_copy(to + part * kPartBytes, from + part * 8192, kBlockBytes, x_full + 8 * slot);
        if (N > 64 && blocks == 2) {
          bulk_copy(to + part * kPartBytes + 8192, from + (x_pitch >> 6) * 8192 + part * 8192, kBlockBytes, x_full + 8 * slot);
        }
      }
    }
  };
  if (lane == 0) {
    for (int s = 0; s < stages && begin + s < end; ++s) fetch_codes(begin + s, s);
  }
  await_previous();
  if (lane == 0 && warp < stages && begin + warp < end) fetch_x(begin + warp, warp);

  uint32_t code_base = kCodeBase;
  asm volatile("" : "+r"(code_base));
  float acc[NT][4] = {};
  int slot = 0;
  uint32_t phase = 0;
  for (int record = begin; record < end; ++record) {
    const int done = record - begin;
    if (done >= kLag && warp == done % kWarps && record - kLag + stages < end) {
      const int reused_slot = slot >= kLag ? slot - kLag : slot - kLag + stages;
      barrier_wait(x_empty + 8 * reused_slot, slot >= kLag ? phase : phase ^ 1);
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
    if constexpr (kWeights) {
      // Half a record at a time, or a quarter. What is under way while the next part is decoded is one group of products: with
      // more of them the compiler gives up and waits for each.
      constexpr int kPart = N >= 64 ? 1 : kBlocks / 2;
      const uint64_t x_operand = operand(x_at);
      std::conditional_t<kHalfScales, HalfMeta, FloatMeta> meta;
#pragma unroll
      for (int part = 0; part < kBlocks; part += kPart) {
        uint32_t weights[kPart][2][4];
#pragma unroll
        for (int i = 0; i < kPart; ++i) {
          const int b = part + i;
          const unsigned char* meta_at = codes_at + code_bytes(C) + b / G * w.group_bytes;
          if constexpr (kHalfScales) {
            if (b % G == 0) meta = load_half_meta<C>(meta_at, g);
            expand_weights<C>(codes, b, 0, meta, code_base, weights[i][0]);
            expand_weights<C>(codes, b, 1, meta, code_base, weights[i][1]);
          } else {
            if (b % G == 0) meta = load_float_meta<C>(meta_at, w.wide_scales, g);
            expand_weights<C>(codes, b, 0, meta, code_base, pairs, lane, weights[i][0]);
            expand_weights<C>(codes, b, 1, meta, code_base, pairs, lane, weights[i][1]);
          }
        }
        if (part == 0) barrier_wait(x_full + 8 * slot, phase);
        if (part == kBlocks - kPart) {
          // Every product of the record before this one has been formed, and every code of this one is in registers.
          __syncwarp();
          if (lane == 0 && done > 0) barrier_arrive(x_empty + 8 * (slot == 0 ? stages - 1 : slot - 1));
          refill();
        }
        wgmma_begin();
#pragma unroll
        for (int i = 0; i < kPart; ++i) {
          const int b = part + i;
          const uint32_t(&low)[4] = weights[i][0], (&high)[4] = weights[i][1];
          const uint64_t x_block = x_operand + (b / 2 * kPartBytes + b % 2 * 64) / 16;  // addresses count 16 bytes
          wgmma(acc, low[0], high[0], low[1], high[1], x_block, 1);
          wgmma(acc, low[2], high[2], low[3], high[3], x_block + 2, 1);
        }
        wgmma_commit();
        wgmma_wait<1>();
      }
    } else if constexpr (C == Codes::kHalf) {
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
    if constexpr (!kWeights) {
      __syncwarp();
      if (lane == 0) barrier_arrive(x_empty + 8 * slot);
    }
    if (++slot == stages) slot = 0, phase ^= 1;
  }

  if constexpr (kWeights) {
    wgmma_wait<0>();
    hold(acc);
  }
  // Every rank lays its sums into the ring, which nothing uses any more, and adds up its share of all of
  // them. So does a rank that has no others: code for every sum of a lane would be longer than the cache of instructions.
  float4* sums = reinterpret_cast<float4*>(ring);
  __syncthreads();
#pragma unroll
  for (int n = 0; n < NT; ++n)
    sums[n * kThreads + tid] = make_float4(acc[n][0], acc[n][1], acc[n][2], acc[n][3]);
  if (ranks > 1) cluster_sync();
  else __syncthreads();
  constexpr int kItems = NT * kThreads;
  const int item_end = kItems * (rank + 1) / ranks;
#pragma unroll 1
  for (int item = kItems * rank / ranks + tid; item < item_end; item += kThreads) {
    const int n = item / kThreads, item_strip = blockIdx.x * kWarps + item / 32 % kWarps, row = item % 32 >> 2,
              token = token0 + n * 8 + 2 * (item & 3);
    const bool wanted[2] = {item_strip < w.strips && token < tokens, item_strip < w.strips && token + 1 < tokens};
    float2 residual[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      residual[i] = wanted[i] ? residual_rows(w, out, item_strip, row, token + i) : make_float2(0.f, 0.f);
    }
    float4 parts[kMaxRanks];  // all of them asked for before one is used
#pragma unroll
    for (int r = 0; r < kMaxRanks; ++r) {
      parts[r] = make_float4(0.f, 0.f, 0.f, 0.f);
      if (r < ranks) parts[r] = ranks == 1 ? sums[item] : load_of_rank(shared_address(sums + item), r);
    }
    float4 v = parts[0];
#pragma unroll
    for (int r = 1; r < kMaxRanks; ++r) {
      v = make_float4(v.x + parts[r].x, v.y + parts[r].y, v.z + parts[r].z, v.w + parts[r].w);
    }
#pragma unroll 1
    for (int i = 0; i < 2; ++i) {
      if (i == 0 ? wanted[0] : wanted[1]) {
        put_rows(w, out, item_strip, row, token + i, i == 0 ? v.x : v.y, i == 0 ? v.z : v.w, i == 0 ? residual[0] : residual[1]);
      }
    }
  }
  if (ranks > 1) cluster_leave();
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
  for (int ranks = 1; ranks <= std::min(kMaxRanks, records); ++ranks) {
    const int at_once = ranks == 1 ? traits.multiprocessors : traits.cluster_slots[ranks];
    if (at_once == 0) continue;
    const int rounds = (tiles * ranks + at_once - 1) / at_once;
    const float cost = static_cast<float>(rounds) *
                       (static_cast<float>((records + ranks - 1) / ranks) + (ranks == 1 ? 2.f : 4.f));
    if (ranks == 1 || cost < best_cost) best = ranks, best_cost = cost;
  }
  return best;
}

struct Launch {
  cudaLaunchConfig_t config = {};
  cudaLaunchAttribute attributes[2] = {};
  Launch(int tiles, int ranks, int token_tiles, int bytes, bool early, cudaStream_t stream) {
    config.gridDim = dim3(tiles, ranks, token_tiles);
    config.blockDim = dim3(kThreads);
    config.dynamicSmemBytes = bytes;
    config.stream = stream;
    config.attrs = attributes;
    if (ranks > 1) {
      cudaLaunchAttribute& cluster = attributes[config.numAttrs++];
      cluster.id = cudaLaunchAttributeClusterDimension;
      cluster.val.clusterDim = {1, static_cast<unsigned>(ranks), 1};
    }
    if (early) {
      cudaLaunchAttribute& after = attributes[config.numAttrs++];
      after.id = cudaLaunchAttributeProgrammaticStreamSerialization;
      after.val.programmaticStreamSerializationAllowed = 1;
    }
  }
  Launch(const Launch&) = delete;
};

template <Codes C, int N, int G, bool kHalfScales>
Status launch(const Tiles& w, const void* x, int64_t x_pitch, int tokens, const Output& out,
              const DeviceTraits& traits, cudaStream_t stream) {
  int stages = kMaxStages;
  while (stages > 2 && shared_bytes<C, N>(w, stages) > traits.shared_optin) --stages;
  const int tiles = (w.strips + kWarps - 1) / kWarps, token_tiles = (tokens + N - 1) / N;
  const int ranks = choose_ranks(tiles * token_tiles, w.records, traits);
  const Launch launch(tiles, ranks, token_tiles, shared_bytes<C, N>(w, stages), traits.early_launch, stream);
  NBL_CUDA(cudaLaunchKernelEx(&launch.config, wgmma_matmul<C, N, G, kHalfScales>, w, static_cast<const __half*>(x), x_pitch,
                              tokens, out, stages));
  return {};
}

template <Codes C, int G, bool kHalfScales>
Status launch_tokens(const Tiles& w, const void* x, int64_t x_pitch, int tokens, const Output& out,
                     const DeviceTraits& traits, cudaStream_t stream) {
  if (tokens <= 16) return launch<C, 16, G, kHalfScales>(w, x, x_pitch, tokens, out, traits, stream);
  if (tokens <= 32) return launch<C, 32, G, kHalfScales>(w, x, x_pitch, tokens, out, traits, stream);
  if (tokens <= 64) return launch<C, 64, G, kHalfScales>(w, x, x_pitch, tokens, out, traits, stream);
  return launch<C, 128, G, kHalfScales>(w, x, x_pitch, tokens, out, traits, stream);
}

template <Codes C, bool kHalfScales>
Status launch_group(const Tiles& w, const void* x, int64_t x_pitch, int tokens, const Output& out,
                    const DeviceTraits& traits, cudaStream_t stream) {
  if (w.group == 32) return launch_tokens<C, 1, kHalfScales>(w, x, x_pitch, tokens, out, traits, stream);
  if (w.group == 64) return launch_tokens<C, 2, kHalfScales>(w, x, x_pitch, tokens, out, traits, stream);
  return launch_tokens<C, 4, kHalfScales>(w, x, x_pitch, tokens, out, traits, stream);
}
template <Codes C>
Status launch_codes(const Tiles& w, const void* x, int64_t x_pitch, int tokens, const Output& out,
                    const DeviceTraits& traits, cudaStream_t stream) {
  if (!w.wide_scales) return launch_group<C, true>(w, x, x_pitch, tokens, out, traits, stream);
  return launch_group<C, false>(w, x, x_pitch, tokens, out, traits, stream);
}

template <Codes C, int G, bool kHalfScales>
Status raise_limit(int available) {
  constexpr auto shared = cudaFuncAttributeMaxDynamicSharedMemorySize;
  NBL_CUDA(cudaFuncSetAttribute(wgmma_matmul<C, 16, G, kHalfScales>, shared, available));
  NBL_CUDA(cudaFuncSetAttribute(wgmma_matmul<C, 32, G, kHalfScales>, shared, available));
  NBL_CUDA(cudaFuncSetAttribute(wgmma_matmul<C, 64, G, kHalfScales>, shared, available));
  NBL_CUDA(cudaFuncSetAttribute(wgmma_matmul<C, 128, G, kHalfScales>, shared, available));
  return {};
}
template <Codes C, bool kHalfScales>
Status raise_limits(int available) {
  NBL_RETURN_IF_ERROR((raise_limit<C, 1, kHalfScales>(available)));
  NBL_RETURN_IF_ERROR((raise_limit<C, 2, kHalfScales>(available)));
  return raise_limit<C, 4, kHalfScales>(available);
}
template <Codes C>
Status raise_both_limits(int available) {
  NBL_RETURN_IF_ERROR((raise_limits<C, false>(available)));
  return raise_limits<C, true>(available);
}

}  // namespace

Status matmul_wgmma(const Tiles& w, const void* x, int64_t x_pitch, int tokens, const Output& out,
                    const DeviceTraits& traits, cudaStream_t stream) {
  switch (w.codes) {
    case Codes::kInt2:
      return launch_codes<Codes::kInt2>(w, x, x_pitch, tokens, out, traits, stream);
    case Codes::kInt3:
      return launch_codes<Codes::kInt3>(w, x, x_pitch, tokens, out, traits, stream);
    case Codes::kInt4:
      return launch_codes<Codes::kInt4>(w, x, x_pitch, tokens, out, traits, stream);
    case Codes::kInt8:
      return launch_codes<Codes::kInt8>(w, x, x_pitch, tokens, out, traits, stream);
    case Codes::kCode4:
      return launch_group<Codes::kCode4, false>(w, x, x_pitch, tokens, out, traits, stream);
    case Codes::kHalf:
      return launch_tokens<Codes::kHalf, 2, false>(w, x, x_pitch, tokens, out, traits, stream);
  }
  return error(Code::kInternal, "no kernel for these codes");
}

Status prepare_matmul_wgmma(DeviceTraits& traits) {
  const int available = traits.shared_optin;
  NBL_RETURN_IF_ERROR(raise_both_limits<Codes::kInt2>(available));
  NBL_RETURN_IF_ERROR(raise_both_limits<Codes::kInt3>(available));
  NBL_RETURN_IF_ERROR(raise_both_limits<Codes::kInt4>(available));
  NBL_RETURN_IF_ERROR(raise_both_limits<Codes::kInt8>(available));
  NBL_RETURN_IF_ERROR((raise_limits<Codes::kCode4, false>(available)));
  NBL_RETURN_IF_ERROR((raise_limit<Codes::kHalf, 2, false>(available)));
  for (int ranks = 2; ranks <= kMaxRanks; ++ranks) {
    const Launch launch(64, ranks, 1, available, false, nullptr);
    int clusters = 0;
    NBL_CUDA(cudaOccupancyMaxActiveClusters(&clusters, wgmma_matmul<Codes::kInt4, 64, 4, true>, &launch.config));
    traits.cluster_slots[ranks] = clusters * ranks;
  }
  return {};
}

}  // namespace nbl::cuda

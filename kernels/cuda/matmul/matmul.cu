// Matrix product over tiles (tile.h) for 17 tokens and more where there is no wgmma, up to 64 at a time: y[T, N] = x[T, K] * W^T.
// Also the unpacking of tiles, and the choice between the kernels of matmul.h.
//
// A CTA owns W strips (one a warp, 16 W rows), 8 NT tokens and a range of records. A stage of its ring is one record of
// every strip and the x of those columns, brought by cp.async; codes become operand A in registers, x is operand B read
// as 16-byte vectors (rows are padded by 64 bytes, so that a warp's reads meet no bank twice). Products of one group are
// summed by the tensor core in float32 and folded with the group's scale into the float32 result.
// Bound: the weights' bytes over the memory's bandwidth up to about 32 tokens; then 2*N*K*T over the rate of mma.sync.
// Where strips are too few to fill the GPU, K is split over CTAs; the last one to finish a tile adds the partial sums in
// the order of K, so that the result does not depend on the order of arrival.
#include <algorithm>

#include "kernels/cuda/matmul/matmul_output.cuh"

namespace nbl::cuda {
namespace {

template <Codes C>
NBL_HD constexpr int x_row_bytes() { return record_columns(C) * 2 + 64; }

constexpr int kStages = 3;

template <Codes C, int NT, int W>
int shared_bytes(const Tiles& w) {
  return kStages * (NT * 8 * x_row_bytes<C>() + W * w.record_bytes) + (C == Codes::kCode4 ? kPairTableBytes : 0);
}

template <Codes C, int NT, int W>
__global__ void __launch_bounds__(W * 32) tile_matmul(Tiles w, const __half* x, int64_t x_pitch, int tokens, Output out,
                                                      SplitScratch scratch) {
  extern __shared__ __align__(128) unsigned char shared[];
  constexpr int kRow = x_row_bytes<C>();
  constexpr int kColumns = record_columns(C);
  constexpr int kVectors = kColumns / 8;  // 16-byte vectors of a row of x in a stage
  constexpr int kThreads = W * 32;
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5, g = lane >> 2, t = lane & 3;
  const int stage_bytes = NT * 8 * kRow + W * w.record_bytes;
  const uint32_t* pairs = nullptr;
  unsigned char* ring = shared;
  if constexpr (C == Codes::kCode4) {
    uint32_t* table = reinterpret_cast<uint32_t*>(shared);
    fill_pair_table(table, w.code_pairs, tid, kThreads);
    pairs = table;
    ring += kPairTableBytes;
  }
  const int strip0 = blockIdx.x * W, strip = strip0 + warp;
  const int begin = part_begin(w.records, gridDim.y, blockIdx.y), end = part_begin(w.records, gridDim.y, blockIdx.y + 1);
  const int64_t token0 = static_cast<int64_t>(blockIdx.z) * NT * 8;
  const __half* x_tile = x + token0 * x_pitch;

  auto fetch = [&](int record) {
    if (record < end) {
      unsigned char* stage = ring + (record - begin) % kStages * stage_bytes;
      for (int i = tid; i < NT * 8 * kVectors; i += kThreads) {
        const int row = i / kVectors, v = i % kVectors;
        copy16(stage + row * kRow + v * 16, x_tile + row * x_pitch + static_cast<int64_t>(record) * kColumns + v * 8);
      }
      // A strip beyond the matrix repeats the last one; its results are dropped.
      const int source = min(strip, w.strips - 1);
      const unsigned char* from = w.data + (static_cast<int64_t>(source) * w.records + record) * w.record_bytes;
      unsigned char* to = stage + NT * 8 * kRow + warp * w.record_bytes;
      for (int i = lane * 16; i < w.record_bytes; i += 512) copy16(to + i, from + i);
    }
    copy_commit();
  };

  float acc[NT][4] = {};
  for (int s = 0; s < kStages - 1; ++s) fetch(begin + s);
  const int group_blocks = C == Codes::kHalf ? 8 : w.group / 32;
  for (int record = begin; record < end; ++record) {
    copy_wait<kStages - 2>();
    __syncthreads();
    fetch(record + kStages - 1);
    const unsigned char* stage = ring + (record - begin) % kStages * stage_bytes;
    const unsigned char* codes = stage + NT * 8 * kRow + warp * w.record_bytes;
    LaneCodes<C> lane_codes;
    lane_codes.load(codes, lane);
    const unsigned char* meta_at = codes + code_bytes(C);
    GroupMeta meta = load_meta<C>(meta_at, w.wide_scales, g);
    float sum[NT][4];
#pragma unroll
    for (int n = 0; n < NT; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sum[n][i] = 0.f;
    }
#pragma unroll
    for (int b = 0; b < LaneCodes<C>::kBlocks; ++b) {
      uint32_t a0[4], a1[4];
      lane_codes.expand(b, 0, pairs, lane, a0);
      lane_codes.expand(b, 1, pairs, lane, a1);
      if constexpr (has_zeros(C)) {
        subtract_zero(a0, meta.zero0);
        subtract_zero(a1, meta.zero1);
      }
#pragma unroll
      for (int n = 0; n < NT; ++n) {
        const uint4 xb = *reinterpret_cast<const uint4*>(stage + (n * 8 + g) * kRow + b * 64 + t * 16);
        float(&target)[4] = C == Codes::kHalf ? acc[n] : sum[n];
        mma(target, a0[0], a1[0], a0[1], a1[1], xb.x, xb.y);
        mma(target, a0[2], a1[2], a0[3], a1[3], xb.z, xb.w);
      }
      if (C != Codes::kHalf && (b + 1) % group_blocks == 0) {
#pragma unroll
        for (int n = 0; n < NT; ++n) {
          acc[n][0] += meta.scale0 * sum[n][0], acc[n][1] += meta.scale0 * sum[n][1];
          acc[n][2] += meta.scale1 * sum[n][2], acc[n][3] += meta.scale1 * sum[n][3];
#pragma unroll
          for (int i = 0; i < 4; ++i) sum[n][i] = 0.f;
        }
        if (b + 1 < LaneCodes<C>::kBlocks) {
          meta_at += w.group_bytes;
          meta = load_meta<C>(meta_at, w.wide_scales, g);
        }
      }
    }
  }
  copy_wait<0>();

  if (gridDim.y > 1) {
    __shared__ bool last;
    const int64_t tile = static_cast<int64_t>(blockIdx.z) * gridDim.x + blockIdx.x;
    float* mine = scratch.partial + (tile * gridDim.y + blockIdx.y) * (NT * 4 * kThreads) + tid;
#pragma unroll
    for (int i = 0; i < NT * 4; ++i) mine[i * kThreads] = acc[i / 4][i % 4];
    __threadfence();
    __syncthreads();
    if (tid == 0) {
      last = atomicAdd(&scratch.tickets[tile], 1u) == gridDim.y - 1;
      if (last) scratch.tickets[tile] = 0;
    }
    __syncthreads();
    if (!last) return;
    __threadfence();
#pragma unroll
    for (int i = 0; i < NT * 4; ++i) acc[i / 4][i % 4] = 0.f;
    for (unsigned split = 0; split < gridDim.y; ++split) {
      const float* part = scratch.partial + (tile * gridDim.y + split) * (NT * 4 * kThreads) + tid;
#pragma unroll
      for (int i = 0; i < NT * 4; ++i) acc[i / 4][i % 4] += __ldcg(part + i * kThreads);
    }
  }
  if (strip >= w.strips) return;
#pragma unroll
  for (int n = 0; n < NT; ++n) {
    const int64_t token = token0 + n * 8 + 2 * t;
    if (token < tokens) put_rows(w, out, strip, g, token, acc[n][0], acc[n][2]);
    if (token + 1 < tokens) put_rows(w, out, strip, g, token + 1, acc[n][1], acc[n][3]);
  }
}

// Cut to what f16 holds; NaN stays NaN.
__device__ __forceinline__ __half2 cut_pair(__half2 v) {
  const __half2 top = __float2half2_rn(65504.f);
#if __CUDA_ARCH__ >= 800
  return __hmax2_nan(__hmin2_nan(v, top), __hneg2(top));
#else
  const __half2 cut = __hmax2(__hmin2(v, top), __hneg2(top));
  return __halves2half2(__hisnan(__low2half(v)) ? __low2half(v) : __low2half(cut), __hisnan(__high2half(v)) ? __high2half(v) : __high2half(cut));
#endif
}

// Columns 8t .. 8t+7 of block b, row r, times their scale, as four pairs of f16.
template <Codes C>
__device__ __forceinline__ uint4 unpack_block(const Tiles& w, const LaneCodes<C>& codes, int b, int r, const GroupMeta& meta, float row_scale) {
  uint32_t a[4];
  if constexpr (C == Codes::kCode4) {
    const uint32_t word = codes.w[b / 2 * 4 + b % 2 * 2 + r];
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] = __ldg(w.code_pairs + (word >> (8 * i) & 255u));
  } else {
    codes.expand(b, r, nullptr, 0, a);
  }
  const float scale = C == Codes::kHalf ? row_scale : r == 0 ? meta.scale0 : meta.scale1;
  if (has_zeros(C) && !w.wide_scales) {
    // 1024 + code is exact, so is the difference to 1024 + zero, and the product is rounded once, as in float32.
    constexpr uint32_t kBase = 0x64006400u;
    const __half2 zero = half2_of((r == 0 ? meta.zero0 : meta.zero1) | kBase);
    const __half2 by = __float2half2_rn(scale / kCodeUnit);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      a[i] = bits_of(cut_pair(__hmul2(__hsub2(half2_of(a[i] | kBase), zero), by)));
    }
  } else if (C != Codes::kHalf || w.row_scale != nullptr) {
    if constexpr (has_zeros(C)) subtract_zero(a, r == 0 ? meta.zero0 : meta.zero1);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 v = __half22float2(half2_of(a[i]));
      a[i] = bits_of(__halves2half2(to_half(v.x * scale), to_half(v.y * scale)));
    }
  }
  return make_uint4(a[0], a[1], a[2], a[3]);
}

// One warp unpacks two records of a strip that follow each other (K is padded to 128 columns, so f16 has an even number of
// them; the others may end with one).
template <Codes C>
__global__ void __launch_bounds__(256) unpack(Tiles w, __half* out, int64_t padded_k) {
  const int pairs = (w.records + 1) / 2;
  const int64_t id = (blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x) / 32;
  if (id >= static_cast<int64_t>(w.strips) * pairs) return;
  const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  const int64_t strip = id / pairs;
  const int first = static_cast<int>(id % pairs) * 2;
  const unsigned char* at = w.data + (strip * w.records + first) * w.record_bytes;
  LaneCodes<C> codes[2];
  codes[0].load(at, lane);
  if (first + 1 < w.records) codes[1].load(at + w.record_bytes, lane);
  float row_scale[2] = {1.f, 1.f};
  if (C == Codes::kHalf && w.row_scale != nullptr) row_scale[0] = w.row_scale[strip * 16 + g], row_scale[1] = w.row_scale[strip * 16 + g + 8];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (first + i >= w.records) break;
    __half* to = out + (strip * 16 + g) * padded_k + static_cast<int64_t>(first + i) * record_columns(C) + 8 * t;
#pragma unroll
    for (int b = 0; b < LaneCodes<C>::kBlocks; ++b) {
      const unsigned char* meta_at = at + i * w.record_bytes + code_bytes(C) + (C == Codes::kHalf ? 0 : b * 32 / w.group * w.group_bytes);
      const GroupMeta meta = load_meta<C>(meta_at, w.wide_scales, g);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        *reinterpret_cast<uint4*>(to + r * 8 * padded_k + 32 * b) = unpack_block<C>(w, codes[i], b, r, meta, row_scale[r]);
      }
    }
  }
}

template <Codes C, int NT, int W>
Status launch(const Tiles& w, const void* x, int64_t x_pitch, int tokens, const Output& out, const SplitScratch& scratch,
              int multiprocessors, cudaStream_t stream) {
  const int tiles = (w.strips + W - 1) / W, token_tiles = (tokens + NT * 8 - 1) / (NT * 8);
  // Enough CTAs for every multiprocessor to hold 16 warps, at least two records in each.
  const int wanted = (multiprocessors * (16 / W) + tiles * token_tiles - 1) / (tiles * token_tiles);
  int splits = std::max(1, std::min({wanted, w.records / 2, 32}));
  const int64_t part_bytes = static_cast<int64_t>(tiles) * token_tiles * NT * 4 * W * 32 * 4;
  splits = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(splits, scratch.partial_bytes / part_bytes)));
  if (static_cast<int64_t>(tiles) * token_tiles > SplitScratch::kTickets) splits = 1;
  tile_matmul<C, NT, W><<<dim3(tiles, splits, token_tiles), W * 32, shared_bytes<C, NT, W>(w), stream>>>(
      w, static_cast<const __half*>(x), x_pitch, tokens, out, scratch);
  NBL_LAUNCHED("tile_matmul");
  return {};
}

template <Codes C>
Status launch_tokens(const Tiles& w, const void* x, int64_t x_pitch, int tokens, const Output& out, const SplitScratch& scratch,
                     int multiprocessors, cudaStream_t stream) {
  if (tokens <= 32) return launch<C, 4, 8>(w, x, x_pitch, tokens, out, scratch, multiprocessors, stream);
  return launch<C, 8, 8>(w, x, x_pitch, tokens, out, scratch, multiprocessors, stream);
}

// The largest that a record of these codes can be: groups of 32 with float32 scales.
template <Codes C, int NT, int W>
Status raise_limit(int available) {
  Tiles widest;
  widest.record_bytes = code_bytes(C) + 4 * group_bytes(C, true);
  NBL_CUDA(cudaFuncSetAttribute(tile_matmul<C, NT, W>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                std::min(shared_bytes<C, NT, W>(widest), available)));
  return {};
}
template <Codes C>
Status raise_limits(int available) {
  NBL_RETURN_IF_ERROR((raise_limit<C, 4, 8>(available)));
  return raise_limit<C, 8, 8>(available);
}

}  // namespace

Status matmul_tiles(const Tiles& w, const void* x, const ActivationLayout& layout, int tokens, const Output& out, const SplitScratch& scratch,
                    const DeviceTraits& traits, cudaStream_t stream) {
  if (layout.blocked) return matmul_wgmma(w, x, layout.pitch, tokens, out, traits, stream);
  if (tokens <= kStreamRows) return matmul_stream(w, x, layout.pitch, tokens, out, scratch, traits, stream);
#define NBL_CASE(codes) \
  case codes: return launch_tokens<codes>(w, x, layout.pitch, tokens, out, scratch, traits.multiprocessors, stream)
  switch (w.codes) {
    NBL_CASE(Codes::kInt2);
    NBL_CASE(Codes::kInt3);
    NBL_CASE(Codes::kInt4);
    NBL_CASE(Codes::kInt8);
    NBL_CASE(Codes::kCode4);
    NBL_CASE(Codes::kHalf);
  }
#undef NBL_CASE
  return error(Code::kInternal, "no kernel for these codes");
}

Status unpack_tiles(const Tiles& w, void* out, int64_t padded_k, cudaStream_t stream) {
  const int64_t warps = static_cast<int64_t>(w.strips) * ((w.records + 1) / 2);
  const unsigned blocks = static_cast<unsigned>((warps + 7) / 8);
  __half* half = static_cast<__half*>(out);
  switch (w.codes) {
    case Codes::kInt2: unpack<Codes::kInt2><<<blocks, 256, 0, stream>>>(w, half, padded_k); break;
    case Codes::kInt3: unpack<Codes::kInt3><<<blocks, 256, 0, stream>>>(w, half, padded_k); break;
    case Codes::kInt4: unpack<Codes::kInt4><<<blocks, 256, 0, stream>>>(w, half, padded_k); break;
    case Codes::kInt8: unpack<Codes::kInt8><<<blocks, 256, 0, stream>>>(w, half, padded_k); break;
    case Codes::kCode4: unpack<Codes::kCode4><<<blocks, 256, 0, stream>>>(w, half, padded_k); break;
    case Codes::kHalf: unpack<Codes::kHalf><<<blocks, 256, 0, stream>>>(w, half, padded_k); break;
  }
  NBL_LAUNCHED("unpack");
  return {};
}

Status prepare_matmul(DeviceTraits& traits) {
  const int available = traits.shared_optin;
  NBL_RETURN_IF_ERROR(prepare_matmul_stream(traits));
  if (blocked_from(traits.sm) > 0) NBL_RETURN_IF_ERROR(prepare_matmul_wgmma(traits));
  NBL_RETURN_IF_ERROR(raise_limits<Codes::kInt2>(available));
  NBL_RETURN_IF_ERROR(raise_limits<Codes::kInt3>(available));
  NBL_RETURN_IF_ERROR(raise_limits<Codes::kInt4>(available));
  NBL_RETURN_IF_ERROR(raise_limits<Codes::kInt8>(available));
  NBL_RETURN_IF_ERROR(raise_limits<Codes::kCode4>(available));
  return raise_limits<Codes::kHalf>(available);
}

}  // namespace nbl::cuda

// Small-batch matrix product over tiles (tile.h): y[T, N] = x[T, K] * W^T for T <= 64 at a time.
//
// A CTA owns W strips (one a warp, 16 W rows), 8 NT tokens and a range of records. A stage of its ring is one record of
// every strip and the x of those columns, brought by cp.async; codes become operand A in registers, x is operand B read
// as 16-byte vectors (rows are padded by 64 bytes, so that a warp's reads meet no bank twice). Products of one group are
// summed by the tensor core in float32 and folded with the group's scale into the float32 result.
// Bound: the weights' bytes over the memory's bandwidth up to about 32 tokens; then 2*N*K*T over the rate of mma.sync.
// Where strips are too few to fill the GPU, K is split over CTAs; the last one to finish a tile adds the partial sums in
// the order of K, so that the result does not depend on the order of arrival.
#include <algorithm>

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/tile_math.cuh"

namespace nbl::cuda {
namespace {

constexpr int kPairTableBytes = 256 * 32 * 4;

template <Codes C>
NBL_HD constexpr int x_row_bytes() { return record_columns(C) * 2 + 64; }

template <Codes C, int NT, int W>
NBL_HD constexpr int stages() { return NT >= 4 ? 3 : 4; }

template <Codes C, int NT, int W>
int shared_bytes(const Tiles& w) {
  return stages<C, NT, W>() * (NT * 8 * x_row_bytes<C>() + W * w.record_bytes) + (C == Codes::kCode4 ? kPairTableBytes : 0);
}

// Splits range `total` into `parts` nearly equal ones: where part i begins.
__device__ __forceinline__ int part_begin(int total, int parts, int i) {
  return static_cast<int>(static_cast<int64_t>(total) * i / parts);
}

__device__ __forceinline__ void put(const Output& o, int64_t token, int64_t row, float v) {
  if (o.bias != nullptr) v += o.bias[row];
  float* at = o.values + token * o.pitch + row;
  *at = o.kind == Output::Kind::kAdd ? *at + v : v;
}

template <Codes C, int NT, int W>
__global__ void __launch_bounds__(W * 32) tile_matmul(Tiles w, const __half* x, int64_t x_pitch, int tokens, Output out,
                                                      SplitScratch scratch) {
  extern __shared__ __align__(128) unsigned char shared[];
  constexpr int kStages = stages<C, NT, W>();
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
    for (int i = tid; i < 256 * 32; i += kThreads) table[i] = w.code_pairs[i >> 5];
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
  const int64_t row = static_cast<int64_t>(strip) * 16 + g;
  float scale0 = 1.f, scale1 = 1.f;
  if (C == Codes::kHalf && w.row_scale != nullptr) scale0 = w.row_scale[row], scale1 = w.row_scale[row + 8];
#pragma unroll
  for (int n = 0; n < NT; ++n) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int64_t token = token0 + n * 8 + 2 * t + j;
      if (token >= tokens) continue;
      const float v0 = acc[n][j] * scale0, v1 = acc[n][2 + j] * scale1;
      if (out.kind == Output::Kind::kGate) {
        const int64_t i = static_cast<int64_t>(strip) * 8 + g;
        if (i >= w.rows / 2) continue;
        const float gate = out.bias != nullptr ? v0 + out.bias[i] : v0;
        const float up = out.bias != nullptr ? v1 + out.bias[w.rows / 2 + i] : v1;
        const int64_t column = out.place != nullptr ? out.place[i] : i;
        static_cast<__half*>(out.half_values)[token * out.pitch + column] = to_half(activate(out.activation, gate) * up);
      } else {
        if (row < w.rows) put(out, token, row, v0);
        if (row + 8 < w.rows) put(out, token, row + 8, v1);
      }
    }
  }
}

// One warp unpacks one record.
template <Codes C>
__global__ void unpack(Tiles w, __half* out, int64_t padded_k) {
  const int64_t id = (blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x) / 32;
  if (id >= static_cast<int64_t>(w.strips) * w.records) return;
  const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  const int64_t strip = id / w.records, record = id % w.records;
  const unsigned char* codes = w.data + id * w.record_bytes;
  LaneCodes<C> lane_codes;
  lane_codes.load(codes, lane);
#pragma unroll
  for (int b = 0; b < LaneCodes<C>::kBlocks; ++b) {
    const unsigned char* meta_at = codes + code_bytes(C) + (C == Codes::kHalf ? 0 : b * 32 / w.group * w.group_bytes);
    const GroupMeta meta = load_meta<C>(meta_at, w.wide_scales, g);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int64_t row = strip * 16 + g + 8 * r;
      float scale = r == 0 ? meta.scale0 : meta.scale1;
      if (C == Codes::kHalf && w.row_scale != nullptr) scale = w.row_scale[row];
      uint32_t a[4];
      if constexpr (C == Codes::kCode4) {
        const uint32_t word = lane_codes.w[b / 2 * 4 + b % 2 * 2 + r];
#pragma unroll
        for (int i = 0; i < 4; ++i) a[i] = w.code_pairs[word >> (8 * i) & 255u];
      } else {
        lane_codes.expand(b, r, nullptr, lane, a);
      }
      if constexpr (has_zeros(C)) subtract_zero(a, r == 0 ? meta.zero0 : meta.zero1);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 v = __half22float2(half2_of(a[i]));
        a[i] = bits_of(__halves2half2(to_half(v.x * scale), to_half(v.y * scale)));
      }
      __half* to = out + row * padded_k + record * record_columns(C) + 32 * b + 8 * t;
      *reinterpret_cast<uint4*>(to) = make_uint4(a[0], a[1], a[2], a[3]);
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
  if (tokens <= 8) return launch<C, 1, 4>(w, x, x_pitch, tokens, out, scratch, multiprocessors, stream);
  if (tokens <= 16) return launch<C, 2, 4>(w, x, x_pitch, tokens, out, scratch, multiprocessors, stream);
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
  NBL_RETURN_IF_ERROR((raise_limit<C, 1, 4>(available)));
  NBL_RETURN_IF_ERROR((raise_limit<C, 2, 4>(available)));
  NBL_RETURN_IF_ERROR((raise_limit<C, 4, 8>(available)));
  return raise_limit<C, 8, 8>(available);
}

}  // namespace

Status matmul_tiles(const Tiles& w, const void* x, int64_t x_pitch, int tokens, const Output& out, const SplitScratch& scratch,
                    int multiprocessors, cudaStream_t stream) {
#define NBL_CASE(codes) \
  case codes: return launch_tokens<codes>(w, x, x_pitch, tokens, out, scratch, multiprocessors, stream)
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
  const int64_t warps = static_cast<int64_t>(w.strips) * w.records;
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

Status prepare_matmul() {
  int device = 0, available = 0;
  NBL_CUDA(cudaGetDevice(&device));
  NBL_CUDA(cudaDeviceGetAttribute(&available, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  NBL_RETURN_IF_ERROR(raise_limits<Codes::kInt2>(available));
  NBL_RETURN_IF_ERROR(raise_limits<Codes::kInt3>(available));
  NBL_RETURN_IF_ERROR(raise_limits<Codes::kInt4>(available));
  NBL_RETURN_IF_ERROR(raise_limits<Codes::kInt8>(available));
  NBL_RETURN_IF_ERROR(raise_limits<Codes::kCode4>(available));
  return raise_limits<Codes::kHalf>(available);
}

}  // namespace nbl::cuda

// Matrix product over tiles (tile.h) for few tokens: y[T, N] = x[T, K] * W^T, up to 8 or 16 of them at a time.
//
// The grid fits the GPU at once: a CTA owns a range of strips. The records of its pairs of strips, one pair behind the other,
// are cut into as many runs as it has warps. A warp brings its run through a ring of its own by cp.async, with no barrier
// until the end, so that the memory never waits, and reads x, which the two strips share, straight from the first-level
// cache: the ring is no deeper than it must be, to leave that cache room for x. Products of one group are summed by the
// tensor core in float32. The zero is taken off afterwards, times the sum of x over the group, which one more mma per 16
// columns finds: that costs less than a subtraction per weight. Pairs that several warps share are put together at the end,
// in the order of K. Bound: the weights' bytes over the memory's bandwidth; a warp spends about 6 instructions on a word of
// 8 codes. Where strips are too few, K is split over CTAs as well; the last one to finish adds the partial sums in the order
// of K, so that the result does not depend on the order of arrival.
#include <algorithm>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/matmul/matmul_output.cuh"

namespace nbl::cuda {
namespace {

constexpr int kMaxWarps = 16, kStages = 4;

// How the work is cut; see choose().
struct Cut {
  int warps = kMaxWarps;  // of a CTA
  int stages = kStages;   // of a warp's ring
  int blocks = 1;         // CTAs over strips
  int splits = 1;         // CTAs over K
};

// Scales and zeros of rows g and g+8 as floats; a zero in codes.
struct GroupScales {
  float scale[2], zero[2];
};
template <Codes C>
__device__ __forceinline__ GroupScales load_scales(const unsigned char* meta, bool wide, int g) {
  constexpr float unit = C == Codes::kCode4 ? 1.f : kCodeUnit;
  // No branch, so that the loads of a whole record can be issued together.
  const uint32_t* words = reinterpret_cast<const uint32_t*>(meta);
  const uint32_t first = words[wide ? 2 * g : g], second = words[wide ? 2 * g + 1 : g];
  const float2 narrow = __half22float2(half2_of(first));
  const float2 s =
      make_float2(wide ? __uint_as_float(first) : narrow.x, wide ? __uint_as_float(second) : narrow.y);
  GroupScales out{{s.x * unit, s.y * unit}, {0.f, 0.f}};
  if constexpr (has_zeros(C)) {
    const uint32_t z = reinterpret_cast<const uint16_t*>(meta + (wide ? 64 : 32))[g];
    // 2^23 + z has the bits of z at its end.
    out.zero[0] = __uint_as_float(0x4b000000u | (z & 255u)) - 8388608.f;
    out.zero[1] = __uint_as_float(0x4b000000u | z >> 8) - 8388608.f;
  }
  return out;
}

// What of a CTA's sums does not lie in the rings: the sums of the first pair of each warp.
__host__ __device__ constexpr int head_bytes(int nt) { return 2 * nt * 32 * 16; }

// G: blocks of 32 columns that share a scale.
template <Codes C, int NT, int G>
__global__ void __launch_bounds__(kMaxWarps * 32, 1)
    stream_matmul(Tiles w, const __half* x, int64_t x_pitch, int tokens, Output out, SplitScratch scratch,
                  int stages) {
  extern __shared__ __align__(128) unsigned char shared[];
  __shared__ int run_begin[kMaxWarps + 1];
  constexpr int kColumns = record_columns(C), kBlocks = kColumns / 32, kCodeBytes = code_bytes(C);
  let_next_begin();
  const int tid = threadIdx.x, threads = blockDim.x, lane = tid & 31, warp = tid >> 5, g = lane >> 2,
            t = lane & 3;
  const int stage_bytes = 2 * w.record_bytes, warps = threads / 32;
  uint32_t* pairs = nullptr;
  unsigned char* rings = shared;
  if constexpr (C == Codes::kCode4) {
    pairs = reinterpret_cast<uint32_t*>(shared);
    rings += kPairTableBytes;
  }
  const int ring_bytes = stages * stage_bytes;
  unsigned char* const ring = rings + warp * ring_bytes;
  unsigned char* const heads = rings + warps * ring_bytes;

  // A unit is one record of a pair of strips.
  const int strip_begin = part_begin(w.strips, gridDim.x, blockIdx.x),
            strip_end = part_begin(w.strips, gridDim.x, blockIdx.x + 1);
  const int begin = part_begin(w.records, gridDim.y, blockIdx.y),
            end = part_begin(w.records, gridDim.y, blockIdx.y + 1);
  const int records = end - begin, pair_count = (strip_end - strip_begin + 1) / 2,
            units = pair_count * records;
  const int first = part_begin(units, warps, warp), last = part_begin(units, warps, warp + 1);
  if (lane == 0) run_begin[warp] = first;
  if (tid == 0) run_begin[warps] = units;
  const int64_t strip_bytes = static_cast<int64_t>(w.records) * w.record_bytes;

  // The next piece to ask for: one record of the two strips.
  constexpr int kWholeBytes = kCodeBytes / 512 * 512;  // what all lanes bring a part of
  const bool brings_rest = kWholeBytes + lane * 16 < w.record_bytes;
  int next_unit = first, next_strip = strip_begin + first / records * 2, next_record = begin + first % records;
  const unsigned char* source =
      w.data + next_strip * strip_bytes + static_cast<int64_t>(next_record) * w.record_bytes + lane * 16;
  unsigned char *write_at = ring, *read_at = ring;
  const unsigned char* const ring_end = ring + ring_bytes;
  auto fetch = [&]() {
    if (next_unit < last) {
#pragma unroll
      for (int s = 0; s < 2; ++s) {
        if (s == 1 && next_strip + 1 >= strip_end) continue;
        const unsigned char* at = source + s * strip_bytes;
        unsigned char* to = write_at + s * w.record_bytes + lane * 16;
#pragma unroll
        for (int i = 0; i < kWholeBytes; i += 512) copy16(to + i, at + i);
        if (brings_rest) copy16(to + kWholeBytes, at + kWholeBytes);
        if (C == Codes::kInt3 && kWholeBytes + 512 + lane * 16 < w.record_bytes)
          copy16(to + kWholeBytes + 512, at + kWholeBytes + 512);
      }
      write_at = write_at + stage_bytes == ring_end ? ring : write_at + stage_bytes;
      source += w.record_bytes;
      ++next_unit;
      if (++next_record == end) {
        next_record = begin, next_strip += 2;
        source += 2 * strip_bytes - static_cast<int64_t>(records) * w.record_bytes;
      }
    }
    copy_commit();
  };
  for (int s = 0; s < stages - 1; ++s) fetch();
  if constexpr (C == Codes::kCode4) {
    fill_pair_table(pairs, w.code_pairs, tid, threads);
    __syncthreads();
  }
  await_previous();

  const __half* x_lane = x + static_cast<int64_t>(g) * x_pitch + 8 * t;
  const int most_strips = (w.strips + gridDim.x - 1) / gridDim.x;
  const int64_t split_items = static_cast<int64_t>((most_strips + 1) / 2) * 64 * NT;
  float4* const all_partial =
      reinterpret_cast<float4*>(scratch.partial) + static_cast<int64_t>(blockIdx.x) * gridDim.y * split_items;
  float4* const partial = all_partial + blockIdx.y * split_items;
  // Of an item: [pair][2 strips][NT][32 lanes], rows g and g+8 for two tokens.
  auto put = [&](int item, const float4& v, const float2 (&residual)[2]) {
    const int strip = strip_begin + item / (32 * NT), row = item / 4 % 8, token = item / 32 % NT * 8 + item % 4 * 2;
    if (strip >= strip_end) return;
#pragma unroll 1
    for (int i = 0; i < 2; ++i) {
      if (token + i >= tokens) continue;
      put_rows(w, out, strip, row, token + i, i == 0 ? v.x : v.y, i == 0 ? v.z : v.w, i == 0 ? residual[0] : residual[1]);
    }
  };
  auto load_residual = [&](int item, float2 (&residual)[2]) {
    const int strip = strip_begin + item / (32 * NT), row = item / 4 % 8, token = item / 32 % NT * 8 + item % 4 * 2;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      residual[i] = strip < strip_end && token + i < tokens ? residual_rows(w, out, strip, row, token + i) : make_float2(0.f, 0.f);
    }
  };
  auto deliver = [&](int item, const float4& v, const float2 (&residual)[2]) {
    if (gridDim.y > 1) __stcg(partial + item, v);
    else put(item, v, residual);
  };
  uint4 xv[NT][kBlocks];
  auto load_x = [&](int record, int b) {
#pragma unroll
    for (int n = 0; n < NT; ++n) {
      xv[n][b] = *reinterpret_cast<const uint4*>(x_lane + n * 8 * x_pitch +
                                                 static_cast<int64_t>(record) * kColumns + 32 * b);
    }
  };
  int record = begin + first % records;
  if (first < last) {
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) load_x(record, b);
  }
  uint32_t one[4];  // codes of 1
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    one[i] = 0x00010001u;
    asm volatile(
        ""
        : "+r"(one[i]));  // four registers that stay, instead of constants that are loaded for every mma
  }
  for (int unit = first; unit < last; record = begin) {
    float acc[2][NT][4] = {};
    const int count = min(last - unit, end - record), stop = record + count;
    for (; record < stop; ++record) {
      if (stages == kStages) copy_wait<kStages - 2>();
      else if (stages == kStages - 1) copy_wait<kStages - 3>();
      else copy_wait<0>();
      __syncwarp();
      fetch();
      const unsigned char* stage = read_at;
      read_at = read_at + stage_bytes == ring_end ? ring : read_at + stage_bytes;
      const int next_x = record + 1 < end ? record + 1 : begin;
      LaneCodes<C> codes[2];
      codes[0].load(stage, lane);
      codes[1].load(stage + w.record_bytes, lane);
      // kInt4: `sum` of the low nibbles, `high_sum` of the high ones, which stay where they are and count 16
      // times as much.
      float sum[2][NT][4] = {}, high_sum[2][NT][4] = {}, x_sum[NT][4] = {};
#pragma unroll
      for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
        for (int s = 0; s < 2; ++s) {
          if constexpr (C == Codes::kInt4) {
            const uint32_t v0 = codes[s].w[b / 2 * 4 + b % 2 * 2], v1 = codes[s].w[b / 2 * 4 + b % 2 * 2 + 1];
            constexpr uint32_t kLow = 0x000f000fu, kHigh = 0x00f000f0u;
#pragma unroll
            for (int n = 0; n < NT; ++n) {
              mma(sum[s][n], v0 & kLow, v1 & kLow, v0 >> 8 & kLow, v1 >> 8 & kLow, xv[n][b].x, xv[n][b].z);
              mma(high_sum[s][n], v0 & kHigh, v1 & kHigh, v0 >> 8 & kHigh, v1 >> 8 & kHigh, xv[n][b].y,
                  xv[n][b].w);
            }
          } else {
            uint32_t a0[4], a1[4];
            codes[s].expand(b, 0, pairs, lane, a0);
            codes[s].expand(b, 1, pairs, lane, a1);
#pragma unroll
            for (int n = 0; n < NT; ++n) {
              float(&target)[4] = C == Codes::kHalf ? acc[s][n] : sum[s][n];
              mma(target, a0[0], a1[0], a0[1], a1[1], xv[n][b].x, xv[n][b].y);
              mma(target, a0[2], a1[2], a0[3], a1[3], xv[n][b].z, xv[n][b].w);
            }
          }
        }
        if constexpr (has_zeros(C)) {
#pragma unroll
          for (int n = 0; n < NT; ++n) {
            mma(x_sum[n], one[0], one[1], one[2], one[3], xv[n][b].x, xv[n][b].y);
            mma(x_sum[n], one[0], one[1], one[2], one[3], xv[n][b].z, xv[n][b].w);
          }
        }
        load_x(next_x, b);
        if (C != Codes::kHalf && (b + 1) % G == 0) {
#pragma unroll
          for (int s = 0; s < 2; ++s) {
            const GroupScales m = load_scales<C>(
                stage + s * w.record_bytes + kCodeBytes + b / G * w.group_bytes, w.wide_scales, g);
#pragma unroll
            for (int n = 0; n < NT; ++n) {
#pragma unroll
              for (int i = 0; i < 4; ++i) {
                float v = sum[s][n][i];
                if constexpr (C == Codes::kInt4) v += high_sum[s][n][i] * (1.f / 16.f);
                if constexpr (has_zeros(C)) v -= m.zero[i / 2] * x_sum[n][i];
                acc[s][n][i] += m.scale[i / 2] * v;
                sum[s][n][i] = high_sum[s][n][i] = 0.f;
              }
            }
          }
#pragma unroll
          for (int n = 0; n < NT; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) x_sum[n][i] = 0.f;
          }
        }
      }
    }

    // The first pair of a warp goes where others find it, the last one into the ring, which is not used any more. What
    // has all of K goes out.
    const bool whole = count == records;
    float4* const to = reinterpret_cast<float4*>(unit == first ? heads + warp * head_bytes(NT) : ring);
    const int item0 = unit / records * 64 * NT + lane;
    unit += count;
    __syncwarp();
#pragma unroll
    for (int s = 0; s < 2; ++s) {
#pragma unroll
      for (int n = 0; n < NT; ++n) {
        const float4 v = make_float4(acc[s][n][0], acc[s][n][1], acc[s][n][2], acc[s][n][3]);
        if (whole) {
          float2 residual[2];
          load_residual(item0 + (s * NT + n) * 32, residual);
          deliver(item0 + (s * NT + n) * 32, v, residual);
        } else {
          to[(s * NT + n) * 32 + lane] = v;
        }
      }
    }
  }
  copy_wait<0>();
  __syncthreads();
  // The pairs that several warps have had a part of: these in the order of K.
  for (int item = tid; item < pair_count * 64 * NT; item += threads) {
    const int pair = item / (64 * NT), in_pair = item % (64 * NT), pair_begin = pair * records;
    // Unit u is in run ((u + 1) * warps - 1) / units.
    const int from = ((pair_begin + 1) * warps - 1) / units, to = ((pair_begin + records) * warps - 1) / units;
    if (from == to) continue;  // that warp had all of it
    float2 residual[2];
    load_residual(item, residual);
    const bool is_tail = run_begin[from] < pair_begin;
    const float4* part = reinterpret_cast<const float4*>(is_tail ? rings + from * ring_bytes : heads + from * head_bytes(NT));
    float4 v = part[in_pair];
#pragma unroll 4
    for (int i = from + 1; i <= to; ++i) {
      if (run_begin[i] == run_begin[i + 1]) continue;
      part = reinterpret_cast<const float4*>(heads + i * head_bytes(NT));
      const float4 more = part[in_pair];
      v = make_float4(v.x + more.x, v.y + more.y, v.z + more.z, v.w + more.w);
    }
    deliver(item, v, residual);
  }
  if (gridDim.y == 1) return;

  __shared__ bool is_last;
  __threadfence();
  __syncthreads();
  if (tid == 0) {
    is_last = atomicAdd(&scratch.tickets[blockIdx.x], 1u) == gridDim.y - 1;
    if (is_last) scratch.tickets[blockIdx.x] = 0;
  }
  __syncthreads();
  if (!is_last) return;
  __threadfence();
  for (int item = tid; item < pair_count * 64 * NT; item += threads) {
    float2 residual[2];
    load_residual(item, residual);
    float4 v = make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll 4
    for (unsigned split = 0; split < gridDim.y; ++split) {
      const float4 part = __ldcg(all_partial + split * split_items + item);
      v = make_float4(v.x + part.x, v.y + part.y, v.z + part.z, v.w + part.w);
    }
    put(item, v, residual);
  }
}

template <Codes C>
int shared_bytes(const Tiles& w, int nt, const Cut& cut) {
  return cut.warps * (cut.stages * 2 * w.record_bytes + head_bytes(nt)) + (C == Codes::kCode4 ? kPairTableBytes : 0);
}

// One round of CTAs over the GPU, with the most bytes in flight that shared memory allows, and the split of
// strips and of K that leaves the busiest warp the least to do.
template <Codes C>
Cut choose(const Tiles& w, int nt, const DeviceTraits& traits) {
  Cut cut;
  const auto fits = [&] { return shared_bytes<C>(w, nt, cut) <= traits.shared_optin - 256; };
  // Two stages need no more than copies that are complete when they return: those of sm_75.
  const int fewest_stages = traits.sm >= 80 ? kStages - 1 : 2;
  while (!fits() && cut.warps > 4) {
    cut.stages = kStages;
    while (!fits() && cut.stages > fewest_stages) --cut.stages;
    if (!fits()) cut.warps /= 2;
  }
  const int per_multiprocessor = std::max(
      1,
      std::min(kMaxWarps / cut.warps, (traits.shared_optin + 1024) / (shared_bytes<C>(w, nt, cut) + 1024)));
  const int slots = traits.multiprocessors * per_multiprocessor;
  int best = 0;
  for (int splits = 1; splits <= 8 && splits <= w.records; ++splits) {
    const int blocks = std::max(1, std::min(w.strips, slots / splits));
    const int pairs = ((w.strips + blocks - 1) / blocks + 1) / 2, records = (w.records + splits - 1) / splits;
    const int cost = (pairs * records + cut.warps - 1) / cut.warps + (splits > 1 ? 3 : 0);
    if (best == 0 || cost < best) best = cost, cut.blocks = blocks, cut.splits = splits;
  }
  return cut;
}

template <Codes C, int NT, int G>
Status launch(const Tiles& w, const void* x, int64_t x_pitch, int tokens, const Output& out,
              const SplitScratch& scratch, const DeviceTraits& traits, cudaStream_t stream) {
  Cut cut = choose<C>(w, NT, traits);
  const int64_t strips = (w.strips + cut.blocks - 1) / cut.blocks + 1;  // and the odd one of a pair
  if (cut.splits > 1 && cut.blocks * cut.splits * strips * 128 * NT * 4 > scratch.partial_bytes)
    cut.splits = 1;
  NBL_CUDA(launch_after(traits.early_launch, stream_matmul<C, NT, G>, dim3(cut.blocks, cut.splits), cut.warps * 32,
                        shared_bytes<C>(w, NT, cut), stream, w, static_cast<const __half*>(x), x_pitch, tokens, out, scratch,
                        cut.stages));
  return {};
}

template <Codes C, int G>
Status launch_tokens(const Tiles& w, const void* x, int64_t x_pitch, int tokens, const Output& out,
                     const SplitScratch& scratch, const DeviceTraits& traits, cudaStream_t stream) {
  if (tokens <= 8) return launch<C, 1, G>(w, x, x_pitch, tokens, out, scratch, traits, stream);
  return launch<C, 2, G>(w, x, x_pitch, tokens, out, scratch, traits, stream);
}

template <Codes C>
Status launch_group(const Tiles& w, const void* x, int64_t x_pitch, int tokens, const Output& out,
                    const SplitScratch& scratch, const DeviceTraits& traits, cudaStream_t stream) {
  if (w.group == 32) return launch_tokens<C, 1>(w, x, x_pitch, tokens, out, scratch, traits, stream);
  if (w.group == 64) return launch_tokens<C, 2>(w, x, x_pitch, tokens, out, scratch, traits, stream);
  return launch_tokens<C, 4>(w, x, x_pitch, tokens, out, scratch, traits, stream);
}

template <Codes C, int G>
Status raise_limit(int available) {
  NBL_CUDA(cudaFuncSetAttribute(stream_matmul<C, 1, G>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                available - 256));
  NBL_CUDA(cudaFuncSetAttribute(stream_matmul<C, 2, G>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                available - 256));
  return {};
}
template <Codes C>
Status raise_limits(int available) {
  NBL_RETURN_IF_ERROR((raise_limit<C, 1>(available)));
  NBL_RETURN_IF_ERROR((raise_limit<C, 2>(available)));
  return raise_limit<C, 4>(available);
}

}  // namespace

Status matmul_stream(const Tiles& w, const void* x, int64_t x_pitch, int tokens, const Output& out,
                     const SplitScratch& scratch, const DeviceTraits& traits, cudaStream_t stream) {
  switch (w.codes) {
    case Codes::kInt2:
      return launch_group<Codes::kInt2>(w, x, x_pitch, tokens, out, scratch, traits, stream);
    case Codes::kInt3:
      return launch_group<Codes::kInt3>(w, x, x_pitch, tokens, out, scratch, traits, stream);
    case Codes::kInt4:
      return launch_group<Codes::kInt4>(w, x, x_pitch, tokens, out, scratch, traits, stream);
    case Codes::kInt8:
      return launch_group<Codes::kInt8>(w, x, x_pitch, tokens, out, scratch, traits, stream);
    case Codes::kCode4:
      return launch_group<Codes::kCode4>(w, x, x_pitch, tokens, out, scratch, traits, stream);
    case Codes::kHalf:
      return launch_tokens<Codes::kHalf, 2>(w, x, x_pitch, tokens, out, scratch, traits, stream);
  }
  return error(Code::kInternal, "no kernel for these codes");
}

Status prepare_matmul_stream(DeviceTraits& traits) {
  const int available = traits.shared_optin;
  // Code made from PTX of an older architecture has no wait in it: then no kernel may begin early.
  cudaFuncAttributes attributes;
  NBL_CUDA(cudaFuncGetAttributes(&attributes, stream_matmul<Codes::kInt4, 1, 4>));
  traits.early_launch = traits.sm >= 90 && attributes.binaryVersion >= 90 && attributes.ptxVersion >= 90;
  NBL_RETURN_IF_ERROR(raise_limits<Codes::kInt2>(available));
  NBL_RETURN_IF_ERROR(raise_limits<Codes::kInt3>(available));
  NBL_RETURN_IF_ERROR(raise_limits<Codes::kInt4>(available));
  NBL_RETURN_IF_ERROR(raise_limits<Codes::kInt8>(available));
  NBL_RETURN_IF_ERROR(raise_limits<Codes::kCode4>(available));
  return raise_limit<Codes::kHalf, 2>(available);
}

}  // namespace nbl::cuda

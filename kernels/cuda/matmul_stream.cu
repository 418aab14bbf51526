// Matrix product over tiles (tile.h) for up to 16 tokens: y[T, N] = x[T, K] * W^T.
//
// The grid fits the GPU at once: a CTA owns a range of strips and goes through them two at a time. Its warps
// share K; each brings its records of both strips through a ring of its own by cp.async, which runs on over
// the ends of strips, so that the memory never waits, and reads x, which the two strips share, straight from
// the first-level cache. Products of one group are summed by the tensor core in float32. The zero is taken
// off afterwards, times the sum of x over the group, which one more mma per 16 columns finds: that costs less
// than a subtraction per weight. The warps' sums meet in shared memory, one barrier for two strips. Bound:
// the weights' bytes over the memory's bandwidth; a warp spends about 6 instructions on a word of 8 codes.
// Where strips are too few, K is split over CTAs as well; the last one to finish adds the partial sums in the
// order of K, so that the result does not depend on the order of arrival.
#include <algorithm>

#include "kernels/cuda/matmul_output.cuh"

namespace nbl::cuda {
namespace {

constexpr int kMaxWarps = 16, kStages = 4;

// How the work is cut; see choose().
struct Cut {
  int warps = kMaxWarps;  // of a CTA
  int stages = kStages;   // of a warp's ring
  int blocks = 1;         // CTAs over strips
  int splits = 1;         // CTAs over K
  int parts = kMaxWarps;  // warps over K, a power of two; warps / parts pairs of strips at a time
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

// G: blocks of 32 columns that share a scale.
template <Codes C, int NT, int G>
__global__ void __launch_bounds__(kMaxWarps * 32, 1)
    stream_matmul(Tiles w, const __half* x, int64_t x_pitch, int tokens, Output out, SplitScratch scratch,
                  Cut cut) {
  extern __shared__ __align__(128) unsigned char shared[];
  constexpr int kColumns = record_columns(C), kBlocks = kColumns / 32, kCodeBytes = code_bytes(C);
  const int tid = threadIdx.x, threads = blockDim.x, lane = tid & 31, warp = tid >> 5, g = lane >> 2,
            t = lane & 3;
  const int stage_bytes = 2 * w.record_bytes, warps = threads / 32;
  uint32_t* pairs = nullptr;
  unsigned char* ring = shared;
  if constexpr (C == Codes::kCode4) {
    pairs = reinterpret_cast<uint32_t*>(shared);
    ring += kPairTableBytes;
  }
  float4* const sums =
      reinterpret_cast<float4*>(ring + warps * cut.stages * stage_bytes);  // [2][warps][2 strips][NT][32]
  ring += warp * cut.stages * stage_bytes;

  const int at_once = warps / cut.parts, part = warp % cut.parts,
            mine = warp / cut.parts;  // pairs of strips at a time, and which is this warp's
  const int strip_begin = part_begin(w.strips, gridDim.x, blockIdx.x),
            strip_end = part_begin(w.strips, gridDim.x, blockIdx.x + 1);
  const int rounds = (strip_end - strip_begin + 2 * at_once - 1) / (2 * at_once);
  const int begin = part_begin(w.records, gridDim.y, blockIdx.y),
            end = part_begin(w.records, gridDim.y, blockIdx.y + 1);
  const int first = begin + part_begin(end - begin, cut.parts, part),
            last = begin + part_begin(end - begin, cut.parts, part + 1);
  const int64_t strip_bytes = static_cast<int64_t>(w.records) * w.record_bytes;

  // The next piece to ask for: one record of the two strips.
  constexpr int kWholeBytes = kCodeBytes / 512 * 512;  // what all lanes bring a part of
  const bool brings_rest = kWholeBytes + lane * 16 < w.record_bytes;
  int next_strip = strip_begin + 2 * mine, next_record = first;
  const unsigned char* source =
      w.data + next_strip * strip_bytes + static_cast<int64_t>(first) * w.record_bytes + lane * 16;
  unsigned char *write_at = ring, *read_at = ring;
  const unsigned char* const ring_end = ring + cut.stages * stage_bytes;
  auto fetch = [&]() {
    if (first < last && next_strip < strip_end) {
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
      if (++next_record == last) {
        next_record = first, next_strip += 2 * at_once;
        source += 2 * at_once * strip_bytes - static_cast<int64_t>(last - first) * w.record_bytes;
      }
    }
    copy_commit();
  };
  for (int s = 0; s < cut.stages - 1; ++s) fetch();
  if constexpr (C == Codes::kCode4) {
    fill_pair_table(pairs, w.code_pairs, tid, threads);
    __syncthreads();
  }

  const __half* x_lane = x + static_cast<int64_t>(g) * x_pitch + 8 * t;
  const int most_strips = (w.strips + gridDim.x - 1) / gridDim.x;
  const int64_t split_items =
      static_cast<int64_t>((most_strips + 2 * at_once - 1) / (2 * at_once)) * at_once * 256 * NT;
  float* const partial =
      scratch.partial + (static_cast<int64_t>(blockIdx.x) * gridDim.y + blockIdx.y) * split_items;
  uint4 xv[NT][kBlocks];
  auto load_x = [&](int record, int b) {
#pragma unroll
    for (int n = 0; n < NT; ++n) {
      xv[n][b] = *reinterpret_cast<const uint4*>(x_lane + n * 8 * x_pitch +
                                                 static_cast<int64_t>(record) * kColumns + 32 * b);
    }
  };
  if (first < last) {
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) load_x(first, b);
  }
  uint32_t one[4];  // codes of 1
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    one[i] = 0x00010001u;
    asm volatile(
        ""
        : "+r"(one[i]));  // four registers that stay, instead of constants that are loaded for every mma
  }
  for (int round = 0; round < rounds; ++round) {
    float acc[2][NT][4] = {};
    const int strip0 = strip_begin + (round * at_once + mine) * 2;
    for (int record = strip0 < strip_end ? first : last; record < last; ++record) {
      if (cut.stages == kStages)
        copy_wait<kStages - 2>();
      else
        copy_wait<kStages - 3>();
      __syncwarp();
      fetch();
      const unsigned char* stage = read_at;
      read_at = read_at + stage_bytes == ring_end ? ring : read_at + stage_bytes;
      const int next_x = record + 1 < last ? record + 1 : first;
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

    // The parts of K in their order. The barrier of the next round keeps this round's sums until all have
    // read them.
    float4* const round_sums = sums + round % 2 * warps * 64 * NT;
#pragma unroll
    for (int s = 0; s < 2; ++s) {
#pragma unroll
      for (int n = 0; n < NT; ++n) {
        round_sums[((warp * 2 + s) * NT + n) * 32 + lane] =
            make_float4(acc[s][n][0], acc[s][n][1], acc[s][n][2], acc[s][n][3]);
      }
    }
    __syncthreads();
    for (int item = tid; item < at_once * 256 * NT; item += threads) {
      const int pair = item / (256 * NT), in_pair = item % (256 * NT);
      const float* from = reinterpret_cast<const float*>(round_sums) + pair * cut.parts * 256 * NT + in_pair;
      float v = 0.f;
#pragma unroll 4
      for (int i = 0; i < cut.parts; ++i) v += from[i * 256 * NT];
      if (gridDim.y > 1) {
        __stcg(partial + round * at_once * 256 * NT + item, v);
        continue;
      }
      const float other = __shfl_xor_sync(~0u, v, 2);
      const int strip = strip_begin + (round * at_once + pair) * 2 + in_pair / (128 * NT),
                token = in_pair / 128 % NT * 8 + item / 4 % 4 * 2 + item % 2;
      if (item % 4 < 2 && strip < strip_end && token < tokens)
        put_rows(w, out, strip, item / 16 % 8, token, v, other);
    }
  }
  copy_wait<0>();
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
  const int64_t items = static_cast<int64_t>(rounds) * at_once * 256 * NT;
  const float* all = scratch.partial + static_cast<int64_t>(blockIdx.x) * gridDim.y * split_items;
  for (int64_t item = tid; item < items; item += threads) {
    float v = 0.f;
#pragma unroll 4
    for (unsigned split = 0; split < gridDim.y; ++split) v += __ldcg(all + split * split_items + item);
    const float other = __shfl_xor_sync(~0u, v, 2);
    const int in_pair = static_cast<int>(item % (256 * NT));
    const int strip = strip_begin + static_cast<int>(item / (256 * NT)) * 2 + in_pair / (128 * NT);
    const int token = in_pair / 128 % NT * 8 + in_pair / 4 % 4 * 2 + in_pair % 2;
    if (in_pair % 4 < 2 && strip < strip_end && token < tokens)
      put_rows(w, out, strip, in_pair / 16 % 8, token, v, other);
  }
}

template <Codes C>
int shared_bytes(const Tiles& w, int nt, const Cut& cut) {
  return cut.warps * (cut.stages * 2 * w.record_bytes + 2 * 64 * 16 * nt) +
         (C == Codes::kCode4 ? kPairTableBytes : 0);
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
  float best = 0;
  const Cut base = cut;
  for (int splits = 1; splits <= 8 && splits <= w.records; ++splits) {
    const int blocks = std::max(1, std::min(w.strips, slots / splits));
    const int strips = (w.strips + blocks - 1) / blocks, records = (w.records + splits - 1) / splits;
    for (int parts = base.warps; parts >= 1; parts /= 2) {
      const int at_once = 2 * (base.warps / parts);
      const float cost =
          static_cast<float>((strips + at_once - 1) / at_once * ((records + parts - 1) / parts)) +
          (splits > 1 ? 3.f : 0.f);
      if (best == 0 || cost < best) best = cost, cut.blocks = blocks, cut.splits = splits, cut.parts = parts;
    }
  }
  return cut;
}

template <Codes C, int NT, int G>
Status launch(const Tiles& w, const void* x, int64_t x_pitch, int tokens, const Output& out,
              const SplitScratch& scratch, const DeviceTraits& traits, cudaStream_t stream) {
  Cut cut = choose<C>(w, NT, traits);
  const int64_t strips =
      (w.strips + cut.blocks - 1) / cut.blocks + 2 * cut.warps;  // and what rounds and padding may add
  if (cut.splits > 1 && cut.blocks * cut.splits * strips * 128 * NT * 4 > scratch.partial_bytes)
    cut.splits = 1;
  stream_matmul<C, NT, G>
      <<<dim3(cut.blocks, cut.splits), cut.warps * 32, shared_bytes<C>(w, NT, cut), stream>>>(
          w, static_cast<const __half*>(x), x_pitch, tokens, out, scratch, cut);
  NBL_LAUNCHED("stream_matmul");
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

Status prepare_matmul_stream(int available) {
  NBL_RETURN_IF_ERROR(raise_limits<Codes::kInt2>(available));
  NBL_RETURN_IF_ERROR(raise_limits<Codes::kInt3>(available));
  NBL_RETURN_IF_ERROR(raise_limits<Codes::kInt4>(available));
  NBL_RETURN_IF_ERROR(raise_limits<Codes::kInt8>(available));
  NBL_RETURN_IF_ERROR(raise_limits<Codes::kCode4>(available));
  return raise_limit<Codes::kHalf, 2>(available);
}

}  // namespace nbl::cuda

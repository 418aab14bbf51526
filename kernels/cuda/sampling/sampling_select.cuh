// The element of a row of logits at which a running sum in some order reaches a number, found by the CTAs that hold the row.
//
// It is found by histograms of 2048 bins, first over the distance to the best logit, then over the bits of the order within
// the bin that holds it, until that bin has few enough elements to be put into order. Two passes are the rule, seven the
// bound, whatever the logits. Weights are integers, so that no order of adding them changes a sum.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/sampling/sampling.h"

// Functions of the device are inline, as in sampling.cu.
namespace nbl::cuda::sampling {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kClusterSize = 8;
constexpr int kBins = 2048;
constexpr int kListed = 1024;        // elements that are put into order at once
constexpr float kBinsPerUnit = 32;   // of distance from the best logit; the last bin has what is farther than 64
constexpr uint32_t kNoBin = 0xffffffffu;
constexpr int kLevels = 6;

// An element and its place in an order: the larger key first. The low half is the complement of the id.
struct Listed {
  uint64_t key;
  uint64_t weight;
};
__device__ __forceinline__ uint64_t key_of(uint32_t order, int32_t id) {
  return static_cast<uint64_t>(order) << 32 | ~static_cast<uint32_t>(id);
}
__device__ __forceinline__ int32_t id_of(uint64_t key) { return static_cast<int32_t>(~static_cast<uint32_t>(key)); }

struct Pivot {
  uint64_t before;       // weight of the bins in front of it
  uint32_t bin, count;
  uint32_t order;        // of the element found in the end
  int32_t id;
};

struct alignas(16) Shared {
  DrawState state;
  unsigned long long mass[kBins];
  unsigned count[kBins];
  Listed list[kListed];
  unsigned listed;
  Pivot pivot;
  uint64_t warp_sums[kWarps];
  uint64_t exchange[2];
  uint64_t sums[2];      // before this CTA, and of the whole team
  int32_t drawn;         // from the short list; < 0: it was too short
  float best_logit[kWarps];
  int32_t best_id[kWarps];
  float team_best;
  int32_t team_best_id;
};

// The CTAs that share a row.
template <bool kCluster>
struct Team {
  int rank = 0, size = 1;

  __device__ Team() {
    if (kCluster) rank = blockIdx.x % kClusterSize, size = kClusterSize;
  }
  __device__ void sync() const {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    if (kCluster) {
      cluster_sync();
      return;
    }
#endif
    __syncthreads();
  }
  // The same place in the shared memory of another CTA.
  template <typename T>
  __device__ T* at(T* shared, int other) const {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    if (kCluster) {
      uint64_t address;
      asm("mapa.u64 %0, %1, %2;" : "=l"(address) : "l"(reinterpret_cast<uint64_t>(shared)), "r"(other));
      return reinterpret_cast<T*>(address);
    }
#endif
    return shared;
  }
};

// Larger for larger floats.
__device__ __forceinline__ uint32_t ordered_bits(float v) {
  const uint32_t bits = __float_as_uint(v == 0.f ? 0.f : v);  // -0 equals 0
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float float_of(uint32_t ordered) {
  return __uint_as_float(ordered & 0x80000000u ? ordered & 0x7fffffffu : ~ordered);
}

__device__ __forceinline__ uint64_t warp_sum64(uint64_t v) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(~0u, v, step);
  return v;
}

// The sum up to this lane.
__device__ __forceinline__ uint64_t warp_scan64(uint64_t v, int lane) {
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const uint64_t other = __shfl_up_sync(~0u, v, step);
    if (lane >= step) v += other;
  }
  return v;
}

// The slice of a row that this CTA holds.
struct Slice {
  float* values;
  int begin, count;
  __device__ float at(int i) const {
    const float v = values[i];
    return v <= kLargest ? v : v > kLargest ? kLargest : -INFINITY;  // NaN is never drawn
  }
};

struct Scale {
  float best, high, low;
  // (best - v) * log2(e) / temperature as x + y; at least 64: no weight.
  __device__ float2 distance(float v) const {
    const float d = best - v, back = d - best;
    const float lost = (best - (d - back)) - (v + back);  // what rounding took from d
    const float x = d * high;
    if (!(x < 64.f)) return make_float2(64.f, 0.f);
    return make_float2(x, fmaf(d, high, -x) + (d * low + lost * high));
  }
  __device__ uint64_t weight(float v) const { return weight_at(distance(v)); }
  __device__ static uint64_t weight_at(float2 x) {
    if (x.x >= 64.f) return 0;
    const float whole = floorf(x.x);
    return static_cast<uint64_t>(exp2f(-((x.x - whole) + x.y)) * 0x1p44f) >> static_cast<int>(whole);
  }
};

// Which elements are left: those in front of (order, id) by logit, heavy enough, and as typical as (order, id).
struct Left {
  uint32_t order = 0x007fffffu;      // that of minus infinity: everything above it
  int32_t id = -1;
  uint64_t min_weight = 0;
  bool typical = false;
  float centre = 0;
  uint32_t typical_order = 0;
  int32_t typical_id = -1;

  __device__ static uint32_t oddness(const Scale& scale, float v, float centre) {
    const float2 x = scale.distance(v);
    return ~__float_as_uint(fabsf((x.x - centre) + x.y));  // the nearest to the centre is the largest
  }
  __device__ bool holds(const Scale& scale, float v, int32_t at) const {
    const uint32_t bits = ordered_bits(v);
    if (!(bits > order || (bits == order && at <= id))) return false;
    if (min_weight > 0 && scale.weight(v) < min_weight) return false;
    if (!typical) return true;
    const uint32_t odd = oddness(scale, v, centre);
    return odd > typical_order || (odd == typical_order && at <= typical_id);
  }
};

// Sums over the team; the sum before this CTA too. `turn` alternates, so that no exchange overtakes the one before.
template <bool kCluster>
__device__ inline uint64_t team_sum(const Team<kCluster>& team, Shared& shared, uint64_t mine, int& turn, uint64_t* before = nullptr) {
  turn ^= 1;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  mine = warp_sum64(mine);
  if (lane == 0) shared.warp_sums[warp] = mine;
  __syncthreads();
  if (warp == 0) {
    const uint64_t block = warp_sum64(lane < kWarps ? shared.warp_sums[lane] : 0);
    if (lane == 0) shared.exchange[turn] = block;
  }
  team.sync();
  if (warp == 0) {
    const uint64_t part = lane < team.size ? *team.at(&shared.exchange[turn], lane) : 0;
    const uint64_t all = warp_sum64(part), front = warp_sum64(lane < team.rank ? part : 0);
    if (lane == 0) shared.sums[0] = front, shared.sums[1] = all;
  }
  __syncthreads();
  if (before != nullptr) *before = shared.sums[0];
  const uint64_t all = shared.sums[1];
  __syncthreads();
  return all;
}

// Finds the element at which the running sum of weights, from the largest order down and from the lowest id up among equals,
// reaches `wanted`: 1 .. the sum of all. weight(v, id) is 0 for elements that do not take part, and with kUnit 1 for all
// others; order(v) gives the order, and a bin that does not rise with it.
template <bool kUnit, bool kCluster, typename Weight, typename Order>
__device__ inline void select(const Team<kCluster>& team, Shared& shared, const Slice& slice, uint64_t wanted, Weight weight, Order order,
                       uint32_t* found_order, int32_t* found_id) {
  const int tid = threadIdx.x, warp = tid / 32, lane = tid % 32;
  uint32_t pivots[kLevels];
  int levels = 0;
  const auto digit = [](int level, uint32_t bits, uint32_t first, int32_t id) -> uint32_t {
    if (level == 0) return first;
    if (level == 1) return ~bits >> 21;
    if (level == 2) return ~bits >> 10 & 2047u;
    if (level == 3) return ~bits & 1023u;
    return level == 4 ? static_cast<uint32_t>(id) >> 11 : static_cast<uint32_t>(id) & 2047u;
  };
  const auto in_pivot = [&](uint32_t bits, uint32_t first, int32_t id) {
    bool in = true;
#pragma unroll
    for (int level = 0; level < kLevels; ++level) in = in && (level >= levels || digit(level, bits, first, id) == pivots[level]);
    return in;
  };
  for (;;) {
    for (int bin = tid; bin < kBins; bin += kThreads) shared.mass[bin] = 0, shared.count[bin] = 0;
    if (tid == 0) shared.listed = 0;
    __syncthreads();
    for (int i = tid; i < slice.count; i += kThreads) {
      const float v = slice.at(i);
      const uint64_t w = weight(v, slice.begin + i);
      if (w == 0) continue;
      uint32_t bits, first;
      order(v, &bits, &first);
      if (!in_pivot(bits, first, slice.begin + i)) continue;
      const uint32_t bin = digit(levels, bits, first, slice.begin + i);
      if (!kUnit) atomicAdd(&shared.mass[bin], static_cast<unsigned long long>(w));
      atomicAdd(&shared.count[bin], 1u);
    }
    team.sync();
    if (team.rank == 0) {  // a thread has two bins, of all CTAs
      uint64_t mass[2] = {0, 0};
      uint32_t count[2] = {0, 0};
      for (int other = 0; other < team.size; ++other) {
        const unsigned long long* masses = team.at(shared.mass, other);
        const unsigned* counts = team.at(shared.count, other);
        if (!kUnit) mass[0] += masses[2 * tid], mass[1] += masses[2 * tid + 1];
        count[0] += counts[2 * tid], count[1] += counts[2 * tid + 1];
      }
      if (kUnit) mass[0] = count[0], mass[1] = count[1];
      uint64_t upto = warp_scan64(mass[0] + mass[1], lane);
      if (lane == 31) shared.warp_sums[warp] = upto;
      __syncthreads();
      uint64_t before = upto - mass[0] - mass[1];
      for (int other = 0; other < warp; ++other) before += shared.warp_sums[other];
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        if (before < wanted && wanted <= before + mass[k]) {
          shared.pivot.before = before;
          shared.pivot.bin = 2 * tid + k;
          shared.pivot.count = count[k];
        }
        before += mass[k];
      }
    }
    team.sync();
    const Pivot* pivot = team.at(&shared.pivot, 0);
    const uint32_t bin = pivot->bin, count = pivot->count;
    wanted -= pivot->before;
#pragma unroll
    for (int level = 0; level < kLevels; ++level) {
      if (level == levels) pivots[level] = bin;
    }
    ++levels;
    if (count <= kListed || levels == kLevels) break;
  }
  unsigned* listed = team.at(&shared.listed, 0);
  Listed* list = team.at(shared.list, 0);
  for (int i = tid; i < slice.count; i += kThreads) {
    const float v = slice.at(i);
    const uint64_t w = weight(v, slice.begin + i);
    if (w == 0) continue;
    uint32_t bits, first;
    order(v, &bits, &first);
    if (!in_pivot(bits, first, slice.begin + i)) continue;
    const unsigned place = atomicAdd(listed, 1u);
    if (place < kListed) list[place] = {key_of(bits, slice.begin + i), w};
  }
  team.sync();
  if (team.rank == 0 && tid < shared.listed) {
    const Listed mine = shared.list[tid];
    uint64_t before = 0;
    for (unsigned i = 0; i < shared.listed; ++i) {
      const Listed other = shared.list[i];
      if (other.key > mine.key) before += other.weight;
    }
    if (before < wanted && wanted <= before + mine.weight) {
      shared.pivot.order = static_cast<uint32_t>(mine.key >> 32), shared.pivot.id = id_of(mine.key);
    }
  }
  team.sync();
  *found_order = team.at(&shared.pivot, 0)->order;
  *found_id = team.at(&shared.pivot, 0)->id;
}

// The part of a sum that a cut wants reached.
__device__ __forceinline__ uint64_t share(double part, uint64_t all) {
  const double wanted = ceil(part * static_cast<double>(all));
  return wanted < 1. ? 1ull : wanted >= static_cast<double>(all) ? all : static_cast<uint64_t>(wanted);
}

__device__ __forceinline__ uint64_t moment_of(uint64_t weight, float2 distance) {
  return static_cast<uint64_t>(static_cast<float>(weight) * 0x1p-8f * (distance.x + distance.y));
}
// Where the surprise of a token equals the entropy. Surprise is the distance plus the logarithm of the sum of weights, and the
// entropy the mean of it: the logarithm cancels.
__device__ __forceinline__ float centre_of(uint64_t moment, uint64_t all) {
  return static_cast<float>(static_cast<double>(moment) * 256. / static_cast<double>(all));
}

}  // namespace nbl::cuda::sampling

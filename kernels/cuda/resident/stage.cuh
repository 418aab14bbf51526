// The input of an operation of the resident kernel: found in tagged words or the embedding table, normed or gated, and
// left as f16 in shared memory in the order in which the matrix wants it, with the sums of its groups.
//
// A warp takes units of 128 columns, whole groups of every size. Its loads are contiguous, several units of them are
// under way at once, and what they bring stays in registers until it is put down: an operation begins when the slowest
// CTA's words are here, and each step behind that is time in which all of the GPU waits.
#pragma once

#include <cuda_bf16.h>

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/resident/device.cuh"
#include "kernels/cuda/resident/record_product.cuh"
#include "kernels/cuda/resident/words.cuh"

#if __CUDA_ARCH__ >= 900
namespace nbl::cuda {

constexpr int kUnitColumns = 128;
constexpr int kUnitsAtOnce = 4;       // of a warp, of two words a lane and load: 64 columns
constexpr int kHalfUnitsAtOnce = 16;  // of a warp, of four f16 a lane

__device__ __forceinline__ float table_value(const void* table, DType type, int64_t i) {
  if (type == DType::kF32) return static_cast<const float*>(table)[i];
  if (type == DType::kF16) return __half2float(static_cast<const __half*>(table)[i]);
  return __bfloat162float(static_cast<const __nv_bfloat16*>(table)[i]);
}

// Where x goes in shared memory.
struct StagedX {
  __half* x;
  float* sums;
  XOrder order;
  int lanes;  // vectors of 8 columns of a group, 0: no sums

  __device__ __forceinline__ StagedX(const ResidentOp& op, __half* x_, float* sums_)
      : x(x_), sums(sums_), order(x_order(op.codes, op.group_blocks)), lanes(4 * op.group_blocks) {}
  // Where pair `pair` of columns of x stands, as a word; all orders permute within 32 pairs.
  __device__ __forceinline__ int place(int pair) const { return x_word(order, pair / 4, pair % 4); }
  __device__ __forceinline__ uint32_t* words() const { return reinterpret_cast<uint32_t*>(x); }
};

__device__ __forceinline__ float sum_of(__half2 pair) {
  const float2 f = __half22float2(pair);
  return f.x + f.y;
}
template <int Lanes>
__device__ __forceinline__ float lanes_sum(float v) {
#pragma unroll
  for (int step = 1; step < Lanes; step *= 2) v += __shfl_xor_sync(~0u, v, step);
  return v;
}

// The units of a warp in one pass: first, first + 8, ...
struct UnitRange {
  int first, count;
};
__device__ __forceinline__ UnitRange units_of(int units, int block, int at_once, int warp) {
  const int first = block * at_once * kConsumerWarps + warp;
  return {first, first < units ? min(at_once, (units - first + kConsumerWarps - 1) / kConsumerWarps) : 0};
}
// The column of a lane's pair in load i of the pass: two loads a unit.
__device__ __forceinline__ int column_of(const UnitRange& range, int i, int lane) {
  return (range.first + i / 2 * kConsumerWarps) * kUnitColumns + i % 2 * 64 + 2 * lane;
}

// Sums over the warp of N values a lane (a power of two), all at once: lane l has the sum of value l / (32 / N).
template <int N, int Step = 16>
__device__ __forceinline__ float warp_sums(float (&v)[N], int lane) {
  if constexpr (N == 1) {
#pragma unroll
    for (int step = Step; step > 0; step /= 2) v[0] += __shfl_xor_sync(~0u, v[0], step);
    return v[0];
  } else {  // each half of the lanes goes on with half of the values
    const bool upper = (lane & Step) != 0;
    float kept[N / 2];
#pragma unroll
    for (int i = 0; i < N / 2; ++i) {
      kept[i] = (upper ? v[i + N / 2] : v[i]) + __shfl_xor_sync(~0u, upper ? v[i] : v[i + N / 2], Step);
    }
    return warp_sums<N / 2, Step / 2>(kept, lane);
  }
}
// Group sums of a warp's units where a group is a unit: what the lanes have of each.
template <int Units>
__device__ __forceinline__ void put_unit_sums(const StagedX& to, const UnitRange& range, float (&sums)[Units], int lane) {
  const float sum = warp_sums<Units>(sums, lane);
  const int i = lane / (32 / Units);
  if (lane % (32 / Units) == 0 && i < range.count) to.sums[range.first + i * kConsumerWarps] = sum * (1.f / kCodeUnit);
}

// Of smaller groups: of a unit of which every lane has summed a pair of columns of both halves.
__device__ __forceinline__ void put_sums_of_halves(const StagedX& to, int unit, float first, float second, int lane) {
  if (to.lanes == 8) {
    first = lanes_sum<32>(first), second = lanes_sum<32>(second);
    if (lane < 2) to.sums[2 * unit + lane] = (lane == 0 ? first : second) * (1.f / kCodeUnit);
  } else if (to.lanes == 4) {
    first = lanes_sum<16>(first), second = lanes_sum<16>(second);
    if (lane % 16 == 0) {
      to.sums[4 * unit + lane / 16] = first * (1.f / kCodeUnit);
      to.sums[4 * unit + 2 + lane / 16] = second * (1.f / kCodeUnit);
    }
  }
}
// The same where every lane has summed four columns in a row.
__device__ __forceinline__ void put_sums_of_fours(const StagedX& to, int unit, float sum, int lane) {
  if (to.lanes == 8) {
    sum = lanes_sum<16>(sum);
    if (lane % 16 == 0) to.sums[2 * unit + lane / 16] = sum * (1.f / kCodeUnit);
  } else if (to.lanes == 4) {
    sum = lanes_sum<8>(sum);
    if (lane % 8 == 0) to.sums[4 * unit + lane / 8] = sum * (1.f / kCodeUnit);
  }
}

// The sums where a permutation scattered x.
__device__ __forceinline__ void sum_groups(const StagedX& to, int units, int tid) {
  for (int unit = tid / 32; unit < units; unit += kConsumerWarps) {
    const uint32_t* words = to.words() + unit * (kUnitColumns / 2);
    const int at = to.place(tid % 32);
    const float first = sum_of(half2_of(words[at])), second = sum_of(half2_of(words[32 + at]));
    if (to.lanes == 16) {
      float sums[1] = {first + second};
      put_unit_sums<1>(to, {unit, 1}, sums, tid % 32);
    } else {
      put_sums_of_halves(to, unit, first, second, tid % 32);
    }
  }
}

// Puts pairs of columns of `count` units (first, first + 8, ...) down; in_place: where each column of the input goes.
template <int Units>
__device__ __forceinline__ void put_pairs(const StagedX& to, const int32_t* in_place, const UnitRange& range, const __half2 (&pairs)[2 * Units],
                                          int lane) {
  if (in_place != nullptr) {
#pragma unroll
    for (int i = 0; i < 2 * Units; ++i) {
      if (i / 2 >= range.count) continue;
      const int2 at = __ldg(reinterpret_cast<const int2*>(in_place + column_of(range, i, lane)));
      to.x[2 * to.place(at.x / 2) + at.x % 2] = __low2half(pairs[i]);
      to.x[2 * to.place(at.y / 2) + at.y % 2] = __high2half(pairs[i]);
    }
    return;
  }
  uint32_t* words = to.words() + to.place(lane);
#pragma unroll
  for (int i = 0; i < 2 * Units; ++i) {
    if (i / 2 < range.count) words[(range.first + i / 2 * kConsumerWarps) * (kUnitColumns / 2) + i % 2 * 32] = bits_of(pairs[i]);
  }
  if (to.lanes == 16) {
    float sums[Units];
#pragma unroll
    for (int i = 0; i < Units; ++i) sums[i] = sum_of(pairs[2 * i]) + sum_of(pairs[2 * i + 1]);
    put_unit_sums<Units>(to, range, sums, lane);
    return;
  }
#pragma unroll
  for (int i = 0; i < Units; ++i) {
    if (to.lanes > 0 && i < range.count) put_sums_of_halves(to, range.first + i * kConsumerWarps, sum_of(pairs[2 * i]), sum_of(pairs[2 * i + 1]), lane);
  }
}

// norm(h); `shared` is room for one float2 a warp. Words are there to the end of the last unit (pad_words in kernel.cu);
// the width is even.
__device__ __forceinline__ void stage_normed(const ResidentOp& op, uint32_t tag, const StagedX& to, float2* shared, int tid) {
  constexpr int kLoads = 2 * kUnitsAtOnce;
  const int width = op.width, units = op.padded_k / kUnitColumns, warp = tid >> 5, lane = tid & 31;
  const int blocks = (units + kUnitsAtOnce * kConsumerWarps - 1) / (kUnitsAtOnce * kConsumerWarps);
  const uint2* words = op.input_words;
  const float* weight = op.norm.weight;
  const float* bias = op.norm.bias;
  uint4 v[kLoads];
  float2 w[kLoads];
  const auto load_vector = [&](const float* from, const UnitRange& range) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int column = column_of(range, i, lane);
      w[i] = i / 2 < range.count && column < width ? __ldg(reinterpret_cast<const float2*>(from + column)) : make_float2(0.f, 0.f);
    }
  };
  const auto find = [&](const UnitRange& range) {
    const uint2* from = words + range.first * kUnitColumns + 2 * lane;
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const uint32_t no_tag = i / 2 < range.count ? ~tag : tag;
      v[i] = make_uint4(0, no_tag, 0, no_tag);
    }
    wait_for(
        v, [&](uint4& u, int i, bool wanted) { load_words(u, from + i / 2 * (kConsumerWarps * kUnitColumns) + i % 2 * 64, wanted); },
        [&](const uint4& u) { return words_there(u, tag); });
  };

  UnitRange range = units_of(units, 0, kUnitsAtOnce, warp);
  load_vector(weight, range);
  float2 total = make_float2(0.f, 0.f);
#pragma unroll 1
  for (int block = blocks - 1; block >= 0; --block) {  // the first one last: it is kept
    range = units_of(units, block, kUnitsAtOnce, warp);
    find(range);
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const float a = __uint_as_float(v[i].x), b = __uint_as_float(v[i].z);
      total.x += a + b, total.y += a * a + b * b;
    }
  }
  total = warp_sum(total);
  if (lane == 0) shared[warp] = total;
  consumers_meet();
  total = shared[lane % kConsumerWarps];
#pragma unroll
  for (int step = kConsumerWarps / 2; step > 0; step /= 2) {
    total.x += __shfl_xor_sync(~0u, total.x, step);
    total.y += __shfl_xor_sync(~0u, total.y, step);
  }
  const float2 factors = norm_factors(op.norm, total, width);
#pragma unroll 1
  for (int block = 0; block < blocks; ++block) {
    if (block > 0) {
      range = units_of(units, block, kUnitsAtOnce, warp);
      load_vector(weight, range);
      find(range);
    }
    float2 y[kLoads];
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      y[i].x = (__uint_as_float(v[i].x) - factors.x) * factors.y * w[i].x;
      y[i].y = (__uint_as_float(v[i].z) - factors.x) * factors.y * w[i].y;
    }
    if (bias != nullptr) {
      load_vector(bias, range);
#pragma unroll
      for (int i = 0; i < kLoads; ++i) y[i].x += w[i].x, y[i].y += w[i].y;
    }
    __half2 pairs[kLoads];
#pragma unroll
    for (int i = 0; i < kLoads; ++i) pairs[i] = to_half2(y[i].x, y[i].y);
    put_pairs<kUnitsAtOnce>(to, op.in_place, range, pairs, lane);
  }
}

// activation(gate) * up of float32, which few models need: one unit at a time.
__device__ __forceinline__ void stage_gate_up(const ResidentOp& op, uint32_t tag, const StagedX& to, int tid) {
  const int lane = tid & 31, units = op.padded_k / kUnitColumns;
#pragma unroll 1
  for (int unit = tid >> 5; unit < units; unit += kConsumerWarps) {
    __half2 pairs[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int column = unit * kUnitColumns + i * 64 + 2 * lane;
      uint4 v[2] = {};  // gate, up
      if (column < op.width) {
        v[0].y = v[1].y = ~tag;
        wait_for(
            v, [&](uint4& u, int j, bool wanted) { load_words(u, op.input_words + j * op.width + column, wanted); },
            [&](const uint4& u) { return words_there(u, tag); });
      }
      pairs[i] = to_half2(activate(op.activation, __uint_as_float(v[0].x)) * __uint_as_float(v[1].x),
                          activate(op.activation, __uint_as_float(v[0].z)) * __uint_as_float(v[1].z));
    }
    put_pairs<1>(to, op.in_place, {unit, 1}, pairs, lane);
  }
}

// f16 that their writers have put where the matrix wants them, to the end of the last unit.
template <int AtOnce>
__device__ __forceinline__ void stage_halves(const ResidentOp& op, uint32_t tag, const StagedX& to, int tid) {
  const int units = op.padded_k / kUnitColumns, warp = tid >> 5, lane = tid & 31;
  const int first_place = to.place(2 * lane), second_place = to.place(2 * lane + 1);
#pragma unroll 1
  for (int block = 0; block * AtOnce * kConsumerWarps < units; ++block) {
    const UnitRange range = units_of(units, block, AtOnce, warp);
    const uint32_t* from = op.input_halves + range.first * kUnitColumns + 4 * lane;
    uint4 v[AtOnce];
#pragma unroll
    for (int i = 0; i < AtOnce; ++i) v[i].x = v[i].y = v[i].z = v[i].w = (i < range.count ? ~tag : tag) << 16;
    wait_for(
        v, [&](uint4& u, int i, bool wanted) { load_halves(u, from + i * (kConsumerWarps * kUnitColumns), wanted); },
        [&](const uint4& u) { return halves_there(u, tag); });
    uint32_t* to_words = to.words() + range.first * (kUnitColumns / 2);
    float sums[AtOnce];
#pragma unroll
    for (int i = 0; i < AtOnce; ++i) {
      const uint32_t first = __byte_perm(v[i].x, v[i].y, 0x5410), second = __byte_perm(v[i].z, v[i].w, 0x5410);
      if (i < range.count) {
        to_words[i * (kConsumerWarps * kUnitColumns / 2) + first_place] = first;
        to_words[i * (kConsumerWarps * kUnitColumns / 2) + second_place] = second;
      }
      sums[i] = sum_of(half2_of(first)) + sum_of(half2_of(second));
    }
    if (to.lanes == 16) {
      put_unit_sums<AtOnce>(to, range, sums, lane);
    } else if (to.lanes > 0) {
#pragma unroll
      for (int i = 0; i < AtOnce; ++i) {
        if (i < range.count) put_sums_of_fours(to, range.first + i * kConsumerWarps, sums[i], lane);
      }
    }
  }
}

__device__ __forceinline__ void stage(const ResidentOp& op, uint32_t tag, __half* x, float* sums, float2* shared, int tid) {
  const StagedX to(op, x, sums);
  bool scattered = op.in_place != nullptr;
  switch (op.input) {
    case ResidentInput::kResidual:
      stage_normed(op, tag, to, shared, tid);
      break;
    case ResidentInput::kHalves:
      scattered = false;
      if (op.padded_k <= kUnitColumns * kConsumerWarps * 4) {
        stage_halves<4>(op, tag, to, tid);
      } else {
        stage_halves<kHalfUnitsAtOnce>(op, tag, to, tid);
      }
      break;
    case ResidentInput::kGateUp:
      stage_gate_up(op, tag, to, tid);
      break;
  }
  consumers_meet();
  if (scattered) {
    sum_groups(to, op.padded_k / kUnitColumns, tid);
    consumers_meet();
  }
}

}  // namespace nbl::cuda
#endif

// The input of an operation of the resident kernel: found in tagged words, normed or gated, and left as f16 in shared
// memory in the order in which the matrix wants it, with the sums of its groups.
//
// A warp takes units of 128 columns, whole groups of every size, and of a unit each lane four columns in a row. Its loads
// are contiguous, several units of them are under way at once, and what they bring stays in registers until it is put
// down: an operation begins when the slowest CTA's words are here, and each step behind that is time in which all of the
// GPU waits.
#pragma once

#include <cuda_bf16.h>

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/row_math.cuh"
#include "kernels/cuda/resident/device.cuh"
#include "kernels/cuda/resident/record_product.cuh"
#include "kernels/cuda/resident/words.cuh"

#if __CUDA_ARCH__ >= 900
namespace nbl::cuda {

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
  int lanes;  // vectors of 8 columns of a group; 0: no sums, as there are no zeros to take off or the products sum x themselves
  int first_place, second_place;  // of this lane's two pairs of columns in a unit, as words

  __device__ __forceinline__ StagedX(const ResidentOp& op, __half* x_, float* sums_, int lane, bool own_sums)
      : x(x_), sums(sums_), order(x_order(op.codes, op.group_blocks)), lanes(has_zeros(op.codes) && !own_sums ? 4 * op.group_blocks : 0),
        first_place(place(2 * lane)), second_place(place(2 * lane + 1)) {}
  // Where pair `pair` of columns of x stands, as a word; all orders permute within 32 pairs.
  __device__ __forceinline__ int place(int pair) const { return x_word(order, pair / 4, pair % 4); }
  __device__ __forceinline__ uint32_t* unit(int i) const { return reinterpret_cast<uint32_t*>(x) + i * (kUnitColumns / 2); }
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
// The first of a lane's four columns in unit i of the pass.
__device__ __forceinline__ int column_of(const UnitRange& range, int i, int lane) {
  return (range.first + i * kConsumerWarps) * kUnitColumns + 4 * lane;
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
// Group sums of a pass, of which each lane has summed its columns of each unit.
template <int Units>
__device__ __forceinline__ void put_sums(const StagedX& to, const UnitRange& range, float (&sums)[Units], int lane) {
  if (to.lanes == 16) {  // a group is a unit
    const float sum = warp_sums<Units>(sums, lane);
    const int i = lane / (32 / Units);
    if (lane % (32 / Units) == 0 && i < range.count) to.sums[range.first + i * kConsumerWarps] = sum * (1.f / kCodeUnit);
  } else if (to.lanes > 0) {
#pragma unroll
    for (int i = 0; i < Units; ++i) {
      float sum = lanes_sum<8>(sums[i]);
      if (to.lanes == 8) sum += __shfl_xor_sync(~0u, sum, 8);
      if (lane % (2 * to.lanes) == 0 && i < range.count) {
        to.sums[(range.first + i * kConsumerWarps) * (16 / to.lanes) + lane / (2 * to.lanes)] = sum * (1.f / kCodeUnit);
      }
    }
  }
}

// The sums where a permutation scattered x.
__device__ __forceinline__ void sum_groups(const StagedX& to, int units, int tid) {
  for (int unit = tid / 32; unit < units; unit += kConsumerWarps) {
    const uint32_t* words = to.unit(unit);
    float sums[1] = {sum_of(half2_of(words[to.first_place])) + sum_of(half2_of(words[to.second_place]))};
    put_sums<1>(to, {unit, 1}, sums, tid % 32);
  }
}

// Puts a pass down: pairs 2i and 2i+1 are this lane's four columns of unit i. in_place: where each column of the input
// goes, null: where it is; then the group sums as well.
template <int Units>
__device__ __forceinline__ void put_units(const StagedX& to, const int32_t* in_place, const UnitRange& range,
                                          const uint32_t (&pairs)[2 * Units], int lane) {
  if (in_place != nullptr) {
#pragma unroll
    for (int i = 0; i < Units; ++i) {
      if (i >= range.count) continue;
      const int4 at = __ldg(reinterpret_cast<const int4*>(in_place + column_of(range, i, lane)));
      to.x[2 * to.place(at.x / 2) + at.x % 2] = __low2half(half2_of(pairs[2 * i]));
      to.x[2 * to.place(at.y / 2) + at.y % 2] = __high2half(half2_of(pairs[2 * i]));
      to.x[2 * to.place(at.z / 2) + at.z % 2] = __low2half(half2_of(pairs[2 * i + 1]));
      to.x[2 * to.place(at.w / 2) + at.w % 2] = __high2half(half2_of(pairs[2 * i + 1]));
    }
    return;
  }
  uint32_t* words = to.unit(range.first);
  float sums[Units];
#pragma unroll
  for (int i = 0; i < Units; ++i) {
    if (i < range.count) {
      words[i * (kConsumerWarps * kUnitColumns / 2) + to.first_place] = pairs[2 * i];
      words[i * (kConsumerWarps * kUnitColumns / 2) + to.second_place] = pairs[2 * i + 1];
    }
    sums[i] = sum_of(half2_of(pairs[2 * i])) + sum_of(half2_of(pairs[2 * i + 1]));
  }
  put_sums<Units>(to, range, sums, lane);
}

// What products with a guess for the norm's factor can be trusted with: a row that is up to 256 times too small for f16 keeps
// all that counts of its precision, and one that is not too large fits as well as the normed row.
__device__ __forceinline__ bool guess_holds(float guess, float factor) { return factor >= guess && factor <= 256.f * guess; }
// The guess for the next norm, a power of two: rows of the residual grow little from one norm to the next.
__device__ __forceinline__ float next_guess(float factor) { return 0.25f * __uint_as_float(__float_as_uint(factor) & 0x7f800000u); }

// h by an RMS norm of at most Units units a warp, without its factor, which all results are multiplied by: it is given back.
// x is multiplied by `guess` instead, so that it need not wait for the sum of squares of all warps; as guess is a power of two,
// x is rounded as it would be otherwise. Where there is no guess (0) or a wrong one, x is put down again with the factor, and
// 1 is given back. x is there when this returns, for all warps. `shared` is room for one float a warp.
template <int Units>
__device__ __forceinline__ float stage_rms(const ResidentOp& op, uint32_t tag, const StagedX& to, float* shared, float& guess, int tid) {
  const int width = op.width, units = op.padded_k / kUnitColumns, warp = tid >> 5, lane = tid & 31;
  const UnitRange range = units_of(units, 0, Units, warp);
  const uint2* from = op.input_words + range.first * (kUnitColumns / 2) + 2 * lane;
  const float part = 1.f / width, epsilon = op.norm.epsilon;  // found while the words are not here yet
  float4 w[Units];
  uint4 got[Units];
#pragma unroll
  for (int i = 0; i < Units; ++i) {
    const int column = column_of(range, i, lane);  // the width is a multiple of 4
    const bool there = i < range.count && column < width;
    w[i] = there ? __ldg(reinterpret_cast<const float4*>(op.norm.weight + column)) : make_float4(0.f, 0.f, 0.f, 0.f);
    got[i] = make_uint4(tag & 0xffu, tag >> 8 & 0xffu, tag & 0xffu, tag >> 8 & 0xffu);
  }
  wait_for(
      got, range.count, [&](uint4& u, int i, bool wanted) { load_words(u, from + i * (kConsumerWarps * kUnitColumns / 2), wanted); },
      [&](const uint4& u) { return pairs_there(u, tag); });
  float squares = 0.f;
#pragma unroll
  for (int i = 0; i < Units; ++i) {
    const float v[4] = {pair_value(got[i].x), pair_value(got[i].y), pair_value(got[i].z), pair_value(got[i].w)};
    squares += (v[0] * v[0] + v[1] * v[1]) + (v[2] * v[2] + v[3] * v[3]);
    w[i].x *= v[0], w[i].y *= v[1], w[i].z *= v[2], w[i].w *= v[3];  // 0 beyond the width: the weight is
  }
  float scale = guess;
#pragma unroll 1
  for (bool again = false;; again = true) {
    if (scale != 0.f) {
      uint32_t pairs[2 * Units];
#pragma unroll
      for (int i = 0; i < Units; ++i) {
        pairs[2 * i] = bits_of(to_half2(w[i].x * scale, w[i].y * scale));
        pairs[2 * i + 1] = bits_of(to_half2(w[i].z * scale, w[i].w * scale));
      }
      put_units<Units>(to, op.in_place, range, pairs, lane);
    }
    if (!again) {
      squares = lanes_sum<32>(squares);
      if (lane == 0) shared[warp] = squares;
    }
    consumers_meet();
    if (again) return 1.f;
    const float4 low = reinterpret_cast<const float4*>(shared)[0], high = reinterpret_cast<const float4*>(shared)[1];
    const float total = ((low.x + low.y) + (low.z + low.w)) + ((high.x + high.y) + (high.z + high.w));
    const float factor = rsqrtf(total * part + epsilon);
    guess = next_guess(factor);
    if (guess_holds(scale, factor)) return factor * __uint_as_float(0x7f000000u - __float_as_uint(scale));  // a power of two
    scale = factor;
  }
}

// norm(h) of any kind and width; `shared` is room for one float2 a warp. Words are there to the end of the last unit (pad_pairs
// in kernel.cu).
template <int AtOnce>
__device__ __forceinline__ void stage_normed(const ResidentOp& op, uint32_t tag, const StagedX& to, float2* shared, int tid) {
  const int width = op.width, units = op.padded_k / kUnitColumns, warp = tid >> 5, lane = tid & 31;
  const int blocks = (units + AtOnce * kConsumerWarps - 1) / (AtOnce * kConsumerWarps);
  const uint2* words = op.input_words;
  const bool layer_norm = op.norm.kind == Norm::Kind::kLayer;
  const float part = 1.f / width, epsilon = op.norm.epsilon;  // found while the words are not here yet
  const float* weight = op.norm.weight;
  const float* bias = op.norm.bias;
  float v[AtOnce][4];
  float4 w[AtOnce];
  const auto load_vector = [&](const float* from, const UnitRange& range) {
#pragma unroll
    for (int i = 0; i < AtOnce; ++i) {
      const int column = column_of(range, i, lane);  // the width is a multiple of 4
      w[i] = i < range.count && column < width ? __ldg(reinterpret_cast<const float4*>(from + column)) : make_float4(0.f, 0.f, 0.f, 0.f);
    }
  };
  const auto find = [&](const UnitRange& range) {
    const uint2* from = words + range.first * (kUnitColumns / 2) + 2 * lane;
    uint4 got[AtOnce];
#pragma unroll
    for (int i = 0; i < AtOnce; ++i) got[i] = make_uint4(tag & 0xffu, tag >> 8 & 0xffu, tag & 0xffu, tag >> 8 & 0xffu);
    wait_for(
        got, range.count, [&](uint4& u, int i, bool wanted) { load_words(u, from + i * (kConsumerWarps * kUnitColumns / 2), wanted); },
        [&](const uint4& u) { return pairs_there(u, tag); });
#pragma unroll
    for (int i = 0; i < AtOnce; ++i) {
      v[i][0] = pair_value(got[i].x), v[i][1] = pair_value(got[i].y), v[i][2] = pair_value(got[i].z), v[i][3] = pair_value(got[i].w);
    }
  };

  UnitRange range = units_of(units, 0, AtOnce, warp);
  load_vector(weight, range);
  float2 total = make_float2(0.f, 0.f);
#pragma unroll 1
  for (int block = blocks - 1; block >= 0; --block) {  // the first one last: it is kept
    range = units_of(units, block, AtOnce, warp);
    find(range);
#pragma unroll
    for (int i = 0; i < AtOnce; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) total.x += v[i][j], total.y += v[i][j] * v[i][j];
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
  const float mean = layer_norm ? total.x * part : 0.f;
  const float factor = rsqrtf(fmaxf(total.y * part - mean * mean, 0.f) + epsilon);
#pragma unroll 1
  for (int block = 0; block < blocks; ++block) {
    if (block > 0) {
      range = units_of(units, block, AtOnce, warp);
      load_vector(weight, range);
      find(range);
    }
#pragma unroll
    for (int i = 0; i < AtOnce; ++i) {  // 0 beyond the width: the weight is
      v[i][0] = (v[i][0] - mean) * factor * w[i].x, v[i][1] = (v[i][1] - mean) * factor * w[i].y;
      v[i][2] = (v[i][2] - mean) * factor * w[i].z, v[i][3] = (v[i][3] - mean) * factor * w[i].w;
    }
    if (bias != nullptr) {
      load_vector(bias, range);
#pragma unroll
      for (int i = 0; i < AtOnce; ++i) v[i][0] += w[i].x, v[i][1] += w[i].y, v[i][2] += w[i].z, v[i][3] += w[i].w;
    }
    uint32_t pairs[2 * AtOnce];
#pragma unroll
    for (int i = 0; i < AtOnce; ++i) {
      pairs[2 * i] = bits_of(to_half2(v[i][0], v[i][1]));
      pairs[2 * i + 1] = bits_of(to_half2(v[i][2], v[i][3]));
    }
    put_units<AtOnce>(to, op.in_place, range, pairs, lane);
  }
}

// activation(gate) * up of float32, which few models need: one unit at a time.
__device__ __forceinline__ void stage_gate_up(const ResidentOp& op, uint32_t tag, const StagedX& to, int tid) {
  const int lane = tid & 31, units = op.padded_k / kUnitColumns;
#pragma unroll 1
  for (int unit = tid >> 5; unit < units; unit += kConsumerWarps) {
    uint32_t pairs[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int column = unit * kUnitColumns + 4 * lane + 2 * i;
      uint4 v[2] = {};  // gate, up
      if (column < op.width) {
        wait_for(
            v, 2, [&](uint4& u, int j, bool wanted) { load_words(u, op.input_words + j * op.width + column, wanted); },
            [&](const uint4& u) { return words_there(u, tag); });
      }
      pairs[i] = bits_of(to_half2(activate(op.activation, __uint_as_float(v[0].x)) * __uint_as_float(v[1].x),
                                  activate(op.activation, __uint_as_float(v[0].z)) * __uint_as_float(v[1].z)));
    }
    put_units<1>(to, op.in_place, {unit, 1}, pairs, lane);
  }
}

// f16 that their writers have put where the matrix wants them, to the end of the last unit. Units are put down four at a
// time as soon as they are here: the writers end at different times, and only what comes last should be left to do then.
template <int AtOnce>
__device__ __forceinline__ void stage_halves(const ResidentOp& op, uint32_t tag, const StagedX& to, int tid) {
  constexpr int kGroup = AtOnce < 4 ? AtOnce : 4;
  const int units = op.padded_k / kUnitColumns, warp = tid >> 5, lane = tid & 31;
#pragma unroll 1
  for (int block = 0; block * AtOnce * kConsumerWarps < units; ++block) {
    const UnitRange range = units_of(units, block, AtOnce, warp);
    const uint32_t* from = op.input_halves + range.first * kUnitColumns + 4 * lane;
    uint4 v[AtOnce];
#pragma unroll
    for (int i = 0; i < AtOnce; ++i) {
      v[i].x = v[i].y = v[i].z = v[i].w = tag << 16;
      load_halves(v[i], from + i * (kConsumerWarps * kUnitColumns), i < range.count);
    }
    uint32_t groups = (1u << (range.count + kGroup - 1) / kGroup) - 1;  // that are not put down yet
#pragma unroll 1
    while (groups != 0) {
#pragma unroll
      for (int first = 0; first < AtOnce; first += kGroup) {
        if ((groups >> first / kGroup & 1) == 0) continue;
        bool missing = false;
#pragma unroll
        for (int i = first; i < first + kGroup; ++i) {
          const bool wanted = !halves_there(v[i], tag);
          load_halves(v[i], from + i * (kConsumerWarps * kUnitColumns), wanted);
          missing = missing || wanted;
        }
        if (__any_sync(~0u, missing)) continue;
        uint32_t pairs[2 * kGroup];
#pragma unroll
        for (int i = 0; i < kGroup; ++i) {
          const uint4& u = v[first + i];
          pairs[2 * i] = __byte_perm(u.x, u.y, 0x5410), pairs[2 * i + 1] = __byte_perm(u.z, u.w, 0x5410);
        }
        put_units<kGroup>(to, nullptr, {range.first + first * kConsumerWarps, min(range.count - first, kGroup)}, pairs, lane);
        groups &= ~(1u << first / kGroup);
      }
    }
  }
}

// Leaves x in shared memory, seen by all warps, and returns what all results are to be multiplied by. `guess`: of the next
// norm's factor. Units: of a warp, in a row of the residual.
template <int Units>
__device__ __forceinline__ float stage(const ResidentOp& op, uint32_t tag, __half* x, float* sums, float2* shared, float& guess, int tid) {
  const StagedX to(op, x, sums, tid % 32, kOwnSums<Units>);
  float factor = 1.f;
  if (op.input == ResidentInput::kRms) {
    factor = stage_rms<Units>(op, tag, to, reinterpret_cast<float*>(shared), guess, tid);
  } else {
    if (op.input == ResidentInput::kHalves) {
      stage_halves<Units>(op, tag, to, tid);
    } else if (op.input == ResidentInput::kManyHalves) {
      stage_halves<(Units == 1 ? 8 : 16)>(op, tag, to, tid);
    } else if (op.input == ResidentInput::kNormed) {
      stage_normed<Units>(op, tag, to, shared, tid);
    } else {
      stage_gate_up(op, tag, to, tid);
    }
    consumers_meet();
  }
  if (!kOwnSums<Units> && op.scattered) {
    sum_groups(to, op.padded_k / kUnitColumns, tid);
    consumers_meet();
  }
  return factor;
}

}  // namespace nbl::cuda
#endif

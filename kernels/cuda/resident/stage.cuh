// The input of an operation of the resident kernel: found in tagged words, normed or gated, and left in shared memory as the
// matrix wants it (x_layout.h): in f16, or as digits with factors and the sums of groups.
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
  unsigned char* x;
  uint32_t* factors;
  int unit_bytes, group_blocks;

  __device__ __forceinline__ StagedX(const ResidentOp& op, unsigned char* x_, uint32_t* factors_)
      : x(x_), factors(factors_), unit_bytes(x_unit_bytes(op.codes)), group_blocks(op.group_blocks) {}
  __device__ __forceinline__ unsigned char* unit(int i) const { return x + i * unit_bytes; }
};

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

// Puts a pass down in f16: pairs 2i and 2i+1 are this lane's four columns of unit i. in_place: where each column of the input goes,
// null: where it is.
template <int Units>
__device__ __forceinline__ void put_halves(const StagedX& to, const int32_t* in_place, const UnitRange& range,
                                           const uint32_t (&pairs)[2 * Units], int lane) {
#pragma unroll
  for (int i = 0; i < Units; ++i) {
    if (i >= range.count) continue;
    if (in_place == nullptr) {
      reinterpret_cast<uint2*>(to.unit(range.first + i * kConsumerWarps))[lane] = make_uint2(pairs[2 * i], pairs[2 * i + 1]);
      continue;
    }
    const int4 at = __ldg(reinterpret_cast<const int4*>(in_place + column_of(range, i, lane)));
    const auto put = [&](int column, __half value) {
      reinterpret_cast<__half*>(to.unit(column / kUnitColumns))[column % kUnitColumns] = value;
    };
    put(at.x, __low2half(half2_of(pairs[2 * i]))), put(at.y, __high2half(half2_of(pairs[2 * i])));
    put(at.z, __low2half(half2_of(pairs[2 * i + 1]))), put(at.w, __high2half(half2_of(pairs[2 * i + 1])));
  }
}

// Puts a pass down in digits (x_layout.h), with factors and sums: v[i] are this lane's four columns of unit i. A step of all units
// before the next step of one, since each depends on the one before it.
template <Codes C, int Units>
__device__ __forceinline__ void put_digits(const StagedX& to, const UnitRange& range, const float4 (&v)[Units], int lane) {
  constexpr int kDigits = x_digits(C);
  constexpr int kPartner = C == Codes::kInt8 ? 0 : C == Codes::kInt4 ? 1 : 8;  // distance of the lane that has the other half of a word
  // An integer is the low bits of a float beyond 2^23, and 0x8080 turns signed digits into unsigned ones.
  constexpr float kMagic = 12582912.f;
  constexpr int kBias = 0x8080;
  constexpr uint32_t kFlip = 0x80808080u;
  const bool odd = lane % 2 != 0, first = (lane & kPartner) == 0;
  // Of the lane's two pairs of columns: what x is multiplied by, and what such a number is worth in a sum.
  const float times0 = odd ? 4.f : 64.f, times1 = odd ? 1.f : 16.f;
  const int worth0 = kDigits == 2 ? 1 : odd ? 16 : 1, worth1 = kDigits == 2 ? 1 : odd ? 64 : 4;
  uint32_t largest[Units];
  int n[Units][4], sums[Units];
#pragma unroll
  for (int i = 0; i < Units; ++i) largest[i] = warp_largest(__float_as_uint(largest_magnitude(v[i].x, v[i].y, v[i].z, v[i].w)));
#pragma unroll
  for (int i = 0; i < Units; ++i) {
    const float multiplier = FixedPoint(largest[i]).multiplier;
    const float multiplier0 = kDigits == 3 ? multiplier * times0 : multiplier;
    const float multiplier1 = kDigits == 3 ? multiplier * times1 : multiplier;
    const auto number = [&](float value, float by) {
      return static_cast<int>(__float_as_uint(fmaf(value, by, kMagic))) - (static_cast<int>(__float_as_uint(kMagic)) - kBias);
    };
    n[i][0] = number(v[i].x, multiplier0), n[i][1] = number(v[i].y, multiplier0);
    n[i][2] = number(v[i].z, multiplier1), n[i][3] = number(v[i].w, multiplier1);
    sums[i] = (n[i][0] + n[i][1]) * worth0 + (n[i][2] + n[i][3]) * worth1 - 2 * kBias * (worth0 + worth1);
  }
  if (to.group_blocks == 4) {
#pragma unroll
    for (int i = 0; i < Units; ++i) sums[i] = warp_total(sums[i]);
  } else {
#pragma unroll
    for (int step = 1; step < 8; step *= 2) {
#pragma unroll
      for (int i = 0; i < Units; ++i) sums[i] += __shfl_xor_sync(~0u, sums[i], step);
    }
    if (to.group_blocks == 2) {
#pragma unroll
      for (int i = 0; i < Units; ++i) sums[i] += __shfl_xor_sync(~0u, sums[i], 8);
    }
  }
  if constexpr (kPartner != 0) {  // the lane's word has its columns 0 and 1 and those of its partner, or 2 and 3
#pragma unroll
    for (int i = 0; i < Units; ++i) {
      const int other0 = __shfl_xor_sync(~0u, first ? n[i][2] : n[i][0], kPartner);
      const int other1 = __shfl_xor_sync(~0u, first ? n[i][3] : n[i][1], kPartner);
      const int mine0 = first ? n[i][0] : n[i][2], mine1 = first ? n[i][1] : n[i][3];
      n[i][0] = first ? mine0 : other0, n[i][1] = first ? other0 : mine0;
      n[i][2] = first ? mine1 : other1, n[i][3] = first ? other1 : mine1;
    }
  }
  const int place = lane / 16 * (16 * kDigits) + lane % 8 / 2 * 4 + lane % 2 * 2 + lane / 8 % 2;  // of the first digit's word
  uint32_t* words = reinterpret_cast<uint32_t*>(to.unit(range.first)) + place;
  uint32_t* factors = to.factors + range.first * x_factor_words(to.group_blocks);
#pragma unroll
  for (int i = 0; i < Units; ++i) {
    if (i >= range.count) break;
    const uint32_t low0 = __byte_perm(n[i][0], n[i][1], 0x5140), low1 = __byte_perm(n[i][2], n[i][3], 0x5140);  // digits 0, then digits 1
    if (kDigits == 3) words[0] = __byte_perm(__byte_perm(n[i][0], n[i][1], 0x0062), __byte_perm(n[i][2], n[i][3], 0x0062), 0x5410);
    words[16 * (kDigits - 2)] = __byte_perm(low0, low1, 0x7632) ^ kFlip;
    words[16 * (kDigits - 1)] = __byte_perm(low0, low1, 0x5410) ^ kFlip;
    const uint32_t factor = __float_as_uint(FixedPoint(largest[i]).factor);
    const uint32_t sum = kDigits == 3 ? __float_as_uint(__int2float_rn(sums[i]) * (1.f / 256)) : C == Codes::kInt4 ? sums[i] * 16 : sums[i];
    if (to.group_blocks == 4) {
      if (lane == 0) *reinterpret_cast<uint2*>(factors) = make_uint2(factor, sum);
    } else {
      if (lane == 0) factors[0] = factor;
      if (lane % 8 == 0) factors[1 + (to.group_blocks == 2 ? lane / 16 : lane / 8)] = sum;
    }
    words += kConsumerWarps * 32 * kDigits, factors += kConsumerWarps * x_factor_words(to.group_blocks);
  }
}

// Digits where f16 have been put down, each warp its units.
template <Codes C>
__device__ __forceinline__ void halves_to_digits(const StagedX& to, int units, int tid) {
  constexpr int kAtOnce = 4;
  const int warp = tid >> 5, lane = tid & 31;
#pragma unroll 1
  for (int block = 0; block * kAtOnce * kConsumerWarps < units; ++block) {
    const UnitRange range = units_of(units, block, kAtOnce, warp);
    float4 v[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      uint2 pairs = make_uint2(0, 0);
      if (i < range.count) pairs = reinterpret_cast<const uint2*>(to.unit(range.first + i * kConsumerWarps))[lane];
      const float2 low = __half22float2(half2_of(pairs.x)), high = __half22float2(half2_of(pairs.y));
      v[i] = make_float4(low.x, low.y, high.x, high.y);
    }
    __syncwarp();  // digits lie where the f16 were
    put_digits<C, kAtOnce>(to, range, v, lane);
  }
}

// What products with a guess for the norm's factor can be trusted with: a row that is up to 256 times too small for f16 keeps
// all that counts of its precision, and one that is not too large fits as well as the normed row.
__device__ __forceinline__ bool guess_holds(float guess, float factor) { return factor >= guess && factor <= 256.f * guess; }
// The guess for the next norm, a power of two: rows of the residual grow little from one norm to the next.
__device__ __forceinline__ float next_guess(float factor) { return 0.25f * __uint_as_float(__float_as_uint(factor) & 0x7f800000u); }

// h by an RMS norm of at most Units units a warp, without its factor, which all results are multiplied by: it is given back.
// In f16 x is multiplied by `guess` instead, so that it need not wait for the sum of squares of all warps; as guess is a power of
// two, x is rounded as it would be otherwise. Where there is no guess (0) or a wrong one, x is put down again with the factor, and
// 1 is given back. Digits, which have factors of their own, need no guess. x is there when this returns, for all warps.
// `shared` is room for one float a warp.
// C: kHalf where x is put down in f16.
template <int Units, Codes C>
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
  const auto put_scaled = [&](float scale) {
    uint32_t pairs[2 * Units];
#pragma unroll
    for (int i = 0; i < Units; ++i) {
      pairs[2 * i] = bits_of(to_half2(w[i].x * scale, w[i].y * scale));
      pairs[2 * i + 1] = bits_of(to_half2(w[i].z * scale, w[i].w * scale));
    }
    put_halves<Units>(to, op.in_place, range, pairs, lane);
  };
  float factor = guess;
#pragma unroll 1
  for (bool again = false;; again = true) {
    const float scale = factor;
    if constexpr (x_digits(C) > 0) {
      put_digits<C, Units>(to, range, w, lane);
    } else {
      if (scale != 0.f) put_scaled(scale);
    }
    if (!again) {
      squares = lanes_sum<32>(squares);
      if (lane == 0) shared[warp] = squares;
    }
    consumers_meet();
    if (again) return 1.f;
    const float4 low = reinterpret_cast<const float4*>(shared)[0], high = reinterpret_cast<const float4*>(shared)[1];
    const float total = ((low.x + low.y) + (low.z + low.w)) + ((high.x + high.y) + (high.z + high.w));
    factor = rsqrtf(total * part + epsilon);
    guess = next_guess(factor);
    if constexpr (x_digits(C) > 0) return factor;
    if (guess_holds(scale, factor)) return factor * __uint_as_float(0x7f000000u - __float_as_uint(scale));  // a power of two
  }
}

// norm(h) of any kind and width; `shared` is room for one float2 a warp. Words are there to the end of the last unit (pad_pairs
// in consume.cuh).
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
    put_halves<AtOnce>(to, op.in_place, range, pairs, lane);
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
    put_halves<1>(to, op.in_place, {unit, 1}, pairs, lane);
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
        const UnitRange here = {range.first + first * kConsumerWarps, min(range.count - first, kGroup)};
        uint32_t pairs[2 * kGroup];
#pragma unroll
        for (int i = 0; i < kGroup; ++i) {
          const uint4& u = v[first + i];
          pairs[2 * i] = __byte_perm(u.x, u.y, 0x5410), pairs[2 * i + 1] = __byte_perm(u.z, u.w, 0x5410);
        }
        put_halves<kGroup>(to, nullptr, here, pairs, lane);
        groups &= ~(1u << first / kGroup);
      }
    }
  }
}

// The same in digits, four units at a time, in whatever order they are there. It takes three times the instructions, and so is a
// loop: the next four are on their way meanwhile.
template <Codes C>
__device__ __forceinline__ void stage_halves_as_digits(const ResidentOp& op, uint32_t tag, const StagedX& to, int tid) {
  constexpr int kGroup = 4, kStride = kGroup * kConsumerWarps;
  const int units = op.padded_k / kUnitColumns, warp = tid >> 5, lane = tid & 31;
  const auto load = [&](uint4(&v)[kGroup], int group) {
    const uint32_t* from = op.input_halves + (group * kStride + warp) * kUnitColumns + 4 * lane;
#pragma unroll
    for (int i = 0; i < kGroup; ++i) {
      v[i].x = v[i].y = v[i].z = v[i].w = tag << 16;
      load_halves(v[i], from + i * (kConsumerWarps * kUnitColumns), group * kStride + i * kConsumerWarps + warp < units);
    }
  };
  uint32_t pending = (1u << (units - warp + kStride - 1) / kStride) - 1;  // groups, of which shared memory has no room for 32
  int group = 0;
  uint4 v[kGroup];
  if (pending != 0) load(v, 0);
#pragma unroll 1
  while (pending != 0) {
    const uint32_t others = pending & ~(1u << group), later = others & ~0u << group;
    const int next = later != 0 ? __ffs(later) - 1 : others != 0 ? __ffs(others) - 1 : group;
    uint4 coming[kGroup];
    load(coming, next);
    bool there = true;
#pragma unroll
    for (int i = 0; i < kGroup; ++i) there = there && halves_there(v[i], tag);
    if (__all_sync(~0u, there)) {
      float4 values[kGroup];
#pragma unroll
      for (int i = 0; i < kGroup; ++i) {
        values[i] = make_float4(__low2float(half2_of(v[i].x)), __low2float(half2_of(v[i].y)), __low2float(half2_of(v[i].z)),
                                __low2float(half2_of(v[i].w)));
      }
      const int first = group * kStride + warp;
      put_digits<C, kGroup>(to, {first, min(kGroup, (units - first + kConsumerWarps - 1) / kConsumerWarps)}, values, lane);
      pending &= ~(1u << group);
    }
    group = next;
#pragma unroll
    for (int i = 0; i < kGroup; ++i) v[i] = coming[i];
  }
}

template <int Units>
__device__ __forceinline__ float stage_f16(const ResidentOp& op, uint32_t tag, const StagedX& to, float2* shared, float& guess, int tid) {
  if (op.input == ResidentInput::kRms) return stage_rms<Units, Codes::kHalf>(op, tag, to, reinterpret_cast<float*>(shared), guess, tid);
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
  return 1.f;
}
// Where an input has a short way to digits.
template <int Units, Codes C>
__device__ __forceinline__ float stage_digits(const ResidentOp& op, uint32_t tag, const StagedX& to, float2* shared, float& guess,
                                              int tid) {
  if (op.input == ResidentInput::kRms) return stage_rms<Units, C>(op, tag, to, reinterpret_cast<float*>(shared), guess, tid);
  stage_halves_as_digits<C>(op, tag, to, tid);
  consumers_meet();
  return 1.f;
}

// Leaves x in shared memory, seen by all warps, and returns what all results are to be multiplied by. `guess`: of the next
// norm's factor. Units: of a warp, in a row of the residual. Formats: of matrices, of which there are no others.
template <int Units, ResidentFormats Formats>
__device__ __forceinline__ float stage(const ResidentOp& op, uint32_t tag, unsigned char* x, uint32_t* factors, float2* shared,
                                       float& guess, int tid) {
  const StagedX to(op, x, factors);
  const bool is_short = op.input == ResidentInput::kRms ? op.in_place == nullptr
                                                        : op.input == ResidentInput::kHalves || op.input == ResidentInput::kManyHalves;
  const bool is_int4 = has_codes(Formats, Codes::kInt4) && op.codes == Codes::kInt4;
  const bool is_int8 = has_codes(Formats, Codes::kInt8) && op.codes == Codes::kInt8;
  const bool is_less = has_codes(Formats, Codes::kInt3) && x_digits(op.codes) == 3;
  if (is_short && is_int4) return stage_digits<Units, Codes::kInt4>(op, tag, to, shared, guess, tid);
  if (is_short && is_int8) return stage_digits<Units, Codes::kInt8>(op, tag, to, shared, guess, tid);
  if (is_short && is_less) return stage_digits<Units, Codes::kInt3>(op, tag, to, shared, guess, tid);
  const float factor = stage_f16<Units>(op, tag, to, shared, guess, tid);
  if (!is_int4 && !is_int8 && !is_less) return factor;
  const int units = op.padded_k / kUnitColumns;
  if (is_int4) {
    halves_to_digits<Codes::kInt4>(to, units, tid);
  } else if (is_int8) {
    halves_to_digits<Codes::kInt8>(to, units, tid);
  } else {
    halves_to_digits<Codes::kInt3>(to, units, tid);
  }
  consumers_meet();
  return factor;
}

}  // namespace nbl::cuda
#endif

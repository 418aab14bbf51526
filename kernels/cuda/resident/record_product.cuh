// What a consumer warp of the resident kernel does with one record or two (tile.h): products of 16 rows with one x.
//
// Of operand B of the matrix products, columns from 0 on carry x of the first record, columns from 4 on that of the second, and the
// others zeros. So the x of both is one load, and of each product the lanes that hold the columns of its record go on.
//
// Values, of f16 or a codebook, are multiplied with x in f16, one column.
//
// Integer codes are multiplied as they lie in their bytes. One AND leaves four codes of a word, each worth 1, 4, 16 or 64 times
// itself by its place in the byte: operand A of an mma of bytes. x is in fixed point (FixedPoint), one factor for 128 columns, and
// column d of the record is its digit d to the base 256, the first the most significant: all digits in one mma, exactly.
// Zeros are taken off the result, a group at a time: sum((q - z) x) = sum(q x) - z sum(x).
#pragma once

#include "kernels/cuda/resident/x_layout.h"
#include "kernels/cuda/weights/tile_math.cuh"

namespace nbl::cuda {

// x of 128 columns as fixed-point numbers: the largest magnitude is from 16256 to below 32512, which two signed digits can say, and
// 64 times that three.
struct FixedPoint {
  float multiplier, factor;  // of x, of the result
  __device__ __forceinline__ explicit FixedPoint(uint32_t largest) {  // the bits of the largest magnitude
    const uint32_t exponent = max(largest, 0x0d800000u) & 0x7f800000u;  // what is below 2^-100 counts as 0
    multiplier = __uint_as_float((267u << 23 | 0x7e0000u) - exponent);  // 1.984375 * 2^(13 - e), where the largest is 2^e to 2^(e+1)
    factor = __uint_as_float(exponent - ((14u << 23) - 0x10204u));      // 1 / multiplier
    if (largest >= 0x7f800000u) factor = __uint_as_float(0x7fffffffu);  // no number among x: nor are products numbers
  }
};

// x of two records as operand B. `at` differs by lane: its part of x, zeros where its column of B has none.
template <Codes C>
struct LaneX {
  static constexpr int kVectors = x_digits(C) > 0 ? 2 : record_columns(C) / 32, kStep = x_digits(C) > 0 ? 64 * x_digits(C) : 64;
  uint4 v[kVectors];
  __device__ __forceinline__ void load(const unsigned char* at) {
#pragma unroll
    for (int i = 0; i < kVectors; ++i) v[i] = *reinterpret_cast<const uint4*>(at + i * kStep);
  }
  __device__ __forceinline__ uint32_t word(int vector, int i) const {
    const uint4& u = v[vector];
    return i == 0 ? u.x : i == 1 ? u.y : i == 2 ? u.z : u.w;
  }
};

// What a lane has added up for rows g and g+8.
struct LaneSums {
  float rows[2] = {};
  float halves[2][4] = {};  // of kHalf: accumulators of the first and the second of two records
};

template <Codes C, int GB, bool Wide>
struct RecordProduct {
  static constexpr int kDigits = x_digits(C);
  static constexpr int kXBytes = x_unit_bytes(C) * record_columns(C) / kUnitColumns;
  static constexpr int kFactorWords = kDigits > 0 ? x_factor_words(GB) : 1;  // of f16 none are read
  static constexpr int kBlocks = record_columns(C) / 32;
  static constexpr int kGroups = C == Codes::kHalf ? 0 : kBlocks / GB;  // of a record
  static constexpr int kGroupBytes = kStripRows * ((Wide ? 4 : 2) + has_zeros(C));
  static constexpr int kRecordBytes = code_bytes(C) + kGroups * kGroupBytes;
  static constexpr int kAtOnce = C == Codes::kCode4 ? 4 : 2;  // records that share loads of x

  // x of so many records, as a lane needs it.
  struct Input {
    LaneX<C> x;
    uint32_t of_x[kDigits > 0 ? kFactorWords : 1];  // factor and sums of the lane's record
  };

  static __device__ __forceinline__ float2 load_scales(const unsigned char* meta, int g) {
    return Wide ? reinterpret_cast<const float2*>(meta)[g] : __half22float2(reinterpret_cast<const __half2*>(meta)[g]);
  }
  // Of both rows, a byte each.
  static __device__ __forceinline__ uint32_t load_zeros(const unsigned char* meta, int g) {
    return reinterpret_cast<const uint16_t*>(meta + (Wide ? 64 : 32))[g];
  }

  // Where a lane finds its part of x, in bytes from that of the first record; negative: nowhere.
  static __device__ __forceinline__ int x_offset(int lane) {
    if constexpr (kAtOnce == 4) return lane / 8 * kXBytes + lane % 4 * 16;  // nobody looks at the columns between
    const int column = lane / 4 % 4;
    return column < (kDigits > 0 ? kDigits : 1) ? lane / 16 * kXBytes + column * 64 + lane % 4 * 16 : -1;
  }
  // x: as x_offset() says, or zeros; where there are fewer than kAtOnce records it does not matter what stands behind their x.
  // `factors`: what stands beside the first one's x (x_layout.h).
  template <int Records>
  static __device__ __forceinline__ void load(Input& input, const unsigned char* x, const uint32_t* factors, int lane) {
    input.x.load(x);
    if constexpr (kDigits > 0) load_factors(factors + my_record<Records>(lane) * kFactorWords, input.of_x);
  }

  // Adds Records records that follow one another.
  template <int Records>
  static __device__ __forceinline__ void add(const unsigned char* record, const uint32_t* pairs, const unsigned char* x,
                                             const uint32_t* factors, int lane, LaneSums& sums) {
    LaneCodes<C> codes[Records];
#pragma unroll
    for (int i = 0; i < Records; ++i) codes[i].load(record + i * kRecordBytes, lane);
    Input input;
    load<Records>(input, x, factors, lane);
    if constexpr (kAtOnce == 4) {
      add_values<Records>(record, codes, pairs, input, lane, sums, [](int) {});
    } else {
      add_codes<Records>(record, codes, input, lane, sums);
    }
  }
  // The same of kAtOnce records, where their codes and x are at hand: then only scales and zeros are read from `record`. `after(i)` is
  // called when nobody wants the codes of record i any more.
  template <typename After>
  static __device__ __forceinline__ void add(const unsigned char* record, const LaneCodes<C>* codes, const uint32_t* pairs,
                                             const Input& input, int lane, LaneSums& sums, const After& after) {
    if constexpr (kAtOnce == 4) {
      add_values<kAtOnce>(record, codes, pairs, input, lane, sums, after);
    } else {
      add_codes<kAtOnce>(record, codes, input, lane, sums);
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) after(i);
    }
  }
  // The sum of row g over all lanes that have a part of it, in those with t == 0; of row g+8 in those with t == kSecondRow. A lane gives
  // away its part of one of them for a part of the other.
  static constexpr int kSecondRow = kDigits == 2 ? 2 : 1;
  static __device__ __forceinline__ float row_sum(const LaneSums& sums, int lane) {
    float2 v = make_float2(sums.rows[0], sums.rows[1]);
    if constexpr (C == Codes::kHalf) {
      const bool second = lane % 4 / 2 != 0;
      v.x = second ? sums.halves[1][0] : sums.halves[0][0], v.y = second ? sums.halves[1][2] : sums.halves[0][2];
    }
    if constexpr (kDigits == 3) {  // odd lanes have the last digit, 65536 times too large
      const float unit = lane % 2 == 0 ? 1.f : 1.f / 65536;
      v.x *= unit, v.y *= unit;
    }
    const bool second = (lane & kSecondRow) != 0;
    float sum = second ? v.y : v.x;
    sum += __shfl_xor_sync(~0u, second ? v.x : v.y, kSecondRow);
    if constexpr (kSecondRow == 1) sum += __shfl_xor_sync(~0u, sum, 2);
    return sum;
  }

 private:
  // The record whose columns of a product a lane holds. Where there is none of so many, 0.
  template <int Records>
  static __device__ __forceinline__ int my_record(int lane) {
    const int record = kAtOnce == 4 ? lane % 4 : lane % 4 / 2;
    return record < Records ? record : 0;
  }
  template <int Records>
  static __device__ __forceinline__ bool has_record(int lane) {
    return (kAtOnce == 4 ? lane % 4 : lane % 4 / 2) < Records;
  }

  // Of integer codes and of f16.
  template <int Records>
  static __device__ __forceinline__ void add_codes(const unsigned char* record, const LaneCodes<C>* codes, const Input& input, int lane,
                                                   LaneSums& sums) {
    if constexpr (C == Codes::kHalf) {
#pragma unroll
      for (int i = 0; i < Records; ++i) add_halves(codes[i], input.x, sums.halves[i]);
    } else {
      const bool second = my_record<2>(lane) != 0;
      record += my_record<Records>(lane) * kRecordBytes;
#pragma unroll
      for (int group = 0; group < kGroups; ++group) {
        const unsigned char* meta = record + code_bytes(C) + group * kGroupBytes;
        float2 scales = load_scales(meta, lane >> 2);
        int2 digits = digit_products(codes[0], input.x, group);
        if (Records == 2) {
          const int2 others = digit_products(codes[Records - 1], input.x, group);
          digits.x = second ? others.x : digits.x, digits.y = second ? others.y : digits.y;
        }
        const float factor = has_record<Records>(lane) ? __uint_as_float(input.of_x[0]) : 0.f;
        scales.x *= factor, scales.y *= factor;
        const float2 y = without_zeros(digits, load_zeros(meta, lane >> 2), input.of_x[1 + group], lane);
        sums.rows[0] += scales.x * y.x, sums.rows[1] += scales.y * y.y;
      }
    }
  }
  // Scales of a lane's record, which is one of four. Float scales of two groups are 128 bytes, and a record a multiple of that: so that
  // lanes of different records do not meet in a bank, each takes its four words in an order of its own, word i ^ t as the i-th.
  static __device__ __forceinline__ void load_scales_of_four(const unsigned char* meta, int lane, float2 (&scales)[kGroups]) {
    if constexpr (Wide && kGroups == 2) {
      const int t = lane % 4;
      const float* of_rows = reinterpret_cast<const float*>(meta) + (lane >> 2) * 2;
      float v[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) v[i] = of_rows[(i ^ t) / 2 * (kGroupBytes / 4) + (i ^ t) % 2];
      const bool odd = (t & 1) != 0, high = (t & 2) != 0;
      const float a0 = odd ? v[1] : v[0], a1 = odd ? v[0] : v[1], a2 = odd ? v[3] : v[2], a3 = odd ? v[2] : v[3];
      scales[0] = make_float2(high ? a2 : a0, high ? a3 : a1), scales[1] = make_float2(high ? a0 : a2, high ? a1 : a3);
    } else {
#pragma unroll
      for (int group = 0; group < kGroups; ++group) scales[group] = load_scales(meta + group * kGroupBytes, lane >> 2);
    }
  }
  // Of a codebook.
  template <int Records, typename After>
  static __device__ __forceinline__ void add_values(const unsigned char* record, const LaneCodes<C>* codes, const uint32_t* pairs,
                                                    const Input& input, int lane, LaneSums& sums, const After& after) {
    float2 scales[kGroups], y[kGroups] = {};
    load_scales_of_four(record + my_record<Records>(lane) * kRecordBytes + code_bytes(C), lane, scales);
#pragma unroll
    for (int i = 0; i < Records; ++i) {
#pragma unroll
      for (int group = 0; group < kGroups; ++group) {
        const float2 v = value_products(codes[i], input.x, group, pairs, lane);
        if (i == 0 || lane % 4 == i) y[group] = v;
      }
      after(i);
    }
    if (has_record<Records>(lane)) {
#pragma unroll
      for (int group = 0; group < kGroups; ++group) {
        sums.rows[0] += scales[group].x * y[group].x, sums.rows[1] += scales[group].y * y[group].y;
      }
    }
  }

  static __device__ __forceinline__ void load_factors(const uint32_t* at, uint32_t (&words)[kFactorWords]) {
    if constexpr (kFactorWords == 2) {
      const uint2 v = *reinterpret_cast<const uint2*>(at);
      words[0] = v.x, words[1] = v.y;
    } else {
#pragma unroll
      for (int i = 0; i < kFactorWords; i += 4) {
        const uint4 v = *reinterpret_cast<const uint4*>(at + i);
        words[i] = v.x, words[i + 1] = v.y, words[i + 2] = v.z, words[i + 3] = v.w;
      }
    }
  }
  // Two columns of a sum, which are digits of the result, of rows g and g+8.
  static __device__ __forceinline__ int2 two_digits(const int (&c)[4]) { return make_int2(c[0] * 256 + c[1], c[2] * 256 + c[3]); }

  // Products of integer codes, zeros not taken off, with x in digits, over one group.
  static __device__ __forceinline__ int2 digit_products(const LaneCodes<C>& codes, const LaneX<C>& xs, int group) {
    const int first = group * GB;  // block
    if constexpr (C == Codes::kInt4) {
      constexpr uint32_t kLow = 0x0f0f0f0fu, kHigh = 0xf0f0f0f0u;
      int low[4] = {}, high[4] = {};  // nibbles worth 1 and 16
#pragma unroll
      for (int b = first; b < first + GB; b += 2) {
        const uint32_t* w = codes.w + b / 2 * 4 + b % 2 * 2;  // [block][row]
        const int v = b / 2, i = b % 2;
        if constexpr (GB == 1) {
          mma_bytes(low, w[0] & kLow, w[1] & kLow, 0, 0, xs.word(v, i), 0);
          mma_bytes(high, w[0] & kHigh, w[1] & kHigh, 0, 0, xs.word(v, 2 + i), 0);
        } else {
          mma_bytes(low, w[0] & kLow, w[1] & kLow, w[2] & kLow, w[3] & kLow, xs.word(v, 0), xs.word(v, 1));
          mma_bytes(high, w[0] & kHigh, w[1] & kHigh, w[2] & kHigh, w[3] & kHigh, xs.word(v, 2), xs.word(v, 3));
        }
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) high[i] += 16 * low[i];
      return two_digits(high);
    } else if constexpr (C == Codes::kInt8) {
      int sums[2][4] = {};  // two, so that one mma need not wait for the other
#pragma unroll
      for (int b = first; b < first + GB; ++b) {
        const uint32_t* w = codes.w + 4 * b;  // [row][columns 4j .. 4j+3]
        mma_bytes(sums[b % 2], w[0], w[2], w[1], w[3], xs.word(b / 2, b % 2), xs.word(b / 2, 2 + b % 2));
      }
      if constexpr (GB > 1) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[0][i] += sums[1][i];
      }
      return two_digits(sums[GB > 1 ? 0 : group % 2]);
    } else {
      int low[4] = {}, high[4] = {};  // two bits, and the third
#pragma unroll
      for (int half = first / 2; half < (first + GB + 1) / 2; ++half) {
        const uint32_t kept = GB > 1 ? ~0u : group % 2 == 0 ? 0x00ff00ffu : 0xff00ff00u;  // bytes of the group
        const uint32_t u = codes.w[2 * half], v = codes.w[2 * half + 1];
#pragma unroll
        for (int p = 0; p < 4; p += 2) {
          const uint32_t mask = 0x03030303u << (2 * p) & kept, next = 0x03030303u << (2 * p + 2) & kept;
          mma_bytes(low, u & mask, v & mask, u & next, v & next, xs.word(half, p), xs.word(half, p + 1));
        }
        if constexpr (C == Codes::kInt3) {
          const uint32_t u1 = codes.w[4] >> half, v1 = codes.w[5] >> half;
#pragma unroll
          for (int p = 0; p < 4; p += 2) {
            const uint32_t mask = 0x01010101u << (2 * p) & kept, next = 0x01010101u << (2 * p + 2) & kept;
            mma_bytes(high, u1 & mask, v1 & mask, u1 & next, v1 & next, xs.word(half, p), xs.word(half, p + 1));
          }
        }
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) low[i] += 4 * high[i];
      return two_digits(low);
    }
  }
  // sum: of x; of three digits the lanes with even t have the ones that it belongs to.
  static __device__ __forceinline__ float2 without_zeros(int2 y, uint32_t zeros, uint32_t sum, int lane) {
    if constexpr (kDigits == 2) {
      const int zero0 = static_cast<int>(zeros & 255u), zero1 = static_cast<int>(zeros >> 8), whole = static_cast<int>(sum);
      return make_float2(__int2float_rn(y.x - zero0 * whole), __int2float_rn(y.y - zero1 * whole));
    } else {
      const float here = lane % 2 == 0 ? __uint_as_float(sum) : 0.f;
      // Bytes become floats as the low bits of 2^23.
      const float zero0 = __uint_as_float(__byte_perm(zeros, 0x4b000000u, 0x7540)) - 8388608.f;
      const float zero1 = __uint_as_float(__byte_perm(zeros, 0x4b000000u, 0x7541)) - 8388608.f;
      return make_float2(__int2float_rn(y.x) - zero0 * here, __int2float_rn(y.y) - zero1 * here);
    }
  }

  static __device__ __forceinline__ void add_halves(const LaneCodes<C>& codes, const LaneX<C>& xs, float (&sum)[4]) {
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
      uint32_t u[4], v[4];
      codes.expand(b, 0, nullptr, 0, u);
      codes.expand(b, 1, nullptr, 0, v);
      mma(sum, u[0], v[0], u[1], v[1], xs.word(b, 0), xs.word(b, 1));
      mma(sum, u[2], v[2], u[3], v[3], xs.word(b, 2), xs.word(b, 3));
    }
  }
  // Products of the values of a codebook with x in f16, over one group.
  static __device__ __forceinline__ float2 value_products(const LaneCodes<C>& codes, const LaneX<C>& xs, int group, const uint32_t* pairs,
                                                          int lane) {
    float first[4] = {}, second[4] = {};
#pragma unroll
    for (int b = group * GB; b < group * GB + GB; ++b) {
      uint32_t u[4], v[4];
      codes.expand(b, 0, pairs, lane, u);
      codes.expand(b, 1, pairs, lane, v);
      mma(first, u[0], v[0], u[1], v[1], xs.word(b, 0), xs.word(b, 1));
      mma(second, u[2], v[2], u[3], v[3], xs.word(b, 2), xs.word(b, 3));
    }
    return make_float2(first[0] + second[0], first[2] + second[2]);
  }
};

}  // namespace nbl::cuda

// What a consumer warp of the resident kernel does with one record (tile.h): products of 16 rows with one x.
//
// Only column 0 of operand B carries x, which the four lanes with g == 0 read; the others read zeros. Codes
// are used where they lie in their word, as f16 subnormals worth code * 2^-24 * 4^i or 16^i (tile_math.cuh):
// one AND a pair, and an accumulator of its own for each place i. Zeros are not taken off the codes but, a
// group at a time, off the result: sum((q - z) x) = sum(q x) - z sum(x), in float32.
#pragma once

#include "kernels/cuda/tile_math.cuh"

namespace nbl::cuda {

// The order of x in shared memory, so that a lane's 16-byte loads give operands B as they are used. A word is
// a pair of columns; pair p (0..3) of lane t is columns 8t+2p and 8t+2p+1 of a block of 32.
//   kNatural    [block][t][p]
//   kSplit      [block][t][p 0, 2, 1, 3]             int4: even and odd nibbles
//   kPaired     [block / 2][t][p][block % 2]         int2, int3 in groups of 64 and more: one p of two blocks
enum class XOrder : uint8_t { kNatural, kSplit, kPaired };
NBL_HD constexpr XOrder x_order(Codes codes, int group_blocks) {
  return codes == Codes::kInt4                                                   ? XOrder::kSplit
         : (codes == Codes::kInt2 || codes == Codes::kInt3) && group_blocks >= 2 ? XOrder::kPaired
                                                                                 : XOrder::kNatural;
}
// Where pair p of the 8 columns of vector v stands, in words.
__device__ __forceinline__ int x_word(XOrder order, int v, int p) {
  if (order == XOrder::kSplit) return 4 * v + (p >> 1 | (p & 1) << 1);
  if (order == XOrder::kPaired) return (v / 8) * 32 + v % 4 * 8 + 2 * p + v / 4 % 2;
  return 4 * v + p;
}

// x of one record as operand B. `at` differs by lane: the part of x of the lanes with g == 0, zeros for all
// others.
template <int Blocks>
struct LaneX {
  uint4 v[Blocks];
  __device__ __forceinline__ void load(const unsigned char* at, bool paired) {
#pragma unroll
    for (int i = 0; i < Blocks; ++i) v[i] = *reinterpret_cast<const uint4*>(at + (paired ? i / 2 * 128 + i % 2 * 16 : i * 64));
  }
  // Word i of block b, or of the pair of blocks b and b + 1.
  __device__ __forceinline__ uint32_t word(int b, int i) const {
    const uint4& u = v[b + i / 4];
    return i % 4 == 0 ? u.x : i % 4 == 1 ? u.y : i % 4 == 2 ? u.z : u.w;
  }
};

// Adds one record to the sums of rows g and g+8 (valid in the lanes with t == 0), in units of kCodeUnit for
// integer codes. sums: sum(x) of every group of the record, in the same unit. `d` is the running accumulator
// of kHalf.
template <Codes C, int GB, bool Wide, bool OwnSums = false>
struct RecordProduct {
  static constexpr bool kPairedX = x_order(C, GB) == XOrder::kPaired;
  static constexpr int kBlocks = record_columns(C) / 32;
  static constexpr int kGroups = C == Codes::kHalf ? 0 : kBlocks / GB;  // of a record
  static constexpr int kGroupBytes = kStripRows * ((Wide ? 4 : 2) + has_zeros(C));
  static constexpr int kRecordBytes = code_bytes(C) + kGroups * kGroupBytes;

  struct Meta {
    float scale0, scale1, zero0, zero1;
  };
  static __device__ __forceinline__ Meta load_group(const unsigned char* meta, int g) {
    Meta m;
    const float2 s = Wide ? reinterpret_cast<const float2*>(meta)[g] : __half22float2(reinterpret_cast<const __half2*>(meta)[g]);
    meta += Wide ? 64 : 32;
    m.scale0 = s.x, m.scale1 = s.y, m.zero0 = m.zero1 = 0.f;
    if constexpr (has_zeros(C)) {
      const uint32_t z = reinterpret_cast<const uint16_t*>(meta)[g];  // bytes become floats as the low bits of 2^23
      m.zero0 = __uint_as_float(__byte_perm(z, 0x4b000000u, 0x7540)) - 8388608.f;
      m.zero1 = __uint_as_float(__byte_perm(z, 0x4b000000u, 0x7541)) - 8388608.f;
    }
    return m;
  }

  static __device__ __forceinline__ void add(const unsigned char* record, const uint32_t* pairs, const unsigned char* x, const float* sums,
                                             int lane, float& acc0, float& acc1, float (&d)[4]) {
    LaneCodes<C> codes;
    LaneX<kBlocks> xs;
    codes.load(record, lane);
    xs.load(x, kPairedX);
    if constexpr (C == Codes::kHalf) {
#pragma unroll
      for (int b = 0; b < kBlocks; ++b) {
        const uint32_t* w0 = codes.w + 8 * b;
        const uint32_t* w1 = w0 + 4;
        mma(d, w0[0], w1[0], w0[1], w1[1], xs.word(b, 0), xs.word(b, 1));
        mma(d, w0[2], w1[2], w0[3], w1[3], xs.word(b, 2), xs.word(b, 3));
      }
    } else {
#pragma unroll
      for (int group = 0; group < kGroups; ++group) {
        const Meta m = load_group(record + code_bytes(C) + group * kGroupBytes, lane >> 2);
        float2 y = group_product(codes, xs, group, pairs, lane);
        if constexpr (has_zeros(C)) {
          const float s = OwnSums ? group_sum(xs, group) : sums[group];
          y.x -= m.zero0 * s, y.y -= m.zero1 * s;
        }
        acc0 += m.scale0 * y.x, acc1 += m.scale1 * y.y;
      }
    }
  }

 private:
  // The sum of x over the blocks of one group, by matrix units as well.
  static __device__ __forceinline__ float group_sum(const LaneX<kBlocks>& xs, int group) {
    constexpr uint32_t kOnes = 0x00010001u;  // the unit of codes, twice
    float first[4] = {}, second[4] = {};
#pragma unroll
    for (int i = 0; i < GB; ++i) {
      const uint4& v = xs.v[group * GB + i];
      mma(first, kOnes, kOnes, kOnes, kOnes, v.x, v.y);
      mma(second, kOnes, kOnes, kOnes, kOnes, v.z, v.w);
    }
    return first[0] + second[0];
  }
  // Products of the codes alone with x, over the blocks of one group: rows g and g+8 in the lanes with t ==
  // 0.
  static __device__ __forceinline__ float2 group_product(const LaneCodes<C>& codes, const LaneX<kBlocks>& xs, int group,
                                                         const uint32_t* pairs, int lane) {
    if constexpr (C == Codes::kInt4) {
      float even[4] = {}, odd[4] = {};  // nibbles worth 1 and 16
#pragma unroll
      for (int i = 0; i < GB; ++i) {
        const int b = group * GB + i;
        const uint32_t u = codes.w[b / 2 * 4 + b % 2 * 2], v = codes.w[b / 2 * 4 + b % 2 * 2 + 1];
        const uint32_t u8 = u >> 8, v8 = v >> 8;
        mma(even, u & 0x000f000fu, v & 0x000f000fu, u8 & 0x000f000fu, v8 & 0x000f000fu, xs.word(b, 0), xs.word(b, 1));
        mma(odd, u & 0x00f000f0u, v & 0x00f000f0u, u8 & 0x00f000f0u, v8 & 0x00f000f0u, xs.word(b, 2), xs.word(b, 3));
      }
      return make_float2(even[0] + odd[0] * 0.0625f, even[2] + odd[2] * 0.0625f);
    } else if constexpr ((C == Codes::kInt2 || C == Codes::kInt3) && GB >= 2) {
      float place[4][4] = {};  // pairs worth 1, 4, 16 and 64
#pragma unroll
      for (int i = 0; i < GB; i += 2) {
        const int b = group * GB + i;
        const uint32_t u = codes.w[b / 2 * 2], v = codes.w[b / 2 * 2 + 1];
#pragma unroll
        for (int p = 0; p < 4; ++p) {
          const uint32_t mask = 0x00030003u << (2 * p);
          uint32_t a[4] = {u & mask, v & mask, (u >> 8) & mask, (v >> 8) & mask};
          if constexpr (C == Codes::kInt3) {
            const uint32_t high = 0x00040004u << (2 * p);
            a[0] |= moved(codes.w[4], p + 2 - 4 * b) & high, a[1] |= moved(codes.w[5], p + 2 - 4 * b) & high;
            a[2] |= moved(codes.w[4], p - 2 - 4 * b) & high, a[3] |= moved(codes.w[5], p - 2 - 4 * b) & high;
          }
          mma(place[p], a[0], a[1], a[2], a[3], xs.word(b, 2 * p), xs.word(b, 2 * p + 1));
        }
      }
      return make_float2(place[0][0] + 0.25f * place[1][0] + 0.0625f * place[2][0] + 0.015625f * place[3][0],
                         place[0][2] + 0.25f * place[1][2] + 0.0625f * place[2][2] + 0.015625f * place[3][2]);
    } else {
      float first[4] = {}, second[4] = {};
#pragma unroll
      for (int i = 0; i < GB; ++i) {
        const int b = group * GB + i;
        uint32_t u[4], v[4];
        codes.expand(b, 0, pairs, lane, u);
        codes.expand(b, 1, pairs, lane, v);
        mma(first, u[0], v[0], u[1], v[1], xs.word(b, 0), xs.word(b, 1));
        mma(second, u[2], v[2], u[3], v[3], xs.word(b, 2), xs.word(b, 3));
      }
      return make_float2(first[0] + second[0], first[2] + second[2]);
    }
  }
  static __device__ __forceinline__ uint32_t moved(uint32_t word, int left) { return left >= 0 ? word << left : word >> -left; }
};

}  // namespace nbl::cuda

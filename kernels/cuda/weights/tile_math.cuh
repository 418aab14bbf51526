// What the kernels do with a record (tile.h): codes to operand A of an mma (ptx.cuh).
//
// An integer code becomes the f16 with the bits of the code: a subnormal worth code * 2^-24, exactly. Tensor cores take
// subnormals at full speed and accumulate in float32, so a product needs no "1024 +" trick and no correction of it, and
// the scale of a group, multiplied by 2^24, puts the size right: kCodeUnit.
#pragma once

#include <cuda_fp16.h>

#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/weights/tile.h"

namespace nbl::cuda {


__device__ __forceinline__ uint32_t bits_of(__half2 h) { return *reinterpret_cast<uint32_t*>(&h); }
__device__ __forceinline__ __half2 half2_of(uint32_t u) { return *reinterpret_cast<__half2*>(&u); }

// f16 with values beyond its range made the largest finite one: an activation must not become infinite.
__device__ __forceinline__ __half to_half(float v) {
#if __CUDA_ARCH__ >= 900
  return __ushort_as_half(convert_one(v));
#else
  // fmaxf takes the number where the other one is NaN, which then were one of the answer's numbers.
  return __float2half_rn(v == v ? fminf(fmaxf(v, -65504.f), 65504.f) : v);
#endif
}

__device__ __forceinline__ __half2 to_half2(float first, float second) {
#if __CUDA_ARCH__ >= 900
  return half2_of(convert_pair(first, second));
#else
  return __halves2half2(to_half(first), to_half(second));
#endif
}

// The words of one record that a lane works on.
template <Codes C>
struct LaneCodes {
  static constexpr int kWords = C == Codes::kInt2 ? 4 : C == Codes::kInt3 ? 6 : C == Codes::kInt4 || C == Codes::kCode4 ? 8 : 16;
  static constexpr int kBlocks = record_columns(C) / 32;
  uint32_t w[kWords];

  __device__ __forceinline__ void load(const unsigned char* record, int lane) {
    const uint4* vectors = reinterpret_cast<const uint4*>(record);
#pragma unroll
    for (int i = 0; i < kWords / 4; ++i) {
      const uint4 v = vectors[i * 32 + lane];
      w[4 * i] = v.x, w[4 * i + 1] = v.y, w[4 * i + 2] = v.z, w[4 * i + 3] = v.w;
    }
    if constexpr (C == Codes::kInt3) {
      const uint2 v = reinterpret_cast<const uint2*>(record + 512)[lane];
      w[4] = v.x, w[5] = v.y;
    }
  }

  // Columns 8t .. 8t+7 of block b, row r (0: g, 1: g+8) as four pairs: of code * 2^-24, or of values.
  // `pairs` (kCode4) is the shared table of code pairs, one copy a bank: [256][32].
  __device__ __forceinline__ void expand(int b, int r, const uint32_t* pairs, int lane, uint32_t (&out)[4]) const {
    if constexpr (C == Codes::kHalf) {
#pragma unroll
      for (int i = 0; i < 4; ++i) out[i] = w[(2 * b + r) * 4 + i];
    } else if constexpr (C == Codes::kInt8) {
      const uint32_t lo = w[4 * b + 2 * r], hi = w[4 * b + 2 * r + 1];
      out[0] = __byte_perm(lo, 0, 0x4140), out[1] = __byte_perm(lo, 0, 0x4342);
      out[2] = __byte_perm(hi, 0, 0x4140), out[3] = __byte_perm(hi, 0, 0x4342);
    } else if constexpr (C == Codes::kInt4) {
      const uint32_t v = w[b / 2 * 4 + b % 2 * 2 + r];
#pragma unroll
      for (int i = 0; i < 4; ++i) out[i] = v >> (4 * i) & 0x000f000fu;
    } else if constexpr (C == Codes::kCode4) {
      const uint32_t v = w[b / 2 * 4 + b % 2 * 2 + r];
#pragma unroll
      for (int i = 0; i < 4; ++i) out[i] = load_shared_row(pairs + lane, v, i);
    } else {
      const uint32_t v = w[b / 2 * 2 + r] >> (b % 2 * 8);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        out[i] = v >> (2 * i) & 0x00030003u;
        if constexpr (C == Codes::kInt3) {
          const int place = high_bit_place(b, i);
          const uint32_t h = w[4 + r];
          out[i] |= (place >= 2 ? h >> (place - 2) : h << (2 - place)) & 0x00040004u;
        }
      }
    }
  }
};

// Scales and zeros of rows g and g+8 for one group of a record.
struct GroupMeta {
  float scale0, scale1;
  uint32_t zero0, zero1;  // the code that means 0, in both halves: subnormals as the codes are
};
template <Codes C>
__device__ __forceinline__ GroupMeta load_meta(const unsigned char* meta, bool wide_scales, int g) {
  GroupMeta m{1.f, 1.f, 0u, 0u};
  if constexpr (C == Codes::kHalf) return m;
  const float unit = C == Codes::kCode4 ? 1.f : kCodeUnit;
  if (wide_scales) {
    const float2 s = reinterpret_cast<const float2*>(meta)[g];
    m.scale0 = s.x * unit, m.scale1 = s.y * unit;
    meta += 64;
  } else {
    const float2 s = __half22float2(reinterpret_cast<const __half2*>(meta)[g]);
    m.scale0 = s.x * unit, m.scale1 = s.y * unit;
    meta += 32;
  }
  if constexpr (has_zeros(C)) {
    const uint32_t z = reinterpret_cast<const uint16_t*>(meta)[g];
    m.zero0 = (z & 255u) * 0x00010001u, m.zero1 = (z >> 8) * 0x00010001u;
  }
  return m;
}

// Takes the zero off four pairs of codes: exact, since |code - zero| < 2^10 units.
__device__ __forceinline__ void subtract_zero(uint32_t (&a)[4], uint32_t zero) {
#pragma unroll
  for (int i = 0; i < 4; ++i) a[i] = bits_of(__hsub2(half2_of(a[i]), half2_of(zero)));
}

}  // namespace nbl::cuda

// Tagged words: how CTAs of the resident kernel tell each other results (program.h). A word is a value and a tag,
// stored and loaded whole; who finds the tag he waits for has the value too, whatever order memory saw.
//
//   word   64 bits: a float32 or two f16, and a tag of 32 bits
//   pair   64 bits: two float32 of 24 bits, rounded, each with 8 bits of the tag
//   half   32 bits: one f16, and 16 bits of the tag
//
// Pairs and halves are for buffers that are written whole once a layer, where no tag is old enough to come around
// again. They are short because all CTAs read them at once, beside the stream of weights: it is the bandwidth of the
// second-level cache that they wait for.
#pragma once

#include <cstdint>

#include "kernels/cuda/tile_math.cuh"

namespace nbl::cuda {

__device__ __forceinline__ void put_word(uint2* at, uint32_t bits, uint32_t tag) {
  asm volatile("{\n .reg .b64 word;\n mov.b64 word, {%1, %2};\n st.relaxed.gpu.global.b64 [%0], word;\n}" ::"l"(at), "r"(bits), "r"(tag)
               : "memory");
}
__device__ __forceinline__ void put_pair(uint2* at, float first, float second, uint32_t tag) {
  const uint32_t low = (__float_as_uint(first) + 0x80u & 0xffffff00u) | (tag & 0xffu);
  const uint32_t high = (__float_as_uint(second) + 0x80u & 0xffffff00u) | (tag >> 8 & 0xffu);
  asm volatile("{\n .reg .b64 word;\n mov.b64 word, {%1, %2};\n st.relaxed.gpu.global.b64 [%0], word;\n}" ::"l"(at), "r"(low), "r"(high)
               : "memory");
}
__device__ __forceinline__ void put_half(uint32_t* at, __half value, uint32_t tag) {
  const uint32_t word = static_cast<uint32_t>(__half_as_ushort(value)) | tag << 16;
  asm volatile("st.relaxed.gpu.global.b32 [%0], %1;" ::"l"(at), "r"(word) : "memory");
}

// Two words {value, tag, value, tag}, aligned to 16 bytes, into v where `wanted`; predicated and not a branch, so that many
// of them share their registers.
__device__ __forceinline__ void load_words(uint4& v, const uint2* at, bool wanted = true) {
  asm volatile(
      "{\n .reg .b64 a, b;\n .reg .pred p;\n setp.ne.b32 p, %5, 0;\n mov.b64 a, {%0, %1};\n mov.b64 b, {%2, %3};\n"
      " @p ld.relaxed.gpu.global.v2.b64 {a, b}, [%4];\n mov.b64 {%0, %1}, a;\n mov.b64 {%2, %3}, b;\n}"
      : "+r"(v.x), "+r"(v.y), "+r"(v.z), "+r"(v.w)
      : "l"(at), "r"(static_cast<int>(wanted))
      : "memory");
}
__device__ __forceinline__ uint2 load_word(const uint2* at) {
  uint2 v;
  asm volatile("{\n .reg .b64 a;\n ld.relaxed.gpu.global.b64 a, [%2];\n mov.b64 {%0, %1}, a;\n}"
               : "=r"(v.x), "=r"(v.y)
               : "l"(at)
               : "memory");
  return v;
}
// The same of four words of one f16.
__device__ __forceinline__ void load_halves(uint4& v, const uint32_t* at, bool wanted = true) {
  asm volatile("{\n .reg .pred p;\n setp.ne.b32 p, %5, 0;\n @p ld.relaxed.gpu.global.v4.b32 {%0, %1, %2, %3}, [%4];\n}"
               : "+r"(v.x), "+r"(v.y), "+r"(v.z), "+r"(v.w)
               : "l"(at), "r"(static_cast<int>(wanted))
               : "memory");
}
__device__ __forceinline__ bool words_there(const uint4& v, uint32_t tag) { return v.y == tag && v.w == tag; }
__device__ __forceinline__ bool pairs_there(const uint4& v, uint32_t tag) {
  return (((v.x ^ tag) | (v.z ^ tag) | (v.y ^ tag >> 8) | (v.w ^ tag >> 8)) & 0xffu) == 0;
}
__device__ __forceinline__ float pair_value(uint32_t bits) { return __uint_as_float(bits & 0xffffff00u); }
__device__ __forceinline__ bool halves_there(const uint4& v, uint32_t tag) {
  const uint32_t high = tag << 16;
  return ((v.x ^ high) | (v.y ^ high) | (v.z ^ high) | (v.w ^ high)) < 65536u;
}

// Loads the first `count` of N vectors, each again until it is there; load(v, i, wanted). All are asked for at once, and
// again only those that are missing. The others must look as if they were there.
template <int N, typename Load, typename There>
__device__ __forceinline__ void wait_for(uint4 (&v)[N], int count, Load load, There there) {
#pragma unroll
  for (int i = 0; i < N; ++i) load(v[i], i, i < count);
  bool missing;
  do {
    missing = false;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const bool wanted = !there(v[i]);
      load(v[i], i, wanted);
      missing = missing || wanted;
    }
  } while (missing);
}

// The maximum and sum of one split of attention.
__device__ __forceinline__ void put_state(uint4* at, float highest, float sum, uint32_t tag) {
  put_word(reinterpret_cast<uint2*>(at), __float_as_uint(highest), tag);
  put_word(reinterpret_cast<uint2*>(at) + 1, __float_as_uint(sum), tag);
}

}  // namespace nbl::cuda

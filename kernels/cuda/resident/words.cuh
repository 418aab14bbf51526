// Tagged words: how CTAs of the resident kernel tell each other results (program.h). A word is 64 bits, a
// value and a tag, and is stored and loaded whole; who finds the tag he waits for has the value too, whatever
// order memory saw.
#pragma once

#include <cstdint>

#include "kernels/cuda/tile_math.cuh"

namespace nbl::cuda {

__device__ __forceinline__ void put_word(uint2* at, uint32_t bits, uint32_t tag) {
  asm volatile("{\n .reg .b64 word;\n mov.b64 word, {%1, %2};\n st.relaxed.gpu.global.b64 [%0], word;\n}" ::"l"(at), "r"(bits), "r"(tag)
               : "memory");
}
// Two words at once; `at` is aligned to 16 bytes.
__device__ __forceinline__ uint4 load_words(const uint2* at) {
  uint4 v;
  asm volatile(
      "{\n .reg .b64 a, b;\n ld.relaxed.gpu.global.v2.b64 {a, b}, [%4];\n mov.b64 {%0, %1}, a;\n mov.b64 "
      "{%2, %3}, b;\n}"
      : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
      : "l"(at)
      : "memory");
  return v;
}
__device__ __forceinline__ void get_pair(const uint2* at, uint32_t tag, float& first, float& second) {
  uint4 v;
  do v = load_words(at);
  while (v.y != tag || v.w != tag);
  first = __uint_as_float(v.x), second = __uint_as_float(v.z);
}
// The first `count` of 2 N words; the others are 0. All loads are under way at once.
template <int N>
__device__ __forceinline__ void get_words(const uint2* at, uint32_t tag, int count, uint32_t (&bits)[2 * N]) {
  uint4 v[N];
  bool there;
  do {
    there = true;
#pragma unroll
    for (int i = 0; i < N; ++i) v[i] = 2 * i < count ? load_words(at + 2 * i) : make_uint4(0u, tag, 0u, tag);
#pragma unroll
    for (int i = 0; i < N; ++i) there = there && v[i].y == tag && (v[i].w == tag || 2 * i + 1 >= count);
  } while (!there);
#pragma unroll
  for (int i = 0; i < N; ++i) bits[2 * i] = v[i].x, bits[2 * i + 1] = 2 * i + 1 < count ? v[i].z : 0u;
}

// The maximum and sum of one split of attention.
__device__ __forceinline__ void put_state(uint4* at, float highest, float sum, uint32_t tag) {
  put_word(reinterpret_cast<uint2*>(at), __float_as_uint(highest), tag);
  put_word(reinterpret_cast<uint2*>(at) + 1, __float_as_uint(sum), tag);
}

}  // namespace nbl::cuda

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

#include "kernels/cuda/weights/tile_math.cuh"

namespace nbl::cuda {

__device__ __forceinline__ void put_word(uint2* at, uint32_t bits, uint32_t tag) {
  store_word(at, bits, tag);
}
// The upper 24 bits of a float32, rounded. All bits of a NaN may be set, and rounding would make it a zero.
__device__ __forceinline__ uint32_t pair_bits(float value) {
  return value == value ? __float_as_uint(value) + 0x80u & 0xffffff00u : 0x7fc00000u;
}
__device__ __forceinline__ void put_pair(uint2* at, float first, float second, uint32_t tag) {
  const uint32_t low = pair_bits(first) | (tag & 0xffu);
  const uint32_t high = pair_bits(second) | (tag >> 8 & 0xffu);
  store_word(at, low, high);
}
__device__ __forceinline__ void put_half(uint32_t* at, __half value, uint32_t tag) {
  const uint32_t word = static_cast<uint32_t>(__half_as_ushort(value)) | tag << 16;
  store_half(at, word);
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

// Loads those of N vectors again that are not there, until they are; load(v, i, wanted).
template <int N, typename Load, typename There>
__device__ __forceinline__ void wait_again(uint4 (&v)[N], Load load, There there) {
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

// Loads the first `count` of N vectors, each again until it is there. All are asked for at once. The others must look as if
// they were there.
template <int N, typename Load, typename There>
__device__ __forceinline__ void wait_for(uint4 (&v)[N], int count, Load load, There there) {
#pragma unroll
  for (int i = 0; i < N; ++i) load(v[i], i, i < count);
  wait_again(v, load, there);
}

// The maximum and sum of one split of attention.
__device__ __forceinline__ void put_state(uint4* at, float highest, float sum, uint32_t tag) {
  put_word(reinterpret_cast<uint2*>(at), __float_as_uint(highest), tag);
  put_word(reinterpret_cast<uint2*>(at) + 1, __float_as_uint(sum), tag);
}

}  // namespace nbl::cuda

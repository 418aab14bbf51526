// In the place of CUDA's header: the vector types and the functions that device code finds without asking, for the fibers of
// lanes.h. Alignments are the device's, so that the sanitizers see a vector load that a GPU would refuse.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "base/dtype.h"
#include "cuda_runtime_api.h"
#include "kernels/cuda_host/lanes.h"

#define __CUDA_ARCH__ 900
#define __device__
#define __host__
#define __shared__
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __forceinline__ inline

struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) uint2 { uint32_t x, y; };
struct alignas(16) uint4 { uint32_t x, y, z, w; };
struct alignas(8) int2 { int32_t x, y; };
struct alignas(16) int4 { int32_t x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int2 make_int2(int32_t x, int32_t y) { return {x, y}; }
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }

template <typename A, typename B>
constexpr std::common_type_t<A, B> min(A a, B b) { return b < a ? b : a; }
template <typename A, typename B>
constexpr std::common_type_t<A, B> max(A a, B b) { return a < b ? b : a; }

template <typename T>
T __ldg(const T* at) { return *at; }
template <typename T>
T __ldcg(const T* at) { return *at; }
inline uint32_t __float_as_uint(float value) { return nbl::float_to_bits(value); }
inline float __uint_as_float(uint32_t bits) { return nbl::bits_to_float(bits); }
// Byte i of the result is byte (selector >> 4i & 7) of the eight of b:a.
inline uint32_t __byte_perm(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t bytes = static_cast<uint64_t>(b) << 32 | a;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) result |= static_cast<uint32_t>(bytes >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
  return result;
}
inline float __expf(float x) { return std::exp(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __int2float_rn(int value) { return static_cast<float>(value); }
inline float rsqrtf(float x) { return 1.f / std::sqrt(x); }

template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) { return nbl::cuda_host::from_lane(value, (nbl::cuda_host::thread_index() % 32) ^ mask); }
template <typename T>
T __shfl_down_sync(unsigned, T value, int step) {
  const int lane = nbl::cuda_host::thread_index() % 32;
  return nbl::cuda_host::from_lane(value, lane + step < 32 ? lane + step : lane);
}
template <typename T>
T __shfl_sync(unsigned, T value, int lane) { return nbl::cuda_host::from_lane(value, lane); }
inline int __any_sync(unsigned, bool value) {
  const unsigned char* shown = nbl::cuda_host::exchange(&value, sizeof value);
  for (int lane = 0; lane < 32; ++lane) {
    if (shown[32 * lane] != 0) return 1;
  }
  return 0;
}
inline int __all_sync(unsigned mask, bool value) { return !__any_sync(mask, !value); }
inline int __ffs(int value) { return __builtin_ffs(value); }
inline void __syncwarp() { nbl::cuda_host::exchange(nullptr, 0); }

// In the place of CUDA's header: half precision by base/dtype.h.
#pragma once

#include "base/dtype.h"
#include "cuda_runtime.h"

struct __half {
  uint16_t bits;
  __half() = default;
  explicit __half(float value) : bits(nbl::float_to_f16(value)) {}
};
struct alignas(4) __half2 { __half x, y; };
inline float __half2float(__half h) { return nbl::f16_to_float(h.bits); }
inline __half __float2half_rn(float value) { return __half(value); }
inline uint16_t __half_as_ushort(__half h) { return h.bits; }
inline __half __ushort_as_half(uint16_t bits) {
  __half half;
  half.bits = bits;
  return half;
}
inline __half __low2half(__half2 pair) { return pair.x; }
inline __half __high2half(__half2 pair) { return pair.y; }
inline float __low2float(__half2 pair) { return __half2float(pair.x); }
inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
inline __half2 __floats2half2_rn(float x, float y) { return {__half(x), __half(y)}; }
inline float2 __half22float2(__half2 pair) { return {__half2float(pair.x), __half2float(pair.y)}; }
inline __half2 __hsub2(__half2 a, __half2 b) {
  return __floats2half2_rn(__half2float(a.x) - __half2float(b.x), __half2float(a.y) - __half2float(b.y));
}

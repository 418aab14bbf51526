// The activations of gated MLPs, in float32.
#pragma once

#include "model/decoder.h"

namespace nbl::cuda {

__device__ __forceinline__ float activate(Activation kind, float v) {
  if (__builtin_expect(kind == Activation::kSilu, 1)) return __fdividef(v, 1.f + __expf(-v));  // 0 beyond what exp holds
  switch (kind) {
    case Activation::kSilu: break;
    case Activation::kGelu: return 0.5f * v * (1.f + erff(v * 0.70710678118654752f));
    case Activation::kGeluTanh: return 0.5f * v * (1.f + tanhf(0.79788456080286536f * (v + 0.044715f * v * v * v)));
    case Activation::kRelu: return v < 0.f ? 0.f : v;  // NaN stays NaN
  }
  return v;
}

}  // namespace nbl::cuda

// In the place of CUDA's header: bfloat16 by base/dtype.h.
#pragma once

#include "base/dtype.h"
#include "cuda_runtime.h"

struct __nv_bfloat16 { uint16_t bits; };
inline float __bfloat162float(__nv_bfloat16 b) { return nbl::bf16_to_float(b.bits); }

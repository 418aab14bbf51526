// The inner loops in AVX2 with AVX-VNNI (client CPUs without AVX-512): vpdpbusd on 32 bytes.
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "kernels/cpu/isa.h"

namespace nbl {
namespace cpu {
namespace {
// Inline assembly because GCC 12 copies accumulators around the intrinsic; {vex} because the assembler
// prefers EVEX.
static inline __m256i dot256(__m256i acc, __m256i w, __m256i a) {
  __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc) : "x"(w), "x"(a));
  return acc;
}
#define NBL_DOT256 dot256
// clang-format off: each builds on the ones before it
#include "kernels/cpu/vec_avx2.inl"
#include "kernels/cpu/linear_int.inl"
#include "kernels/cpu/one_token.inl"
#include "kernels/cpu/kernels.inl"
// clang-format on
}  // namespace

const Kernels kAvxVnniKernels = NBL_KERNELS("avxvnni", 1);

}  // namespace cpu
}  // namespace nbl

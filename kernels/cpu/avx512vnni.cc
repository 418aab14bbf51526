// The inner loops in AVX-512 with VNNI: 64 bytes of weights are one register, one vpdpbusd is 64
// multiplications.
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "kernels/cpu/isa.h"

namespace nbl {
namespace cpu {
namespace {
// clang-format off: each builds on the ones before it
#include "kernels/cpu/vec_avx512.inl"
#include "kernels/cpu/linear_int.inl"
#include "kernels/cpu/one_token.inl"
#include "kernels/cpu/kernels.inl"
// clang-format on
}  // namespace

const Kernels kAvx512VnniKernels = NBL_KERNELS("avx512vnni", 1);

}  // namespace cpu
}  // namespace nbl

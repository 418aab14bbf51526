// The inner loops in AVX2, FMA and F16C: vpmaddubsw multiplies bytes and adds pairs into 16 bits, which
// saturate.
//
// Codes of at most 127 cannot reach that (2 * 127 * 128 < 2^15); 4-bit codes may even be added up eight
// times.
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "kernels/cpu/isa.h"

namespace nbl {
namespace cpu {
namespace {
static inline __m256i dot256(__m256i acc, __m256i w, __m256i a) {
  return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(w, a), _mm256_set1_epi16(1)));
}
// For codes above 127: even and odd bytes are widened and multiplied as 16-bit numbers.
static inline __m256i dot256_wide(__m256i acc, __m256i w, __m256i a) {
  const __m256i even = _mm256_madd_epi16(_mm256_and_si256(w, _mm256_set1_epi16(255)),
                                         _mm256_srai_epi16(_mm256_slli_epi16(a, 8), 8));
  const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(w, 8), _mm256_srai_epi16(a, 8));
  return _mm256_add_epi32(acc, _mm256_add_epi32(even, odd));
}
#define NBL_DOT256 dot256
#define NBL_DOT256_WIDE dot256_wide
// clang-format off: each builds on the ones before it
#include "kernels/cpu/vec_avx2.inl"
#include "kernels/cpu/narrow_dots_avx2.inl"
#include "kernels/cpu/linear_int.inl"
#include "kernels/cpu/one_token_avx2.inl"
#include "kernels/cpu/kernels.inl"
// clang-format on
}  // namespace

const Kernels kAvx2Kernels = NBL_KERNELS("avx2", 0);

}  // namespace cpu
}  // namespace nbl

// The inner loop of a tile of 4-bit weights with vpmaddubsw: sums of eight dwords stay in 16 bits (8 * 3840 =
// 30720).
#define NBL_NARROW_DOTS

// Inline assembly because GCC 12 moves every sum to another register and spills one around the intrinsic.
static inline void add_words(__m256i* sum, __m256i products) {
  __asm__("vpaddw %1, %0, %0" : "+x"(*sum) : "x"(products));
}

template <int kCount>
static inline __attribute__((always_inline)) void narrow_dots(const uint8_t* w, const int8_t* a,
                                                              int64_t quads, int64_t stride,
                                                              VI (&acc)[kCount][1]) {
  const __m256i ones = _mm256_set1_epi16(1);
  for (int64_t q = 0; q < quads;) {
    const int64_t stop = quads - q < 8 ? quads : q + 8;
    VI sums[kCount];  // of 16-bit numbers
#pragma GCC unroll 8
    for (int i = 0; i < kCount; ++i) sums[i] = vi_set1(0);
    for (; q < stop; ++q, a += stride) {
      const W bytes = w_load(w + 64 * q);
#pragma GCC unroll 8
      for (int i = 0; i < kCount; ++i) {
        const __m256i four = four_load(a + 4 * i);
        add_words(&sums[i].a, _mm256_maddubs_epi16(bytes.a, four));
        add_words(&sums[i].b, _mm256_maddubs_epi16(bytes.b, four));
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < kCount; ++i) {
      acc[i][0].a = _mm256_add_epi32(acc[i][0].a, _mm256_madd_epi16(sums[i].a, ones));
      acc[i][0].b = _mm256_add_epi32(acc[i][0].b, _mm256_madd_epi16(sums[i].b, ones));
    }
  }
}

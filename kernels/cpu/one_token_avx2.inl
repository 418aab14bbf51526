// One panel of 4-bit or 8-bit weights times one token of two-plane activations in AVX2.
//
// 4-bit: a pair of products is at most 2 * 15 * 128 = 3840, so eight of them (four chunks, both nibbles) are
// added in 16 bits (30720) before vpmaddwd widens them. 8-bit: a pair would saturate, so even and odd bytes
// are widened, and the planes put together to 16-bit activations, which vpmaddwd multiplies at once.
struct Narrow {
  __m256i hi_a, hi_b, lo_a, lo_b;
};  // 16-bit sums: plane, half of the panel

static inline void int4_step(Narrow* s, W w, const int8_t* hi, const int8_t* lo) {
  const __m256i h = four_load(hi), l = four_load(lo);
  add_words(&s->hi_a, _mm256_maddubs_epi16(w.a, h));
  add_words(&s->hi_b, _mm256_maddubs_epi16(w.b, h));
  add_words(&s->lo_a, _mm256_maddubs_epi16(w.a, l));
  add_words(&s->lo_b, _mm256_maddubs_epi16(w.b, l));
}

static inline void widen(const Narrow& s, VI* hi, VI* lo) {
  const __m256i ones = _mm256_set1_epi16(1);
  *hi = vi_add(*hi, VI{_mm256_madd_epi16(s.hi_a, ones), _mm256_madd_epi16(s.hi_b, ones)});
  *lo = vi_add(*lo, VI{_mm256_madd_epi16(s.lo_a, ones), _mm256_madd_epi16(s.lo_b, ones)});
}

static inline VF int4_panel(const WeightView* w, int64_t panel, const ActView* a) {
  const int8_t* codes = a->codes;
  const __m256i none = _mm256_setzero_si256();
  VF total = vf_set1(0);
  for (int64_t b = 0; b < w->shape.blocks; ++b) {
    const int64_t length = block_length(w, b);
    const Block block = next_block(w, panel, b);
    const uint8_t* data = block.codes;
    VI hi = vi_set1(0), lo = hi;
    for (int64_t k = 0; k < length;) {
      const int64_t stop = length - k < 32 ? length : k + 32;
      Narrow s = {none, none, none, none};
      for (; k < stop; k += 8, data += 64) {
        fetch_ahead(data);
        const W packed = w_load(data);
        int4_step(&s, w_low_nibbles(packed), codes + k, codes + length + k);
        int4_step(&s, w_high_nibbles(packed), codes + k + 4, codes + length + k + 4);
      }
      widen(s, &hi, &lo);
    }
    codes += 2 * length;
    total = add_block(w, block, a, b, vi_add(vi_sll(hi, 8), lo), total);
  }
  return total;
}

// 2-bit and 3-bit codes, unpacked in registers; four steps fill a quarter of what 16 bits hold.
static inline bool few_bits_panel(const WeightView* w, int64_t panel, const ActView* a, VF* out) {
  const int8_t* codes = a->codes;
  const __m256i none = _mm256_setzero_si256();
  const int three = w->code == kInt3;
  VF total = vf_set1(0);
  for (int64_t b = 0; b < w->shape.blocks; ++b) {
    const int64_t length = block_length(w, b);
    const Block block = next_block(w, panel, b);
    const uint8_t* data = block.codes;
    VI hi = vi_set1(0), lo = hi;
    for (int64_t k = 0; k < length; k += 16, data += three ? 96 : 64) {
      fetch_ahead(data);
      if (three) fetch_ahead(data + 64);
      Narrow s = {none, none, none, none};
      for (int i = 0; i < 4; ++i)
        int4_step(&s, few_bits(data, i, three), codes + k + 4 * i, codes + length + k + 4 * i);
      widen(s, &hi, &lo);
    }
    codes += 2 * length;
    total = add_block(w, block, a, b, vi_add(vi_sll(hi, 8), lo), total);
  }
  *out = total;
  return true;
}

static inline VF int8_panel(const WeightView* w, int64_t panel, const ActView* a) {
  const int8_t* codes = a->codes;
  const __m256i byte = _mm256_set1_epi16(255);
  VF total = vf_set1(0);
  for (int64_t b = 0; b < w->shape.blocks; ++b) {
    const int64_t length = block_length(w, b);
    const Block block = next_block(w, panel, b);
    const uint8_t* data = block.codes;
    VI even = vi_set1(0), odd = even;
    for (int64_t k = 0; k < length; k += 4, data += 64) {
      fetch_ahead(data);
      const W packed = w_load(data);
      const __m256i h = four_load(codes + k), l = four_load(codes + length + k);
      // 256 * high + low, the low byte sign-extended.
      const __m256i x_even =
          _mm256_add_epi16(_mm256_slli_epi16(h, 8), _mm256_srai_epi16(_mm256_slli_epi16(l, 8), 8));
      const __m256i x_odd = _mm256_add_epi16(_mm256_andnot_si256(byte, h), _mm256_srai_epi16(l, 8));
      even.a = _mm256_add_epi32(even.a, _mm256_madd_epi16(_mm256_and_si256(packed.a, byte), x_even));
      even.b = _mm256_add_epi32(even.b, _mm256_madd_epi16(_mm256_and_si256(packed.b, byte), x_even));
      odd.a = _mm256_add_epi32(odd.a, _mm256_madd_epi16(_mm256_srli_epi16(packed.a, 8), x_odd));
      odd.b = _mm256_add_epi32(odd.b, _mm256_madd_epi16(_mm256_srli_epi16(packed.b, 8), x_odd));
    }
    codes += 2 * length;
    total = add_block(w, block, a, b, vi_add(even, odd), total);
  }
  return total;
}

// Codebooks stay floats here (Kernels::codebook_integers is 0): their bytes would saturate.
static inline bool codebook_int_panel(const WeightView*, int64_t, const ActView*, VF*) { return false; }

// Vectors of 16 lanes in AVX-512 (F, BW, VL, DQ, VNNI). The meaning of every function is that of
// vec_generic.inl.

typedef __m512 VF;
typedef __m512i VI;
typedef __m512i W;

constexpr int kTokens = 8;
constexpr int kPanels = 2;
constexpr int kValueRows = 4;
constexpr int kValueVecs = 4;
constexpr int kCodebookSums = 2;

static inline VF vf_set1(float x) { return _mm512_set1_ps(x); }
static inline VF vf_load(const float* p) { return _mm512_loadu_ps(p); }
static inline void vf_store(float* p, VF a) { _mm512_storeu_ps(p, a); }
static inline VF vf_add(VF a, VF b) { return _mm512_add_ps(a, b); }
static inline VF vf_sub(VF a, VF b) { return _mm512_sub_ps(a, b); }
static inline VF vf_mul(VF a, VF b) { return _mm512_mul_ps(a, b); }
static inline VF vf_div(VF a, VF b) { return _mm512_div_ps(a, b); }
static inline VF vf_fma(VF a, VF b, VF c) { return _mm512_fmadd_ps(a, b, c); }
static inline VF vf_fnma(VF a, VF b, VF c) { return _mm512_fnmadd_ps(a, b, c); }
static inline VF vf_max(VF a, VF b) { return _mm512_max_ps(a, b); }
static inline VF vf_min(VF a, VF b) { return _mm512_min_ps(a, b); }
static inline VF vf_abs(VF a) { return _mm512_abs_ps(a); }
static inline VF vf_zero_below(VF x, VF limit, VF a) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, limit, _CMP_NLT_UQ), a);
}
static inline int vf_any_above(VF a, float limit) {
  return _mm512_cmp_ps_mask(a, _mm512_set1_ps(limit), _CMP_GT_OQ) != 0;
}
static inline float vf_sum(VF a) { return _mm512_reduce_add_ps(a); }
static inline float vf_largest(VF a) { return _mm512_reduce_max_ps(a); }
static inline VF vf_f16(const uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
static inline VF vf_bf16(const uint16_t* p) {
  return _mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16));
}
static inline VF vf_u8(const uint8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p)));
}
static inline void vf_to_f16(VF a, uint16_t* p) {
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
static inline VF vf_round_f16(VF a) {
  return _mm512_cvtph_ps(_mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
static inline VF vf_round_bf16(VF a) {
  const __m512i bits = _mm512_castps_si512(a);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  return _mm512_castsi512_ps(_mm512_and_si512(rounded, _mm512_set1_epi32((int)0xffff0000u)));
}

static inline VI vi_set1(int32_t x) { return _mm512_set1_epi32(x); }
static inline VI vi_load(const void* p) { return _mm512_loadu_si512(p); }
static inline VI vi_add(VI a, VI b) { return _mm512_add_epi32(a, b); }
static inline VI vi_sub(VI a, VI b) { return _mm512_sub_epi32(a, b); }
static inline VI vi_and(VI a, VI b) { return _mm512_and_si512(a, b); }
static inline VI vi_srl(VI a, int n) { return _mm512_srli_epi32(a, (unsigned)n); }
static inline VI vi_sra(VI a, int n) { return _mm512_srai_epi32(a, (unsigned)n); }
static inline VI vi_sll(VI a, int n) { return _mm512_slli_epi32(a, (unsigned)n); }
static inline VF vf_from_vi(VI a) { return _mm512_cvtepi32_ps(a); }
static inline VI vi_round(VF a) { return _mm512_cvtps_epi32(a); }
static inline void vi_store_low_bytes(VI a, int8_t* p) {
  _mm_storeu_si128((__m128i*)p, _mm512_cvtepi32_epi8(a));
}
static inline VF vf_exp2i(VI n) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(127)), 23));
}
typedef __m512 Table;
static inline Table table_load(const float* p) { return _mm512_loadu_ps(p); }
// vpermps looks at the low four bits of each lane only.
static inline VF table_look(Table t, VI code) { return _mm512_permutexvar_ps(code, t); }

static inline W w_load(const uint8_t* p) { return _mm512_loadu_si512(p); }
static inline void w_store(uint8_t* p, W a) { _mm512_storeu_si512(p, a); }
static inline W w_set1(int x) { return _mm512_set1_epi8((char)x); }
static inline W w_and(W a, W b) { return _mm512_and_si512(a, b); }
static inline W w_low_nibbles(W a) { return _mm512_and_si512(a, _mm512_set1_epi8(15)); }
static inline W w_high_nibbles(W a) {
  return _mm512_and_si512(_mm512_srli_epi16(a, 4), _mm512_set1_epi8(15));
}
static inline W w_or(W a, W b) { return _mm512_or_si512(a, b); }
static inline W w_two_bits(W a, int n) {
  return _mm512_and_si512(_mm512_srli_epi16(a, (unsigned)n), _mm512_set1_epi8(3));
}
static inline W w_fours(const uint8_t* bits) {
  __mmask64 mask;
  memcpy(&mask, bits, 8);
  return _mm512_maskz_mov_epi8(mask, _mm512_set1_epi8(4));
}
typedef __m512i Bytes;
static inline Bytes bytes_load(const uint8_t* p) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)p));
}
static inline W bytes_look(Bytes t, W code) { return _mm512_shuffle_epi8(t, code); }
// Inline assembly because GCC 12 copies and spills accumulators around the intrinsic; the broadcast is part
// of it. Where several panels take the same activations, `Four` broadcasts once: loads bind those loops.
static inline VI dot(VI acc, W w, const int8_t* a) {
  __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(w), "m"(*(const int32_t*)a));
  return acc;
}
typedef __m512i Four;
static inline Four four_load(const int8_t* a) {
  int32_t bits;
  memcpy(&bits, a, 4);
  return _mm512_set1_epi32(bits);
}
static inline VI dot(VI acc, W w, Four a) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(w), "v"(a));
  return acc;
}
static inline VI dot_wide(VI acc, W w, Four a) { return dot(acc, w, a); }

// Vectors of 16 lanes as two AVX2 registers. The meaning of every function is that of vec_generic.inl.
// The includer defines NBL_DOT256(acc, w, a): 8 lanes of dot() with `a` a broadcast dword.

struct VF {
  __m256 a, b;
};
struct VI {
  __m256i a, b;
};
typedef VI W;

constexpr int kTokens = 4;
constexpr int kPanels = 1;
constexpr int kValueRows = 2;
constexpr int kValueVecs = 2;
constexpr int kCodebookSums = 1;

#define NBL_EACH(f, ...) \
  { f(x.a, ##__VA_ARGS__), f(x.b, ##__VA_ARGS__) }
#define NBL_PAIR(f) \
  { f(x.a, y.a), f(x.b, y.b) }

static inline VF vf_set1(float s) {
  const __m256 v = _mm256_set1_ps(s);
  return {v, v};
}
static inline VF vf_load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
static inline void vf_store(float* p, VF x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
static inline VF vf_add(VF x, VF y) { return NBL_PAIR(_mm256_add_ps); }
static inline VF vf_sub(VF x, VF y) { return NBL_PAIR(_mm256_sub_ps); }
static inline VF vf_mul(VF x, VF y) { return NBL_PAIR(_mm256_mul_ps); }
static inline VF vf_div(VF x, VF y) { return NBL_PAIR(_mm256_div_ps); }
static inline VF vf_fma(VF x, VF y, VF z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
static inline VF vf_fnma(VF x, VF y, VF z) {
  return {_mm256_fnmadd_ps(x.a, y.a, z.a), _mm256_fnmadd_ps(x.b, y.b, z.b)};
}
static inline VF vf_max(VF x, VF y) { return NBL_PAIR(_mm256_max_ps); }
static inline VF vf_min(VF x, VF y) { return NBL_PAIR(_mm256_min_ps); }
static inline VF vf_abs(VF x) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
static inline VF vf_zero_below(VF x, VF limit, VF y) {
  return {_mm256_and_ps(_mm256_cmp_ps(x.a, limit.a, _CMP_NLT_UQ), y.a),
          _mm256_and_ps(_mm256_cmp_ps(x.b, limit.b, _CMP_NLT_UQ), y.b)};
}
static inline int vf_any_above(VF x, float limit) {
  return _mm256_movemask_ps(_mm256_cmp_ps(_mm256_max_ps(x.a, x.b), _mm256_set1_ps(limit), _CMP_GT_OQ)) != 0;
}
static inline float vf_sum(VF x) {
  const __m256 v = _mm256_add_ps(x.a, x.b);
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
static inline float vf_largest(VF x) {
  const __m256 v = _mm256_max_ps(x.a, x.b);
  __m128 q = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  q = _mm_max_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}
static inline VF vf_f16(const uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)),
          _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 8)))};
}
static inline __m256 bf16_half(const uint16_t* p) {
  return _mm256_castsi256_ps(
      _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16));
}
static inline VF vf_bf16(const uint16_t* p) { return {bf16_half(p), bf16_half(p + 8)}; }
static inline VF vf_u8(const uint8_t* p) {
  return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p))),
          _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)(p + 8))))};
}
static inline void vf_to_f16(VF x, uint16_t* p) {
  _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128((__m128i*)(p + 8), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT));
}
static inline VF vf_round_f16(VF x) {
  return {_mm256_cvtph_ps(_mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT)),
          _mm256_cvtph_ps(_mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT))};
}
static inline __m256 round_bf16_half(__m256 v) {
  const __m256i bits = _mm256_castps_si256(v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  return _mm256_castsi256_ps(_mm256_and_si256(rounded, _mm256_set1_epi32((int)0xffff0000u)));
}
static inline VF vf_round_bf16(VF x) { return NBL_EACH(round_bf16_half); }

static inline VI vi_set1(int32_t s) {
  const __m256i v = _mm256_set1_epi32(s);
  return {v, v};
}
static inline VI vi_load(const void* p) {
  return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)p + 1)};
}
static inline VI vi_add(VI x, VI y) { return NBL_PAIR(_mm256_add_epi32); }
static inline VI vi_sub(VI x, VI y) { return NBL_PAIR(_mm256_sub_epi32); }
static inline VI vi_and(VI x, VI y) { return NBL_PAIR(_mm256_and_si256); }
static inline VI vi_srl(VI x, int n) { return NBL_EACH(_mm256_srli_epi32, n); }
static inline VI vi_sra(VI x, int n) { return NBL_EACH(_mm256_srai_epi32, n); }
static inline VI vi_sll(VI x, int n) { return NBL_EACH(_mm256_slli_epi32, n); }
static inline VF vf_from_vi(VI x) { return NBL_EACH(_mm256_cvtepi32_ps); }
static inline VI vi_round(VF x) { return NBL_EACH(_mm256_cvtps_epi32); }
static inline __m128i low_bytes_half(__m256i v) {  // 8 lanes -> 8 bytes in the low half
  const __m256i pick = _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 4, 8,
                                        12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
  const __m256i bytes = _mm256_shuffle_epi8(v, pick);
  return _mm_unpacklo_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
}
static inline void vi_store_low_bytes(VI x, int8_t* p) {
  _mm_storeu_si128((__m128i*)p, _mm_unpacklo_epi64(low_bytes_half(x.a), low_bytes_half(x.b)));
}
static inline __m256 exp2i_half(__m256i n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}
static inline VF vf_exp2i(VI x) { return NBL_EACH(exp2i_half); }
typedef VF Table;
static inline Table table_load(const float* p) { return vf_load(p); }
static inline __m256 table_look_half(Table t, __m256i code) {
  // vpermps looks at three bits; the fourth, moved to the sign, picks the half.
  return _mm256_blendv_ps(_mm256_permutevar8x32_ps(t.a, code), _mm256_permutevar8x32_ps(t.b, code),
                          _mm256_castsi256_ps(_mm256_slli_epi32(code, 28)));
}
static inline VF table_look(Table t, VI code) {
  return {table_look_half(t, code.a), table_look_half(t, code.b)};
}

static inline W w_load(const uint8_t* p) { return vi_load(p); }
static inline void w_store(uint8_t* p, W x) {
  _mm256_storeu_si256((__m256i*)p, x.a);
  _mm256_storeu_si256((__m256i*)p + 1, x.b);
}
static inline W w_set1(int s) {
  const __m256i v = _mm256_set1_epi8((char)s);
  return {v, v};
}
static inline W w_and(W x, W y) { return NBL_PAIR(_mm256_and_si256); }
static inline W w_low_nibbles(W x) {
  const __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(x.a, mask), _mm256_and_si256(x.b, mask)};
}
static inline W w_high_nibbles(W x) {
  return w_low_nibbles({_mm256_srli_epi16(x.a, 4), _mm256_srli_epi16(x.b, 4)});
}
static inline W w_or(W x, W y) { return NBL_PAIR(_mm256_or_si256); }
static inline W w_two_bits(W x, int n) {
  const __m256i mask = _mm256_set1_epi8(3);
  return {_mm256_and_si256(_mm256_srli_epi16(x.a, n), mask),
          _mm256_and_si256(_mm256_srli_epi16(x.b, n), mask)};
}
static inline __m256i fours_half(const uint8_t* bits) {
  int32_t four;
  memcpy(&four, bits, 4);
  // Byte i of the result gets the byte that holds bit i, and keeps that bit alone.
  const __m256i spread = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2,
                                          2, 3, 3, 3, 3, 3, 3, 3, 3);
  const __m256i bit = _mm256_set1_epi64x((int64_t)0x8040201008040201ull);
  const __m256i alone = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(four), spread), bit);
  return _mm256_and_si256(_mm256_cmpeq_epi8(alone, bit), _mm256_set1_epi8(4));
}
static inline W w_fours(const uint8_t* bits) { return {fours_half(bits), fours_half(bits + 4)}; }
typedef __m256i Bytes;
static inline Bytes bytes_load(const uint8_t* p) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)p));
}
static inline W bytes_look(Bytes t, W code) {
  return {_mm256_shuffle_epi8(t, code.a), _mm256_shuffle_epi8(t, code.b)};
}
typedef __m256i Four;
static inline Four four_load(const int8_t* a) {
  int32_t bits;
  memcpy(&bits, a, 4);
  return _mm256_set1_epi32(bits);
}
static inline VI dot(VI acc, W w, Four a) {
  return {NBL_DOT256(acc.a, w.a, a), NBL_DOT256(acc.b, w.b, a)};
}
static inline VI dot(VI acc, W w, const int8_t* a) { return dot(acc, w, four_load(a)); }
#ifdef NBL_DOT256_WIDE
static inline VI dot_wide(VI acc, W w, Four a) {
  return {NBL_DOT256_WIDE(acc.a, w.a, a), NBL_DOT256_WIDE(acc.b, w.b, a)};
}
#else
static inline VI dot_wide(VI acc, W w, Four a) { return dot(acc, w, a); }
#endif

// Vectors of 16 lanes in portable C++: what the .inl kernels are written in, for machines without a file of
// their own.
//
// VF: 16 float32. VI: 16 int32. W: 64 bytes. dot(): acc[r] += sum over j of u8 w[4r+j] * s8 a[j].

struct VF {
  float v[16];
};
struct VI {
  int32_t v[16];
};
struct W {
  uint8_t v[64];
};

constexpr int kTokens = 4;     // tokens of one inner tile
constexpr int kPanels = 1;     // panels of one inner tile
constexpr int kValueRows = 2;  // query rows and value vectors of one attention tile
constexpr int kValueVecs = 4;
constexpr int kCodebookSums = 1;  // of each kind, in a product of one token with a codebook

#define NBL_LANES for (int i = 0; i < 16; ++i)

static inline VF vf_set1(float x) {
  VF r;
  NBL_LANES r.v[i] = x;
  return r;
}
static inline VF vf_load(const float* p) {
  VF r;
  memcpy(&r, p, 64);
  return r;
}
static inline void vf_store(float* p, VF a) { memcpy(p, &a, 64); }
static inline VF vf_add(VF a, VF b) {
  NBL_LANES a.v[i] += b.v[i];
  return a;
}
static inline VF vf_sub(VF a, VF b) {
  NBL_LANES a.v[i] -= b.v[i];
  return a;
}
static inline VF vf_mul(VF a, VF b) {
  NBL_LANES a.v[i] *= b.v[i];
  return a;
}
static inline VF vf_div(VF a, VF b) {
  NBL_LANES a.v[i] /= b.v[i];
  return a;
}
static inline VF vf_fma(VF a, VF b, VF c) {
  NBL_LANES c.v[i] += a.v[i] * b.v[i];
  return c;
}
static inline VF vf_fnma(VF a, VF b, VF c) {
  NBL_LANES c.v[i] -= a.v[i] * b.v[i];
  return c;
}
static inline VF vf_max(VF a, VF b) {
  NBL_LANES a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
  return a;
}
static inline VF vf_min(VF a, VF b) {
  NBL_LANES a.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i];
  return a;
}
static inline VF vf_abs(VF a) {
  NBL_LANES a.v[i] = a.v[i] < 0 ? -a.v[i] : a.v[i];
  return a;
}
static inline VF vf_zero_below(VF x, VF limit, VF a) {
  NBL_LANES a.v[i] = x.v[i] < limit.v[i] ? 0.0f : a.v[i];
  return a;
}
static inline int vf_any_above(VF a, float limit) {
  int any = 0;
  NBL_LANES any |= a.v[i] > limit;
  return any;
}
static inline float vf_sum(VF a) {
  for (int n = 8; n > 0; n /= 2)
    for (int i = 0; i < n; ++i) a.v[i] += a.v[i + n];
  return a.v[0];
}
static inline float vf_largest(VF a) {
  for (int n = 8; n > 0; n /= 2)
    for (int i = 0; i < n; ++i) a.v[i] = a.v[i] > a.v[i + n] ? a.v[i] : a.v[i + n];
  return a.v[0];
}
static inline VF vf_f16(const uint16_t* p) {
  VF r;
  NBL_LANES r.v[i] = f16_to_float(p[i]);
  return r;
}
static inline VF vf_bf16(const uint16_t* p) {
  VF r;
  NBL_LANES r.v[i] = bf16_to_float(p[i]);
  return r;
}
static inline VF vf_u8(const uint8_t* p) {
  VF r;
  NBL_LANES r.v[i] = p[i];
  return r;
}
static inline void vf_to_f16(VF a, uint16_t* p) { NBL_LANES p[i] = float_to_f16(a.v[i]); }
static inline VF vf_round_f16(VF a) {
  NBL_LANES a.v[i] = f16_to_float(float_to_f16(a.v[i]));
  return a;
}
static inline VF vf_round_bf16(VF a) {
  NBL_LANES a.v[i] = bf16_to_float(float_to_bf16(a.v[i]));
  return a;
}

static inline VI vi_set1(int32_t x) {
  VI r;
  NBL_LANES r.v[i] = x;
  return r;
}
static inline VI vi_load(const void* p) {
  VI r;
  memcpy(&r, p, 64);
  return r;
}
static inline VI vi_add(VI a, VI b) {
  NBL_LANES a.v[i] += b.v[i];
  return a;
}
static inline VI vi_sub(VI a, VI b) {
  NBL_LANES a.v[i] -= b.v[i];
  return a;
}
static inline VI vi_and(VI a, VI b) {
  NBL_LANES a.v[i] &= b.v[i];
  return a;
}
static inline VI vi_srl(VI a, int n) {
  NBL_LANES a.v[i] = static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) >> n);
  return a;
}
static inline VI vi_sra(VI a, int n) {
  NBL_LANES a.v[i] >>= n;
  return a;
}
static inline VI vi_sll(VI a, int n) {
  NBL_LANES a.v[i] = static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) << n);
  return a;
}
static inline VF vf_from_vi(VI a) {
  VF r;
  NBL_LANES r.v[i] = static_cast<float>(a.v[i]);
  return r;
}
// Nearest, ties to even, for |x| < 2^22: the addition rounds at the unit.
static inline VI vi_round(VF a) {
  VI r;
  NBL_LANES {
    const float shifted = a.v[i] + 12582912.0f;
    int32_t bits;
    memcpy(&bits, &shifted, 4);
    r.v[i] = bits - 0x4b400000;
  }
  return r;
}
static inline void vi_store_low_bytes(VI a, int8_t* p) {
  NBL_LANES p[i] = static_cast<int8_t>(static_cast<uint8_t>(static_cast<uint32_t>(a.v[i])));
}
// 2^n for n in -126 .. 127
static inline VF vf_exp2i(VI n) {
  VF r;
  NBL_LANES {
    const uint32_t bits = static_cast<uint32_t>(n.v[i] + 127) << 23;
    memcpy(&r.v[i], &bits, 4);
  }
  return r;
}
struct Table {
  float v[16];
};
static inline Table table_load(const float* p) {
  Table t;
  memcpy(&t, p, 64);
  return t;
}
static inline VF table_look(Table t, VI code) {
  VF r;
  NBL_LANES r.v[i] = t.v[code.v[i] & 15];
  return r;
}

static inline W w_load(const uint8_t* p) {
  W r;
  memcpy(&r, p, 64);
  return r;
}
static inline void w_store(uint8_t* p, W a) { memcpy(p, &a, 64); }
static inline W w_set1(int x) {
  W r;
  memset(&r, x, 64);
  return r;
}
static inline W w_and(W a, W b) {
  for (int i = 0; i < 64; ++i) a.v[i] &= b.v[i];
  return a;
}
static inline W w_low_nibbles(W a) {
  for (int i = 0; i < 64; ++i) a.v[i] &= 15;
  return a;
}
static inline W w_high_nibbles(W a) {
  for (int i = 0; i < 64; ++i) a.v[i] >>= 4;
  return a;
}
static inline W w_or(W a, W b) {
  for (int i = 0; i < 64; ++i) a.v[i] |= b.v[i];
  return a;
}
// Every byte's bits n and n+1.
static inline W w_two_bits(W a, int n) {
  for (int i = 0; i < 64; ++i) a.v[i] = a.v[i] >> n & 3;
  return a;
}
// Byte i is 4 where bit i of the eight bytes is set, else 0.
static inline W w_fours(const uint8_t* bits) {
  W r;
  for (int i = 0; i < 64; ++i) r.v[i] = (bits[i / 8] >> i % 8 & 1) * 4;
  return r;
}
struct Bytes {
  uint8_t v[16];
};
static inline Bytes bytes_load(const uint8_t* p) {
  Bytes t;
  memcpy(&t, p, 16);
  return t;
}
static inline W bytes_look(Bytes t, W code) {
  for (int i = 0; i < 64; ++i) code.v[i] = t.v[code.v[i]];
  return code;
}
static inline VI dot(VI acc, W w, const int8_t* a) {
  NBL_LANES acc.v[i] +=
      w.v[4 * i] * a[0] + w.v[4 * i + 1] * a[1] + w.v[4 * i + 2] * a[2] + w.v[4 * i + 3] * a[3];
  return acc;
}
// The four activations `a` of a dot(), ready for several.
typedef const int8_t* Four;
static inline Four four_load(const int8_t* a) { return a; }
// The same for codes above 127.
static inline VI dot_wide(VI acc, W w, Four a) { return dot(acc, w, a); }

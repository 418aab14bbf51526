// Weights as float32 times float32 activations: codebooks, f16/bf16/f32 matrices, and every format when the
// precision asked for is float32 (then the dequantized value is rounded as the tool that made the checkpoint
// rounds it).
//
// Many tokens: each block of a pair of panels is dequantized once to L1 ([k][16 rows]) and multiplied with
// every tile. One token: f16, bf16, f32 and codebooks are multiplied straight from memory.

static inline VF round_value(VF v, int rounding) {
  if (rounding == kRoundF16) return vf_round_f16(v);
  if (rounding == kRoundBf16) return vf_round_bf16(v);
  return v;
}

// out[length][16]
static void dequantize_block(const WeightView* w, int64_t panel, int64_t block, int64_t length, float* out) {
  const Block packed = block_of(w, panel, block);
  switch (w->code) {
    case kF16:
      for (int64_t k = 0; k < length; ++k) vf_store(out + 16 * k, vf_f16((const uint16_t*)packed.codes + k * 16));
      return;
    case kBf16:
      for (int64_t k = 0; k < length; ++k) vf_store(out + 16 * k, vf_bf16((const uint16_t*)packed.codes + k * 16));
      return;
    case kF32:
      memcpy(out, packed.codes, (size_t)length * 64);
      return;
    default:
      break;
  }
  const VF scale = load_scales(w, packed);
  if (w->code == kCodebook4) {
    const Table table = table_load(w->codebook);
    for (int64_t c = 0; c < length / 8; ++c) {
      const VI eight = vi_load(packed.codes + 64 * c);
      for (int j = 0; j < 8; ++j) {
        const int shift = j < 4 ? 8 * j : 8 * (j - 4) + 4;
        vf_store(out + (8 * c + j) * 16,
                 round_value(vf_mul(table_look(table, vi_srl(eight, shift)), scale), w->rounding));
      }
    }
    return;
  }
  alignas(64) uint8_t buffer[kUnpacked];
  const uint8_t* codes = unpack_block(w, packed.codes, length, buffer, nullptr);
  const VF zero = load_zeros(w, packed);
  const VI mask = vi_set1(255);
  for (int64_t k = 0; k < length; k += 4) {
    const VI quad = vi_load(codes + 16 * k);
    for (int j = 0; j < 4; ++j) {
      const VF q = vf_from_vi(vi_and(vi_srl(quad, 8 * j), mask));
      vf_store(out + (k + j) * 16, round_value(vf_mul(vf_sub(q, zero), scale), w->rounding));
    }
  }
}

struct FloatTile {
  const float* w[kPanels];  // [length][16]
  const float* x;
  int64_t length;
  int64_t stride;  // floats from one k of a token to its next
  float* sum;      // [tokens][32]
};

template <int kCount, int kPanelCount>
static inline __attribute__((always_inline)) void float_tile(const FloatTile& t) {
  VF acc[kCount][kPanelCount];
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i)
#pragma GCC unroll 2
    for (int p = 0; p < kPanelCount; ++p) acc[i][p] = vf_load(t.sum + i * 32 + p * kPanel);
  const float* x = t.x;
  for (int64_t k = 0; k < t.length; ++k, x += t.stride) {
    VF w[kPanelCount];
#pragma GCC unroll 2
    for (int p = 0; p < kPanelCount; ++p) w[p] = vf_load(t.w[p] + 16 * k);
#pragma GCC unroll 8
    for (int i = 0; i < kCount; ++i)
#pragma GCC unroll 2
      for (int p = 0; p < kPanelCount; ++p) acc[i][p] = vf_fma(w[p], vf_set1(x[i]), acc[i][p]);
  }
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i)
#pragma GCC unroll 2
    for (int p = 0; p < kPanelCount; ++p) vf_store(t.sum + i * 32 + p * kPanel, acc[i][p]);
}

template <int kPanelCount>
static void float_tiles(const FloatTile& t, int count) {
  switch (count) {
    case 1:
      float_tile<1, kPanelCount>(t);
      break;
    case 2:
      float_tile<2, kPanelCount>(t);
      break;
    case 3:
      float_tile<3, kPanelCount>(t);
      break;
    case 4:
      float_tile<4, kPanelCount>(t);
      break;
    case 5:
      float_tile<5 <= kTokens ? 5 : 1, kPanelCount>(t);
      break;
    case 6:
      float_tile<6 <= kTokens ? 6 : 1, kPanelCount>(t);
      break;
    case 7:
      float_tile<7 <= kTokens ? 7 : 1, kPanelCount>(t);
      break;
    default:
      float_tile<8 <= kTokens ? 8 : 1, kPanelCount>(t);
      break;
  }
}

static void float_block(const WeightView* w, const ActView* a, int64_t panel, int count, int64_t block,
                        int64_t begin, int64_t end, float* sums) {
  alignas(64) float buffer[kPanels * kUnpacked];
  const int64_t length = block_length(w, block);
  FloatTile t;
  t.length = length;
  for (int p = 0; p < count; ++p) {
    dequantize_block(w, panel + p, block, length, buffer + p * kUnpacked);
    t.w[p] = buffer + p * kUnpacked;
  }
  const float* values = a->values + block * w->block * a->m;
  for (int64_t first = begin; first < end; first += kTile) {
    const int64_t width = a->m - first < kTile ? a->m - first : kTile;
    t.stride = width;
    for (int64_t i = 0; i < width; i += kTokens) {
      t.x = values + first * length + i;
      t.sum = sums + (first - begin + i) * 32;
      const int tokens = (int)(width - i < kTokens ? width - i : kTokens);
      count == kPanels ? float_tiles<kPanels>(t, tokens) : float_tiles<1>(t, tokens);
    }
  }
}

// ---- one token

template <int kCode>
static inline VF load_values(const uint8_t* data, int64_t k) {
  if (kCode == kF16) return vf_f16((const uint16_t*)data + k * 16);
  if (kCode == kBf16) return vf_bf16((const uint16_t*)data + k * 16);
  return vf_load((const float*)data + k * 16);
}

// Sixteen rows times x[length]. Four sums, because one would wait for each addition.
template <int kCode>
static inline VF dense_panel(const uint8_t* data, const float* x, int64_t length) {
  VF s0 = vf_set1(0), s1 = s0, s2 = s0, s3 = s0;
  int64_t k = 0;
  constexpr int64_t kBytes = kCode == kF32 ? 64 : 32;  // of a column
  for (; k + 4 <= length; k += 4) {
    fetch_ahead(data + k * kBytes);
    fetch_ahead(data + k * kBytes + 64);
    s0 = vf_fma(load_values<kCode>(data, k), vf_set1(x[k]), s0);
    s1 = vf_fma(load_values<kCode>(data, k + 1), vf_set1(x[k + 1]), s1);
    s2 = vf_fma(load_values<kCode>(data, k + 2), vf_set1(x[k + 2]), s2);
    s3 = vf_fma(load_values<kCode>(data, k + 3), vf_set1(x[k + 3]), s3);
  }
  for (; k < length; ++k) s0 = vf_fma(load_values<kCode>(data, k), vf_set1(x[k]), s0);
  return vf_add(vf_add(s0, s1), vf_add(s2, s3));
}

// A codebook panel without rounding: the scale is multiplied once for each block.
static inline VF codebook_panel(const WeightView* w, int64_t panel, const float* x) {
  const Table table = table_load(w->codebook);
  VF total = vf_set1(0);
  for (int64_t b = 0; b < w->shape.blocks; ++b) {
    const int64_t length = block_length(w, b);
    const Block block = next_block(w, panel, b);
    const uint8_t* data = block.codes;
    VF s0 = vf_set1(0), s1 = s0, s2 = s0, s3 = s0;
    for (int64_t c = 0; c < length / 8; ++c, data += 64, x += 8) {
      fetch_ahead(data);
      const VI packed = vi_load(data);
      s0 = vf_fma(table_look(table, packed), vf_set1(x[0]), s0);
      s1 = vf_fma(table_look(table, vi_srl(packed, 8)), vf_set1(x[1]), s1);
      s2 = vf_fma(table_look(table, vi_srl(packed, 16)), vf_set1(x[2]), s2);
      s3 = vf_fma(table_look(table, vi_srl(packed, 24)), vf_set1(x[3]), s3);
      s0 = vf_fma(table_look(table, vi_srl(packed, 4)), vf_set1(x[4]), s0);
      s1 = vf_fma(table_look(table, vi_srl(packed, 12)), vf_set1(x[5]), s1);
      s2 = vf_fma(table_look(table, vi_srl(packed, 20)), vf_set1(x[6]), s2);
      s3 = vf_fma(table_look(table, vi_srl(packed, 28)), vf_set1(x[7]), s3);
    }
    total = vf_fma(load_scales(w, block), vf_add(vf_add(s0, s1), vf_add(s2, s3)), total);
  }
  return total;
}

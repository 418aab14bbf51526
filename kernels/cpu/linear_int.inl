// Integer weights times integer activations: y = sum over blocks of scale * d * (sum q*a - zero * sum a).
//
// Each pair of panels is unpacked once for a block to bytes in L1 ([k/4][16 rows][4]) and multiplied with
// every tile of tokens; partial sums stay in `scratch` as float32. A decode step (m = 1) of 4-bit weights
// unpacks in registers instead. The integer sums are exact: |256*hi + lo| * 255 * 128 < 2^31.
//
// A codebook's values are 16-bit integers here, 256 * high + low, of which the product low * lo is left out:
// it is 2^-16 of the whole, no more than the rounding of the activations.

// Asks for weights that one token's loops will come to. What the machine fetches by itself ends at small
// pages and comes late: one thread reads a sixth more with this. Nobody reads them twice, so they need not be kept: in the
// second-level cache each would drive out a line, which costs as much again.
static inline void fetch_ahead(const uint8_t* data) {
  constexpr int64_t kAhead = 8192;
  constexpr int kForWriting = 0, kKept = 0;
  __builtin_prefetch(data + kAhead, kForWriting, kKept);
}

// One block of a panel.
struct Block {
  const uint8_t *scales, *zeros, *codes;
};
static inline Block block_of(const WeightView* w, int64_t panel, int64_t block) {
  const uint8_t* data = w->data + panel * w->panel_bytes;
  const BlockPlace place = place_of_block(&w->shape, block);
  return {data + place.scales, data + place.zeros, data + place.codes};
}
// The same where one token's loops read it, which ask for what stands in front of a unit's codes too.
static inline Block next_block(const WeightView* w, int64_t panel, int64_t block) {
  const Block next = block_of(w, panel, block);
  if (block % kUnit == 0)
    for (const uint8_t* at = next.scales; at < next.codes; at += kLine) fetch_ahead(at);
  return next;
}

static inline VF load_scales(const WeightView* w, const Block& block) {
  switch (w->scale_type) {
    case kScaleF16:
      return vf_f16((const uint16_t*)block.scales);
    case kScaleBf16:
      return vf_bf16((const uint16_t*)block.scales);
    default:
      return vf_load((const float*)block.scales);
  }
}

static inline VF load_zeros(const WeightView* w, const Block& block) {
  return w->shape.zero_bytes ? vf_u8(block.zeros) : vf_set1(w->zero);
}

static inline int64_t block_length(const WeightView* w, int64_t block) {
  return block + 1 < w->shape.blocks ? w->block : w->last_block;
}

// What the integer sums of a block of one token, block number b, add to the rows of a panel.
static inline VF add_block(const WeightView* w, const Block& block, const ActView* a, int64_t b, VI whole, VF total) {
  const VF centred = vf_fnma(load_zeros(w, block), vf_set1(a->sums[b]), vf_from_vi(whole));
  return vf_fma(vf_mul(load_scales(w, block), vf_set1(a->scales[b])), centred, total);
}

constexpr int64_t kUnpacked = kMaxBlock * kPanel;  // bytes of one panel's block

// The i-th four columns of a chunk of 16 of 2-bit or 3-bit codes.
static inline W few_bits(const uint8_t* chunk, int i, int three) {
  const W two = w_two_bits(w_load(chunk), 2 * i);
  return three ? w_or(two, w_fours(chunk + 64 + 8 * i)) : two;
}

// Where the bytes of one block are: in `buffer`, or in the weights themselves when they are bytes already.
static inline const uint8_t* unpack_block(const WeightView* w, const uint8_t* data, int64_t length, uint8_t* buffer, uint8_t* low) {
  if (w->code == kInt8) return data;
  if (w->code == kInt2 || w->code == kInt3) {
    const int64_t chunk = w->code == kInt2 ? 64 : 96;  // 16 columns
    for (int64_t c = 0; c < length / 16; ++c, data += chunk)
      for (int i = 0; i < 4; ++i) w_store(buffer + 256 * c + 64 * i, few_bits(data, i, w->code == kInt3));
    return buffer;
  }
  if (w->code == kCodebook4 && low) {
    const Bytes high_table = bytes_load(w->high_bytes), low_table = bytes_load(w->low_bytes);
    for (int64_t c = 0; c < length / 8; ++c) {
      const W packed = w_load(data + 64 * c);
      const W first = w_low_nibbles(packed), second = w_high_nibbles(packed);
      w_store(buffer + 128 * c, bytes_look(high_table, first));
      w_store(buffer + 128 * c + 64, bytes_look(high_table, second));
      w_store(low + 128 * c, bytes_look(low_table, first));
      w_store(low + 128 * c + 64, bytes_look(low_table, second));
    }
    return buffer;
  }
  for (int64_t c = 0; c < length / 8; ++c) {
    const W packed = w_load(data + 64 * c);
    w_store(buffer + 128 * c, w_low_nibbles(packed));
    w_store(buffer + 128 * c + 64, w_high_nibbles(packed));
  }
  return buffer;
}

struct IntTile {
  const uint8_t* w[kPanels];    // unpacked bytes of each panel
  const uint8_t* low[kPanels];  // of a codebook's values the lower bytes, else null
  const int8_t* a;              // the tile's codes, at the first token of this inner tile
  int64_t quads;                // dwords of K
  int64_t stride;               // bytes from one dword of a token to its next
  int64_t plane;                // bytes from the high plane to the low one
  int planes;
  VF scale[kPanels], zero[kPanels];
  const float* scales;  // of the tokens
  const float* sums;
  float* sum;  // [tokens][32], float32 partial sums
};

template <int kCount, int kWide, int kPanelCount>
static inline __attribute__((always_inline)) void add_dots(const IntTile& t, const uint8_t* const* weights,
                                                           const int8_t* a, VI (&acc)[kCount][kPanelCount]) {
#ifdef NBL_NARROW_DOTS
  if (!kWide) return narrow_dots<kCount>(weights[0], a, t.quads, t.stride, acc);
#endif
  for (int64_t q = 0; q < t.quads; ++q, a += t.stride) {
    W w[kPanelCount];
#pragma GCC unroll 2
    for (int p = 0; p < kPanelCount; ++p) w[p] = w_load(weights[p] + 64 * q);
#pragma GCC unroll 8
    for (int i = 0; i < kCount; ++i) {
      const Four four = four_load(a + 4 * i);
#pragma GCC unroll 2
      for (int p = 0; p < kPanelCount; ++p)
        acc[i][p] = kWide ? dot_wide(acc[i][p], w[p], four) : dot(acc[i][p], w[p], four);
    }
  }
}

template <int kCount, int kPanelCount>
static inline __attribute__((always_inline)) void times_256(VI (&acc)[kCount][kPanelCount]) {
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i)
#pragma GCC unroll 2
    for (int p = 0; p < kPanelCount; ++p) acc[i][p] = vi_sll(acc[i][p], 8);
}

template <int kCount, int kWide, int kPanelCount>
static inline __attribute__((always_inline)) void int_tile(const IntTile& t) {
  VI acc[kCount][kPanelCount];
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i)
#pragma GCC unroll 2
    for (int p = 0; p < kPanelCount; ++p) acc[i][p] = vi_set1(0);
  add_dots<kCount, kWide>(t, t.w, t.a, acc);
  if (t.planes == 2 || t.low[0]) times_256(acc);
  if (t.planes == 2) add_dots<kCount, kWide>(t, t.w, t.a + t.plane, acc);
  if (t.low[0]) add_dots<kCount, kWide>(t, t.low, t.a, acc);
  // Copies, because the compiler must assume that the stores below change `t`.
  const float *scales = t.scales, *sums = t.sums;
  float* sum = t.sum;
  VF scale[kPanelCount], zero[kPanelCount];
#pragma GCC unroll 2
  for (int p = 0; p < kPanelCount; ++p) {
    scale[p] = t.scale[p];
    zero[p] = t.zero[p];
  }
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i, sum += 32) {
    const VF token_scale = vf_set1(scales[i]), token_sum = vf_set1(sums[i]);
#pragma GCC unroll 2
    for (int p = 0; p < kPanelCount; ++p) {
      const VF whole = vf_fnma(zero[p], token_sum, vf_from_vi(acc[i][p]));
      vf_store(sum + p * kPanel, vf_fma(vf_mul(scale[p], token_scale), whole, vf_load(sum + p * kPanel)));
    }
  }
}

template <int kWide, int kPanelCount>
static void int_tiles(const IntTile& t, int count) {
  switch (count) {
    case 1:
      int_tile<1, kWide, kPanelCount>(t);
      break;
    case 2:
      int_tile<2, kWide, kPanelCount>(t);
      break;
    case 3:
      int_tile<3, kWide, kPanelCount>(t);
      break;
    case 4:
      int_tile<4, kWide, kPanelCount>(t);
      break;
    case 5:
      int_tile<5 <= kTokens ? 5 : 1, kWide, kPanelCount>(t);
      break;
    case 6:
      int_tile<6 <= kTokens ? 6 : 1, kWide, kPanelCount>(t);
      break;
    case 7:
      int_tile<7 <= kTokens ? 7 : 1, kWide, kPanelCount>(t);
      break;
    default:
      int_tile<8 <= kTokens ? 8 : 1, kWide, kPanelCount>(t);
      break;
  }
}

// One block of `count` panels with tokens begin .. end-1 (begin a multiple of 8).
static void int_block(const WeightView* w, const ActView* a, int64_t panel, int count, int64_t block,
                      int64_t begin, int64_t end, float* sums) {
  alignas(64) uint8_t buffer[kPanels * kUnpacked];
  alignas(64) uint8_t low[kPanels * kUnpacked];
  const int64_t length = block_length(w, block);
  const int book = w->code == kCodebook4;
  IntTile t;
  for (int p = 0; p < count; ++p) {
    const Block packed = block_of(w, panel + p, block);
    t.w[p] = unpack_block(w, packed.codes, length, buffer + p * kUnpacked, low + p * kUnpacked);
    t.low[p] = book ? low + p * kUnpacked : nullptr;
    t.scale[p] = load_scales(w, packed);
    t.zero[p] = load_zeros(w, packed);
    if (!book) continue;
    // With one plane the sums are those of whole values, with two of 256ths.
    t.scale[p] = vf_mul(t.scale[p], vf_set1(a->planes == 2 ? w->factor : w->factor / 256));
    if (a->planes == 1) t.zero[p] = vf_set1(32768.0f);
  }
  t.quads = length / 4;
  t.planes = a->planes;
  const int8_t* codes = a->codes + block * w->block * a->m * a->planes;
  for (int64_t first = begin; first < end; first += kTile) {
    const int64_t width = a->m - first < kTile ? a->m - first : kTile;
    t.stride = 4 * width;
    t.plane = length * width;
    for (int64_t i = 0; i < width; i += kTokens) {
      t.a = codes + first * length * a->planes + 4 * i;
      t.scales = a->scales + block * a->m + first + i;
      t.sums = a->sums + block * a->m + first + i;
      t.sum = sums + (first - begin + i) * 32;
      const int tokens = (int)(width - i < kTokens ? width - i : kTokens);
      if (w->code == kInt8 || book) {
        count == kPanels ? int_tiles<1, kPanels>(t, tokens) : int_tiles<1, 1>(t, tokens);
      } else {
        count == kPanels ? int_tiles<0, kPanels>(t, tokens) : int_tiles<0, 1>(t, tokens);
      }
    }
  }
}

// One panel of 4-bit, 8-bit or codebook weights times one token of two-plane activations, for machines whose
// dot() takes any byte.
//
// Of 4-bit weights the high nibble is not shifted down: its sums are 16 times too large until the end of the
// block. Four accumulators (low and high nibble, high and low plane) keep the dot unit busy.
static inline VF int4_panel(const WeightView* w, int64_t panel, const ActView* a) {
  const int8_t* codes = a->codes;
  const W high_mask = w_set1(0xf0), low_mask = w_set1(0x0f);
  VF total = vf_set1(0);
  for (int64_t b = 0; b < w->shape.blocks; ++b) {
    const int64_t length = block_length(w, b);
    const Block block = next_block(w, panel, b);
    const uint8_t* data = block.codes;
    VI low_hi = vi_set1(0), low_lo = low_hi, high_hi = low_hi, high_lo = low_hi;
    for (int64_t k = 0; k < length; k += 8, data += 64) {
      fetch_ahead(data);
      const W packed = w_load(data);
      const W low = w_and(packed, low_mask), high = w_and(packed, high_mask);
      low_hi = dot(low_hi, low, codes + k);
      low_lo = dot(low_lo, low, codes + length + k);
      high_hi = dot(high_hi, high, codes + k + 4);
      high_lo = dot(high_lo, high, codes + length + k + 4);
    }
    codes += 2 * length;
    const VI hi = vi_add(low_hi, vi_sra(high_hi, 4)), lo = vi_add(low_lo, vi_sra(high_lo, 4));
    total = add_block(w, block, a, b, vi_add(vi_sll(hi, 8), lo), total);
  }
  return total;
}

// 2-bit and 3-bit codes, unpacked in registers.
static inline bool few_bits_panel(const WeightView* w, int64_t panel, const ActView* a, VF* out) {
  const int8_t* codes = a->codes;
  const int three = w->code == kInt3;
  VF total = vf_set1(0);
  for (int64_t b = 0; b < w->shape.blocks; ++b) {
    const int64_t length = block_length(w, b);
    const Block block = next_block(w, panel, b);
    const uint8_t* data = block.codes;
    VI hi0 = vi_set1(0), hi1 = hi0, lo0 = hi0, lo1 = hi0;
    for (int64_t k = 0; k < length; k += 16, data += three ? 96 : 64) {
      fetch_ahead(data);
      if (three) fetch_ahead(data + 64);
      for (int i = 0; i < 4; i += 2) {
        const W first = few_bits(data, i, three), second = few_bits(data, i + 1, three);
        const int8_t* at = codes + k + 4 * i;
        hi0 = dot(hi0, first, at);
        lo0 = dot(lo0, first, at + length);
        hi1 = dot(hi1, second, at + 4);
        lo1 = dot(lo1, second, at + length + 4);
      }
    }
    codes += 2 * length;
    const VI whole = vi_add(vi_sll(vi_add(hi0, hi1), 8), vi_add(lo0, lo1));
    total = add_block(w, block, a, b, whole, total);
  }
  *out = total;
  return true;
}

static inline VF int8_panel(const WeightView* w, int64_t panel, const ActView* a) {
  const int8_t* codes = a->codes;
  VF total = vf_set1(0);
  for (int64_t b = 0; b < w->shape.blocks; ++b) {
    const int64_t length = block_length(w, b);
    const Block block = next_block(w, panel, b);
    const uint8_t* data = block.codes;
    VI hi0 = vi_set1(0), hi1 = hi0, lo0 = hi0, lo1 = hi0;
    for (int64_t k = 0; k < length; k += 8, data += 128) {
      fetch_ahead(data);
      fetch_ahead(data + 64);
      const W first = w_load(data), second = w_load(data + 64);
      hi0 = dot(hi0, first, codes + k);
      lo0 = dot(lo0, first, codes + length + k);
      hi1 = dot(hi1, second, codes + k + 4);
      lo1 = dot(lo1, second, codes + length + k + 4);
    }
    codes += 2 * length;
    const VI whole = vi_add(vi_sll(vi_add(hi0, hi1), 8), vi_add(lo0, lo1));
    total = add_block(w, block, a, b, whole, total);
  }
  return total;
}

// A codebook over integer activations: see linear_int.inl for what is left out. Of each kind there are kCodebookSums sums, since
// one waits for each addition, but no more than there are registers for.
static inline bool codebook_int_panel(const WeightView* w, int64_t panel, const ActView* a, VF* out) {
  constexpr int kLast = kCodebookSums - 1;
  const int8_t* codes = a->codes;
  const Bytes high_table = bytes_load(w->high_bytes), low_table = bytes_load(w->low_bytes);
  const VF zero = vf_set1(w->zero), factor = vf_set1(w->factor);
  VF total = vf_set1(0);
  for (int64_t b = 0; b < w->shape.blocks; ++b) {
    const int64_t length = block_length(w, b);
    const Block block = next_block(w, panel, b);
    const uint8_t* data = block.codes;
    VI high[kCodebookSums], cross[kCodebookSums], low[kCodebookSums];
    high[0] = cross[0] = low[0] = vi_set1(0);
    high[kLast] = cross[kLast] = low[kLast] = vi_set1(0);
    for (int64_t k = 0; k < length; k += 8, data += 64) {
      fetch_ahead(data);
      const W packed = w_load(data);
      const W first = w_low_nibbles(packed), second = w_high_nibbles(packed);
      const W upper0 = bytes_look(high_table, first), upper1 = bytes_look(high_table, second);
      high[0] = dot(high[0], upper0, codes + k);
      high[kLast] = dot(high[kLast], upper1, codes + k + 4);
      cross[0] = dot(cross[0], upper0, codes + length + k);
      cross[kLast] = dot(cross[kLast], upper1, codes + length + k + 4);
      low[0] = dot(low[0], bytes_look(low_table, first), codes + k);
      low[kLast] = dot(low[kLast], bytes_look(low_table, second), codes + k + 4);
    }
    codes += 2 * length;
    if (kLast > 0) {
      high[0] = vi_add(high[0], high[kLast]);
      cross[0] = vi_add(cross[0], cross[kLast]);
      low[0] = vi_add(low[0], low[kLast]);
    }
    const VI whole = vi_add(vi_sll(high[0], 8), vi_add(cross[0], low[0]));
    const VF centred = vf_fnma(zero, vf_set1(a->sums[b]), vf_from_vi(whole));
    const VF scale = vf_mul(load_scales(w, block), factor);
    total = vf_fma(vf_mul(scale, vf_set1(a->scales[b])), centred, total);
  }
  *out = total;
  return true;
}

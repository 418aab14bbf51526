// The loop over panels and tokens that all formats share: Kernels::linear.

constexpr int64_t kTokenChunk = 512;  // tokens whose partial sums (64 KiB) stay in the second-level cache

// What a token's product with a panel gives.
static inline void store_rows(const WeightView* w, VF value, float* y, int64_t panel) {
  const int64_t row = row_of_panel(w, panel), count = w->rows - row;
  y += row;
  if (count >= kPanel) return vf_store(y, w->adds ? vf_add(value, vf_load(y)) : value);
  alignas(64) float lanes[kPanel];
  vf_store(lanes, value);
  for (int64_t i = 0; i < count; ++i) y[i] = w->adds ? y[i] + lanes[i] : lanes[i];
}

// One panel times one token, straight from memory; false when the format has no such loop.
static inline bool panel_of_one_token(const WeightView* w, const ActView* a, int64_t panel, VF* out) {
  const uint8_t* data = w->data + panel * w->panel_bytes;
  const int64_t columns = (w->shape.blocks - 1) * w->block + w->last_block;
  switch (w->code) {
    case kInt4:
      if (a->planes != 2) return false;
      *out = int4_panel(w, panel, a);
      return true;
    case kInt2:
    case kInt3:
      return a->planes == 2 && few_bits_panel(w, panel, a, out);
    case kInt8:
      if (a->planes != 2) return false;
      *out = int8_panel(w, panel, a);
      return true;
    case kCodebook4:
      if (a->planes > 0) return a->planes == 2 && codebook_int_panel(w, panel, a, out);
      if (w->rounding != kNoRounding) return false;
      *out = codebook_panel(w, panel, a->values);
      return true;
    case kF16:
      *out = dense_panel<kF16>(data, a->values, columns);
      return true;
    case kBf16:
      *out = dense_panel<kBf16>(data, a->values, columns);
      return true;
    case kF32:
      *out = dense_panel<kF32>(data, a->values, columns);
      return true;
    default:
      return false;
  }
}

static void linear(const WeightView* w, const ActView* a, int64_t first, int64_t last, float* y, int64_t ldy,
                   float* scratch) {
  if (a->m == 1) {
    VF value;
    while (first < last && panel_of_one_token(w, a, first, &value)) {
      store_rows(w, value, y, first);
      ++first;
    }
  }
  for (int64_t panel = first; panel < last; panel += kPanels) {
    const int count = last - panel < kPanels ? 1 : kPanels;
    for (int64_t begin = 0; begin < a->m; begin += kTokenChunk) {
      const int64_t end = a->m - begin < kTokenChunk ? a->m : begin + kTokenChunk;
      memset(scratch, 0, (size_t)(end - begin) * 32 * sizeof(float));
      for (int64_t block = 0; block < w->shape.blocks; ++block) {
        if (a->planes > 0) {
          int_block(w, a, panel, count, block, begin, end, scratch);
        } else {
          float_block(w, a, panel, count, block, begin, end, scratch);
        }
      }
      for (int64_t t = begin; t < end; ++t)
        for (int p = 0; p < count; ++p)
          store_rows(w, vf_load(scratch + (t - begin) * 32 + p * kPanel), y + t * ldy, panel + p);
    }
  }
}

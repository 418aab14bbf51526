// softmax(q K^T) V with a running maximum, over blocks of 256 positions.
//
// Keys stand in panels of 16 positions, so that one vector is 16 scores and nothing is added across lanes; a
// key loaded serves all query rows of the call (the heads that share it, or neighbouring tokens).
//
// Where the caller reads something else next, all comes from memory, not from a cache, and is asked for while something else is
// computed: the values of a block during its scores, the keys of the next block during its sums, behind the last block what
// the caller reads.

template <int kHalf>
static inline VF load_cached(const void* base, int64_t at) {
  return kHalf ? vf_f16((const uint16_t*)base + at) : vf_load((const float*)base + at);
}

// scores[r][0..15] of one panel; asks for the values of its positions, if kFetch.
template <int kHalf, int kRows, int kFetch>
static inline void key_panel(const AttendView* v, int64_t panel, float* scores) {
  const uint8_t* values = (const uint8_t*)v->values + panel * 16 * v->value_stride * (kHalf ? 2 : 4);
  VF even[kRows], odd[kRows];  // two sums a row, because one would wait for each addition
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) even[r] = odd[r] = vf_set1(0);
  const int64_t base = panel * v->head_dim * 16;
  for (int64_t d = 0; d < v->head_dim; d += 2) {
    const VF k0 = load_cached<kHalf>(v->keys, base + d * 16),
             k1 = load_cached<kHalf>(v->keys, base + d * 16 + 16);
    if (kFetch) __builtin_prefetch(values + d * (kHalf ? 32 : 64));
    if (kFetch && !kHalf) __builtin_prefetch(values + d * 64 + 64);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const float* q = v->q + r * v->head_dim + d;
      even[r] = vf_fma(k0, vf_set1(q[0]), even[r]);
      odd[r] = vf_fma(k1, vf_set1(q[1]), odd[r]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) vf_store(scores + r * kKeyBlock, vf_add(even[r], odd[r]));
}

template <int kHalf, int kFetch>
static void key_panels(const AttendView* v, int64_t begin, int64_t end, int64_t block) {
  for (int64_t panel = begin; panel < end; ++panel) {
    float* scores = v->scores + (panel * 16 - block);
    switch (v->rows) {
      case 1:
        key_panel<kHalf, 1, kFetch>(v, panel, scores);
        break;
      case 2:
        key_panel<kHalf, 2, kFetch>(v, panel, scores);
        break;
      case 3:
        key_panel<kHalf, 3, kFetch>(v, panel, scores);
        break;
      case 4:
        key_panel<kHalf, 4, kFetch>(v, panel, scores);
        break;
      case 5:
        key_panel<kHalf, 5, kFetch>(v, panel, scores);
        break;
      case 6:
        key_panel<kHalf, 6, kFetch>(v, panel, scores);
        break;
      case 7:
        key_panel<kHalf, 7, kFetch>(v, panel, scores);
        break;
      default:
        key_panel<kHalf, 8, kFetch>(v, panel, scores);
        break;
    }
  }
}

// Turns a row's scores of positions from..to-1 (of 0..count-1, count a multiple of 16) into weights and
// rescales what was summed before.
static void softmax_row(const AttendView* v, int64_t r, int64_t from, int64_t to, int64_t count) {
  float* s = v->scores + r * kKeyBlock;
  if (from >= to) {
    memset(s, 0, (size_t)count * sizeof(float));
    return;
  }
  for (int64_t i = 0; i < from; ++i) s[i] = -3e38f;
  for (int64_t i = to; i < count; ++i) s[i] = -3e38f;
  VF largest = vf_load(s);
  for (int64_t i = 16; i < count; i += 16) largest = vf_max(largest, vf_load(s + i));
  float top = vf_largest(largest);
  if (v->maximum[r] > top) top = v->maximum[r];
  VF total = vf_set1(0);
  for (int64_t i = 0; i < count; i += 16) {
    const VF e = vf_exp(vf_sub(vf_load(s + i), vf_set1(top)));
    total = vf_add(total, e);
    vf_store(s + i, e);
  }
  float shrink = 0;
  if (v->total[r] > 0) {
    alignas(64) float lanes[16];
    vf_store(lanes, vf_exp(vf_set1(v->maximum[r] - top)));
    shrink = lanes[0];
  }
  v->total[r] = v->total[r] * shrink + vf_sum(total);
  v->maximum[r] = top;
  if (shrink == 1.0f) return;
  for (int64_t d = 0; d < v->value_stride; d += 16) {
    float* out = v->out + r * v->value_stride + d;
    vf_store(out, vf_mul(vf_load(out), vf_set1(shrink)));
  }
}

// out[kRows][kVecs * 16] += weights * values, for positions from..to-1.
template <int kHalf, int kRows, int kVecs>
static inline void value_tile(const AttendView* v, int64_t row, int64_t dim, int64_t from, int64_t to, Ahead* ahead) {
  VF acc[kRows][kVecs];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int c = 0; c < kVecs; ++c) acc[r][c] = vf_load(v->out + (row + r) * v->value_stride + dim + 16 * c);
  for (int64_t position = from; position < to; ++position) {
    fetch(ahead, 1);
    VF value[kVecs];
#pragma GCC unroll 4
    for (int c = 0; c < kVecs; ++c)
      value[c] = load_cached<kHalf>(v->values, position * v->value_stride + dim + 16 * c);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const VF weight = vf_set1(v->scores[(row + r) * kKeyBlock + position % kKeyBlock]);
#pragma GCC unroll 4
      for (int c = 0; c < kVecs; ++c) acc[r][c] = vf_fma(value[c], weight, acc[r][c]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int c = 0; c < kVecs; ++c) vf_store(v->out + (row + r) * v->value_stride + dim + 16 * c, acc[r][c]);
}

template <int kHalf, int kRows>
static inline void value_rows(const AttendView* v, int64_t row, int64_t from, int64_t to, Ahead* ahead) {
  int64_t dim = 0;
  for (; dim + 16 * kValueVecs <= v->value_stride; dim += 16 * kValueVecs)
    value_tile<kHalf, kRows, kValueVecs>(v, row, dim, from, to, ahead);
  for (; dim < v->value_stride; dim += 16) value_tile<kHalf, kRows, 1>(v, row, dim, from, to, ahead);
}

template <int kHalf>
static void attend_cached(const AttendView* v) {
  // Blocks start at multiples of kKeyBlock, so that a position's place in `scores` is position % kKeyBlock.
  for (int64_t block = v->begin / kKeyBlock * kKeyBlock; block < v->end; block += kKeyBlock) {
    const int64_t from = v->begin > block ? v->begin : block;
    const int64_t to = v->end < block + kKeyBlock ? v->end : block + kKeyBlock;
    const int64_t count = (to - block + 15) / 16 * 16;
    Ahead keys = {0, 0};  // of the next block
    Ahead* ahead = &keys;
    if (!v->ahead) {
      key_panels<kHalf, 0>(v, from / 16, (block + count) / 16, block);
    } else {
      key_panels<kHalf, 1>(v, from / 16, (block + count) / 16, block);
      const int64_t bytes = v->head_dim * (kHalf ? 2 : 4), left = v->end - to;  // of a position; positions
      if (left > 0) {
        keys.at = (const uint8_t*)v->keys + to * bytes;
        keys.end = keys.at + (left < kKeyBlock ? left : kKeyBlock) * bytes;
      } else {
        ahead = v->ahead;
      }
    }
    for (int64_t r = 0; r < v->rows; ++r) {
      fetch(ahead, count / 16);
      const int64_t row_from = v->first[r] > from ? v->first[r] : from;
      const int64_t row_to = v->last[r] < to ? v->last[r] : to;
      softmax_row(v, r, row_from - block, row_to - block, count);
    }
    int64_t row = 0;
    for (; row + kValueRows <= v->rows; row += kValueRows) value_rows<kHalf, kValueRows>(v, row, from, to, ahead);
    for (; row + 3 <= v->rows; row += 3) value_rows<kHalf, 3>(v, row, from, to, ahead);  // seven heads share a key head in Qwen2.5
    for (; row < v->rows; ++row) value_rows<kHalf, 1>(v, row, from, to, ahead);
  }
}

static void attend(const AttendView* v) { v->half ? attend_cached<1>(v) : attend_cached<0>(v); }

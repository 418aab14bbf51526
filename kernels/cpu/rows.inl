// Work on one row of activations: quantizing, norms, activation functions, conversions.

// e^x to about 1e-7 relative; below the normal range 0. NaN stays NaN: vf_max and vf_min then give their second operand.
static inline VF vf_exp(VF x) {
  const VF floor = vf_set1(-87.3f);
  const VF clamped = vf_min(vf_set1(88.7f), vf_max(floor, x));
  const VI n = vi_round(vf_mul(clamped, vf_set1(1.44269504f)));
  const VF whole = vf_from_vi(n);
  VF r = vf_fnma(whole, vf_set1(0.693359375f), clamped);
  r = vf_fnma(whole, vf_set1(-2.12194440e-4f), r);
  VF p = vf_set1(1.9875691500e-4f);
  p = vf_fma(p, r, vf_set1(1.3981999507e-3f));
  p = vf_fma(p, r, vf_set1(8.3334519073e-3f));
  p = vf_fma(p, r, vf_set1(4.1665795894e-2f));
  p = vf_fma(p, r, vf_set1(1.6666665459e-1f));
  p = vf_fma(p, r, vf_set1(5.0000001201e-1f));
  p = vf_add(vf_fma(vf_mul(p, r), r, r), vf_set1(1.0f));
  // 2^128 has no float: the power is applied in two halves.
  const VI half = vi_sra(n, 1);
  return vf_zero_below(x, floor, vf_mul(vf_mul(p, vf_exp2i(half)), vf_exp2i(vi_sub(n, half))));
}

static void quantize(const float* x, int64_t length, int32_t planes, int8_t* out, int64_t stride,
                     int64_t plane, float* scale, float* sum) {
  VF largest = vf_set1(0), probe = vf_set1(0);
  for (int64_t k = 0; k < length; k += 16) {
    const VF v = vf_load(x + k);
    largest = vf_max(largest, vf_abs(v));
    probe = vf_fma(v, vf_set1(0.0f), probe);  // NaN when anything is not finite
  }
  const float bound = planes == 2 ? 32639.0f : 127.0f;  // 127 * 256 + 127
  const float top = vf_largest(largest);
  // Below this the step would be subnormal; such a row is zero beside anything it is added to.
  const int silent = !(top > 1e-30f);
  const VF inverse = vf_set1(silent ? 0.0f : bound / top);
  *scale = (silent ? 0.0f : top / bound) + vf_sum(probe);
  VF total = vf_set1(0);
  for (int64_t k = 0; k < length; k += 16) {
    alignas(16) int8_t high[16], low[16];
    const VI q = vi_round(vf_mul(vf_load(x + k), inverse));
    total = vf_add(total, vf_from_vi(q));
    if (stride == 4 && planes == 2 && k + 16 <= length) {  // one token
      vi_store_low_bytes(vi_sra(vi_add(q, vi_set1(128)), 8), out + k);
      vi_store_low_bytes(q, out + k + plane);
      continue;
    }
    if (planes == 2) {
      vi_store_low_bytes(vi_sra(vi_add(q, vi_set1(128)), 8), high);
      vi_store_low_bytes(q, low);  // q - 256 * high is the low byte read as signed
    } else {
      vi_store_low_bytes(q, high);
    }
    const int64_t count = length - k < 16 ? length - k : 16;
    for (int64_t i = 0; i < count; i += 4) {
      int8_t* at = out + (k + i) / 4 * stride;
      memcpy(at, high + i, 4);
      if (planes == 2) memcpy(at + plane, low + i, 4);
    }
  }
  *sum = vf_sum(total);
}

static void rms_norm(const float* x, const float* weight, float epsilon, int64_t n, float* out) {
  VF squares = vf_set1(0);
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) squares = vf_fma(vf_load(x + i), vf_load(x + i), squares);
  float sum = vf_sum(squares);
  for (; i < n; ++i) sum += x[i] * x[i];
  const float factor = 1.0f / __builtin_sqrtf(sum / (float)n + epsilon);
  for (i = 0; i + 16 <= n; i += 16)
    vf_store(out + i, vf_mul(vf_mul(vf_load(x + i), vf_set1(factor)), vf_load(weight + i)));
  for (; i < n; ++i) out[i] = x[i] * factor * weight[i];
}

static inline VF silu_times(VF gate, VF up) {
  const VF one = vf_set1(1.0f);
  const VF e = vf_exp(vf_sub(vf_set1(0.0f), gate));
  return vf_mul(vf_div(gate, vf_add(one, e)), up);
}

// tanh(u) = 1 - 2 / (e^2u + 1), so 0.5 * g * (1 + tanh(u)) = g * (1 - 1 / (e^2u + 1)) = g / (1 + e^-2u).
static inline VF gelu_tanh_times(VF gate, VF up) {
  const VF cube = vf_mul(vf_mul(gate, gate), gate);
  const VF u = vf_mul(vf_set1(0.7978845608f), vf_fma(vf_set1(0.044715f), cube, gate));
  const VF e = vf_exp(vf_mul(vf_set1(-2.0f), u));
  return vf_mul(vf_div(gate, vf_add(vf_set1(1.0f), e)), up);
}

template <VF (*kFunction)(VF, VF)>
static inline void gated(const float* gate, const float* up, int64_t n, float* out) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) vf_store(out + i, kFunction(vf_load(gate + i), vf_load(up + i)));
  if (i == n) return;
  alignas(64) float g[16] = {0}, u[16] = {0}, r[16];
  memcpy(g, gate + i, (size_t)(n - i) * sizeof(float));
  memcpy(u, up + i, (size_t)(n - i) * sizeof(float));
  vf_store(r, kFunction(vf_load(g), vf_load(u)));
  memcpy(out + i, r, (size_t)(n - i) * sizeof(float));
}

static void silu_mul(const float* gate, const float* up, int64_t n, float* out) {
  gated<silu_times>(gate, up, n, out);
}
static void gelu_tanh_mul(const float* gate, const float* up, int64_t n, float* out) {
  gated<gelu_tanh_times>(gate, up, n, out);
}

static int64_t next_above(const float* y, const float* bound, float factor, float threshold, int64_t first,
                          int64_t n) {
  const VF f = vf_set1(factor);
  int64_t i = first;
  for (; i + 64 <= n; i += 64) {
    VF largest = vf_fma(f, vf_load(bound + i), vf_load(y + i));
    for (int j = 16; j < 64; j += 16)
      largest = vf_max(largest, vf_fma(f, vf_load(bound + i + j), vf_load(y + i + j)));
    if (vf_any_above(largest, threshold)) break;
  }
  for (; i < n; ++i)
    if (y[i] + factor * bound[i] > threshold) return i;
  return n;
}

static void to_f16(const float* x, int64_t n, uint16_t* out) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) vf_to_f16(vf_load(x + i), out + i);
  if (i == n) return;
  alignas(64) float rest[16] = {0};
  uint16_t halves[16];
  memcpy(rest, x + i, (size_t)(n - i) * sizeof(float));
  vf_to_f16(vf_load(rest), halves);
  memcpy(out + i, halves, (size_t)(n - i) * sizeof(uint16_t));
}

static void from_f16(const uint16_t* x, int64_t n, float* out) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) vf_store(out + i, vf_f16(x + i));
  if (i == n) return;
  uint16_t halves[16] = {0};
  alignas(64) float rest[16];
  memcpy(halves, x + i, (size_t)(n - i) * sizeof(uint16_t));
  vf_store(rest, vf_f16(halves));
  memcpy(out + i, rest, (size_t)(n - i) * sizeof(float));
}

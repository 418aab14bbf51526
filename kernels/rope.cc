#include "kernels/rope.h"

#include <cmath>
#include <cstring>

namespace nbl {

void rope_inv_freq(const Rope& rope, int64_t length, float* inv_freq) {
  const int64_t half = rope.rotary_dim / 2;
  if (half == 0) return;  // no rotation: there is no table to copy
  if (!rope.dynamic || length <= rope.original_length) {
    std::memcpy(inv_freq, rope.inv_freq.data(), half * sizeof(float));
    return;
  }
  if (!rope.long_inv_freq.empty()) {
    std::memcpy(inv_freq, rope.long_inv_freq.data(), half * sizeof(float));
    return;
  }
  const double dim = static_cast<double>(rope.rotary_dim);
  const double grown = rope.theta * std::pow(rope.factor * static_cast<double>(length) / rope.original_length - (rope.factor - 1),
                                             dim / (dim - 2));
  for (int64_t i = 0; i < half; ++i) inv_freq[i] = static_cast<float>(1.0 / std::pow(grown, 2.0 * i / dim));
}

bool rope_stays(const Rope& rope, int64_t length, int64_t longer) {
  if (!rope.dynamic || longer <= rope.original_length) return true;
  return !rope.long_inv_freq.empty() && length > rope.original_length;
}

void rope_tables(const Rope& rope, const float* inv_freq, int64_t position, float* cosine, float* sine) {
  for (int64_t i = 0; i < rope.rotary_dim / 2; ++i) {
    const float angle = static_cast<float>(position) * inv_freq[i];
    cosine[i] = std::cos(angle) * rope.attention_factor;
    sine[i] = std::sin(angle) * rope.attention_factor;
  }
}

}  // namespace nbl

// Activations as LLM.int8 (arXiv:2208.07339) has them: of each row the outliers, those of at least a threshold in size,
// stay as they are; the others become multiples of 1/127 of the largest of them. Done in front of the product with an
// int8 matrix, it gives the product of the two integers, and the outliers' columns in 16 bits beside it.
//
// The paper takes the columns in which any row of the input has an outlier. Here each row stands for itself, so that a
// token's result does not depend on the tokens it is computed with.
#pragma once

#include <cmath>
#include <cstdint>

namespace nbl {

// threshold 0: no outliers. Returns how many there are.
template <typename T>
int64_t round_activations(T* x, int64_t count, double threshold) {
  const auto stays = [threshold](T v) { return threshold > 0 && std::abs(v) >= static_cast<T>(threshold); };
  int64_t outliers = 0;
  T top = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (stays(x[i])) ++outliers;
    else top = std::abs(x[i]) > top ? std::abs(x[i]) : top;
  }
  if (!(top > 0)) return outliers;
  const T scale = top / 127;
  for (int64_t i = 0; i < count; ++i) {
    if (!stays(x[i])) x[i] = std::nearbyint(x[i] / scale) * scale;
  }
  return outliers;
}

}  // namespace nbl

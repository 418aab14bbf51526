// In the place of kernels/cuda/ptx.cuh: what its instructions do, for the fibers of lanes.h. What is not here has no test on
// the host yet, and does not compile there.
#pragma once

#include <cmath>
#include <cstring>
#include <functional>
#include <stdexcept>

#include "base/dtype.h"
#include "cuda_runtime.h"

namespace nbl::cuda_host {
// Called before each load of tagged words: other CTAs write meanwhile.
inline std::function<void()> before_load;
}  // namespace nbl::cuda_host

namespace nbl::cuda {

inline uint16_t convert_one(float v) { return float_to_f16(std::isnan(v) ? v : std::fmin(std::fmax(v, -65504.f), 65504.f)); }
inline uint32_t convert_pair(float first, float second) {
  return convert_one(first) | static_cast<uint32_t>(convert_one(second)) << 16;
}

// Lane 4g+t has of A [16, 16] rows g (a0, a2) and g+8 (a1, a3) in columns {2t, 2t+1} and {2t+8, 2t+9}, of B [16, 8] column g in
// rows {2t, 2t+1} (b0) and {2t+8, 2t+9} (b1), and of C [16, 8] rows g and g+8 in columns {2t, 2t+1}.
inline void mma(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
  const uint32_t mine[6] = {a0, a1, a2, a3, b0, b1};
  const unsigned char* shown = cuda_host::exchange(mine, sizeof mine);
  const auto value = [&](int lane, int word, int half) {
    uint16_t bits;
    std::memcpy(&bits, shown + 32 * lane + 4 * word + 2 * half, 2);
    return f16_to_float(bits);
  };
  const int g = cuda_host::thread_index() % 32 / 4, t = cuda_host::thread_index() % 4;
  for (int row = 0; row < 2; ++row) {
    for (int column = 0; column < 2; ++column) {
      float sum = 0.f;
      for (int k = 0; k < 16; ++k) {
        const int pair = k % 8 / 2;  // the t of the lanes that have it
        sum += value(4 * g + pair, row + k / 8 * 2, k % 2) * value(4 * (2 * t + column) + pair, 4 + k / 8, k % 2);
      }
      c[2 * row + column] += sum;
    }
  }
}

// The same of A [16, 32] of unsigned bytes, where a word has columns 4t .. 4t+3 and 16 more, and B [32, 8] of signed ones.
inline void mma_bytes(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
  const uint32_t mine[6] = {a0, a1, a2, a3, b0, b1};
  const unsigned char* shown = cuda_host::exchange(mine, sizeof mine);
  const int g = cuda_host::thread_index() % 32 / 4, t = cuda_host::thread_index() % 4;
  for (int row = 0; row < 2; ++row) {
    for (int column = 0; column < 2; ++column) {
      int64_t sum = c[2 * row + column];
      for (int k = 0; k < 32; ++k) {
        const int lane = k % 16 / 4;
        const int b = static_cast<signed char>(shown[32 * (4 * (2 * t + column) + lane) + 4 * (4 + k / 16) + k % 4]);
        sum += shown[32 * (4 * g + lane) + 4 * (row + k / 16 * 2) + k % 4] * b;
      }
      if (sum != static_cast<int>(sum)) throw std::logic_error("a sum of bytes beyond 32 bits");
      c[2 * row + column] = static_cast<int>(sum);
    }
  }
}

inline float largest_magnitude(float a, float b, float c, float d) {
  float largest = 0.f;
  for (const float v : {a, b, c, d}) largest = std::isnan(v) || std::isnan(largest) ? NAN : std::fmax(largest, std::fabs(v));
  return largest;
}
template <typename T, typename Join>
T of_all_lanes(T value, Join join) {
  const unsigned char* shown = cuda_host::exchange(&value, sizeof value);
  T result, other;
  std::memcpy(&result, shown, sizeof result);
  for (int lane = 1; lane < 32; ++lane) std::memcpy(&other, shown + 32 * lane, sizeof other), result = join(result, other);
  return result;
}
inline uint32_t warp_largest(uint32_t v) {
  return of_all_lanes(v, [](uint32_t a, uint32_t b) { return a < b ? b : a; });
}
inline int warp_total(int v) {
  return of_all_lanes(v, [](int a, int b) { return a + b; });
}

inline uint32_t load_shared_row(const uint32_t* at, uint32_t rows, int i) { return at[32 * (rows >> 8 * i & 255)]; }

inline void store_word(uint2* at, uint32_t low, uint32_t high) { *at = {low, high}; }
inline void store_half(uint32_t* at, uint32_t word) { *at = word; }
inline void load_words(uint4& v, const uint2* at, bool wanted = true) {
  if (cuda_host::before_load) cuda_host::before_load();
  if (wanted) v = *reinterpret_cast<const uint4*>(at);
}
inline void load_word(uint2& v, const uint2* at, bool wanted = true) {
  if (cuda_host::before_load) cuda_host::before_load();
  if (wanted) v = *at;
}
inline void load_halves(uint4& v, const uint32_t* at, bool wanted = true) {
  if (cuda_host::before_load) cuda_host::before_load();
  if (wanted) v = *reinterpret_cast<const uint4*>(at);
}

inline float exp2_fast(float v) { return std::exp2(v); }

template <int Threads>
inline void meet_first() { cuda_host::meet_threads(Threads); }

}  // namespace nbl::cuda

#include "quant/codebooks.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/dtype.h"
#include "base/parallel.h"

namespace nbl {
namespace {

std::array<float, 16> from_bits(const uint32_t (&bits)[16]) {
  std::array<float, 16> values;
  for (int i = 0; i < 16; ++i) values[i] = bits_to_float(bits[i]);
  return values;
}

constexpr uint32_t kNf4Bits[16] = {0xBF800000, 0xBF3239B1, 0xBF066B30, 0xBECA32A0, 0xBE91A24D, 0xBE3D353F, 0xBDBA7871, 0x00000000,
                                   0x3DA2FAFF, 0x3E24CAE3, 0x3E7C04DD, 0x3EAD033A, 0x3EE1A4B8, 0x3F1007AB, 0x3F3913B3, 0x3F800000};
constexpr uint32_t kFp4Bits[16] = {0x00000000, 0x3BAAAAAB, 0x3F2AAAAB, 0x3F800000, 0x3EAAAAAB, 0x3F000000, 0x3E2AAAAB, 0x3E800000,
                                   0x00000000, 0xBBAAAAAB, 0xBF2AAAAB, 0xBF800000, 0xBEAAAAAB, 0xBF000000, 0xBE2AAAAB, 0xBE800000};

constexpr uint32_t kNf4Midpoints[15] = {0xBF591CD8, 0xBF1C5270, 0xBEEB8480, 0xBEADEA76, 0xBE703CEC, 0xBE0D38BC, 0xBD3A7871, 0x3D22FAFF,
                                        0x3DF64862, 0x3E5067E0, 0x3E9582D4, 0x3EC753F9, 0x3F006D04, 0x3F248DAF, 0x3F5C89DA};
constexpr uint32_t kFp4Steps[7] = {0x3B2AAAB9, 0x3DB00000, 0x3E555555, 0x3E955555, 0x3ED55556, 0x3F155550, 0x3F555555};

template <size_t kCount>
inline int count_below(const uint32_t (&steps)[kCount], float x) {
  int count = 0;
  for (uint32_t step : steps) count += x > bits_to_float(step);
  return count;
}

// The signed dynamic map of 256 values (create_dynamic_map(True, 7, 8)), ascending.
std::array<float, 256> dynamic_map() {
  std::vector<float> positive;
  for (int i = 0; i < 7; ++i) {
    const int n = 1 << i;
    const float start = 0.1f, end = 1.0f;
    const float step = (end - start) / static_cast<float>(n);
    const auto boundary = [&](int j) {  // torch.linspace(0.1, 1, n + 1)[j]
      return j < (n + 1) / 2 ? std::fma(step, static_cast<float>(j), start) : std::fma(-step, static_cast<float>(n - j), end);
    };
    const float power = static_cast<float>(std::pow(10.0, i - 6));
    for (int j = 0; j < n; ++j) positive.push_back(power * ((boundary(j) + boundary(j + 1)) / 2.0f));
  }
  std::vector<float> all = {0.0f, 1.0f};
  for (float value : positive) {
    all.push_back(value);
    all.push_back(-value);
  }
  std::sort(all.begin(), all.end());
  std::array<float, 256> map;
  std::copy(all.begin(), all.end(), map.begin());
  return map;
}

// The nearest value's code; exact ties stay at the search's pivot (formats.md 4.4).
uint8_t dynamic_code(const std::array<float, 256>& map, float x) {
  int pivot = 127, low = 0, high = 255;
  float lower = -1, upper = 1, value = map[127];
  for (int step = 64; step > 0; step /= 2) {
    if (x > value) {
      low = pivot;
      lower = value;
      pivot += step;
    } else {
      high = pivot;
      upper = value;
      pivot -= step;
    }
    value = map[pivot];
  }
  if (high == 255) upper = map[255];
  if (low == 0) lower = map[0];
  if (x > value) return static_cast<uint8_t>(x > (upper + value) * 0.5f ? high : pivot);
  return static_cast<uint8_t>(x < (lower + value) * 0.5f ? low : pivot);
}

}  // namespace

const std::array<float, 16> kNf4Codebook = from_bits(kNf4Bits);
const std::array<float, 16> kFp4Codebook = from_bits(kFp4Bits);

// A code is the number of midpoints below x; a tie goes to the lower code. All are compared, because that is vector code
// where a search is not.
void nf4_codes(const float* x, int64_t count, uint8_t* codes) {
  for (int64_t i = 0; i < count; ++i) codes[i] = static_cast<uint8_t>(count_below(kNf4Midpoints, x[i]));
}

// Magnitudes ascend over the codes 0, 1, 6, 7, 4, 5, 2, 3; bit 3 is the sign.
void fp4_codes(const float* x, int64_t count, uint8_t* codes) {
  for (int64_t i = 0; i < count; ++i) {
    const int rank = count_below(kFp4Steps, std::fabs(x[i]));
    codes[i] = static_cast<uint8_t>((rank ^ (rank & 2) << 1) | (x[i] < 0 ? 8 : 0));
  }
}

const QuantizationRule& nf4_rule() {
  static const QuantizationRule rule = [] {
    QuantizationRule made;
    for (int i = 0; i < 15; ++i) made.steps[i] = bits_to_float(kNf4Midpoints[i]);
    for (int i = 0; i < 16; ++i) made.code[i] = static_cast<uint8_t>(i);
    return made;
  }();
  return rule;
}

// Below zero the steps are mirrored: -x > step is x < -step, that is, not above the value before -step.
const QuantizationRule& fp4_rule() {
  static const QuantizationRule rule = [] {
    QuantizationRule made;
    const auto before = [](float x) { return std::nextafter(x, -1.0f); };
    for (int i = 0; i < 7; ++i) {
      made.steps[6 - i] = before(-bits_to_float(kFp4Steps[i]));
      made.steps[8 + i] = bits_to_float(kFp4Steps[i]);
    }
    made.steps[7] = before(0.0f);
    for (int i = 0; i < 16; ++i) {
      const int rank = i < 8 ? 7 - i : i - 8;
      made.code[i] = static_cast<uint8_t>((rank ^ (rank & 2) << 1) | (i < 8 ? 8 : 0));
    }
    return made;
  }();
  return rule;
}

void double_quantize(std::vector<float>& absmax) {
  static const std::array<float, 256> map = dynamic_map();
  if (absmax.empty()) return;
  double sum = 0;
  for (float value : absmax) sum += value;
  const float offset = static_cast<float>(sum / static_cast<double>(absmax.size()));
  const int64_t count = static_cast<int64_t>(absmax.size());
  parallel_for((count + 255) / 256, 64, [&](int64_t first_block, int64_t last_block) {
    for (int64_t block = first_block; block < last_block; ++block) {
      const int64_t first = block * 256, last = std::min(count, first + 256);
      float most = 0;
      for (int64_t i = first; i < last; ++i) most = std::max(most, std::fabs(absmax[i] - offset));
      for (int64_t i = first; i < last; ++i) {
        const float difference = absmax[i] - offset;
        const uint8_t code = most > 0 ? dynamic_code(map, difference * (1.0f / most)) : 127;
        const float product = map[code] * most;  // two roundings, not a fused one
        absmax[i] = product + offset;
      }
    }
  });
}

}  // namespace nbl

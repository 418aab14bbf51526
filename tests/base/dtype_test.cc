#include "base/dtype.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

namespace nbl {
namespace {

// The value of a half by its definition (IEEE 754-2008, 3.4), in double.
double half_by_definition(uint16_t half) {
  const int exponent = half >> 10 & 0x1f;
  const int mantissa = half & 0x3ff;
  const double sign = half & 0x8000 ? -1 : 1;
  if (exponent == 31) return mantissa ? NAN : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(mantissa, -24);
  return sign * std::ldexp(1024 + mantissa, exponent - 25);
}

TEST(Half, EveryPatternWidensByDefinitionAndComesBack) {
  for (int bits = 0; bits < 65536; ++bits) {
    const uint16_t half = static_cast<uint16_t>(bits);
    const double expected = half_by_definition(half);
    const float widened = f16_to_float(half);
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(widened));
      EXPECT_TRUE(std::isnan(f16_to_float(float_to_f16(widened))));
      continue;
    }
    ASSERT_EQ(widened, expected) << bits;
    ASSERT_EQ(float_to_f16(widened), half) << bits;
  }
}

TEST(Half, RoundsToNearestEven) {
  for (int bits = 0; bits < 0x7bff; ++bits) {
    const float low = f16_to_float(static_cast<uint16_t>(bits));
    const float high = f16_to_float(static_cast<uint16_t>(bits + 1));
    const float middle = (low + high) / 2;  // exact: one more bit than a half has
    ASSERT_EQ(float_to_f16(middle), bits % 2 ? bits + 1 : bits) << bits;
    ASSERT_EQ(float_to_f16(std::nextafter(middle, high)), bits + 1) << bits;
    ASSERT_EQ(float_to_f16(std::nextafter(middle, low)), bits) << bits;
  }
  EXPECT_EQ(float_to_f16(65519.9f), 0x7bff);
  EXPECT_EQ(float_to_f16(65520.0f), 0x7c00);
}

// A checkpoint's header may have any length, so its values may lie anywhere.
TEST(Widen, ReadsFromAnyAddress) {
  std::vector<uint8_t> bytes(1 + 4 * 100);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(i * 37 % 120);  // no NaN
  for (const DType type : {DType::kF16, DType::kBF16, DType::kF32}) {
    std::vector<float> out(100);
    widen(type, bytes.data() + 1, 100, out.data());
    for (size_t i = 0; i < out.size(); ++i) {
      uint32_t bits = 0;
      std::memcpy(&bits, bytes.data() + 1 + i * dtype_bytes(type), dtype_bytes(type));
      const double expected =
          type == DType::kF16 ? half_by_definition(static_cast<uint16_t>(bits)) : bits_to_float(type == DType::kBF16 ? bits << 16 : bits);
      ASSERT_EQ(out[i], expected) << dtype_name(type) << " " << i;
    }
  }
}

TEST(LargestMagnitude, IsThatOfEitherSignAndTellsWhatIsNotFinite) {
  const std::vector<float> values = {0.5f, -3.0f, 1e-40f, 2.0f};
  EXPECT_EQ(largest_magnitude(values.data(), 4), 3.0f);
  EXPECT_EQ(largest_magnitude(values.data(), 0), 0.0f);
  const std::vector<float> infinite = {1.0f, -INFINITY}, not_a_number = {INFINITY, -NAN};
  EXPECT_EQ(largest_magnitude(infinite.data(), 2), INFINITY);
  EXPECT_TRUE(std::isnan(largest_magnitude(not_a_number.data(), 2)));
}

TEST(BFloat16, RoundsToNearestEven) {
  EXPECT_EQ(float_to_bf16(1.0f), 0x3f80);
  EXPECT_EQ(float_to_bf16(bits_to_float(0x3f808000)), 0x3f80);
  EXPECT_EQ(float_to_bf16(bits_to_float(0x3f808001)), 0x3f81);
  EXPECT_EQ(float_to_bf16(bits_to_float(0x3f818000)), 0x3f82);
  EXPECT_TRUE(std::isnan(bf16_to_float(float_to_bf16(NAN))));
}

}  // namespace
}  // namespace nbl

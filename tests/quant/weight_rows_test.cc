#include "quant/weight_rows.h"

#include <gtest/gtest.h>

namespace nbl {
namespace {

void expect_rows(const QuantWeight& whole, int64_t first, int64_t count) {
  const QuantWeight rows = rows_of(whole, first, count);
  ASSERT_EQ(rows.out_features, count);
  ASSERT_EQ(rows.in_features, whole.in_features);
  EXPECT_EQ(rows.k_order, whole.k_order);
  for (int64_t n = 0; n < count; ++n) {
    for (int64_t p = 0; p < whole.in_features; ++p)
      EXPECT_EQ(weight_value(rows, n, p), weight_value(whole, first + n, p)) << n << ", " << p;
  }
}

QuantWeight quantized(WeightFormat format) {
  QuantWeight w;
  w.format = format;
  w.out_features = 7, w.in_features = 12;
  w.bits = 4, w.group_size = 8;  // the last group is half one
  for (int i = 0; i < 7 * 12; ++i) w.codes.push_back(static_cast<uint8_t>(i * 7 % 16));
  for (int i = 0; i < 7 * 2; ++i) w.scales.push_back(0.5f + static_cast<float>(i));
  return w;
}

TEST(WeightRows, AreThoseOfTheWholeMatrix) {
  QuantWeight integers = quantized(WeightFormat::kIntGroup);
  for (int i = 0; i < 7 * 2; ++i) integers.zeros.push_back(static_cast<uint8_t>(i));
  for (int i = 0; i < 12; ++i) integers.k_order.push_back(11 - i);
  QuantWeight values = quantized(WeightFormat::kCodebook);
  for (size_t i = 0; i < values.codebook.size(); ++i) values.codebook[i] = static_cast<float>(i * i) - 20;
  std::vector<uint16_t> halves(7 * 12);
  for (size_t i = 0; i < halves.size(); ++i) halves[i] = float_to_f16(static_cast<float>(i));
  QuantWeight floats;
  floats.out_features = 7, floats.in_features = 12;
  floats.value_type = DType::kF16;
  floats.dense = halves.data();
  for (const QuantWeight& whole : {integers, values, floats}) {
    expect_rows(whole, 0, 7);
    expect_rows(whole, 0, 3);
    expect_rows(whole, 3, 4);
  }
}

// Codes as a file has them stay where they are: the rows say which ones are theirs, also those of some rows.
TEST(WeightRows, OfStoredCodesKnowTheirPlace) {
  QuantWeight whole;
  whole.out_features = 64, whole.in_features = 16;
  const QuantWeight rows = rows_of(rows_of(whole, 16, 48), 8, 16);
  EXPECT_EQ(rows.out_features, 16);
  EXPECT_EQ(rows.stored_rows, 64);
  EXPECT_EQ(rows.stored_first, 24);
}

}  // namespace
}  // namespace nbl

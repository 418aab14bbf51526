// Quantizing while loading, held to what bitsandbytes itself packs.
#include "quant/load_quant.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "checkpoint/safetensors.h"
#include "quant/codebooks.h"

namespace nbl {
namespace {

QuantWeight plain_of(const std::vector<uint16_t>& halves, int64_t n, int64_t k) {
  QuantWeight plain;
  plain.format = WeightFormat::kFloat;
  plain.out_features = n;
  plain.in_features = k;
  plain.value_type = DType::kF16;
  plain.dense = halves.data();
  return plain;
}

std::string hex_of_codes(const std::vector<uint8_t>& codes) {
  std::string text;
  for (uint8_t code : codes) text += "0123456789abcdef"[code];
  return text;
}

// The published vectors (bitsandbytes on a GPU): w[i] = ((37 i mod 64) - 31) / 64.
TEST(LoadQuant, PublishedVectors) {
  std::vector<uint16_t> halves;
  for (int i = 0; i < 64; ++i) halves.push_back(float_to_f16(static_cast<float>(37 * i % 64 - 31) / 64));
  LoadQuantOptions options;
  options.method = LoadQuantOptions::Method::kNf4;
  const auto nf4 = quantize_on_load(plain_of(halves, 1, 64), options);
  ASSERT_TRUE(nf4.ok());
  EXPECT_EQ(hex_of_codes(nf4->codes), "091c3e70a2d4f81b2e5f91c3e60a2d4f71b2e5f91c3e60a1d4e71b2d5f81c3e6");
  EXPECT_EQ(nf4->scales[0], 0.5f);
  options.method = LoadQuantOptions::Method::kFp4;
  EXPECT_EQ(hex_of_codes(quantize_on_load(plain_of(halves, 1, 64), options)->codes),
            "b6a5c29b7d2f31a4d2e36a5c29b7a5f31a4d2e36a5c2eb7a5c30b4d2f36a4d2e");
}

// By the definition of the types: NF4 takes the nearest value, the lower one on a tie; FP4 compares magnitudes with the steps of
// bitsandbytes' decision tree.
TEST(LoadQuant, EveryHalfGetsTheCodeOfItsType) {
  constexpr struct { double above; int code; } kFp4Tree[7] = {{0.00260417, 1}, {0.0859375, 6}, {0.20833333, 7}, {0.29166667, 4},
                                                              {0.4166667, 5}, {0.583333, 2}, {0.8333333, 3}};
  std::vector<float> values;
  for (int bits = 0; bits <= 0x3c00; ++bits) {
    values.push_back(f16_to_float(static_cast<uint16_t>(bits)));
    values.push_back(-values.back());
  }
  std::vector<uint8_t> nf4(values.size()), fp4(values.size());
  nf4_codes(values.data(), static_cast<int64_t>(values.size()), nf4.data());
  fp4_codes(values.data(), static_cast<int64_t>(values.size()), fp4.data());
  for (size_t i = 0; i < values.size(); ++i) {
    int nearest = 0;
    for (int code = 1; code < 16; ++code) {
      if (std::fabs(static_cast<double>(kNf4Codebook[code]) - values[i]) <
          std::fabs(static_cast<double>(kNf4Codebook[nearest]) - values[i]))
        nearest = code;
    }
    ASSERT_EQ(nf4[i], nearest) << values[i];
    int code = 0;
    for (const auto& step : kFp4Tree) code = std::fabs(values[i]) > step.above ? step.code : code;
    ASSERT_EQ(fp4[i], code | (values[i] < 0 ? 8 : 0)) << values[i];
  }
}

// A device that quantizes itself gets steps over signed values; they must give the codes that the host gives, at the steps too.
TEST(LoadQuant, TheRuleForDevicesGivesTheSameCodes) {
  std::vector<float> values;
  for (int bits = 0; bits <= 0x3c00; ++bits) values.push_back(f16_to_float(static_cast<uint16_t>(bits)));
  for (const QuantizationRule* rule : {&nf4_rule(), &fp4_rule()}) {
    for (float step : rule->steps) {
      const float magnitude = std::fabs(step);
      for (float value : {magnitude, std::nextafter(magnitude, 2.f), std::nextafter(magnitude, 0.f)}) values.push_back(value);
    }
  }
  for (size_t i = values.size(); i-- > 0;) values.push_back(-values[i]);
  std::vector<uint8_t> nf4(values.size()), fp4(values.size());
  nf4_codes(values.data(), static_cast<int64_t>(values.size()), nf4.data());
  fp4_codes(values.data(), static_cast<int64_t>(values.size()), fp4.data());
  const auto code = [](const QuantizationRule& rule, float value) {
    return rule.code[std::count_if(std::begin(rule.steps), std::end(rule.steps), [&](float step) { return value > step; })];
  };
  for (size_t i = 0; i < values.size(); ++i) {
    ASSERT_EQ(code(nf4_rule(), values[i]), nf4[i]) << values[i];
    ASSERT_EQ(code(fp4_rule(), values[i]), fp4[i]) << values[i];
  }
}

// What a device quantizes is a view of the values; only double quantization, which takes the mean of all, makes scales before.
TEST(LoadQuant, ForADeviceTheValuesStayWhereTheyAre) {
  std::vector<uint16_t> halves;
  for (int i = 0; i < 4 * 128; ++i) halves.push_back(float_to_f16(static_cast<float>((i * 29) % 61 - 30) / 31));
  LoadQuantOptions options;
  for (const auto method : {LoadQuantOptions::Method::kNf4, LoadQuantOptions::Method::kFp4, LoadQuantOptions::Method::kInt8}) {
    for (const bool double_quant : {false, true}) {
      options.method = method;
      options.double_quant = double_quant;
      ASSERT_TRUE(can_quantize_on_device(plain_of(halves, 4, 128), options));
      const auto host = quantize_on_load(plain_of(halves, 4, 128), options);
      const QuantWeight device = quantize_on_device(plain_of(halves, 4, 128), options);
      EXPECT_EQ(device.stored.layout, StoredCodes::Layout::kFloats);
      EXPECT_EQ(device.stored.data, reinterpret_cast<const uint8_t*>(halves.data()));
      EXPECT_EQ(device.stored.type, DType::kF16);
      EXPECT_EQ(device.source, host->source);
      EXPECT_EQ(device.group_size, host->group_size);
      EXPECT_EQ(device.codebook, host->codebook);
      EXPECT_EQ(device.zeros, host->zeros);
      if (double_quant && method != LoadQuantOptions::Method::kInt8) EXPECT_EQ(device.scales, host->scales);
      else EXPECT_TRUE(device.scales.empty());
    }
  }
  options.method = LoadQuantOptions::Method::kNf4;
  EXPECT_FALSE(can_quantize_on_device(plain_of(halves, 4, 96), options));  // blocks of 64 cross these rows
}

TEST(LoadQuant, Int8RowsAsPublished) {
  const std::vector<float> values = {0.5f, -0.25f, 0.1f, 1.0f, 0.3f, 0.03f, -0.6f, 0.0f};
  std::vector<uint16_t> halves;
  for (float value : values) halves.push_back(float_to_f16(value));
  LoadQuantOptions options;
  options.method = LoadQuantOptions::Method::kInt8;
  const auto weight = quantize_on_load(plain_of(halves, 2, 4), options);
  ASSERT_TRUE(weight.ok());
  std::vector<int> codes;
  for (uint8_t code : weight->codes) codes.push_back(code - 128);
  EXPECT_EQ(codes, (std::vector<int>{64, -32, 13, 127, 64, 6, -127, 0}));
  EXPECT_NEAR(weight->scales[1] * 127, 0.60009766, 1e-6);
}

// A row with an infinity or NaN is no number as a whole, so that logits are none, and codes are codes all the same.
TEST(LoadQuant, RowsOfInt8ThatAreNoNumbersStayNone) {
  for (const uint16_t spoiled : {0x7c00, 0xfc00, 0x7e00}) {
    LoadQuantOptions options;
    options.method = LoadQuantOptions::Method::kInt8;
    const std::vector<uint16_t> halves = {0x3c00, spoiled, 0x3800, 0, 0x3c00, 0, 0, 0};
    const auto weight = quantize_on_load(plain_of(halves, 2, 4), options);
    ASSERT_TRUE(weight.ok());
    for (int i = 0; i < 4; ++i) {
      EXPECT_FALSE(std::isfinite(weight_value(*weight, 0, i))) << i;
      EXPECT_TRUE(std::isfinite(weight_value(*weight, 1, i))) << i;
    }
  }
}

// The published double quantization: eight scales, decoded.
TEST(LoadQuant, DoubleQuantizationAsPublished) {
  std::vector<float> absmax = {0.5f, 0.3125f, 0.1f, 0.25f, 0.4375f, 0.203125f, 0.28125f, 0.375f};
  double_quantize(absmax);
  const float expected[] = {0.49880093f, 0.31270465f, 0.10145843f, 0.2502188f, 0.43754667f, 0.20354888f, 0.28230438f, 0.3762924f};
  for (int i = 0; i < 8; ++i) EXPECT_NEAR(absmax[i], expected[i], 1e-7) << i;
}

TEST(LoadQuant, BlocksThatSpanRowsKeepTheirScales) {
  std::vector<uint16_t> halves;
  for (int i = 0; i < 3 * 96; ++i) halves.push_back(float_to_f16(static_cast<float>((i * 29) % 61 - 30) / 31));
  LoadQuantOptions options;
  options.method = LoadQuantOptions::Method::kNf4;
  const auto weight = quantize_on_load(plain_of(halves, 3, 96), options);
  ASSERT_TRUE(weight.ok());
  EXPECT_EQ(weight->group_size, 32);  // gcd(96, 64)
  for (int64_t i = 0; i < 3 * 96; ++i) {
    float most = 0;
    for (int64_t j = i / 64 * 64; j < std::min<int64_t>(3 * 96, (i / 64 + 1) * 64); ++j)
      most = std::max(most, std::abs(f16_to_float(halves[j])));
    ASSERT_EQ(weight->scales[i / 96 * 3 + i % 96 / 32], most) << i;
  }
}

TEST(LoadQuant, SkipsByPathSuffixOrSegment) {
  LoadQuantOptions options;
  EXPECT_TRUE(is_skipped("lm_head", options));
  EXPECT_FALSE(is_skipped("model.layers.0.mlp.up_proj", options));
  options.skip = {"up_proj", "layers.1"};
  EXPECT_TRUE(is_skipped("model.layers.0.mlp.up_proj", options));
  EXPECT_TRUE(is_skipped("model.layers.1.mlp.down_proj", options));
  EXPECT_FALSE(is_skipped("model.layers.11.mlp.down_proj", options));
  EXPECT_FALSE(is_skipped("model.layers.0.mlp.gate_up_proj", options));
}

// bitsandbytes' own packed bytes, over matrices, block sizes and types. Its CPU packer spells zero blocks and tiny
// positive FP4 values its own way (formats.md 4.3), so those are compared by what they decode to.
TEST(LoadQuant, PacksWhatBitsandbytesPacks) {
  const std::string directory = std::string(NIBBLE_SHARED) + "/fixtures/models/bnb-vectors";
  if (!std::filesystem::exists(directory)) GTEST_SKIP() << "the reference vectors are not there: " << directory;
  std::string file;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    if (entry.path().extension() == ".safetensors") file = entry.path().string();
  }
  const auto opened = open_safetensors(file);
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  const auto cases = read_json_file(directory + "/bnb_vectors.json");
  ASSERT_TRUE(cases.ok());
  const auto find = [&](const std::string& name) -> const TensorView* {
    for (const TensorView& view : opened->tensors) {
      if (view.name == name) return &view;
    }
    return nullptr;
  };
  int compared = 0;
  for (const Json& c : (*cases)["cases"]) {
    const std::string key = c.value("key", "");
    const TensorView* packed = find("packed." + key);
    const TensorView* w = find("w." + key.substr(0, key.find('.')));
    if (!packed || !w || w->shape.size() != 2 || w->dtype == DType::kF32) continue;
    LoadQuantOptions options;
    options.method = key.find("fp4") != std::string::npos ? LoadQuantOptions::Method::kFp4 : LoadQuantOptions::Method::kNf4;
    options.block_size = c.value("blocksize", 64);
    QuantWeight plain;
    plain.out_features = w->shape[0];
    plain.in_features = w->shape[1];
    plain.value_type = w->dtype;
    const std::vector<uint8_t> aligned(w->data, w->data + w->bytes);
    plain.dense = aligned.data();
    const auto weight = quantize_on_load(plain, options);
    ASSERT_TRUE(weight.ok());
    int wrong = 0;
    for (size_t i = 0; i < weight->codes.size(); ++i) {
      const int expected = i % 2 ? packed->data[i / 2] & 15 : packed->data[i / 2] >> 4;
      wrong += weight->codes[i] != expected && weight->codebook[weight->codes[i]] != weight->codebook[expected];
    }
    // Exact ties of FP4 fall differently on its CPU and its GPU.
    EXPECT_LE(wrong, options.method == LoadQuantOptions::Method::kFp4 ? static_cast<int>(weight->codes.size() / 256) : 0) << key;
    ++compared;
  }
  EXPECT_GT(compared, 50);
}

}  // namespace
}  // namespace nbl

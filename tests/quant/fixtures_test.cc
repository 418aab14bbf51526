// Every quantized reference checkpoint, weight by weight, against what the tool that wrote it makes of it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "checkpoint/safetensors.h"
#include "quant/weight_loader.h"

namespace nbl {
namespace {

namespace fs = std::filesystem;

float element(const TensorView& view, int64_t at) {
  if (view.dtype == DType::kF32) {
    float value;
    std::memcpy(&value, view.data + 4 * at, 4);
    return value;
  }
  uint16_t half;
  std::memcpy(&half, view.data + 2 * at, 2);
  return view.dtype == DType::kF16 ? f16_to_float(half) : bf16_to_float(half);
}

// Float32 products of the tool may differ in the last place where it does not round to a half type.
bool same(float found, float expected, DType type) {
  if (found == expected) return true;
  return type == DType::kF32 && std::abs(found - expected) <= 2e-7f * std::abs(expected);
}

void compare(const WeightLoader& loader, const TensorView& expected) {
  ASSERT_EQ(expected.shape.size(), 2u);
  const auto weight = loader.load(expected.name, expected.shape[0], expected.shape[1]);
  ASSERT_TRUE(weight.ok()) << weight.status().message();
  const int64_t k = weight->in_features;
  int64_t wrong = 0;
  for (int64_t n = 0; n < weight->out_features; ++n) {
    for (int64_t p = 0; p < k; ++p) {
      const int64_t column = weight->k_order.empty() ? p : weight->k_order[p];
      wrong += !same(weight_value(*weight, n, p), element(expected, n * k + column), weight->value_type);
    }
  }
  EXPECT_EQ(wrong, 0) << expected.name << " of " << weight->out_features * k << " values, " << weight->source;
}

TEST(QuantFixtures, EveryWeightIsWhatTheToolMakesOfIt) {
  const fs::path models = fs::path(NIBBLE_SHARED) / "fixtures/models";
  if (!fs::exists(models)) GTEST_SKIP() << "the reference checkpoints are not there: " << models;
  int compared = 0;
  std::vector<fs::path> directories;
  for (const auto& entry : fs::directory_iterator(models)) directories.push_back(entry.path());
  std::sort(directories.begin(), directories.end());
  for (const fs::path& directory : directories) {
    if (!fs::exists(directory / "dequant.safetensors") || !fs::exists(directory / "config.json")) continue;
    SCOPED_TRACE(directory.filename().string());
    const auto expected = open_safetensors((directory / "dequant.safetensors").string());
    ASSERT_TRUE(expected.ok()) << expected.status().message();
    const auto checkpoint = Checkpoint::open(directory.string());
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
    const auto loader = WeightLoader::open(*checkpoint, {});
    ASSERT_TRUE(loader.ok()) << loader.status().message();
    for (const TensorView& view : expected->tensors) {
      if (view.shape.size() != 2 || view.name.find(".int8_") != std::string::npos || !(*loader)->has(view.name)) continue;
      const auto spec = (*loader)->spec(view.name, view.shape[0], view.shape[1]);
      if (!spec.ok() && spec.status().code() == Code::kUnsupported) {
        std::printf("not supported: %s\n", spec.status().message().c_str());
        break;
      }
      compare(**loader, view);
      ++compared;
    }
  }
  EXPECT_GT(compared, 150);
}

}  // namespace
}  // namespace nbl

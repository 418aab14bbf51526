// Layouts and rules that the reference checkpoints may not show, on matrices that the test packs by the published rules.
#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <random>

#include "quant/weight_loader.h"
#include "support/temporary_checkpoint.h"

namespace nbl {
namespace {

using testing::safetensors_bytes;
using testing::TemporaryDirectory;
using testing::tensor;
using testing::TensorBytes;

struct Written {
  TemporaryDirectory directory;
  std::unique_ptr<WeightLoader> loader;
};

std::unique_ptr<Written> write(const std::string& config, const std::vector<TensorBytes>& tensors, const LoadQuantOptions& options = {}) {
  auto out = std::make_unique<Written>();
  out->directory.write("config.json", config);
  out->directory.write("model.safetensors", safetensors_bytes(tensors));
  auto checkpoint = Checkpoint::open(out->directory.path());
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  auto loader = WeightLoader::open(*checkpoint, options);
  EXPECT_TRUE(loader.ok()) << loader.status().message();
  out->loader = std::move(loader).value();
  return out;
}

const char* kAwq = R"({"quantization_config":{"quant_method":"awq","bits":4,"group_size":8,"zero_point":true,"version":"GEMM"}})";

// Published: columns 0..7 = 0..7 pack to 0x75316420, and 15,0,7,8,3,12,1,14 to 0xEC80137F.
TEST(AwqLoader, UndoesTheInterleave) {
  std::vector<uint32_t> qweight(8, 0x75316420);
  qweight[1] = 0xEC80137F;
  const auto written = write(kAwq, {tensor("x.qweight", "I32", {8, 1}, qweight), tensor<uint32_t>("x.qzeros", "I32", {1, 1}, {0xEC80137F}),
                                    tensor("x.scales", "F16", {1, 8}, std::vector<uint16_t>(8, 0x3c00))});
  const auto weight = written->loader->load("x", 8, 8);
  ASSERT_TRUE(weight.ok()) << weight.status().message();
  const int second[8] = {15, 0, 7, 8, 3, 12, 1, 14};
  for (int n = 0; n < 8; ++n) {
    EXPECT_EQ(weight->codes[n * 8], n);
    EXPECT_EQ(weight->codes[n * 8 + 1], second[n]);
    EXPECT_EQ(weight->zeros[n], second[n]);
  }
}

TEST(AwqLoader, NamesTheTensorThatDoesNotFit) {
  const auto written =
      write(kAwq, {tensor("x.qweight", "I32", {8, 1}, std::vector<uint32_t>(8)), tensor<uint32_t>("x.qzeros", "I32", {1, 1}, {0}),
                   tensor("x.scales", "F16", {1, 8}, std::vector<uint16_t>(8))});
  const auto weight = written->loader->load("x", 16, 8);
  ASSERT_FALSE(weight.ok());
  EXPECT_EQ(weight.status().code(), Code::kFormat);
  EXPECT_NE(weight.status().message().find("x.qweight is I32 [8, 1], expected [8, 2]"), std::string::npos) << weight.status().message();
}

const char* kGemv = R"({"quantization_config":{"quant_method":"awq","bits":4,"group_size":64,"zero_point":true,"version":"gemv"}})";

// Published: inputs 0..7 = 15,0,7,8,3,12,1,14 pack to 0xE1C3870F, zeros of groups the same way; columns beyond the groups are not used.
TEST(AwqLoader, ReadsTheLayoutAlongTheInputs) {
  const int published[8] = {15, 0, 7, 8, 3, 12, 1, 14};
  std::vector<uint16_t> scales(2 * 16, 0);
  for (int n = 0; n < 2; ++n) {
    for (int g = 0; g < 3; ++g) scales[n * 16 + g] = static_cast<uint16_t>(0x3c00 + 0x400 * g);  // 1, 2, 4
  }
  const auto written = write(
      kGemv, {tensor("x.qweight", "I32", {2, 24}, std::vector<uint32_t>(48, 0xE1C3870F)),
              tensor<uint32_t>("x.qzeros", "I32", {2, 2}, {0x0000070F, 0, 0x0000070F, 0}), tensor("x.scales", "F16", {2, 16}, scales)});
  const auto weight = written->loader->load("x", 2, 192);
  ASSERT_TRUE(weight.ok()) << weight.status().message();
  EXPECT_EQ(weight->group_size, 64);
  for (int n = 0; n < 2; ++n) {
    for (int k = 0; k < 192; ++k)
      ASSERT_EQ(weight_value(*weight, n, k), (published[k % 8] - published[k / 64]) * (1 << k / 64)) << n << ", " << k;
  }
}

// Published: the words of q[n,k] = (5n + k) mod 16. A zero is stored as -(scale * zero).
TEST(AwqLoader, ReadsTilesOfFourOutputs) {
  std::vector<uint16_t> words;
  for (int first : {0x8080, 0xd5d5, 0x2a2a, 0x7f7f}) {
    for (int twice = 0; twice < 2; ++twice) {
      for (int i = 0; i < 8; ++i)
        words.push_back(static_cast<uint16_t>((((first >> 12) + i) & 15) * 0x1010 + (((first >> 8 & 15) + i) & 15) * 0x0101));
    }
  }
  ASSERT_EQ(words[16 + 3], 0x0808);
  ASSERT_EQ(words[48 + 7], 0xe6e6);
  for (const char* zeros : {"x.qzeros", "x.scaled_zeros"}) {
    const auto written = write(
        kGemv, {tensor("x.qweight", "I16", {1, 64}, words), tensor("x.scales", "F16", {16, 4}, std::vector<uint16_t>(64, 0x3800)),  // 0.5
                tensor(zeros, "F16", {16, 4}, std::vector<uint16_t>(64, 0xc300))});  // -3.5, of zero 7
    const auto weight = written->loader->load("x", 4, 64);
    ASSERT_TRUE(weight.ok()) << weight.status().message();
    for (int n = 0; n < 4; ++n) {
      for (int k = 0; k < 64; ++k)
        ASSERT_EQ(weight_value(*weight, n, k), 0.5f * static_cast<float>((5 * n + k) % 16 - 7)) << n << ", " << k;
    }
  }
}

// Published: words of q[k,n] = (3k + 5n + kn / 7) mod 16. The rest is packed here by the published rule.
TEST(MarlinLoader, ReadsTilesAndPermutedScales) {
  const auto code = [](int k, int n) { return static_cast<uint32_t>((3 * k + 5 * n + k * n / 7) % 16); };
  constexpr int kOrder[8] = {0, 2, 4, 6, 1, 3, 5, 7};
  std::vector<uint32_t> words(512, 0);
  for (int w = 0; w < 512; ++w) {
    for (int i = 0; i < 8; ++i) {
      const int e = kOrder[i], t = w % 128 / 4;
      words[w] |= code(2 * (t % 4) + e % 2 + e / 2 % 2 * 8, w / 128 * 64 + w % 4 * 16 + e / 4 * 8 + t / 4) << 4 * i;
    }
  }
  EXPECT_EQ(words[0], 0xDCB39880u);
  EXPECT_EQ(words[5], 0xEBAF844Au);
  EXPECT_EQ(words[127], 0xFF5F33B4u);
  EXPECT_EQ(words[511], 0xAF1F37B8u);
  // The only row of scales goes in blocks of 32, whose place 8i + j has that of output 2i + p[j].
  std::vector<uint16_t> scales(256);
  constexpr int kPlaces[8] = {0, 1, 8, 9, 16, 17, 24, 25};
  for (int place = 0; place < 256; ++place) {
    scales[place] = float_to_f16(1.0f + static_cast<float>(place / 32 * 32 + place % 32 / 8 * 2 + kPlaces[place % 8]));
  }
  const auto written = write(R"({"quantization_config":{"quant_method":"awq","bits":4,"zero_point":false,"version":"marlin"}})",
                             {tensor("x.qweight", "I32", {1, 512}, words), tensor("x.scales", "F16", {1, 256}, scales)});
  const auto weight = written->loader->load("x", 256, 16);
  ASSERT_TRUE(weight.ok()) << weight.status().message();
  for (int n = 0; n < 256; ++n) {
    for (int k = 0; k < 16; ++k)
      ASSERT_EQ(weight_value(*weight, n, k), (static_cast<float>(code(k, n)) - 8) * static_cast<float>(n + 1)) << n << ", " << k;
  }
}

std::string compressed_config(const std::string& weights, const std::string& more = "") {
  return R"({"quantization_config":{"quant_method":"compressed-tensors","format":"pack-quantized","config_groups":{"group_0":{"targets":["Linear"],)" +
         more + R"("weights":{"type":"int",)" + weights + "}}}}}";
}

// `codes` of one output of K inputs with scale 1, as the words of a row that the caller gives.
void expect_codes(const std::string& config, const std::vector<uint32_t>& words, const std::vector<int>& codes) {
  const auto k = static_cast<int64_t>(codes.size());
  const auto written = write(config, {tensor("x.weight_packed", "I32", {1, static_cast<int64_t>(words.size())}, words),
                                      tensor<uint16_t>("x.weight_scale", "F16", {1, 1}, {0x3c00}),
                                      tensor<int64_t>("x.weight_shape", "I64", {2}, {1, k})});
  const auto weight = written->loader->load("x", 1, k);
  ASSERT_TRUE(weight.ok()) << weight.status().message();
  for (int64_t i = 0; i < k; ++i) EXPECT_EQ(weight_value(*weight, 0, i), codes[i]) << config << ", input " << i;
}

// Published vectors; 3 bits as written before 0.18, three codes short of a word, and since.
TEST(CompressedTensorsLoader, ReadsRowsOfEachWidth) {
  std::vector<int> nibbles(16), threes(32);
  std::iota(nibbles.begin(), nibbles.end(), -8);
  for (int i = 0; i < 32; ++i) threes[i] = i % 8 - 4;
  expect_codes(compressed_config(R"("num_bits":4)"), {0x76543210, 0xFEDCBA98}, nibbles);
  expect_codes(compressed_config(R"("num_bits":4)"), {0x98765432, 0x0000DCBA}, {-6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5});
  expect_codes(compressed_config(R"("num_bits":8)"), {0xFF807F00}, {-128, -1, 0, 127});
  expect_codes(compressed_config(R"("num_bits":3)"), {0x08FAC688, 0x1A23EB1A, 0x2C688FAC, 0x0000003E}, threes);
  expect_codes(compressed_config(R"("num_bits":3)"), {0x88FAC688, 0xC688FAC6, 0xFAC688FA}, threes);
  // 6 bits, a stream: kept as 8 bits.
  expect_codes(compressed_config(R"("num_bits":6)"), {0x3Fu | 0x00u << 6 | 0x20u << 12 | 0x21u << 18 | 0x1Fu << 24 | 0x1u << 30, 0x0}, {31, -32, 0, 1, -1, -31, -32, -32});
  // A preset by name tells no width, nor does a configuration without groups.
  expect_codes(R"({"quantization_config":{"quant_method":"compressed-tensors","config_groups":{"W4A16":["Linear"]}}})", {0x76543210, 0xFEDCBA98},
               nibbles);
  // Where modules have several, the shape tells.
  expect_codes(R"({"quantization_config":{"quant_method":"compressed-tensors","config_groups":{
                   "a":{"weights":{"num_bits":8}},"b":{"weights":{"num_bits":4}}}}})", {0x76543210, 0xFEDCBA98}, nibbles);
}

// Published: zero points -8..-1 and 7 of eight outputs, packed down the rows; older files have them as they are.
TEST(CompressedTensorsLoader, ReadsZeroPointsOfBothForms) {
  const std::vector<uint32_t> codes(16, 0x88888888);  // 0
  std::vector<int8_t> plain;
  for (int n = 0; n < 8; ++n) plain.push_back(static_cast<int8_t>(n - 8)), plain.push_back(7);
  const TensorBytes forms[] = {tensor<uint32_t>("x.weight_zero_point", "I32", {1, 2}, {0x76543210, 0xFFFFFFFF}),
                               tensor("x.weight_zero_point", "I8", {8, 2}, plain)};
  for (const TensorBytes& zeros : forms) {
    const auto written = write(compressed_config(R"("num_bits":4,"group_size":8,"symmetric":false)"),
                               {tensor("x.weight_packed", "I32", {8, 2}, codes), zeros,
                                tensor("x.weight_scale", "BF16", {8, 2}, std::vector<uint16_t>(16, 0x3f80))});
    const auto weight = written->loader->load("x", 8, 16);
    ASSERT_TRUE(weight.ok()) << weight.status().message();
    EXPECT_FALSE(weight->symmetric);
    for (int n = 0; n < 8; ++n) {
      EXPECT_EQ(weight_value(*weight, n, 0), 8 - n);
      EXPECT_EQ(weight_value(*weight, n, 8), -7);
    }
  }
}

// Bytes with a scale for each output, or one for all.
TEST(CompressedTensorsLoader, ReadsBytes) {
  const std::vector<int8_t> codes = {-128, -1, 0, 127, 1, 2, 3, 4};
  const TensorBytes scales[] = {tensor<uint16_t>("x.weight_scale", "F16", {2, 1}, {0x4000, 0x4000}), tensor<uint16_t>("x.weight_scale", "F16", {1}, {0x4000}),
                                tensor<uint16_t>("x.weight_scale", "F16", {}, {0x4000})};
  for (const TensorBytes& scale : scales) {
    const auto written = write(compressed_config(R"("num_bits":8)", R"("input_activations":{"num_bits":8,"dynamic":true},)"),
                               {tensor("x.weight", "I8", {2, 4}, codes), scale});
    const auto weight = written->loader->load("x", 2, 4);
    ASSERT_TRUE(weight.ok()) << weight.status().message();
    for (int i = 0; i < 8; ++i) EXPECT_EQ(weight_value(*weight, i / 4, i % 4), 2.0f * codes[i]);
    ASSERT_EQ(written->loader->warnings().size(), 1u);
    EXPECT_NE(written->loader->warnings()[0].find("activations"), std::string::npos);
    EXPECT_TRUE(written->loader->load("x", 2, 4).ok());
    EXPECT_EQ(written->loader->warnings().size(), 1u) << "told once";
  }
}

// Rotations that are in the weights are done with; others would have to be done while the model runs.
TEST(CompressedTensorsLoader, TransformsOfActivationsAreRefused) {
  const auto open = [](const std::string& location) {
    TemporaryDirectory directory;
    directory.write("config.json", R"({"quantization_config":{"quant_method":"compressed-tensors","transform_config":{"config_groups":{
        "R1":{"type":"hadamard","apply":[{"targets":["re:.*"],"location":"weight_input"},{"targets":["re:.*"],"location":")" + location + R"("}]}}}}})");
    directory.write("model.safetensors", safetensors_bytes({tensor<float>("x.bias", "F32", {1}, {1})}));
    return WeightLoader::open(*Checkpoint::open(directory.path()), {}).status();
  };
  EXPECT_TRUE(open("weight_output").ok()) << open("weight_output").message();
  const Status refused = open("input");
  EXPECT_EQ(refused.code(), Code::kUnsupported);
  EXPECT_NE(refused.message().find("config.json: \"transform_config\" rotates activations (\"input\")"), std::string::npos) << refused.message();
}

TEST(CompressedTensorsLoader, NamesTheTensorThatDoesNotFit) {
  const std::string config = compressed_config(R"("num_bits":4,"group_size":8)");
  const TensorBytes packed = tensor("x.weight_packed", "I32", {8, 2}, std::vector<uint32_t>(16)),
                    scales = tensor("x.weight_scale", "F16", {8, 2}, std::vector<uint16_t>(16));
  const auto problem = [&](const std::vector<TensorBytes>& tensors, int64_t n = 8, int64_t k = 16) {
    const auto weight = write(config, tensors)->loader->load("x", n, k);
    EXPECT_FALSE(weight.ok());
    return weight.ok() ? "" : weight.status().message();
  };
  EXPECT_NE(problem({packed, scales}, 16, 16).find("x.weight_packed is I32 [8, 2], expected [16, 16 * bits / 32]"), std::string::npos);
  EXPECT_NE(problem({packed, scales}, 8, 32).find("x.weight_packed is I32 [8, 2]"), std::string::npos);
  EXPECT_NE(problem({packed, tensor("x.weight_scale", "F16", {4, 2}, std::vector<uint16_t>(8))}).find("x.weight_scale is F16 [4, 2]"), std::string::npos);
  EXPECT_NE(problem({packed, tensor("x.weight_scale", "I32", {8, 2}, std::vector<uint32_t>(16))}).find("expected F16, BF16 or F32"), std::string::npos);
  EXPECT_NE(problem({packed, scales, tensor("x.weight_zero_point", "I32", {8, 2}, std::vector<uint32_t>(16))})
                .find("x.weight_zero_point is I32 [8, 2], expected [1, 2] I32, or [8, 2] I8"),
            std::string::npos);
  EXPECT_NE(problem({packed, scales, tensor<int64_t>("x.weight_shape", "I64", {2}, {16, 8})}).find("x.weight_shape says [16, 8], expected [8, 16]"),
            std::string::npos);
  EXPECT_NE(problem({packed, scales, tensor("x.weight_g_idx", "I32", {16}, std::vector<int32_t>{0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1})})
                .find("x.weight_g_idx puts input 8 into group 0"),
            std::string::npos);
  EXPECT_NE(problem({packed, scales, tensor("x.weight_g_idx", "I32", {8}, std::vector<int32_t>(8))}).find("x.weight_g_idx is I32 [8]"), std::string::npos);
}

std::string gptq_config(const std::string& more) {
  return R"({"quantization_config":{"quant_method":"gptq","bits":4,"group_size":8,)" + more + "}}";
}

std::vector<TensorBytes> gptq_tensors(uint32_t zeros, const std::vector<int32_t>& g_idx = {}) {
  std::vector<TensorBytes> tensors = {tensor("x.qweight", "I32", {2, 8}, std::vector<uint32_t>(16, 0x76543210)),
                                      tensor<uint32_t>("x.qzeros", "I32", {2, 1}, {zeros, zeros}),
                                      tensor("x.scales", "F16", {2, 8}, std::vector<uint16_t>(16, 0x3c00))};
  if (!g_idx.empty()) tensors.push_back(tensor("x.g_idx", "I32", {16}, g_idx));
  return tensors;
}

std::vector<int> zeros_of(const std::string& config, uint32_t word) {
  const auto written = write(config, gptq_tensors(word));
  const auto weight = written->loader->load("x", 8, 16);
  EXPECT_TRUE(weight.ok()) << weight.status().message();
  std::vector<int> first;
  for (int n = 0; n < 8; ++n) first.push_back(weight->zeros[n * 2]);
  return first;
}

// The vector z = 8,0,7,15,1,8,8,8 as three writers store it (version 1 stores z - 1).
TEST(GptqLoader, ReadsTheZerosOfEachWriter) {
  const std::vector<int> expected = {8, 0, 7, 15, 1, 8, 8, 8};
  EXPECT_EQ(zeros_of(gptq_config(R"("sym":false,"checkpoint_format":"gptq")"), 0x7770E6F7), expected);
  EXPECT_EQ(zeros_of(gptq_config(R"("sym":false,"meta":{"quantizer":["gptqmodel:7.7.0"]})"), 0x7770E5F7), expected);
  EXPECT_EQ(zeros_of(gptq_config(R"("sym":false,"checkpoint_format":"gptq_v2")"), 0x8881F708), expected);
  // One module may be asymmetric where the others are not.
  EXPECT_EQ(zeros_of(gptq_config(R"("sym":true,"dynamic":{"x":{"sym":false}},"meta":{"quantizer":["gptqmodel:7.7.0"]})"), 0x7770E5F7),
            expected);
}

// Eight outputs of 3 bits are less than a word of zeros, but not none.
TEST(GptqLoader, ZerosOfNoWordsAreTooFew) {
  const auto written = write(gptq_config(R"("sym":false)"), {tensor("x.qweight", "I32", {6, 8}, std::vector<uint32_t>(48)),
                                                             tensor<uint32_t>("x.qzeros", "I32", {4, 0}, {}),
                                                             tensor("x.scales", "F16", {4, 8}, std::vector<uint16_t>(32))});
  const auto weight = written->loader->load("x", 8, 64);
  ASSERT_FALSE(weight.ok());
  EXPECT_NE(weight.status().message().find("x.qzeros is I32 [4, 0], expected [4, 1] I32"), std::string::npos) << weight.status().message();
}

TEST(GptqLoader, ContentsDecideWhereTheLabelIsWrong) {
  const std::vector<int> eights(8, 8);
  EXPECT_EQ(zeros_of(gptq_config(R"("sym":true,"checkpoint_format":"gptq")"), 0x77777777), eights);
  EXPECT_EQ(zeros_of(gptq_config(R"("sym":true,"checkpoint_format":"gptq")"), 0x88888888), eights);
  EXPECT_EQ(zeros_of(gptq_config(R"("sym":true,"checkpoint_format":"gptq_v2")"), 0x77777777), eights);
}

TEST(GptqLoader, ActOrderSortsTheInputsByGroup) {
  const std::vector<int32_t> g_idx = {1, 0, 1, 0, 1, 0, 1, 0, 0, 0, 0, 0, 1, 1, 1, 1};
  const auto written = write(gptq_config(R"("sym":true,"desc_act":true)"), gptq_tensors(0x77777777, g_idx));
  const auto weight = written->loader->load("x", 8, 16);
  ASSERT_TRUE(weight.ok()) << weight.status().message();
  EXPECT_TRUE(weight->permuted);
  EXPECT_EQ(weight->k_order, (std::vector<int32_t>{1, 3, 5, 7, 8, 9, 10, 11, 0, 2, 4, 6, 12, 13, 14, 15}));
  for (int p = 0; p < 16; ++p) EXPECT_EQ(weight->codes[p], weight->k_order[p] % 8);  // the code of input k is k % 8
}

TEST(GptqLoader, AGroupIndexThatSaysNothingIsTheNaturalOne) {
  for (const std::vector<int32_t>& g_idx : {std::vector<int32_t>(16, 0), std::vector<int32_t>(16, -1)}) {
    const auto written = write(gptq_config(R"("sym":true)"), gptq_tensors(0x77777777, g_idx));
    const auto weight = written->loader->load("x", 8, 16);
    ASSERT_TRUE(weight.ok()) << weight.status().message();
    EXPECT_FALSE(weight->permuted);
  }
}

TEST(GptqLoader, TheGroupIndexMayHaveWiderNumbersAndNoOtherSize) {
  const auto load = [](TensorBytes g_idx) {
    std::vector<TensorBytes> tensors = gptq_tensors(0x77777777);
    tensors.push_back(std::move(g_idx));
    const auto written = write(gptq_config(R"("sym":true,"desc_act":true)"), tensors);
    return written->loader->load("x", 8, 16);
  };
  const auto wide = load(tensor<int64_t>("x.g_idx", "I64", {16}, {1, 0, 1, 0, 1, 0, 1, 0, 0, 0, 0, 0, 1, 1, 1, 1}));
  ASSERT_TRUE(wide.ok()) << wide.status().message();
  EXPECT_EQ(wide->k_order, (std::vector<int32_t>{1, 3, 5, 7, 8, 9, 10, 11, 0, 2, 4, 6, 12, 13, 14, 15}));
  const auto empty = load(tensor<int32_t>("x.g_idx", "I32", {0}, {}));
  ASSERT_TRUE(empty.ok()) << empty.status().message();
  EXPECT_FALSE(empty->permuted);
  for (const auto& wrong : {load(tensor<int32_t>("x.g_idx", "I32", {8}, {1, 0, 1, 0, 1, 0, 1, 0})),
                            load(tensor<int16_t>("x.g_idx", "I16", {16}, std::vector<int16_t>(16, 1)))}) {
    ASSERT_FALSE(wrong.ok());
    EXPECT_NE(wrong.status().message().find("x.g_idx is"), std::string::npos) << wrong.status().message();
  }
}

// What is of another type than everybody writes is not taken for absent: sym decides what zero points mean.
TEST(Loader, AConfigurationOfOtherTypesIsAnError) {
  const auto problem = [](const std::string& more) {
    TemporaryDirectory directory;
    directory.write("config.json", R"({"quantization_config":{"bits":4,)" + more + "}}");
    directory.write("model.safetensors", safetensors_bytes({}));
    const auto checkpoint = Checkpoint::open(directory.path());
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status().message();
    return WeightLoader::open(*checkpoint, {}).status().message();
  };
  EXPECT_EQ(problem(R"("sym":"true")"), R"(config.json: "sym" is "true", expected true or false)");
  EXPECT_EQ(problem(R"("zero_point":1)"), R"(config.json: "zero_point" is 1, expected true or false)");
  EXPECT_EQ(problem(R"("quant_method":3)"), R"(config.json: "quant_method" is 3, expected a string)");
  EXPECT_EQ(problem(R"("checkpoint_format":["gptq"])"), R"(config.json: "checkpoint_format" is ["gptq"], expected a string)");
  EXPECT_EQ(problem(R"("load_in_4bit":"yes")"), R"(config.json: "load_in_4bit" is "yes", expected true or false)");
  EXPECT_EQ(problem(R"("is_marlin_format":0)"), R"(config.json: "is_marlin_format" is 0, expected true or false)");
  EXPECT_EQ(problem(R"("sym":null,"zero_point":false,"version":null)"), "");
}

TEST(GptqLoader, AnUnevenGroupIndexIsAnError) {
  std::vector<int32_t> g_idx(16, 0);
  g_idx[3] = 1;
  const auto written = write(gptq_config(R"("sym":true)"), gptq_tensors(0x77777777, g_idx));
  const auto weight = written->loader->load("x", 8, 16);
  ASSERT_FALSE(weight.ok());
  EXPECT_NE(weight.status().message().find("x.g_idx"), std::string::npos);
}

// The published 3-bit block: codes 0..7 repeated are the words 88FAC688 C688FAC6 FAC688FA.
TEST(GptqLoader, ThreeBitsAreOneBitStream) {
  std::vector<uint32_t> words;
  for (uint32_t word : {0x88FAC688u, 0xC688FAC6u, 0xFAC688FAu}) words.insert(words.end(), 32, word);
  const auto written =
      write(R"({"quantization_config":{"quant_method":"gptq","bits":3,"group_size":32,"sym":true}})",
            {tensor("x.qweight", "I32", {3, 32}, words), tensor<uint32_t>("x.qzeros", "I32", {1, 3}, {0xDB6DB6DB, 0xB6DB6DB6, 0x6DB6DB6D}),
             tensor("x.scales", "F16", {1, 32}, std::vector<uint16_t>(32, 0x3c00))});
  const auto weight = written->loader->load("x", 32, 32);
  ASSERT_TRUE(weight.ok()) << weight.status().message();
  EXPECT_EQ(weight->bits, 3);
  for (int k = 0; k < 32; ++k) EXPECT_EQ(weight->codes[5 * 32 + k], k % 8);
  for (uint8_t zero : weight->zeros) EXPECT_EQ(zero, 4);
}

// The published planar blocks: codes i mod 2^b for i = 0 .. 31. Zeros are packed the same way, and mean what they say.
TEST(GptqLoader, PlanesArePutTogether) {
  const std::vector<uint32_t> low = {0x76543210, 0xFEDCBA98, 0x76543210, 0xFEDCBA98};
  const auto with = [&low](std::initializer_list<uint32_t> more) {
    std::vector<uint32_t> words = low;
    words.insert(words.end(), more);
    return words;
  };
  const std::vector<std::pair<int, std::vector<uint32_t>>> blocks = {
      {3, {0xE4E4E4E4, 0xE4E4E4E4, 0xF0F0F0F0}},
      {5, with({0xFFFF0000})},
      {6, with({0x00000000, 0x55555555})},
      {7, with({0x00000000, 0x55555555, 0x00000000})},
  };
  for (const auto& [bits, block] : blocks) {
    SCOPED_TRACE(bits);
    std::vector<uint32_t> words;  // two blocks of inputs; every output has the same codes
    for (int twice = 0; twice < 2; ++twice) {
      for (uint32_t word : block) words.insert(words.end(), 32, word);
    }
    const auto written = write(R"({"quantization_config":{"quant_method":"gptq","checkpoint_format":"gptq_p","sym":false,"bits":)" +
                                   std::to_string(bits) + R"(,"group_size":64}})",
                               {tensor("x.qweight", "I32", {2 * bits, 32}, words), tensor("x.qzeros", "I32", {1, bits}, block),
                                tensor("x.scales", "F16", {1, 32}, std::vector<uint16_t>(32, 0x3c00))});
    const auto weight = written->loader->load("x", 32, 64);
    ASSERT_TRUE(weight.ok()) << weight.status().message();
    EXPECT_EQ(weight->bits, bits == 3 ? 3 : 8);
    for (int n = 0; n < 32; ++n) {
      for (int k = 0; k < 64; ++k) ASSERT_EQ(weight_value(*weight, n, k), (k % 32) % (1 << bits) - n % (1 << bits)) << n << ", " << k;
    }
  }
}

TEST(BitsandbytesLoader, RefusesWhatItsOwnStateContradicts) {
  const std::string state = R"({"quant_type":"nf4","blocksize":64,"dtype":"float16","shape":[4,32]})";
  const std::vector<TensorBytes> tensors = {tensor("x.weight", "U8", {64, 1}, std::vector<uint8_t>(64)),
                                            tensor("x.weight.absmax", "F32", {2}, std::vector<float>(2, 1)),
                                            tensor("x.weight.quant_map", "F32", {16}, std::vector<float>(16, 0.5f)),
                                            {"x.weight.quant_state.bitsandbytes__nf4", "U8", {static_cast<int64_t>(state.size())}, state}};
  const auto written = write("{}", tensors);
  EXPECT_NE(written->loader->load("x", 4, 32).status().message().find("another codebook"), std::string::npos);
  EXPECT_NE(written->loader->load("x", 8, 32).status().message().find("[8, 32]"), std::string::npos);
}

// For a backend that takes stored weights the scales are a view too; decoded as quant_weight.h says they are the plain ones.
TEST(BitsandbytesLoader, ViewsOfScalesMeanThePlainOnes) {
  constexpr int64_t kN = 24, kK = 1024, kBlocks = kN * kK / 64;
  std::mt19937 random(7);
  std::uniform_real_distribution<float> uniform(0.1f, 1.f);
  std::vector<float> absmax(kBlocks), nested((kBlocks + 255) / 256), map(256);
  std::vector<uint8_t> packed(kN * kK / 2), small(kBlocks);
  for (float& value : absmax) value = uniform(random);
  for (float& value : nested) value = uniform(random);
  for (int i = 0; i < 256; ++i) map[i] = (i - 127) / 128.f;
  for (uint8_t& byte : packed) byte = static_cast<uint8_t>(random());
  for (uint8_t& byte : small) byte = static_cast<uint8_t>(random());
  const std::string state =
      R"({"quant_type":"nf4","blocksize":64,"dtype":"float16","shape":[24,1024],"nested_blocksize":256,"nested_offset":0.37})";
  for (const bool twice : {false, true}) {
    std::vector<TensorBytes> tensors = {tensor("x.weight", "U8", {kN * kK / 2, 1}, packed),
                                        {"x.weight.quant_state.bitsandbytes__nf4", "U8", {static_cast<int64_t>(state.size())}, state}};
    if (twice) {
      tensors.push_back(tensor("x.weight.absmax", "U8", {kBlocks}, small));
      tensors.push_back(tensor("x.weight.nested_absmax", "F32", {static_cast<int64_t>(nested.size())}, nested));
      tensors.push_back(tensor("x.weight.nested_quant_map", "F32", {256}, map));
    } else {
      tensors.push_back(tensor("x.weight.absmax", "F32", {kBlocks}, absmax));
    }
    const auto written = write("{}", tensors);
    const auto plain = written->loader->load("x", kN, kK), view = written->loader->load("x", kN, kK, true);
    ASSERT_TRUE(plain.ok() && view.ok()) << plain.status().message() << view.status().message();
    const StoredScales& stored = view->stored_scales;
    ASSERT_NE(stored.data, nullptr);
    EXPECT_TRUE(view->scales.empty() && view->codes.empty() && stored.by_rows);
    ASSERT_EQ(stored.map != nullptr, twice);
    const auto float_at = [](const uint8_t* data, int64_t i) {
      float value;
      std::memcpy(&value, data + 4 * i, 4);
      return value;
    };
    for (int64_t i = 0; i < kBlocks; ++i) {
      float scale =
          twice ? float_at(stored.map, stored.data[i]) * float_at(stored.nested, i / stored.nested_block) : float_at(stored.data, i);
      if (twice) scale += stored.offset;
      ASSERT_NEAR(plain->scales[i], scale, 1e-7f) << i;
    }
  }
}

TEST(Loader, AModuleWithoutAKnownFormatListsWhatItHas) {
  const auto written = write("{}", {tensor("x.mystery", "I16", {3}, std::vector<int16_t>(3))});
  const auto weight = written->loader->load("x", 1, 3);
  EXPECT_EQ(weight.status().code(), Code::kUnsupported);
  EXPECT_NE(weight.status().message().find("mystery I16 [3]"), std::string::npos);
  EXPECT_EQ(written->loader->load("y", 1, 3).status().code(), Code::kFormat);
}

TEST(Loader, AnAllZeroBiasCountsAsNone) {
  const auto written =
      write("{}", {tensor("x.bias", "F32", {2}, std::vector<float>{0, 0}), tensor("y.bias", "F32", {2}, std::vector<float>{0, 1})});
  EXPECT_TRUE(written->loader->bias("x", 2)->empty());
  EXPECT_EQ(written->loader->bias("y", 2)->size(), 2u);
  EXPECT_TRUE(written->loader->bias("z", 2)->empty());
  EXPECT_FALSE(written->loader->bias("y", 3).ok());
}

// The threshold goes to int8 alone, be it of the checkpoint or made while loading; without one nothing is rounded.
TEST(Int8, HasTheThresholdThatWasAskedFor) {
  const std::vector<TensorBytes> stored = {tensor("x.weight", "I8", {2, 32}, std::vector<uint8_t>(64, 3)),
                                           tensor("x.SCB", "F32", {2}, std::vector<float>(2, 1.f)),
                                           tensor("y.weight", "F16", {2, 32}, std::vector<uint16_t>(64, 0x3c00))};
  for (const double threshold : {-1.0, 0.0, 6.0}) {
    for (const auto method : {LoadQuantOptions::Method::kNone, LoadQuantOptions::Method::kInt8, LoadQuantOptions::Method::kNf4}) {
      LoadQuantOptions options;
      options.method = method;
      options.block_size = 32;
      options.int8_threshold = threshold;
      const auto written = write(R"({"quantization_config":{"quant_method":"bitsandbytes","load_in_8bit":true}})", stored, options);
      for (const char* module : {"x", "y"}) {
        const bool int8 = module[0] == 'x' || method == LoadQuantOptions::Method::kInt8;
        const auto spec = written->loader->spec(module, 2, 32);
        const auto weight = written->loader->load(module, 2, 32);
        ASSERT_TRUE(spec.ok() && weight.ok()) << weight.status().message();
        EXPECT_EQ(spec->outlier_threshold, int8 ? threshold : -1) << module;
        EXPECT_EQ(weight->outlier_threshold, int8 ? threshold : -1) << module;
      }
    }
  }
}

}  // namespace
}  // namespace nbl

// Rotary frequencies of each kind of scaling, against the formulas as published.
#include "model/rope_scaling.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/rope.h"

namespace nbl {
namespace {

DecoderConfig shape(int64_t head_dim, int64_t positions) {
  DecoderConfig c;
  c.head_dim = head_dim;
  c.max_position_embeddings = positions;
  return c;
}

Rope rope_of(const char* config, const DecoderConfig& c) {
  const auto rope = read_rope(*parse_json(config, "test"), c);
  EXPECT_TRUE(rope.ok()) << rope.status().message();
  return rope.ok() ? *rope : Rope{};
}

std::string problem_with(const char* config) {
  const auto rope = read_rope(*parse_json(config, "test"), shape(8, 64));
  EXPECT_FALSE(rope.ok()) << config;
  return rope.ok() ? "" : rope.status().message();
}

TEST(RopeScaling, DefaultIsAGeometricSeries) {
  const Rope rope = rope_of(R"({"rope_theta": 10000})", shape(8, 64));
  ASSERT_EQ(rope.inv_freq.size(), 4u);
  const double expected[] = {1, 0.1, 0.01, 0.001};
  for (int i = 0; i < 4; ++i) EXPECT_FLOAT_EQ(rope.inv_freq[i], static_cast<float>(expected[i]));
  EXPECT_EQ(rope.attention_factor, 1);
  EXPECT_FALSE(rope.dynamic);
}

TEST(RopeScaling, LinearDividesEveryFrequency) {
  const Rope rope = rope_of(R"({"rope_theta": 10000, "rope_scaling": {"type": "linear", "factor": 4}})", shape(8, 64));
  EXPECT_FLOAT_EQ(rope.inv_freq[0], 0.25f);
  EXPECT_FLOAT_EQ(rope.inv_freq[3], 0.00025f);
}

// At twice the trained length and factor 2 the base grows by (2 * 2 - 1) ^ (8 / 6).
TEST(RopeScaling, DynamicGrowsTheBaseBeyondTheTrainedLength) {
  const Rope rope = rope_of(R"({"rope_theta": 10000, "rope_scaling": {"rope_type": "dynamic", "factor": 2}})", shape(8, 64));
  ASSERT_TRUE(rope.dynamic);
  float within[4], beyond[4];
  rope_inv_freq(rope, 64, within);
  rope_inv_freq(rope, 128, beyond);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(within[i], rope.inv_freq[i]);
  const double base = 10000 * std::pow(3.0, 8.0 / 6.0);
  EXPECT_FLOAT_EQ(beyond[0], 1);
  EXPECT_FLOAT_EQ(beyond[3], static_cast<float>(std::pow(base, -6.0 / 8.0)));
}

// It is the config's own max_position_embeddings that transformers compares with, whatever the scaling says.
TEST(RopeScaling, DynamicTakesTheTrainedLengthFromTheConfig) {
  const Rope rope =
      rope_of(R"({"rope_scaling": {"rope_type": "dynamic", "factor": 2, "original_max_position_embeddings": 16}})", shape(8, 64));
  EXPECT_EQ(rope.original_length, 64);
}

// Of frequencies 1, 0.1, 0.01, 0.001 with 64 positions: wavelengths 6.3, 63, 628, 6283 and bounds 16 and 64.
TEST(RopeScaling, Llama3BlendsBetweenItsBounds) {
  const Rope rope = rope_of(R"({"rope_theta": 10000, "rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1,
                                "high_freq_factor": 4, "original_max_position_embeddings": 64}})", shape(8, 512));
  const double smooth = (64 / (2 * M_PI / 0.1) - 1) / (4 - 1);
  EXPECT_FLOAT_EQ(rope.inv_freq[0], 1);
  EXPECT_FLOAT_EQ(rope.inv_freq[1], static_cast<float>((1 - smooth) * 0.1 / 8 + smooth * 0.1));
  EXPECT_FLOAT_EQ(rope.inv_freq[2], 0.01f / 8);
  EXPECT_FLOAT_EQ(rope.inv_freq[3], 0.001f / 8);
}

// Dimensions that turn 32 times and once within 4096 positions: 4 ln(4096 / (32 * 2 pi)) / ln(10000) = 1.31 and 2.81,
// so that the ramp runs from 1 to 3 and the third pair is half way.
TEST(RopeScaling, YarnBlendsByDimensionAndScalesAttention) {
  const char* config =
      R"({"rope_theta": 10000, "rope_scaling": {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 4096}})";
  const Rope rope = rope_of(config, shape(8, 16384));
  EXPECT_FLOAT_EQ(rope.inv_freq[0], 1);
  EXPECT_FLOAT_EQ(rope.inv_freq[1], 0.1f);
  EXPECT_FLOAT_EQ(rope.inv_freq[2], static_cast<float>(0.01 * (0.5 + 0.5 / 4)));
  EXPECT_FLOAT_EQ(rope.inv_freq[3], 0.001f / 4);
  EXPECT_FLOAT_EQ(rope.attention_factor, static_cast<float>(0.1 * std::log(4.0) + 1));
}

TEST(RopeScaling, YarnWithoutAFactorTakesTheRatioOfLengths) {
  const Rope rope = rope_of(R"({"rope_scaling": {"rope_type": "yarn", "original_max_position_embeddings": 4096}})", shape(8, 16384));
  EXPECT_FLOAT_EQ(rope.inv_freq[3], 0.001f / 4);
  EXPECT_FLOAT_EQ(rope.attention_factor, static_cast<float>(0.1 * std::log(4.0) + 1));
}

TEST(RopeScaling, YarnTakesTheAttentionFactorThatIsGiven) {
  EXPECT_FLOAT_EQ(
      rope_of(R"({"rope_scaling": {"rope_type": "yarn", "factor": 4, "attention_factor": 1.5}})", shape(8, 64)).attention_factor, 1.5f);
  const Rope deepseek = rope_of(R"({"rope_scaling": {"type": "yarn", "factor": 40, "mscale": 1.0, "mscale_all_dim": 0.5}})", shape(8, 64));
  EXPECT_FLOAT_EQ(deepseek.attention_factor, static_cast<float>((0.1 * std::log(40.0) + 1) / (0.05 * std::log(40.0) + 1)));
}

// Frequencies 1, 0.1, 0.01, 0.001; the attention factor is that of 64 positions grown to 256.
TEST(RopeScaling, LongropeHasAListForEachLength) {
  const char* kConfig = R"({"original_max_position_embeddings": 64,
      "rope_scaling": {"type": "longrope", "short_factor": [1, 1, 1, 2], "long_factor": [2, 4, 8, 16]}})";
  const Rope rope = rope_of(kConfig, shape(8, 256));
  EXPECT_FLOAT_EQ(rope.attention_factor, static_cast<float>(std::sqrt(1 + std::log(4.0) / std::log(64.0))));
  float within[4], beyond[4];
  rope_inv_freq(rope, 64, within);
  rope_inv_freq(rope, 65, beyond);
  const float expected_within[] = {1, 0.1f, 0.01f, 0.0005f}, expected_beyond[] = {0.5f, 0.025f, 0.00125f, 0.0000625f};
  for (int i = 0; i < 4; ++i) {
    EXPECT_FLOAT_EQ(within[i], expected_within[i]);
    EXPECT_FLOAT_EQ(beyond[i], expected_beyond[i]);
  }
  // Its older names, and as transformers 5 writes it, where a factor counts.
  for (const char* name : {"su", "yarn"}) {
    std::string older = kConfig;
    EXPECT_EQ(rope_of(older.replace(older.find("longrope"), 8, name).c_str(), shape(8, 256)).long_inv_freq, rope.long_inv_freq) << name;
  }
  const Rope five = rope_of(R"({"rope_parameters": {"rope_type": "longrope", "rope_theta": 10000, "original_max_position_embeddings": 64,
      "factor": 16, "short_factor": [1, 1, 1, 2], "long_factor": [2, 4, 8, 16]}})", shape(8, 256));
  EXPECT_EQ(five.long_inv_freq, rope.long_inv_freq);
  EXPECT_EQ(five.original_length, 64);
  EXPECT_FLOAT_EQ(five.attention_factor, static_cast<float>(std::sqrt(1 + std::log(16.0) / std::log(64.0))));
}

TEST(RopeScaling, FrequenciesStayWhereTheLengthDoesNotCount) {
  const Rope plain = rope_of("{}", shape(8, 64));
  EXPECT_TRUE(rope_stays(plain, 1, 1000));
  const Rope ntk = rope_of(R"({"rope_scaling": {"rope_type": "dynamic", "factor": 2}})", shape(8, 64));
  const Rope lists = rope_of(R"({"original_max_position_embeddings": 64,
      "rope_scaling": {"type": "longrope", "short_factor": [1, 1, 1, 1], "long_factor": [2, 2, 2, 2]}})", shape(8, 256));
  for (const Rope& rope : {ntk, lists}) {
    EXPECT_TRUE(rope_stays(rope, 1, 64));
    EXPECT_FALSE(rope_stays(rope, 64, 65));
  }
  EXPECT_FALSE(rope_stays(ntk, 65, 66));
  EXPECT_TRUE(rope_stays(lists, 65, 200));
}

// Phi-4-mini and StableLM: the frequencies are those of as many values as turn.
TEST(RopeScaling, APartOfAHeadTurns) {
  for (const char* config : {R"({"partial_rotary_factor": 0.5})", R"({"rope_parameters": {"partial_rotary_factor": 0.5}})"}) {
    const Rope rope = rope_of(config, shape(8, 64));
    EXPECT_EQ(rope.rotary_dim, 4);
    ASSERT_EQ(rope.inv_freq.size(), 2u);
    EXPECT_FLOAT_EQ(rope.inv_freq[1], 0.01f);
  }
  EXPECT_EQ(read_rope(*parse_json("{}", "test"), shape(16, 64), 0.25)->rotary_dim, 4);
  EXPECT_EQ(read_rope(*parse_json(R"({"partial_rotary_factor": 1})", "test"), shape(16, 64), 0.25)->rotary_dim, 16);
}

TEST(RopeScaling, FaultyNumbersAreNamed) {
  EXPECT_NE(problem_with(R"({"rope_theta": 0})").find("rope_theta"), std::string::npos);
  EXPECT_NE(problem_with(R"({"rope_theta": "x"})").find("rope_theta"), std::string::npos);
  EXPECT_NE(problem_with(R"({"rope_theta": 1e-300})").find("rope_theta"), std::string::npos);
  EXPECT_NE(problem_with(R"({"rope_theta": 1, "rope_scaling": {"type": "yarn", "factor": 2}})").find("rope_theta"), std::string::npos);
  EXPECT_NE(problem_with(R"({"rope_scaling": {"type": "linear"}})").find("factor"), std::string::npos);
  EXPECT_NE(problem_with(R"({"rope_scaling": {"type": "dynamic", "factor": -2}})").find("factor"), std::string::npos);
  EXPECT_NE(problem_with(R"({"rope_scaling": {"type": "llama3", "factor": 2, "low_freq_factor": 4, "high_freq_factor": 4}})")
                .find("high_freq_factor"),
            std::string::npos);
  EXPECT_NE(problem_with(R"({"rope_scaling": {"type": "yarn", "factor": 1e300}})").find("factor"), std::string::npos);
  EXPECT_NE(problem_with(R"({"rope_scaling": {"type": "yarn", "factor": 2, "original_max_position_embeddings": 1e300}})")
                .find("original_max_position_embeddings"),
            std::string::npos);
  EXPECT_NE(problem_with(R"({"rope_scaling": {"type": "longrope"}})").find("\"short_factor\" is missing, expected a list of 4"),
            std::string::npos);
  EXPECT_NE(problem_with(R"({"rope_scaling": {"type": "longrope", "short_factor": [1, 1, 1, 1], "long_factor": [1, 2]}})")
                .find("\"long_factor\" is a list of 2, expected a list of 4"),
            std::string::npos);
  EXPECT_NE(problem_with(R"({"rope_scaling": {"type": "longrope", "short_factor": [1, 0, 1, 1]}})").find("short_factor"), std::string::npos);
  for (const char* part : {"0", "-1", "0.4", "1.5", "\"x\""}) {  // 0.4 of 8 are 3
    EXPECT_NE(problem_with(("{\"partial_rotary_factor\": " + std::string(part) + "}").c_str()).find("partial_rotary_factor"), std::string::npos)
        << part;
  }
  // Taken for absent they would mean the default rotation.
  EXPECT_EQ(problem_with(R"({"rope_scaling": "linear"})"), "config.json: \"rope_scaling\" is \"linear\", expected an object or null");
  EXPECT_EQ(problem_with(R"({"rope_parameters": [1]})"), "config.json: \"rope_parameters\" is [1], expected an object or null");
  EXPECT_NE(problem_with(R"({"rope_parameters": {"full_attention": {"rope_theta": 5}}})").find("rope_parameters"), std::string::npos);
}

}  // namespace
}  // namespace nbl

#include "model/config.h"

#include <gtest/gtest.h>

#include <cmath>

namespace nbl {
namespace {

Json small_config() {
  return *parse_json(
      R"({"architectures":["LlamaForCausalLM"],"model_type":"llama","vocab_size":100,"hidden_size":64,"intermediate_size":128,
                         "num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"max_position_embeddings":256,
                         "rms_norm_eps":1e-5,"rope_theta":10000.0})",
      "test");
}

std::string problem_with(const char* key, Json value) {
  Json config = small_config();
  config[key] = std::move(value);
  const auto read = read_model_config(config);
  EXPECT_FALSE(read.ok()) << key;
  return read.ok() ? "" : read.status().message();
}

TEST(ModelConfig, ReadsTheFieldsByTheirNames) {
  const auto read = read_model_config(small_config());
  ASSERT_TRUE(read.ok()) << read.status().message();
  EXPECT_EQ(read->decoder.head_dim, 16);
  EXPECT_EQ(read->decoder.num_key_value_heads, 2);
  EXPECT_FLOAT_EQ(read->norm_epsilon, 1e-5f);
  EXPECT_EQ(read->sliding_window, (std::vector<int64_t>{0, 0}));
  EXPECT_FLOAT_EQ(read->rope.inv_freq[1], static_cast<float>(std::pow(10000.0, -2.0 / 16)));
}

TEST(ModelConfig, UnknownArchitecturesAreNamedWithTheKnownOnes) {
  const std::string problem = problem_with("architectures", Json::array({"JukeboxModel"}));
  EXPECT_NE(problem.find("JukeboxModel"), std::string::npos);
  EXPECT_NE(problem.find("Qwen2ForCausalLM"), std::string::npos);
}

TEST(ModelConfig, ImplausibleNumbersAreNamedWithTheirBounds) {
  for (const char* key : {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"}) {
    for (const Json& value : {Json(0), Json(-1), Json(int64_t{1} << 60), Json("x"), Json(1.5), Json::array()}) {
      EXPECT_NE(problem_with(key, value).find(key), std::string::npos) << key << " " << value;
    }
  }
  EXPECT_NE(problem_with("num_key_value_heads", 3).find("cannot share"), std::string::npos);
  EXPECT_NE(problem_with("head_dim", 15).find("odd"), std::string::npos);
  EXPECT_NE(problem_with("hidden_act", "swiglu9").find("swiglu9"), std::string::npos);
  EXPECT_NE(problem_with("rope_scaling", Json{{"type", "spiral"}, {"factor", 2}}).find("spiral"), std::string::npos);
  EXPECT_NE(problem_with("rope_scaling", Json{{"type", "linear"}, {"factor", 0}}).find("factor"), std::string::npos);
}

TEST(ModelConfig, BothSpellingsOfTransformersAreOneConfig) {
  Json four = small_config(), five = small_config();
  four["rope_scaling"] = {{"type", "linear"}, {"factor", 4.0}};
  five.erase("rope_theta");
  five["rope_parameters"] = {{"rope_type", "linear"}, {"factor", 4.0}, {"rope_theta", 10000.0}};
  EXPECT_EQ(read_model_config(four)->rope.inv_freq, read_model_config(five)->rope.inv_freq);
}

TEST(ModelConfig, SlidingWindowsByLayer) {
  Json config = small_config();
  config["architectures"] = {"MistralForCausalLM"};
  config["sliding_window"] = 16;
  EXPECT_EQ(read_model_config(config)->sliding_window, (std::vector<int64_t>{16, 16}));
  config["sliding_window"] = nullptr;
  EXPECT_EQ(read_model_config(config)->sliding_window, (std::vector<int64_t>{0, 0}));
  config["architectures"] = {"Qwen2ForCausalLM"};
  config["sliding_window"] = 16;
  config["max_window_layers"] = 1;
  EXPECT_EQ(read_model_config(config)->sliding_window, (std::vector<int64_t>{0, 0}));  // use_sliding_window is false
  config["use_sliding_window"] = true;
  EXPECT_EQ(read_model_config(config)->sliding_window, (std::vector<int64_t>{0, 16}));
}

TEST(ModelConfig, ThePublishersCapitalsAreTheSameArchitecture) {
  Json config = small_config();
  config["architectures"] = {"LLaMAForCausalLM"};
  const auto read = read_model_config(config);
  ASSERT_TRUE(read.ok()) << read.status().message();
  EXPECT_EQ(read->decoder.architecture, "LlamaForCausalLM");
}

// Only Llama does not look at the list; transformers reads a Mistral that has one as a Ministral.
TEST(ModelConfig, LayerTypesSayWhichLayersSlide) {
  Json config = small_config();
  config["sliding_window"] = 16;
  config["use_sliding_window"] = true;
  config["layer_types"] = {"sliding_attention", "full_attention"};
  for (const char* name : {"MistralForCausalLM", "MinistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"}) {
    config["architectures"] = {name};
    EXPECT_EQ(read_model_config(config)->sliding_window, (std::vector<int64_t>{16, 0})) << name;
  }
  config["architectures"] = {"LlamaForCausalLM"};
  EXPECT_EQ(read_model_config(config)->sliding_window, (std::vector<int64_t>{0, 0}));
  config["architectures"] = {"MinistralForCausalLM"};
  config["layer_types"] = nullptr;
  EXPECT_EQ(read_model_config(config)->sliding_window, (std::vector<int64_t>{16, 16}));
  config["layer_types"] = {"sliding_attention"};
  EXPECT_NE(read_model_config(config).status().message().find("1 entries, expected 2"), std::string::npos);
  config["layer_types"] = {"sliding_attention", "linear_attention"};
  EXPECT_NE(read_model_config(config).status().message().find("linear_attention"), std::string::npos);
}

TEST(ModelConfig, SmolLM3SaysWhichLayersTurn) {
  Json config = small_config();
  config["architectures"] = {"SmolLM3ForCausalLM"};
  config["num_hidden_layers"] = 4;
  EXPECT_EQ(read_model_config(config)->rotary, (std::vector<bool>{true, true, true, false}));  // each fourth does not
  config["no_rope_layer_interval"] = 2;
  EXPECT_EQ(read_model_config(config)->rotary, (std::vector<bool>{true, false, true, false}));
  config["sliding_window"] = 16;
  EXPECT_EQ(read_model_config(config)->sliding_window, (std::vector<int64_t>{0, 0, 0, 0}));
  config["use_sliding_window"] = true;
  EXPECT_EQ(read_model_config(config)->sliding_window, (std::vector<int64_t>{0, 16, 0, 16}));
  config["no_rope_layers"] = {0, 1, 1, 1};
  EXPECT_EQ(read_model_config(config)->rotary, (std::vector<bool>{false, true, true, true}));
  config["no_rope_layers"] = {0, 1};
  EXPECT_NE(read_model_config(config).status().message().find("expected a list of 4"), std::string::npos);
  config["no_rope_layers"] = nullptr;
  config["no_rope_layer_interval"] = 0;
  EXPECT_NE(read_model_config(config).status().message().find("no_rope_layer_interval"), std::string::npos);
}

TEST(ModelConfig, StableLmHasLayerNormsAndTurnsAQuarter) {
  Json config = small_config();
  config["architectures"] = {"StableLmForCausalLM"};
  config["layer_norm_eps"] = 1e-3;  // not rms_norm_eps, which such files have too
  const auto read = read_model_config(config);
  ASSERT_TRUE(read.ok()) << read.status().message();
  EXPECT_EQ(read->norm_kind, Norm::Kind::kLayer);
  EXPECT_FLOAT_EQ(read->norm_epsilon, 1e-3f);
  EXPECT_EQ(read->rope.rotary_dim, 4);
  for (const char* key : {"use_parallel_residual", "qk_layernorm"}) {
    Json other = config;
    other[key] = true;
    const auto refused = read_model_config(other);
    EXPECT_EQ(refused.status().code(), Code::kUnsupported);
    EXPECT_NE(refused.status().message().find(key), std::string::npos);
  }
}

// llama3 scaling of three wavelengths, by the published formula: short ones stay, long ones are divided.
TEST(ModelConfig, Llama3ScalingKeepsShortWavelengths) {
  Json config = small_config();
  config["rope_scaling"] = {{"rope_type", "llama3"},
                            {"factor", 8.0},
                            {"low_freq_factor", 1.0},
                            {"high_freq_factor", 4.0},
                            {"original_max_position_embeddings", 64}};
  const auto read = read_model_config(config);
  ASSERT_TRUE(read.ok()) << read.status().message();
  EXPECT_FLOAT_EQ(read->rope.inv_freq[0], 1.0f);                                                    // 6.3 < 64 / 4
  EXPECT_FLOAT_EQ(read->rope.inv_freq[7], static_cast<float>(std::pow(10000.0, -14.0 / 16) / 8));   // far beyond 64
}

}  // namespace
}  // namespace nbl

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <vector>

#include "api_fixture.h"
#include "support/temporary_directory.h"

namespace {

using api::Owned;

std::string message_of(nbl_error* error) {
  const Owned<nbl_error> owned(error);
  return nbl_error_message(error, nullptr);
}

TEST(Api, TheShortProgramOfTheHeaderWorks) {
  auto session = api::session();
  const std::string text = api::generate(session.get(), "Once upon a time", 30);
  EXPECT_GT(text.size(), 40u);
  EXPECT_EQ(text, api::generate(api::session().get(), "Once upon a time", 30));  // greedy: the same again
}

// nbl_session_next's pieces are the same text, and a one-byte buffer loses nothing.
TEST(Api, StreamingGivesTheSameTextThroughAnyBuffer) {
  const std::string whole = api::generate(api::session().get(), "Lily and her dog", 60);
  auto session = api::session();
  ASSERT_EQ(nbl_session_append_text(session.get(), "Lily and her dog", NBL_NTS, NBL_TOKENIZE_ADD_SPECIAL, nullptr), NBL_OK);
  ASSERT_EQ(nbl_session_begin(session.get(), 60, nullptr), NBL_OK);
  std::string text;
  std::vector<char> buffer(1);
  int refused = 0;
  for (;;) {
    size_t length = 0;
    nbl_token id = -1;
    const nbl_status status = nbl_session_next(session.get(), &id, buffer.data(), buffer.size(), &length, nullptr);
    if (status == NBL_DONE) break;
    if (status == NBL_E_BUFFER) {
      ++refused;
      ASSERT_GT(length, buffer.size());
      buffer.resize(length);
      continue;
    }
    ASSERT_EQ(status, NBL_OK);
    text.append(buffer.data(), length);
    buffer.resize(1);
  }
  EXPECT_EQ(text, whole);
  EXPECT_GT(refused, 10);
}

TEST(Api, TokensGoThereAndBack) {
  const std::string text = "Momo h\xC3\xA9ll\xC3\xB6 \xF0\x9F\xA6\x99, said the fox.";
  std::vector<nbl_token> ids(100);
  size_t count = 0;
  ASSERT_EQ(nbl_tokenize(api::model(), text.data(), text.size(), 0, ids.data(), ids.size(), &count, nullptr), NBL_OK);
  std::vector<char> out(200);
  size_t length = 0;
  ASSERT_EQ(nbl_detokenize(api::model(), ids.data(), count, 0, out.data(), out.size(), &length, nullptr), NBL_OK);
  EXPECT_EQ(std::string(out.data(), length), text);

  std::vector<uint64_t> begin(100), end(100);
  size_t again = 0;
  ASSERT_EQ(
      nbl_tokenize_spans(api::model(), text.data(), text.size(), 0, ids.data(), ids.size(), &again, begin.data(), end.data(), nullptr),
      NBL_OK);
  EXPECT_EQ(again, count);
  EXPECT_EQ(begin[0], 0u);
  EXPECT_EQ(end[count - 1], text.size());

  ASSERT_EQ(nbl_tokenize(api::model(), text.data(), text.size(), 0, ids.data(), 2, &again, nullptr), NBL_E_BUFFER);
  EXPECT_EQ(again, count);

  std::string bytes;
  for (size_t i = 0; i < count; ++i) {
    ASSERT_EQ(nbl_token_bytes(api::model(), ids[i], out.data(), out.size(), &length, nullptr), NBL_OK);
    bytes.append(out.data(), length);
  }
  EXPECT_EQ(bytes, text);
}

TEST(Api, TextThatIsNotUtf8IsRefusedWithItsOffset) {
  auto session = api::session();
  nbl_error* error = nullptr;
  EXPECT_EQ(nbl_session_append_text(session.get(), "ab\xFFzz", 5, 0, &error), NBL_E_ARGUMENT);
  EXPECT_NE(std::string(nbl_error_detail(error, nullptr)).find("\"offset\":2"), std::string::npos);
  nbl_error_release(error);
}

TEST(Api, FlagsThatAreNotKnownAreRefused) {
  nbl_token ids[8];
  char text[64];
  uint64_t begin[8], end[8];
  size_t count = 0;
  auto session = api::session();
  nbl_error* error = nullptr;
  EXPECT_EQ(nbl_tokenize(api::model(), "hello", NBL_NTS, 5, ids, 8, &count, &error), NBL_E_ARGUMENT);
  EXPECT_EQ(message_of(error), "the argument \"flags\" is 0x5, of which 0x4 is not known here; known are 0x3");
  EXPECT_EQ(nbl_tokenize_spans(api::model(), "hello", NBL_NTS, 4, ids, 8, &count, begin, end, nullptr), NBL_E_ARGUMENT);
  EXPECT_EQ(nbl_session_append_text(session.get(), "hello", NBL_NTS, 1u << 31, nullptr), NBL_E_ARGUMENT);
  ids[0] = 1;
  EXPECT_EQ(nbl_detokenize(api::model(), ids, 1, 2, text, sizeof text, &count, nullptr), NBL_E_ARGUMENT);
}

TEST(Api, AMissingDirectoryIsNotFound) {
  nbl_model* model = nullptr;
  nbl_error* error = nullptr;
  EXPECT_EQ(nbl_model_load("/nonexistent/model", NBL_NTS, nullptr, &model, &error), NBL_E_NOT_FOUND);
  EXPECT_EQ(model, nullptr);
  EXPECT_NE(message_of(error).find("/nonexistent/model"), std::string::npos);
}

// A value that is quoted in part is cut between bytes; who reads the message reads UTF-8.
TEST(Api, WhatAnErrorSaysIsUtf8) {
  const nbl::testing::TemporaryDirectory directory;
  std::string value = "\"";
  for (int i = 0; i < 40; ++i) value += "\xE2\x82\xAC";
  directory.write("config.json", "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"vocab_size\": " + value + "\"}");
  directory.write("model.safetensors", std::string("\2\0\0\0\0\0\0\0{}", 10));
  nbl_model* model = nullptr;
  nbl_error* error = nullptr;
  EXPECT_EQ(nbl_model_load(directory.path().data(), directory.path().size(), nullptr, &model, &error), NBL_E_FORMAT);
  const std::string message = message_of(error);
  EXPECT_NE(message.find("\xE2\x82\xAC\xEF\xBF\xBD..., expected a whole number"), std::string::npos) << message;
}

TEST(Api, OptionsAreCheckedByTypeRangeAndName) {
  nbl_config* raw = nullptr;
  ASSERT_EQ(nbl_config_create(&raw, nullptr), NBL_OK);
  const Owned<nbl_config> config(raw);
  nbl_error* error = nullptr;
  EXPECT_EQ(nbl_config_set_f64(raw, NBL_OPT_TOP_P, 1.5, &error), NBL_E_OPTION_VALUE);
  EXPECT_NE(message_of(error).find("top_p"), std::string::npos);
  EXPECT_EQ(nbl_config_set_f64(raw, NBL_OPT_TOP_P, NAN, nullptr), NBL_E_OPTION_VALUE);
  EXPECT_EQ(nbl_config_set_str(raw, NBL_OPT_CPU_ISA, "mmx", NBL_NTS, &error), NBL_E_OPTION_VALUE);
  EXPECT_NE(message_of(error).find("avx2"), std::string::npos);  // tells what is known
  EXPECT_EQ(nbl_config_set_i64(raw, 424242, 1, nullptr), NBL_E_UNKNOWN_OPTION);
}

// Users bring along the names of AutoAWQ's, AutoGPTQ's and GPTQModel's kernels: by an option they are refused with what takes
// their layers, while the switches of a quantization_config are hints that choose nothing.
TEST(Api, KernelsOfOtherToolsAreRefusedWithWhatTakesTheirLayers) {
  nbl_config* raw = nullptr;
  ASSERT_EQ(nbl_config_create(&raw, nullptr), NBL_OK);
  const Owned<nbl_config> config(raw);
  nbl_error* error = nullptr;
  for (const char* name : {"exllama", "ExLlamaV2", "exllama2", "marlin", "gptq_marlin", "gemm", "gemv_fast", "bitblas"}) {
    EXPECT_EQ(nbl_config_set_str(raw, NBL_OPT_KERNEL, name, NBL_NTS, &error), NBL_E_OPTION_VALUE);
    const std::string message = message_of(error);
    EXPECT_NE(message.find(name), std::string::npos) << message;
    EXPECT_NE(message.find("not part of nibble"), std::string::npos) << message;
    EXPECT_NE(message.find("known are auto, resident, launches, tiles, cublas"), std::string::npos) << message;
  }
  EXPECT_EQ(nbl_config_set_str(raw, NBL_OPT_KERNEL, "fastest", NBL_NTS, &error), NBL_E_OPTION_VALUE);
  EXPECT_EQ(message_of(error), "the option kernel is \"fastest\"; known are auto, resident, launches, tiles, cublas");
  const std::string hints = R"({"quantization_config": {"use_exllama": false, "exllama_config": {"version": 2}, "version": "exllama"}})";
  EXPECT_EQ(nbl_config_merge_json(raw, hints.data(), hints.size(), nullptr), NBL_OK);
}

TEST(Api, AnOptionOutOfRangeIsToldWithItsRange) {
  nbl_config* raw = nullptr;
  ASSERT_EQ(nbl_config_create(&raw, nullptr), NBL_OK);
  const Owned<nbl_config> config(raw);
  nbl_error* error = nullptr;
  EXPECT_EQ(nbl_config_set_i64(raw, NBL_OPT_CONTEXT, 16777217, &error), NBL_E_OPTION_VALUE);
  EXPECT_EQ(message_of(error), "the option context is 16777217, expected a whole number from 0 to 16777216");
  EXPECT_EQ(nbl_config_set_f64(raw, NBL_OPT_TOP_P, 1.5, &error), NBL_E_OPTION_VALUE);
  EXPECT_EQ(message_of(error), "the option top_p is 1.5, expected a number from 0 to 1");
  EXPECT_EQ(nbl_config_merge_json(raw, R"({"load_in_4bit": "yes"})", NBL_NTS, &error), NBL_E_OPTION_VALUE);
  EXPECT_NE(message_of(error).find("\"load_in_4bit\" is \"yes\""), std::string::npos);
  ASSERT_EQ(nbl_config_add_str(raw, NBL_OPT_STOP_IDS, "99999999", NBL_NTS, nullptr), NBL_OK);
  nbl_session* session = nullptr;
  EXPECT_EQ(nbl_session_create(api::model(), raw, &session, &error), NBL_E_OPTION_VALUE);
  EXPECT_NE(message_of(error).find("from 0 to 16777216"), std::string::npos);
}

// generation_config.json is held to the ranges of the options, and named.
TEST(Api, SamplingThatACheckpointCannotMeanIsRefused) {
  const nbl::testing::TemporaryDirectory directory;
  for (const char* name : {"config.json", "model.safetensors", "tokenizer.json"}) {
    std::filesystem::create_symlink(std::string(NIBBLE_TEST_DATA "/story-6m/") + name, directory.file(name));
  }
  const struct {
    const char* json;
    const char* expected;  // null: it loads
  } cases[] = {
      {R"({"do_sample": true, "top_p": 7})", "the option top_p is 7"},
      {R"({"do_sample": true, "top_k": "many"})", "\"top_k\" is \"many\""},
      {R"({"repetition_penalty": 0})", "the option repetition_penalty is 0"},
      {R"({"do_sample": true, "top_k": -1})", nullptr},
  };
  for (const auto& c : cases) {
    directory.write("generation_config.json", c.json);
    nbl_model* model = nullptr;
    nbl_error* error = nullptr;
    const nbl_status status = nbl_model_load(directory.path().c_str(), NBL_NTS, nullptr, &model, &error);
    const std::string message = message_of(error);
    nbl_model_release(model);
    EXPECT_EQ(status == NBL_OK, c.expected == nullptr) << message;
    char* text = nullptr;
    size_t length = 0;
    ASSERT_EQ(nbl_model_inspect(directory.path().c_str(), NBL_NTS, &text, &length, nullptr), NBL_OK);
    const std::string inspected = api::take(text, length);
    EXPECT_NE(inspected.find(c.expected ? "\"loadable\":false" : "\"loadable\":true"), std::string::npos) << inspected;
    text = nullptr;
    EXPECT_EQ(nbl_model_estimate(directory.path().c_str(), NBL_NTS, nullptr, &text, nullptr, nullptr), status);
    nbl_free(text);
    if (!c.expected) continue;
    EXPECT_NE(message.find("generation_config.json: "), std::string::npos) << message;
    EXPECT_NE(message.find(c.expected), std::string::npos) << message;
  }
}

// What no session could be made with is not estimated either.
TEST(Api, ATypeOfKeysAndValuesThatTheDeviceLacksIsRefusedByItsOption) {
  for (const char* device : {"cpu", "ref"}) {
    nbl_config* raw = nullptr;
    ASSERT_EQ(nbl_config_create(&raw, nullptr), NBL_OK);
    const Owned<nbl_config> config(raw);
    ASSERT_EQ(nbl_config_set_str(raw, NBL_OPT_DEVICE, device, NBL_NTS, nullptr), NBL_OK);
    nbl_model* model = nullptr;
    ASSERT_EQ(nbl_model_load(api::model_directory().data(), NBL_NTS, raw, &model, nullptr), NBL_OK);
    const Owned<nbl_model> owned(model);
    for (const char* type : {"f16", "f32", "int8"}) {
      SCOPED_TRACE(std::string(device) + " " + type);
      ASSERT_EQ(nbl_config_set_str(raw, NBL_OPT_KV_DTYPE, type, NBL_NTS, nullptr), NBL_OK);
      const nbl_status expected = std::string(type) == "int8" ? NBL_E_UNSUPPORTED : NBL_OK;
      char* text = nullptr;
      nbl_session* session = nullptr;
      nbl_error* errors[2] = {};
      EXPECT_EQ(nbl_model_estimate(api::model_directory().data(), NBL_NTS, raw, &text, nullptr, &errors[0]), expected);
      EXPECT_EQ(nbl_session_create(model, raw, &session, &errors[1]), expected);
      nbl_free(text);
      nbl_session_release(session);
      for (nbl_error* error : errors) {
        if (expected == NBL_OK) continue;
        EXPECT_NE(std::string(nbl_error_detail(error, nullptr)).find(R"("option":"kv_dtype")"), std::string::npos);
        EXPECT_NE(message_of(error).find("kv_dtype"), std::string::npos);
      }
    }
  }
}

TEST(Api, DescribeTellsTheThresholdOfInt8) {
  for (const double threshold : {-1.0, 6.0}) {
    nbl_config* raw = nullptr;
    ASSERT_EQ(nbl_config_create(&raw, nullptr), NBL_OK);
    const Owned<nbl_config> config(raw);
    ASSERT_EQ(nbl_config_set_str(raw, NBL_OPT_DEVICE, "cpu", NBL_NTS, nullptr), NBL_OK);
    ASSERT_EQ(nbl_config_set_str(raw, NBL_OPT_LOAD_QUANT, "int8", NBL_NTS, nullptr), NBL_OK);
    ASSERT_EQ(nbl_config_set_f64(raw, NBL_OPT_INT8_THRESHOLD, threshold, nullptr), NBL_OK);
    nbl_model* model = nullptr;
    ASSERT_EQ(nbl_model_load(NIBBLE_SOURCE_DIR "/tests/data/story-6m", NBL_NTS, raw, &model, nullptr), NBL_OK);
    const Owned<nbl_model> owned(model);
    char* text = nullptr;
    size_t length = 0;
    ASSERT_EQ(nbl_model_describe(model, &text, &length, nullptr), NBL_OK);
    EXPECT_EQ(api::take(text, length).find("\"int8_threshold\":6.0") != std::string::npos, threshold == 6.0);
  }
}

TEST(Api, JsonTakesTheNamesOfTransformers) {
  nbl_config* raw = nullptr;
  ASSERT_EQ(nbl_config_create(&raw, nullptr), NBL_OK);
  const Owned<nbl_config> config(raw);
  const char* json = R"({"device_map": {"": "cpu"}, "temperature": 0.7, "top_k": 50, "do_sample": true, "load_in_4bit": true,
                         "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": true, "stop_strings": ["\n", "END"],
                         "max_length": 50, "bits": 4, "zero_point": true, "something_else": [1, 2]})";
  nbl_error* error = nullptr;
  ASSERT_EQ(nbl_config_merge_json(raw, json, NBL_NTS, &error), NBL_OK) << message_of(error);
  char* text = nullptr;
  size_t length = 0;
  ASSERT_EQ(nbl_config_to_json(raw, &text, &length, nullptr), NBL_OK);
  EXPECT_EQ(api::take(text, length),
            R"({"device":"cpu","load_quant":"nf4","double_quant":1,"temperature":0.7,"top_k":50,"max_length":50,"stop":["\n","END"]})");
  EXPECT_EQ(nbl_config_merge_json(raw, R"({"device_map": {"lm_head": "cpu", "model": 0}})", NBL_NTS, nullptr), NBL_E_UNSUPPORTED);
  for (const char* wrong : {R"({"temperature": "hot"})", R"({"do_sample": "yes"})", R"({"quantization_config": ["nf4"]})",
                            R"({"load_in_4bit": true, "bnb_4bit_quant_type": 4})", R"({"quantization_config": {"load_in_8bit": 1}})"}) {
    EXPECT_EQ(nbl_config_merge_json(raw, wrong, NBL_NTS, nullptr), NBL_E_OPTION_VALUE) << wrong;
  }
  EXPECT_EQ(nbl_config_merge_json(raw, "{", NBL_NTS, nullptr), NBL_E_FORMAT);
}

// The spellings of transformers' device_map, all of which place a model whole.
TEST(Api, DeviceMapTakesTheNamesOfTransformers) {
  const struct {
    const char* json;
    const char* device;  // what becomes of it, or null when it is refused
    nbl_status status;
  } table[] = {
      {R"("auto")", "auto", NBL_OK},          {R"("balanced")", "auto", NBL_OK},     {R"("balanced_low_0")", "auto", NBL_OK},
      {R"("sequential")", "auto", NBL_OK},    {R"("cpu")", "cpu", NBL_OK},           {R"("cuda")", "cuda", NBL_OK},
      {R"("cuda:1")", "cuda:1", NBL_OK},      {R"("0")", "0", NBL_OK},               {"0", "cuda:0", NBL_OK},
      {R"({"": 0})", "cuda:0", NBL_OK},       {R"({"": "cuda:0"})", "cuda:0", NBL_OK},
      {R"({"model": 0, "lm_head": 0})", "cuda:0", NBL_OK},
      {R"({"model": 0, "lm_head": "cpu"})", nullptr, NBL_E_UNSUPPORTED},
      {R"({"model": 0, "lm_head": 1})", nullptr, NBL_E_UNSUPPORTED},
      {"true", nullptr, NBL_E_OPTION_VALUE},  {"{}", nullptr, NBL_E_OPTION_VALUE},
  };
  for (const auto& row : table) {
    nbl_config* raw = nullptr;
    ASSERT_EQ(nbl_config_create(&raw, nullptr), NBL_OK);
    const Owned<nbl_config> config(raw);
    const std::string json = std::string(R"({"device_map": )") + row.json + "}";
    EXPECT_EQ(nbl_config_merge_json(raw, json.c_str(), NBL_NTS, nullptr), row.status) << json;
    if (row.device == nullptr) continue;
    char* text = nullptr;
    size_t length = 0;
    ASSERT_EQ(nbl_config_to_json(raw, &text, &length, nullptr), NBL_OK);
    EXPECT_EQ(api::take(text, length), std::string(R"({"device":")") + row.device + "\"}") << json;
  }
}

TEST(Api, ACeilingThatIsTooLowIsRefusedBeforeTheLoad) {
  nbl_config* raw = nullptr;
  ASSERT_EQ(nbl_config_create(&raw, nullptr), NBL_OK);
  const Owned<nbl_config> config(raw);
  nbl_error* error = nullptr;
  ASSERT_EQ(nbl_config_merge_json(raw, R"({"device_map": "cpu", "max_memory": {"0": "30GiB", "cpu": "100KB"}})", NBL_NTS, &error), NBL_OK)
      << message_of(error);
  nbl_model* model = nullptr;
  EXPECT_EQ(nbl_model_load(NIBBLE_TEST_DATA "/story-6m", NBL_NTS, raw, &model, &error), NBL_E_NO_MEMORY);
  const std::string message = nbl_error_message(error, nullptr);
  EXPECT_NE(message.find("100000 are its ceiling in max_memory"), std::string::npos) << message;
  EXPECT_NE(std::string(nbl_error_detail(error, nullptr)).find("\"needed\":"), std::string::npos);
  nbl_error_release(error);
  ASSERT_EQ(nbl_config_merge_json(raw, R"({"max_memory": {"cpu": "1 GiB"}})", NBL_NTS, nullptr), NBL_OK);
  ASSERT_EQ(nbl_model_load(NIBBLE_TEST_DATA "/story-6m", NBL_NTS, raw, &model, nullptr), NBL_OK);
  nbl_model_release(model);
  EXPECT_EQ(nbl_config_merge_json(raw, R"({"max_memory": {"disk": "1GB"}})", NBL_NTS, nullptr), NBL_E_UNSUPPORTED);
  EXPECT_EQ(nbl_config_merge_json(raw, R"({"max_memory": {"cpu": "much"}})", NBL_NTS, nullptr), NBL_E_OPTION_VALUE);
  EXPECT_EQ(nbl_config_merge_json(raw, R"({"max_memory": "1GB"})", NBL_NTS, nullptr), NBL_E_OPTION_VALUE);
}

// Minus infinity forbids a token; what is no number would say nothing.
TEST(Api, ABiasIsANumber) {
  auto session = api::session();
  const nbl_token ids[] = {3, 5};
  const float wrong[] = {1.0f, NAN}, forbids[] = {-INFINITY, 1.0f};
  nbl_error* error = nullptr;
  EXPECT_EQ(nbl_session_bias(session.get(), ids, 2, wrong, &error), NBL_E_ARGUMENT);
  EXPECT_NE(message_of(error).find("token 5 is NaN"), std::string::npos);
  EXPECT_EQ(nbl_session_bias(session.get(), ids, 2, forbids, nullptr), NBL_OK);
}

TEST(Api, LogitsTopAndScoreAgree) {
  auto session = api::session();
  ASSERT_EQ(nbl_session_append_text(session.get(), "There was a king who", NBL_NTS, NBL_TOKENIZE_ADD_SPECIAL, nullptr), NBL_OK);
  int64_t vocabulary = 0;
  ASSERT_EQ(nbl_model_i64(api::model(), NBL_PROP_VOCABULARY, &vocabulary, nullptr), NBL_OK);
  std::vector<float> logits(vocabulary);
  size_t count = 0;
  ASSERT_EQ(nbl_session_logits(session.get(), logits.data(), logits.size(), &count, nullptr), NBL_OK);
  ASSERT_EQ(count, logits.size());
  std::vector<nbl_token> ids(3);
  std::vector<float> logprobs(3);
  ASSERT_EQ(nbl_session_top(session.get(), ids.data(), 3, &count, logprobs.data(), nullptr), NBL_OK);
  ASSERT_EQ(count, 3u);
  double sum = 0;
  for (float logit : logits) sum += std::exp(static_cast<double>(logit));
  for (int i = 0; i < 3; ++i) EXPECT_NEAR(logprobs[i], logits[ids[i]] - std::log(sum), 1e-4);
  float score = 0;
  ASSERT_EQ(nbl_session_score(session.get(), &ids[1], 1, &score, nullptr), NBL_OK);
  EXPECT_NEAR(score, logprobs[1], 1e-3);
}

TEST(Api, ChatReusesWhatIsInTheCache) {
  auto session = api::session();
  const std::string turn = R"({"messages": [{"role": "user", "content": "Tell me a story about a brave mouse."}]})";
  nbl_error* error = nullptr;
  ASSERT_EQ(nbl_session_append_chat(session.get(), turn.data(), turn.size(), &error), NBL_OK) << message_of(error);
  int64_t tokens = 0, reused = 0;
  ASSERT_EQ(nbl_session_i64(session.get(), NBL_PROP_TOKENS, &tokens, nullptr), NBL_OK);
  ASSERT_EQ(nbl_session_append_chat(session.get(), turn.data(), turn.size(), nullptr), NBL_OK);
  ASSERT_EQ(nbl_session_i64(session.get(), NBL_PROP_REUSED_TOKENS, &reused, nullptr), NBL_OK);
  EXPECT_EQ(reused, tokens - 1);  // one token runs again, to have logits
}

// Words of sentencepiece's kind: the space is part of the token, and the first of a text has none.
Owned<nbl_model> model_of_spaced_words(const nbl::testing::TemporaryDirectory& directory) {
  for (const char* name : {"config.json", "model.safetensors"}) {
    std::filesystem::create_symlink(std::string(NIBBLE_TEST_DATA "/story-6m/") + name, directory.file(name));
  }
  std::string vocab;
  for (int id = 0; id < 4096; ++id) vocab += (id ? ",\"\u2581w" : "\"\u2581w") + std::to_string(id) + "\":" + std::to_string(id);
  const std::string spaces = R"({"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": true})";
  directory.write("tokenizer.json",
                  R"({"version": "1.0", "added_tokens": [], "normalizer": null, "post_processor": null, "pre_tokenizer": )" + spaces +
                      R"(, "decoder": )" + spaces + R"(, "model": {"type": "WordLevel", "unk_token": "\u2581w0", "vocab": {)" + vocab +
                      "}}}");
  directory.write("tokenizer_config.json", R"({"chat_template": "{{ messages[-1].content }}"})");
  nbl_model* model = nullptr;
  nbl_error* error = nullptr;
  EXPECT_EQ(nbl_model_load(directory.path().c_str(), NBL_NTS, nullptr, &model, &error), NBL_OK) << message_of(error);
  return Owned<nbl_model>(model);
}

TEST(Api, AnAnswerGoesOnWithTheTextAndAMessageBeginsOne) {
  const nbl::testing::TemporaryDirectory directory;
  const Owned<nbl_model> model = model_of_spaced_words(directory);
  nbl_session* raw = nullptr;
  ASSERT_EQ(nbl_session_create(model.get(), nullptr, &raw, nullptr), NBL_OK);
  const Owned<nbl_session> session(raw);
  ASSERT_EQ(nbl_session_set_i64(raw, NBL_OPT_IGNORE_EOS, 1, nullptr), NBL_OK);
  const auto two_words = [&] {
    std::string text;
    EXPECT_EQ(nbl_session_begin(raw, 2, nullptr), NBL_OK);
    char piece[64];
    for (size_t size = 0; nbl_session_next(raw, nullptr, piece, sizeof piece, &size, nullptr) == NBL_OK;) text.append(piece, size);
    return text;
  };
  const auto spaces_of = [](const std::string& text) { return std::count(text.begin(), text.end(), ' '); };

  ASSERT_EQ(nbl_session_append_text(raw, "w5 w6", NBL_NTS, 0, nullptr), NBL_OK);
  const std::string first = two_words(), second = two_words();
  EXPECT_EQ(spaces_of(first), 2) << first;
  EXPECT_EQ(spaces_of(second), 2) << second;
  nbl_token ids[6];
  size_t count = 0;
  ASSERT_EQ(nbl_session_tokens(raw, 0, ids, 6, &count, nullptr), NBL_OK);
  char whole[200];
  ASSERT_EQ(nbl_detokenize(model.get(), ids, count, 0, whole, sizeof whole, &count, nullptr), NBL_OK);
  EXPECT_EQ(std::string(whole, count), "w5 w6" + first + second);

  const char* turn = R"({"messages": [{"role": "user", "content": "w7 w8 w9"}]})";
  ASSERT_EQ(nbl_session_append_chat(raw, turn, NBL_NTS, nullptr), NBL_OK);
  const std::string answer = two_words();
  EXPECT_EQ(spaces_of(answer), 1) << answer;
  ASSERT_EQ(nbl_session_truncate(raw, 3, nullptr), NBL_OK);  // another answer to the same
  EXPECT_EQ(spaces_of(two_words()), 1);
  EXPECT_EQ(spaces_of(two_words()), 2);  // and more of it
  const char* begun = R"({"messages": [{"role": "assistant", "content": "w7 w8"}], "continue_final_message": true})";
  ASSERT_EQ(nbl_session_append_chat(raw, begun, NBL_NTS, nullptr), NBL_OK);
  EXPECT_EQ(spaces_of(two_words()), 2);
}

// Whoever writes a control token into a message ends no turn by it, where the host asks for that.
TEST(Api, ControlTokensOfUsersCanBeSpelled) {
  const auto ids_of = [](const char* request) {
    auto session = api::session();
    nbl_error* error = nullptr;
    EXPECT_EQ(nbl_session_append_chat(session.get(), request, NBL_NTS, &error), NBL_OK) << message_of(error);
    std::vector<nbl_token> ids(200);
    size_t count = 0;
    EXPECT_EQ(nbl_session_tokens(session.get(), 0, ids.data(), ids.size(), &count, nullptr), NBL_OK);
    ids.resize(count);
    return ids;
  };
  const auto count_of = [](const std::vector<nbl_token>& ids, nbl_token id) { return std::count(ids.begin(), ids.end(), id); };
  const nbl_token user = 1;  // <|user|> of the embedded model
  const char* injected = R"({"messages":[{"role":"user","content":"Tell me <|user|> a story"}]})";
  const char* spelled = R"({"messages":[{"role":"user","content":"Tell me <|user|> a story"}],"spell_special":true})";
  EXPECT_EQ(count_of(ids_of(injected), user), 2);
  EXPECT_EQ(count_of(ids_of(spelled), user), 1);
  // Everything else is as it was, and the text is the same.
  const auto text_of = [](const std::vector<nbl_token>& ids) {
    std::vector<char> text(1000);
    size_t length = 0;
    EXPECT_EQ(nbl_detokenize(api::model(), ids.data(), ids.size(), 0, text.data(), text.size(), &length, nullptr), NBL_OK);
    return std::string(text.data(), length);
  };
  EXPECT_EQ(text_of(ids_of(spelled)), text_of(ids_of(injected)));
}

TEST(Api, ReleaseOrderDoesNotMatter) {
  nbl_model* model = nullptr;
  ASSERT_EQ(nbl_model_load(api::model_directory().data(), api::model_directory().size(), nullptr, &model, nullptr), NBL_OK);
  nbl_session* session = nullptr;
  ASSERT_EQ(nbl_session_create(model, nullptr, &session, nullptr), NBL_OK);
  nbl_batch* batch = nullptr;
  ASSERT_EQ(nbl_batch_create(model, nullptr, &batch, nullptr), NBL_OK);
  ASSERT_EQ(nbl_batch_add(batch, session, nullptr), NBL_OK);
  nbl_model_release(model);
  EXPECT_FALSE(api::generate(session, "One day", 5).empty());
  nbl_session_release(session);
  int64_t active = -1;
  EXPECT_EQ(nbl_batch_step(batch, &active, nullptr), NBL_OK);  // the batch keeps the session
  nbl_batch_release(batch);
}

// The batch has made its plan for the weights as they lay before.
TEST(Api, ABatchGoesOnWithAModelThatWasMoved) {
  nbl_model* loaded = nullptr;
  ASSERT_EQ(nbl_model_load(api::model_directory().data(), api::model_directory().size(), nullptr, &loaded, nullptr), NBL_OK);
  const api::Owned<nbl_model> model(loaded);
  nbl_batch* made = nullptr;
  ASSERT_EQ(nbl_batch_create(loaded, nullptr, &made, nullptr), NBL_OK);
  const api::Owned<nbl_batch> batch(made);
  std::string expected;
  for (int round = 0; round < 2; ++round) {
    nbl_session* created = nullptr;
    ASSERT_EQ(nbl_session_create(loaded, nullptr, &created, nullptr), NBL_OK);
    api::Owned<nbl_session> session(created);
    EXPECT_EQ(nbl_model_move(loaded, NBL_DEVICE_CPU, nullptr), NBL_E_BUSY);
    ASSERT_EQ(nbl_session_set_f64(created, NBL_OPT_TEMPERATURE, 0, nullptr), NBL_OK);
    ASSERT_EQ(nbl_session_append_text(created, "Once upon a time", NBL_NTS, NBL_TOKENIZE_ADD_SPECIAL, nullptr), NBL_OK);
    ASSERT_EQ(nbl_session_begin(created, 5, nullptr), NBL_OK);
    ASSERT_EQ(nbl_batch_add(made, created, nullptr), NBL_OK);
    std::string text;
    for (int step = 0; step < 5; ++step) {
      int64_t active = 0;
      ASSERT_EQ(nbl_batch_step(made, &active, nullptr), NBL_OK);
      char buffer[64];
      size_t length = 0;
      ASSERT_EQ(nbl_session_next(created, nullptr, buffer, sizeof buffer, &length, nullptr), NBL_OK);
      text.append(buffer, length);
    }
    if (round == 0) expected = text;
    EXPECT_EQ(text, expected);
    ASSERT_EQ(nbl_batch_remove(made, created, nullptr), NBL_OK);
    session.reset();
    if (round == 0) {
      ASSERT_EQ(nbl_model_move(loaded, NBL_DEVICE_CPU, nullptr), NBL_OK);
    }
  }
}

TEST(Api, ALoadAsAJobTellsProgressAndGivesTheModelOnce) {
  nbl_job* raw = nullptr;
  ASSERT_EQ(nbl_model_load_start(api::model_directory().data(), api::model_directory().size(), nullptr, &raw, nullptr), NBL_OK);
  const Owned<nbl_job> job(raw);
  ASSERT_EQ(nbl_job_wait(raw, -1, nullptr), NBL_OK);
  uint64_t done = 0, total = 0;
  ASSERT_EQ(nbl_job_progress(raw, &done, &total, nullptr), NBL_OK);
  EXPECT_GT(total, 4000000u);
  EXPECT_GT(done, total / 2);
  nbl_model* model = nullptr;
  ASSERT_EQ(nbl_job_take_model(raw, &model, nullptr), NBL_OK);
  nbl_model_release(model);
  EXPECT_EQ(nbl_job_take_model(raw, &model, nullptr), NBL_E_STATE);
}

TEST(Api, AReleasedOrForeignHandleIsNotTakenForAnother) {
  auto session = api::session();
  nbl_error* error = nullptr;
  EXPECT_EQ(nbl_model_describe(reinterpret_cast<const nbl_model*>(session.get()), nullptr, nullptr, &error), NBL_E_ARGUMENT);
  nbl_error_release(error);
}

TEST(Api, TheLibraryServesItsOwnVersionAndOlderMinorsOnly) {
  EXPECT_EQ(nbl_abi_check(NBL_ABI_VERSION, nullptr), NBL_OK);
  nbl_error* error = nullptr;
  EXPECT_EQ(nbl_abi_check(NBL_ABI_VERSION + 1, &error), NBL_E_ABI);
  EXPECT_NE(message_of(error).find(nbl_version()), std::string::npos);
  EXPECT_EQ(nbl_abi_check(2u << 16, nullptr), NBL_E_ABI);
}

TEST(Api, TheLogIsPulledLineByLine) {
  int32_t level = 0;
  char buffer[16];
  size_t length = 0;
  EXPECT_EQ(nbl_log_next(&level, buffer, sizeof buffer, &length, 0, nullptr), NBL_PENDING);

  nbl_log_level(NBL_LOG_INFO);
  nbl_model* loaded = nullptr;
  ASSERT_EQ(nbl_model_load(api::model_directory().c_str(), NBL_NTS, nullptr, &loaded, nullptr), NBL_OK);
  ASSERT_EQ(nbl_model_move(loaded, NBL_DEVICE_CPU, nullptr), NBL_OK);
  nbl_model_release(loaded);
  EXPECT_EQ(nbl_model_load("/there/is/none", NBL_NTS, nullptr, &loaded, nullptr), NBL_E_NOT_FOUND);
  nbl_log_level(NBL_LOG_OFF);
  EXPECT_EQ(nbl_log_next(&level, buffer, sizeof buffer, &length, 0, nullptr), NBL_E_BUFFER);
  std::string line(length, ' ');
  EXPECT_EQ(nbl_log_next(&level, &line[0], line.size(), &length, 0, nullptr), NBL_OK);
  EXPECT_EQ(level, NBL_LOG_INFO);
  EXPECT_NE(line.find("LlamaForCausalLM"), std::string::npos) << line;
  line.resize(1000);
  EXPECT_EQ(nbl_log_next(&level, &line[0], line.size(), &length, 0, nullptr), NBL_OK);
  EXPECT_EQ(level, NBL_LOG_INFO);
  EXPECT_EQ(line.compare(0, 6, "moved "), 0) << line;
  EXPECT_EQ(nbl_log_next(&level, &line[0], line.size(), &length, 0, nullptr), NBL_OK);
  EXPECT_EQ(level, NBL_LOG_ERROR);
  EXPECT_NE(line.find("/there/is/none"), std::string::npos) << line;
  EXPECT_EQ(nbl_log_next(&level, &line[0], line.size(), &length, 0, nullptr), NBL_PENDING);
}

}  // namespace

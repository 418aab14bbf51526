// Every reference checkpoint through checkpoint, loader, decoder and the reference backend, without the engine: logits
// and greedy ids are those that the tool which made it computed. A fixture whose layout is not supported yet is a skip
// with the library's own words; one of a layout that is must run.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "golden/comparison.h"
#include "golden/record.h"
#include "model/architectures.h"
#include "model/build.h"

namespace nbl {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> fixtures() {
  std::vector<std::string> found;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(fs::path(NIBBLE_SHARED) / "fixtures" / "models", ignored)) {
    // Adapters have golden values too, but no config.json of their own.
    if (fs::exists(entry.path() / "golden.safetensors") && fs::exists(entry.path() / "config.json")) found.push_back(entry.path().string());
  }
  std::sort(found.begin(), found.end());
  return found;
}

std::string test_name(const ::testing::TestParamInfo<std::string>& info) {
  std::string name = fs::path(info.param).filename().string();
  for (char& c : name) {
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  }
  return name;
}

// What the configuration calls a layout that this version reads.
bool must_run(const Json& config) {
  if (!find_architecture(config).ok()) return false;
  const Json quantization = config.value("quantization_config", Json::object());
  const std::string method = quantization.value("quant_method", "");
  if (method.empty() || method == "bitsandbytes") return true;
  if (method == "awq") return true;
  if (method == "compressed-tensors") return quantization.value("format", "") != "float-quantized";
  const std::string format = quantization.value("checkpoint_format", "gptq");
  return method == "gptq" && (format == "gptq" || format == "gptq_v2" || format == "gptq_p");
}

class Fixture : public ::testing::TestWithParam<std::string> {
 protected:
  // Runs `tokens` and returns the logits of the last `rows` of them.
  std::vector<float> step(KvCache& cache, const std::vector<int32_t>& tokens, int64_t rows) {
    std::vector<float> logits(static_cast<size_t>(rows * decoder_->config.vocab_size));
    Batch batch;
    batch.sequences = {{&cache, tokens.data(), static_cast<int64_t>(tokens.size()), rows}};
    batch.logits = logits.data();
    const Status status = plan_->step(batch);
    EXPECT_TRUE(status.ok()) << status.message();
    return logits;
  }

  void run(const golden::Prompt& prompt, golden::Comparison& comparison, double margin) {
    SCOPED_TRACE("prompt " + prompt.name);
    const int64_t vocab = decoder_->config.vocab_size, count = static_cast<int64_t>(prompt.ids.size() + prompt.greedy.size());
    PlanLimits limits;
    limits.max_tokens = limits.max_logit_rows = limits.max_context = count;
    plan_ = std::move(backend_->compile(decoder_, limits)).value();
    const auto cache = std::move(backend_->make_kv_cache(*decoder_, {count, DType::kF32})).value();
    std::vector<float> logits = step(*cache, prompt.ids, prompt.rows);
    ASSERT_EQ(prompt.logits.size(), logits.size());
    comparison.add(logits.data(), prompt.logits.data(), prompt.rows, vocab);
    for (size_t i = 0; i < prompt.greedy.size(); ++i) {
      const auto best = static_cast<int32_t>(std::max_element(logits.end() - vocab, logits.end()) - (logits.end() - vocab));
      if (prompt.gap(i) > margin) {
        EXPECT_EQ(best, prompt.greedy[i]) << "greedy id " << i;
      }
      // The recorded id goes on: after a close call both paths must still be the same one.
      if (i + 1 < prompt.greedy.size()) logits = step(*cache, {prompt.greedy[i]}, 1);
    }
    if (!prompt.last_logits.empty()) comparison.add(logits.data() + logits.size() - vocab, prompt.last_logits.data(), 1, vocab);
  }

  std::unique_ptr<Backend> backend_ = make_ref_backend();
  std::shared_ptr<const Decoder> decoder_;
  std::unique_ptr<Plan> plan_;
};

TEST_P(Fixture, GivesTheLogitsAndGreedyIdsOfItsTool) {
  const auto checkpoint = Checkpoint::open(GetParam());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  auto loader = WeightLoader::open(*checkpoint, {});
  ASSERT_TRUE(loader.ok()) << loader.status().message();
  const auto decoder = build_decoder(std::move(loader).value(), *backend_, nullptr);
  if (decoder.status().code() == Code::kUnsupported && !must_run((*checkpoint)->config())) {
    GTEST_SKIP() << "not supported: " << decoder.status().message();
  }
  ASSERT_TRUE(decoder.ok()) << decoder.status().message();
  decoder_ = *decoder;
  const golden::Record record = golden::read_record(GetParam());
  ASSERT_FALSE(record.prompts.empty());
  const golden::Tolerance tolerance = record.unrounded ? golden::kFloat32Unrounded : golden::kFloat32;
  golden::Comparison comparison(tolerance);
  for (const golden::Prompt& prompt : record.prompts) run(prompt, comparison, tolerance.margin);
  RecordProperty("relative_rms", std::to_string(comparison.relative_rms()));
  EXPECT_LE(comparison.relative_rms(), tolerance.relative_rms);
  EXPECT_EQ(comparison.misses(), 0);
}

INSTANTIATE_TEST_SUITE_P(Shared, Fixture, ::testing::ValuesIn(fixtures()), test_name);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(Fixture);

TEST(Fixtures, AreThere) {
  if (fixtures().empty()) GTEST_SKIP() << "no reference checkpoints in " << NIBBLE_SHARED << "/fixtures/models: nothing was compared";
  int64_t must = 0;
  for (const std::string& directory : fixtures()) {
    const auto config = read_json_file(directory + "/config.json");
    ASSERT_TRUE(config.ok()) << config.status().message();
    must += must_run(*config) ? 1 : 0;
  }
  EXPECT_GE(must, 50) << "the folder is not whole";
}

}  // namespace
}  // namespace nbl

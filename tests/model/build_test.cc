#include "model/build.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "model/estimate.h"
#include "model/synthesize.h"
#include "support/temporary_checkpoint.h"

namespace nbl {
namespace {

using testing::tensor;
using testing::TemporaryDirectory;
using testing::TensorBytes;

// A two-layer Llama of random-looking f32 weights.
std::vector<TensorBytes> small_tensors() {
  uint32_t state = 1;
  const auto values = [&](int64_t count) {
    std::vector<float> out(count);
    for (float& value : out) value = static_cast<float>((state = state * 1664525u + 1013904223u) >> 8) / (1 << 24) - 0.5f;
    return out;
  };
  std::vector<TensorBytes> out = {tensor("model.embed_tokens.weight", "F32", {20, 16}, values(320)),
                                  tensor("model.norm.weight", "F32", {16}, values(16))};
  for (int layer = 0; layer < 2; ++layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    const struct {
      const char* name;
      int64_t n, k;
    } matrices[] = {{"self_attn.q_proj", 16, 16}, {"self_attn.k_proj", 8, 16}, {"self_attn.v_proj", 8, 16}, {"self_attn.o_proj", 16, 16},
                    {"mlp.gate_proj", 24, 16},    {"mlp.up_proj", 24, 16},     {"mlp.down_proj", 16, 24}};
    for (const auto& m : matrices) out.push_back(tensor(prefix + m.name + ".weight", "F32", {m.n, m.k}, values(m.n * m.k)));
    for (const char* norm : {"input_layernorm", "post_attention_layernorm"})
      out.push_back(tensor(prefix + norm + ".weight", "F32", {16}, values(16)));
  }
  return out;
}

constexpr const char* kConfig =
    R"({"architectures":["LlamaForCausalLM"],"vocab_size":20,"hidden_size":16,"intermediate_size":24,"num_hidden_layers":2,
                          "num_attention_heads":2,"num_key_value_heads":1})";

struct Opened {
  TemporaryDirectory directory;
  std::shared_ptr<const WeightLoader> loader;
};

std::unique_ptr<Opened> open(const std::vector<TensorBytes>& tensors, const std::string& config = kConfig) {
  auto out = std::make_unique<Opened>();
  out->directory.write("config.json", config);
  out->directory.write("model.safetensors", testing::safetensors_bytes(tensors));
  auto checkpoint = Checkpoint::open(out->directory.path());
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  out->loader = std::move(WeightLoader::open(*checkpoint, {})).value();
  return out;
}

TEST(BuildDecoder, TiesTheHeadWhereItIsNotStored) {
  const auto opened = open(small_tensors());
  const auto backend = make_ref_backend();
  const auto decoder = build_decoder(opened->loader, *backend, nullptr);
  ASSERT_TRUE(decoder.ok()) << decoder.status().message();
  EXPECT_TRUE((*decoder)->config.tie_word_embeddings);
  EXPECT_EQ((*decoder)->head.names[0], "model.embed_tokens");
  EXPECT_EQ((*decoder)->blocks[0].attention.qkv[0].part_rows, (std::vector<int64_t>{16, 8, 8}));
}

TEST(BuildDecoder, LayersBeyondTheCountOfTheConfigAreTold) {
  const auto opened = open(small_tensors());
  const auto config = read_model_config(opened->loader->checkpoint().config());
  ASSERT_TRUE(config.ok()) << config.status().message();
  DecoderConfig shape = config->decoder;
  EXPECT_EQ(layers_not_read(opened->loader->checkpoint(), shape), "");
  shape.num_hidden_layers = 1;
  const std::string warning = layers_not_read(opened->loader->checkpoint(), shape);
  EXPECT_NE(warning.find("counts 1 layers"), std::string::npos) << warning;
  EXPECT_NE(warning.find("model.layers.1.input_layernorm.weight"), std::string::npos) << warning;
}

TEST(BuildDecoder, EachMissingTensorIsNamed) {
  const std::vector<TensorBytes> all = small_tensors();
  const auto backend = make_ref_backend();
  for (size_t i = 0; i < all.size(); ++i) {
    std::vector<TensorBytes> without = all;
    without.erase(without.begin() + static_cast<std::ptrdiff_t>(i));
    const auto opened = open(without);
    const auto decoder = build_decoder(opened->loader, *backend, nullptr);
    ASSERT_FALSE(decoder.ok()) << all[i].name;
    const std::string module = all[i].name.substr(0, all[i].name.rfind('.'));
    EXPECT_NE(decoder.status().message().find(module), std::string::npos) << decoder.status().message();
  }
}

TEST(BuildDecoder, AWrongShapeIsNamedWithBothShapes) {
  std::vector<TensorBytes> tensors = small_tensors();
  for (TensorBytes& t : tensors) {
    if (t.name == "model.layers.1.mlp.down_proj.weight") t.shape = {24, 16};
  }
  const auto opened = open(tensors);
  const auto decoder = build_decoder(opened->loader, *make_ref_backend(), nullptr);
  ASSERT_FALSE(decoder.ok());
  const std::string& message = decoder.status().message();
  EXPECT_NE(message.find("model.layers.1.mlp.down_proj.weight is F32 [24, 16], expected [16, 24]"), std::string::npos) << message;
}

// Logits of a few tokens.
std::vector<float> logits_of(const Backend& backend, const std::vector<TensorBytes>& tensors, const std::string& config) {
  const auto opened = open(tensors, config);
  const auto decoder = build_decoder(opened->loader, backend, nullptr);
  EXPECT_TRUE(decoder.ok()) << decoder.status().message();
  if (!decoder.ok()) return {};
  const auto plan = backend.compile(*decoder, PlanLimits());
  const auto cache = backend.make_kv_cache(**decoder, {4, DType::kF32});
  const int32_t tokens[] = {1, 19, 7};
  std::vector<float> logits(20);
  Batch batch;
  batch.sequences = {{cache->get(), tokens, 3, 1}};
  batch.logits = logits.data();
  const Status status = (*plan)->step(batch);
  EXPECT_TRUE(status.ok()) << status.message();
  return logits;
}

std::string with(std::string text, const std::string& what, const std::string& by) {
  return text.replace(text.find(what), what.size(), by);
}

// Lines of tensors [lines, columns] of one type side by side; of one line each (a vector, or rows): behind one another.
TensorBytes beside(const std::string& name, const std::vector<TensorBytes>& parts, int64_t lines) {
  TensorBytes out{name, parts[0].dtype, parts[0].shape, ""};
  size_t dimension = lines > 1 ? 1 : 0;
  for (size_t i = 1; i < parts.size(); ++i) out.shape[dimension] += parts[i].shape[dimension];
  for (int64_t line = 0; line < lines; ++line) {
    for (const TensorBytes& part : parts) {
      const size_t bytes = part.bytes.size() / static_cast<size_t>(lines);
      out.bytes += part.bytes.substr(static_cast<size_t>(line) * bytes, bytes);
    }
  }
  return out;
}

// What Phi-3 stores of such a model: one matrix for q, k and v, one for gate and up.
std::vector<TensorBytes> joined(const std::vector<TensorBytes>& tensors) {
  std::vector<TensorBytes> out;
  std::vector<TensorBytes> parts;
  const auto ends_with = [](const std::string& name, const std::string& end) {
    return name.size() >= end.size() && name.compare(name.size() - end.size(), end.size(), end) == 0;
  };
  const std::pair<std::vector<std::string>, std::string> kinds[] = {{{"q_proj", "k_proj", "v_proj"}, "qkv_proj"},
                                                                    {{"gate_proj", "up_proj"}, "gate_up_proj"}};
  for (const TensorBytes& t : tensors) {
    const size_t dot = t.name.rfind('.');
    const std::string module = t.name.substr(0, dot), field = t.name.substr(dot);
    bool taken = false;
    for (const auto& [names, whole] : kinds) {
      for (const std::string& name : names) taken = taken || ends_with(module, "." + name);
      if (!ends_with(module, "." + names[0])) continue;
      parts.clear();
      for (const std::string& name : names) {
        const std::string wanted = with(module, names[0], name) + field;
        for (const TensorBytes& other : tensors) {
          if (other.name == wanted) parts.push_back(other);
        }
      }
      const bool outputs_lie_in_lines = field == ".qweight" || field == ".qzeros" || field == ".scales";
      out.push_back(beside(with(module, names[0], whole) + field, parts, outputs_lie_in_lines ? t.shape[0] : 1));
    }
    if (!taken) out.push_back(t);
  }
  return out;
}

// small_tensors() with its matrices as AWQ stores them, in groups of 8 columns.
std::vector<TensorBytes> small_awq_tensors() {
  uint32_t state = 9;
  const auto next = [&] { return state = state * 1664525u + 1013904223u; };
  std::vector<TensorBytes> out;
  for (const TensorBytes& t : small_tensors()) {
    if (t.name.find("_proj.weight") == std::string::npos) {
      out.push_back(t);
      continue;
    }
    const int64_t n = t.shape[0], k = t.shape[1], groups = k / 8;
    const std::string module = t.name.substr(0, t.name.size() - 6);
    std::vector<uint32_t> codes(k * n / 8), zeros(groups * n / 8);
    std::vector<uint16_t> scales(groups * n);
    for (uint32_t& word : codes) word = next();
    for (uint32_t& word : zeros) word = next();
    for (uint16_t& scale : scales) scale = float_to_f16(0.01f + static_cast<float>(next() >> 8) * 0x1p-30f);
    out.push_back(tensor(module + "qweight", "I32", {k, n / 8}, codes));
    out.push_back(tensor(module + "qzeros", "I32", {groups, n / 8}, zeros));
    out.push_back(tensor(module + "scales", "F16", {groups, n}, scales));
  }
  return out;
}

// Phi-3: a model is the same whether its projections are stored apart or joined.
TEST(BuildDecoder, JoinedProjectionsAreTheSameModel) {
  const std::string awq = with(kConfig, "{", R"({"quantization_config":{"quant_method":"awq","bits":4,"group_size":8,"version":"gemm"},)");
  const std::pair<std::vector<TensorBytes>, std::string> models[] = {{small_tensors(), kConfig}, {small_awq_tensors(), awq}};
  const std::unique_ptr<Backend> backends[] = {make_ref_backend(), std::move(make_cpu_backend({})).value()};
  for (const auto& [tensors, config] : models) {
    for (const auto& backend : backends) {
      const std::vector<float> apart = logits_of(*backend, tensors, config);
      EXPECT_EQ(apart, logits_of(*backend, joined(tensors), with(config, "LlamaForCausalLM", "Phi3ForCausalLM"))) << backend->name();
    }
  }
}

// The reference backend, but for heads, which it refuses.
class WithoutHeads : public Backend {
 public:
  std::string name() const override { return "headless"; }
  std::string description() const override { return "headless"; }
  bool can_fuse(const std::vector<WeightSpec>& parts) const override { return ref_->can_fuse(parts); }
  Result<std::shared_ptr<const PackedWeight>> pack(const std::vector<const QuantWeight*>& parts, WeightRole role) const override {
    if (role == WeightRole::kHead) return error(Code::kUnsupported, "what model.embed_tokens and lm_head are to others is nothing here");
    return ref_->pack(parts, role);
  }
  int64_t packed_bytes(const std::vector<WeightSpec>&, WeightRole) const override { return 0; }
  Result<std::unique_ptr<Plan>> compile(std::shared_ptr<const Decoder>, const PlanLimits&) const override {
    return Status(Code::kUnsupported, "");
  }
  Result<std::unique_ptr<KvCache>> make_kv_cache(const Decoder&, const KvOptions&) const override {
    return Status(Code::kUnsupported, "");
  }
  int64_t kv_bytes(const DecoderConfig&, const KvOptions&) const override { return 0; }
  int64_t plan_bytes(const DecoderConfig&, const std::vector<MatrixSpecs>&, const PlanLimits&) const override { return 0; }
  Status matmul(const PackedWeight&, const float*, int64_t, float*) const override { return {}; }

 private:
  std::unique_ptr<Backend> ref_ = make_ref_backend();
};

// Whatever its words: which module was refused does not depend on them.
TEST(BuildDecoder, ARefusalOfTheBackendIsToldWithItsModule) {
  const auto opened = open(small_tensors());
  const auto decoder = build_decoder(opened->loader, WithoutHeads(), nullptr);
  ASSERT_FALSE(decoder.ok());
  EXPECT_EQ(decoder.status().message().find("model.embed_tokens: what model.embed_tokens and"), 0u) << decoder.status().message();
  EXPECT_NE(decoder.status().detail().find("\"module\":\"model.embed_tokens\""), std::string::npos);
}

// Of parts that become one matrix, the one that cannot be read is named, and named once.
TEST(BuildDecoder, APartThatCannotBeReadIsNamedAlone) {
  std::vector<TensorBytes> tensors = small_tensors();
  for (TensorBytes& t : tensors) {
    if (t.name == "model.layers.0.self_attn.k_proj.weight") t.dtype = "I32";  // as many bytes
  }
  const auto opened = open(tensors);
  const auto decoder = build_decoder(opened->loader, *make_ref_backend(), nullptr);
  ASSERT_FALSE(decoder.ok());
  const std::string& message = decoder.status().message();
  EXPECT_EQ(message.find("model.layers.0.self_attn.k_proj"), 0u) << message;
  EXPECT_EQ(message.find("q_proj"), std::string::npos) << message;
}

TEST(BuildDecoder, ProgressEndsAtTheTotalAndCanCancel) {
  const auto opened = open(small_tensors());
  const auto backend = make_ref_backend();
  uint64_t last = 0, total = 0;
  ASSERT_TRUE(build_decoder(opened->loader, *backend, [&](uint64_t done, uint64_t all) {
                EXPECT_GE(done, last);
                last = done;
                total = all;
                return true;
              }).ok());
  EXPECT_GT(total, 0u);
  EXPECT_EQ(last, total);
  EXPECT_EQ(build_decoder(opened->loader, *backend, [](uint64_t, uint64_t) { return false; }).status().code(), Code::kCancelled);
}

TEST(Estimate, IsWhatTheLoadThenTakes) {
  const auto opened = open(small_tensors());
  const auto backend = make_ref_backend();
  const auto estimate = estimate_memory(*opened->loader, *backend, 32, DType::kF16, 16);
  ASSERT_TRUE(estimate.ok()) << estimate.status().message();
  const auto decoder = build_decoder(opened->loader, *backend, nullptr);
  ASSERT_TRUE(decoder.ok());
  int64_t bytes = (*decoder)->head.weight->bytes();
  for (const Block& block : (*decoder)->blocks) {
    for (const Linear& linear : block.attention.qkv) bytes += linear.weight->bytes();
    for (const Linear& linear : block.mlp.gate_up) bytes += linear.weight->bytes();
    bytes += block.attention.output.weight->bytes() + block.mlp.down.weight->bytes();
  }
  EXPECT_NEAR(static_cast<double>((*estimate)["weight_bytes"].get<int64_t>()), static_cast<double>(bytes),
              0.02 * static_cast<double>(bytes));
  const auto cache = backend->make_kv_cache(**decoder, {32, DType::kF16});
  EXPECT_EQ((*estimate)["kv_bytes"].get<int64_t>(), (*cache)->bytes());
}

TEST(Synthesize, KnowsItsNamesAndSaysSo) {
  const auto backend = make_ref_backend();
  const auto unknown = synthesize_decoder(Json{{"shape", "gpt-9"}}, *backend);
  EXPECT_EQ(unknown.status().code(), Code::kOptionValue);
  EXPECT_NE(unknown.status().message().find("mistral-7b"), std::string::npos);
  EXPECT_EQ(synthesize_decoder(Json{{"shape", "smollm2-135m"}, {"format", "q9"}}, *backend).status().code(), Code::kOptionValue);
}

TEST(Synthesize, TakesTheShapeOfAConfig) {
  const auto backend = make_ref_backend();
  const Json config = *parse_json(kConfig, "test");
  for (const char* format : {"awq-g128", "gptq-g128-actorder", "gptq3-g128", "nf4", "nf4-dq", "int8", "f16"}) {
    const auto decoder = synthesize_decoder(Json{{"shape", config}, {"format", format}}, *backend);
    ASSERT_TRUE(decoder.ok()) << format << ": " << decoder.status().message();
    ASSERT_EQ((*decoder)->blocks.size(), 2u);
    EXPECT_EQ((*decoder)->blocks[1].mlp.down.weight->spec().in_features, 24);
    EXPECT_EQ((*decoder)->head.out_features, 20);
    PlanLimits limits;
    const auto plan = backend->compile(*decoder, limits);
    const auto cache = backend->make_kv_cache(**decoder, {4, DType::kF32});
    const int32_t tokens[] = {1, 19};
    std::vector<float> logits(20);
    Batch batch;
    batch.sequences = {{cache->get(), tokens, 2, 1}};
    batch.logits = logits.data();
    ASSERT_TRUE((*plan)->step(batch).ok());
    const auto [least, most] = std::minmax_element(logits.begin(), logits.end());
    EXPECT_TRUE(std::isfinite(*least) && std::isfinite(*most) && *least < *most) << format;
  }
  Json hostile = config;
  hostile["hidden_size"] = -16;
  EXPECT_EQ(synthesize_decoder(Json{{"shape", hostile}}, *backend).status().code(), Code::kFormat);
}

}  // namespace
}  // namespace nbl

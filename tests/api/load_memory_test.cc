// What a load takes at its peak: the packed weights, one tensor of the files, and 64 MB. Measured in a child process, of a
// layer with the shape of Mistral-7B's, whose gate and up projection become one packed matrix.
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <vector>

#include "api_fixture.h"
#include "support/temporary_directory.h"

namespace {

constexpr int64_t kHidden = 4096, kIntermediate = 14336, kHeads = 32, kKvHeads = 8, kVocab = 1024, kGroup = 128;

// A safetensors file, whose tensors are all one repeated word each: `value` is a half, or eight codes.
class Writer {
 public:
  void add(const std::string& name, const char* dtype, std::vector<int64_t> shape, uint32_t word) {
    int64_t bytes = std::string(dtype) == "I32" ? 4 : 2;
    std::string dimensions;
    for (int64_t d : shape) {
      bytes *= d;
      dimensions += (dimensions.empty() ? "" : ",") + std::to_string(d);
    }
    header_ += (header_.empty() ? "{\"" : ",\"") + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":[" + dimensions +
               "],\"data_offsets\":[" + std::to_string(at_) + "," + std::to_string(at_ + bytes) + "]}";
    at_ += bytes;
    largest_ = std::max(largest_, bytes);
    words_.push_back({word, bytes});
  }
  void add_awq(const std::string& name, int64_t n, int64_t k) {
    add(name + ".qweight", "I32", {k, n / 8}, 0x94a1c85eu);
    add(name + ".qzeros", "I32", {k / kGroup, n / 8}, 0x87868788u);
    add(name + ".scales", "F16", {k / kGroup, n}, 0x20002000u);
  }
  int64_t largest() const { return largest_; }
  void write(const std::string& path) const {
    std::ofstream out(path, std::ios::binary);
    std::string header = header_ + "}";
    header.resize((header.size() + 7) / 8 * 8, ' ');
    const uint64_t length = header.size();
    out.write(reinterpret_cast<const char*>(&length), 8);
    out << header;
    for (const auto& [word, bytes] : words_) {
      const std::vector<uint32_t> piece(1 << 16, word);
      for (int64_t rest = bytes; rest > 0; rest -= static_cast<int64_t>(piece.size() * 4)) {
        out.write(reinterpret_cast<const char*>(piece.data()), std::min<int64_t>(rest, static_cast<int64_t>(piece.size() * 4)));
      }
    }
  }

 private:
  std::string header_;
  std::vector<std::pair<uint32_t, int64_t>> words_;
  int64_t at_ = 0, largest_ = 0;
};

int64_t write_checkpoint(const std::string& directory) {
  std::ofstream(directory + "/config.json")
      << R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": )" << kHidden << R"(, "intermediate_size": )"
      << kIntermediate << R"(, "num_hidden_layers": 1, "num_attention_heads": )" << kHeads << R"(, "num_key_value_heads": )" << kKvHeads
      << R"(, "vocab_size": )" << kVocab
      << R"(, "rms_norm_eps": 1e-5, "quantization_config": {"quant_method": "awq", "bits": 4, "group_size": )" << kGroup
      << R"(, "version": "gemm", "zero_point": true}})";
  Writer writer;
  const std::string layer = "model.layers.0.", attention = layer + "self_attn.", mlp = layer + "mlp.";
  const int64_t kv = kHidden / kHeads * kKvHeads;
  writer.add_awq(attention + "q_proj", kHidden, kHidden);
  writer.add_awq(attention + "k_proj", kv, kHidden);
  writer.add_awq(attention + "v_proj", kv, kHidden);
  writer.add_awq(attention + "o_proj", kHidden, kHidden);
  writer.add_awq(mlp + "gate_proj", kIntermediate, kHidden);
  writer.add_awq(mlp + "up_proj", kIntermediate, kHidden);
  writer.add_awq(mlp + "down_proj", kHidden, kIntermediate);
  for (const char* name :
       {"model.layers.0.input_layernorm.weight", "model.layers.0.post_attention_layernorm.weight", "model.norm.weight"}) {
    writer.add(name, "F16", {kHidden}, 0x3c003c00u);
  }
  writer.add("model.embed_tokens.weight", "F16", {kVocab, kHidden}, 0x2e662e66u);
  writer.add("lm_head.weight", "F16", {kVocab, kHidden}, 0x2e662e66u);
  writer.write(directory + "/model.safetensors");
  return writer.largest();
}

struct Measured {
  int64_t weight_bytes = 0, peak_bytes = 0;
};

Measured load(const std::string& directory) {
  nbl_config* config = nullptr;
  nbl_model* model = nullptr;
  Measured out;
  if (nbl_config_create(&config, nullptr) != NBL_OK || nbl_config_set_str(config, NBL_OPT_DEVICE, "cpu", NBL_NTS, nullptr) != NBL_OK)
    return out;
  if (nbl_model_load(directory.data(), directory.size(), config, &model, nullptr) != NBL_OK) return out;
  nbl_model_i64(model, NBL_PROP_FOOTPRINT, &out.weight_bytes, nullptr);
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  out.peak_bytes = int64_t{usage.ru_maxrss} * 1024;
  return out;
}

TEST(LoadMemory, HoldsOnePlainTensorBesideThePackedWeights) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers take memory of their own";
#endif
  const nbl::testing::TemporaryDirectory directory;
  const int64_t largest = write_checkpoint(directory.path());
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const Measured measured = load(directory.path());
    const bool told = write(ends[1], &measured, sizeof measured) == sizeof measured;
    _exit(told ? 0 : 1);
  }
  close(ends[1]);
  Measured measured;
  const ssize_t got = read(ends[0], &measured, sizeof measured);
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_EQ(got, static_cast<ssize_t>(sizeof measured));
  ASSERT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  EXPECT_GT(measured.weight_bytes, 100 << 20) << "the load failed";
  EXPECT_LE(measured.peak_bytes, measured.weight_bytes + largest + (64 << 20));
  RecordProperty("peak_mib", static_cast<int>(measured.peak_bytes >> 20));
}

}  // namespace

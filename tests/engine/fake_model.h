// A model whose next token is a pure function of the whole sequence, so that a test knows what every step must give and
// notices a cache that lost, repeated or reordered a token. Text of token n is the letter 'a' + n % 26.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/model.h"

namespace nbl::fake {

constexpr int kVocabulary = 97;
constexpr int kEos = 0;

// The rule: an FNV-1a hash of the ids. Never kEos unless the sequence's last token is `kEosTrigger`.
constexpr int kEosTrigger = 50;
inline int32_t next_token(const std::vector<int32_t>& sequence) {
  if (sequence.back() == kEosTrigger) return kEos;
  uint64_t hash = 1469598103934665603ull;
  for (int32_t id : sequence) hash = (hash ^ static_cast<uint64_t>(id)) * 1099511628211ull;
  int32_t id = static_cast<int32_t>((hash >> 20) % (kVocabulary - 1)) + 1;
  return id == kEosTrigger ? 51 : id;
}

class Cache : public KvCache {
 public:
  explicit Cache(int64_t capacity) : capacity_(capacity) { tokens.reserve(capacity); }
  int64_t length() const override { return static_cast<int64_t>(tokens.size()); }
  int64_t capacity() const override { return capacity_; }
  int64_t bytes() const override { return capacity_; }
  void truncate(int64_t length) override { tokens.resize(length); }
  std::vector<int32_t> tokens;

 private:
  int64_t capacity_;
};

struct Control {
  int fail_in_steps = -1;        // the step so many from now fails with kDevice
  int64_t steps = 0;
  int64_t largest_step = 0;      // tokens
  int64_t largest_batch = 0;     // sequences
  std::atomic<bool>* cancel_during_step = nullptr;
};

class FakePlan : public Plan {
 public:
  FakePlan(Control& control, const PlanLimits& limits) : control_(control), limits_(limits) {}
  Status step(const Batch& batch) override {
    ++control_.steps;
    if (control_.fail_in_steps >= 0 && control_.fail_in_steps-- == 0) return error(Code::kDevice, "the step was made to fail");
    int64_t row = 0, tokens = 0, rows = 0;
    for (const BatchSequence& sequence : batch.sequences) {
      tokens += sequence.token_count;
      rows += sequence.logit_rows;
    }
    if (tokens > limits_.max_tokens || rows > limits_.max_logit_rows ||
        static_cast<int64_t>(batch.sequences.size()) > limits_.max_sequences) {
      return error(Code::kArgument, "beyond the plan's limits");
    }
    control_.largest_step = std::max(control_.largest_step, tokens);
    control_.largest_batch = std::max(control_.largest_batch, static_cast<int64_t>(batch.sequences.size()));
    for (const BatchSequence& sequence : batch.sequences) {
      auto& cache = static_cast<Cache&>(*sequence.cache);
      if (cache.length() + sequence.token_count > cache.capacity()) return error(Code::kContextFull, "full");
      for (int64_t i = 0; i < sequence.token_count; ++i) {
        cache.tokens.push_back(sequence.tokens[i]);
        if (sequence.token_count - i > sequence.logit_rows) continue;
        float* logits = batch.logits + row++ * kVocabulary;
        // Where only the top is asked for, the rest is told wrong, as a backend may.
        std::fill(logits, logits + kVocabulary, sequence.exact_top > 0 ? -1.5f : -1.0f);
        logits[next_token(cache.tokens)] = 5.0f;
      }
    }
    return {};
  }
  int64_t scratch_bytes() const override { return 1; }

 private:
  Control& control_;
  PlanLimits limits_;
};

class FakeBackend : public Backend {
 public:
  explicit FakeBackend(Control& control) : control_(control) {}
  std::string name() const override { return "fake"; }
  std::string description() const override { return "fake"; }
  bool can_fuse(const std::vector<WeightSpec>&) const override { return false; }
  Result<std::shared_ptr<const PackedWeight>> pack(const std::vector<const QuantWeight*>&, WeightRole) const override {
    return error(Code::kUnsupported, "the fake backend packs nothing");
  }
  int64_t packed_bytes(const std::vector<WeightSpec>&, WeightRole) const override { return 0; }
  Result<std::unique_ptr<Plan>> compile(std::shared_ptr<const Decoder>, const PlanLimits& limits) const override {
    return std::unique_ptr<Plan>(new FakePlan(control_, limits));
  }
  Result<std::unique_ptr<KvCache>> make_kv_cache(const Decoder&, const KvOptions& options) const override {
    return std::unique_ptr<KvCache>(new Cache(options.capacity));
  }
  int64_t kv_bytes(const DecoderConfig&, const KvOptions&) const override { return 0; }
  int64_t plan_bytes(const DecoderConfig&, const PlanLimits&) const override { return 0; }
  Status matmul(const PackedWeight&, const float*, int64_t, float*) const override { return {}; }

 private:
  Control& control_;
};

// Token n is one letter; "é" is made of tokens 95 and 96, one byte each.
class LetterTokenizer : public Tokenizer {
 public:
  static std::string letter(int32_t id) {
    if (id == 95) return "\xC3";
    if (id == 96) return "\xA9";
    return std::string(1, static_cast<char>('a' + id % 26));
  }
  Result<std::vector<int32_t>> encode(std::string_view text, const EncodeOptions&, std::vector<TokenSpan>*) const override {
    std::vector<int32_t> ids;
    for (char c : text) ids.push_back(c - 'a' + 26);
    return ids;
  }
  std::string decode(const int32_t* ids, size_t count, bool) const override {
    std::string text;
    for (size_t i = 0; i < count; ++i) text += letter(ids[i]);
    return text;
  }
  std::unique_ptr<StreamDecoder> stream(bool) const override {
    class Stream : public StreamDecoder {
     public:
      std::string push(int32_t id) override { return id == kEos ? "" : letter(id); }
      std::string flush() override { return {}; }
      void reset() override {}
    };
    return std::make_unique<Stream>();
  }
  std::string token_bytes(int32_t id) const override { return letter(id); }
  int32_t vocabulary_size() const override { return kVocabulary; }
  int32_t id_of(std::string_view) const override { return -1; }
  bool is_special(int32_t id) const override { return id == kEos; }
  std::string description() const override { return "letters"; }
  int32_t bos_id() const override { return -1; }
  int32_t eos_id() const override { return kEos; }
  int32_t pad_id() const override { return -1; }
};

inline std::shared_ptr<Model> make_model(Control& control) {
  auto decoder = std::make_shared<Decoder>();
  decoder->config.vocab_size = kVocabulary;
  decoder->config.max_position_embeddings = 64;
  return Model::assemble(decoder, std::make_shared<FakeBackend>(control), std::make_unique<LetterTokenizer>(), {kEos});
}

// `count` tokens that follow `sequence` by the rule.
inline std::vector<int32_t> continuation(std::vector<int32_t> sequence, int count) {
  std::vector<int32_t> out;
  for (int i = 0; i < count; ++i) {
    out.push_back(next_token(sequence));
    sequence.push_back(out.back());
  }
  return out;
}

}  // namespace nbl::fake

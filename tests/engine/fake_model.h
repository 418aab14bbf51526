// A model whose next token is a pure function of the whole sequence, so that a test knows what every step must give and
// notices a cache that lost, repeated or reordered a token. Text of token n is the letter 'a' + n % 26. Its plans draw and
// run ahead when told to.
#pragma once

#include <algorithm>
#include <deque>
#include <limits>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "engine/model.h"
#include "engine/sampler.h"

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
  bool fail_by_throwing = false; // it throws std::bad_alloc instead
  int64_t steps = 0;
  int64_t largest_step = 0;      // tokens
  int64_t largest_batch = 0;     // sequences
  bool draws = false;            // plans draw and run ahead
  int64_t drawn = 0;             // tokens drawn by plans that were delivered
  int64_t followed = 0;          // steps that ran ahead
  bool misused = false;          // a cache was changed while steps with it were in flight
  int fail_in_texts = -1;        // the text so many from now, of a token or at an end, throws std::bad_alloc when half done
  int64_t broken_behind = -1;    // so many tokens the logits hold a NaN
  int64_t plans = 0;             // that exist
  int64_t prefill_chunk = 512;   // what the backend suggests
};

class FakePlan : public Plan {
 public:
  FakePlan(Control& control, const PlanLimits& limits) : control_(control), limits_(limits), sampler_(kVocabulary) { ++control_.plans; }
  Status step(const Batch& batch) override {
    abandon();
    NBL_RETURN_IF_ERROR(check(batch));
    int64_t row = 0;
    for (size_t n = 0; n < batch.sequences.size(); ++n) {
      const BatchSequence& sequence = batch.sequences[n];
      auto& cache = static_cast<Cache&>(*sequence.cache);
      for (int64_t i = 0; i < sequence.token_count; ++i) {
        cache.tokens.push_back(sequence.tokens[i]);
        if (sequence.token_count - i > sequence.logit_rows) continue;
        write_logits(cache.tokens, sequence.exact_top > 0, batch.logits + row++ * kVocabulary);
      }
      if (sequence.draw != nullptr) batch.drawn[n] = {pick(cache.tokens, *sequence.draw), 1};
    }
    return {};
  }
  int64_t scratch_bytes() const override { return 1; }

  bool can_draw(const Draw&) const override { return control_.draws && limits_.max_draws > 0; }
  Status begin(const Batch& batch) override {
    abandon();
    Flight flight;
    flight.status = check(batch);
    if (flight.status.code() != Code::kDevice) NBL_RETURN_IF_ERROR(flight.status);
    for (const BatchSequence& from : batch.sequences) {
      auto* cache = static_cast<Cache*>(from.cache);
      Running sequence{cache, cache->length(), cache->tokens, *from.draw, *from.draw->options, *from.draw->bias, -1};
      sequence.tokens.insert(sequence.tokens.end(), from.tokens, from.tokens + from.token_count);
      if (std::vector<int32_t>(from.draw->tokens, from.draw->tokens + from.draw->token_count) != sequence.tokens) control_.misused = true;
      flight.sequences.push_back(std::move(sequence));
    }
    draw_all(flight);
    flights_.push_back(std::move(flight));
    return {};
  }
  bool can_follow() const override { return !flights_.empty() && static_cast<int>(flights_.size()) < kMostInFlight; }
  Status follow() override {
    if (!can_follow()) return error(Code::kState, "nothing to follow");
    Flight flight = flights_.back();
    flight.status = started();
    for (Running& sequence : flight.sequences) {
      sequence.tokens.push_back(std::max(sequence.drawn, 0));  // behind one that could not be drawn anything may follow
      if (static_cast<int64_t>(sequence.tokens.size()) > sequence.cache->capacity()) return error(Code::kContextFull, "full");
      ++sequence.draw.step;
    }
    draw_all(flight);
    flights_.push_back(std::move(flight));
    ++control_.followed;
    return {};
  }
  Status finish(DrawnToken* drawn) override {
    if (flights_.empty()) return error(Code::kState, "nothing in flight");
    const Flight flight = flights_.front();
    flights_.pop_front();
    if (!flight.status.ok()) {
      abandon();
      return flight.status;
    }
    for (const Running& sequence : flight.sequences) {
      control_.misused = control_.misused || sequence.cache->length() != sequence.length;
      const int64_t added = static_cast<int64_t>(sequence.tokens.size()) - sequence.length;
      sequence.cache->tokens = sequence.tokens;
      *drawn++ = {sequence.drawn, 1};
      ++control_.drawn;
      for (Flight& later : flights_) {
        for (Running& other : later.sequences) other.length += other.cache == sequence.cache ? added : 0;
      }
    }
    return {};
  }
  void abandon() override { flights_.clear(); }
  ~FakePlan() override {
    control_.misused = control_.misused || !flights_.empty();
    --control_.plans;
  }

 private:
  struct Running {
    Cache* cache;
    int64_t length;                          // of the cache when the step is finished
    std::vector<int32_t> tokens;
    Draw draw;
    SamplingOptions options;
    std::vector<std::pair<int32_t, float>> bias;
    int32_t drawn;
  };
  struct Flight {
    std::vector<Running> sequences;
    Status status;
  };

  Status started() {
    ++control_.steps;
    if (control_.fail_in_steps >= 0 && control_.fail_in_steps-- == 0) {
      if (control_.fail_by_throwing) throw std::bad_alloc();
      return error(Code::kDevice, "the step was made to fail");
    }
    return {};
  }
  Status check(const Batch& batch) {
    NBL_RETURN_IF_ERROR(started());
    int64_t tokens = 0, rows = 0, draws = 0;
    for (const BatchSequence& sequence : batch.sequences) {
      const auto& cache = static_cast<const Cache&>(*sequence.cache);
      if (cache.length() + sequence.token_count > cache.capacity()) return error(Code::kContextFull, "full");
      if (sequence.draw != nullptr && sequence.logit_rows > 0) return error(Code::kArgument, "both a draw and logits");
      tokens += sequence.token_count;
      rows += sequence.logit_rows;
      draws += sequence.draw != nullptr;
    }
    if (tokens > limits_.max_tokens || rows > limits_.max_logit_rows || draws > limits_.max_draws ||
        static_cast<int64_t>(batch.sequences.size()) > limits_.max_sequences) {
      return error(Code::kArgument, "beyond the plan's limits");
    }
    control_.largest_step = std::max(control_.largest_step, tokens);
    control_.largest_batch = std::max(control_.largest_batch, static_cast<int64_t>(batch.sequences.size()));
    return {};
  }
  void write_logits(const std::vector<int32_t>& sequence, bool top_only, float* logits) const {
    // Where only the top is asked for, the rest is told wrong, as a backend may.
    std::fill(logits, logits + kVocabulary, top_only ? -1.5f : -1.0f);
    logits[next_token(sequence)] = 5.0f;
    if (static_cast<int64_t>(sequence.size()) == control_.broken_behind) logits[kVocabulary - 1] = std::numeric_limits<float>::quiet_NaN();
  }
  int32_t pick(const std::vector<int32_t>& sequence, const Draw& draw) {
    float logits[kVocabulary];
    write_logits(sequence, false, logits);
    return sampler_.sample(logits, draw);
  }
  void draw_all(Flight& flight) {
    for (Running& sequence : flight.sequences) {
      sequence.draw.options = &sequence.options;
      sequence.draw.bias = &sequence.bias;
      sequence.draw.tokens = sequence.tokens.data();
      sequence.draw.token_count = static_cast<int64_t>(sequence.tokens.size());
      sequence.drawn = pick(sequence.tokens, sequence.draw);
    }
  }

  Control& control_;
  PlanLimits limits_;
  Sampler sampler_;
  std::deque<Flight> flights_;
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
  int64_t prefill_chunk() const override { return control_.prefill_chunk; }
  int64_t kv_bytes(const DecoderConfig&, const KvOptions&) const override { return 0; }
  int64_t plan_bytes(const DecoderConfig&, const std::vector<MatrixSpecs>&, const PlanLimits&) const override { return 0; }
  Status matmul(const PackedWeight&, const float*, int64_t, float*) const override { return {}; }

 private:
  Control& control_;
};

// Token n is one letter; "é" is made of tokens 95 and 96, one byte each.
class LetterTokenizer : public Tokenizer {
 public:
  explicit LetterTokenizer(Control& control) : control_(control) {}
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
    // Gives the letter before the last one: whoever loses a push, or repeats one, gets other text.
    class Stream : public StreamDecoder {
     public:
      explicit Stream(Control& control) : control_(control) {}
      std::string push(int32_t id) override { return give(id == kEos ? "" : letter(id)); }
      std::string flush() override { return give(""); }
      void reset() override { held_.clear(); }
      void reset_behind(const int32_t*, size_t) override { reset(); }

     private:
      std::string give(std::string next) {
        std::swap(held_, next);
        if (control_.fail_in_texts >= 0 && control_.fail_in_texts-- == 0) throw std::bad_alloc();
        return next;
      }

      Control& control_;
      std::string held_;
    };
    return std::make_unique<Stream>(control_);
  }
  std::string token_bytes(int32_t id) const override { return letter(id); }
  int32_t vocabulary_size() const override { return kVocabulary; }
  int32_t id_of(std::string_view) const override { return -1; }
  bool is_special(int32_t id) const override { return id == kEos; }
  std::string description() const override { return "letters"; }
  int32_t bos_id() const override { return -1; }
  int32_t eos_id() const override { return kEos; }
  int32_t pad_id() const override { return -1; }

 private:
  Control& control_;
};

inline std::shared_ptr<Model> make_model(Control& control) {
  auto decoder = std::make_shared<Decoder>();
  decoder->config.vocab_size = kVocabulary;
  decoder->config.max_position_embeddings = 64;
  return Model::assemble(decoder, std::make_shared<FakeBackend>(control), std::make_unique<LetterTokenizer>(control), {kEos});
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

// Sampler: logits to one token id, in the order in which transformers' logits processors run:
// bias, repetition penalty, presence and frequency penalty, minimum length; then temperature, top-k, top-p, min-p,
// typical-p; then one draw. Temperature 0 is greedy: the largest logit after the penalties, the lowest id of equals.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace nbl {

struct SamplingOptions {
  double temperature = 0;          // 0: greedy
  int64_t top_k = 0;               // 0: all
  double top_p = 1;                // 1: all
  double min_p = 0;                // 0: all; else tokens of at least min_p times the best one's probability
  double typical_p = 1;            // 1: all (locally typical sampling, arXiv:2202.00666)
  double repetition_penalty = 1;   // over prompt and answer: positive logits divided by it, negative ones multiplied
  double presence_penalty = 0;     // over the answer: subtracted once from the logit of a token that occurred
  double frequency_penalty = 0;    // over the answer: subtracted for each time it occurred
  int64_t penalty_window = 0;      // only the last so many tokens count for penalties; 0: all
  uint64_t seed = 0;
};

class Sampler {
 public:
  // Takes all the memory it will ever need: sample() allocates nothing.
  explicit Sampler(int64_t vocab_size);

  struct Input {
    const float* logits = nullptr;             // [vocab_size], not changed
    const int32_t* tokens = nullptr;           // the sequence so far
    int64_t token_count = 0;
    int64_t answer_start = 0;                  // tokens from here on are the answer
    const int32_t* forbidden = nullptr;        // ids that may not be drawn now (end of text before min_tokens)
    int64_t forbidden_count = 0;
    const std::vector<std::pair<int32_t, float>>* bias = nullptr;
    uint64_t step = 0;                         // counts the draws of a seed: (seed, step) decides the random number
  };
  int32_t sample(const Input& input, const SamplingOptions& options);

 private:
  struct Candidate {
    float logit;
    int32_t id;
  };
  void apply_penalties(const Input& input, const SamplingOptions& options);
  int32_t greedy() const;
  int32_t draw(const SamplingOptions& options, uint64_t step);

  std::vector<float> logits_;              // [vocab_size] working copy
  std::vector<Candidate> candidates_;      // [vocab_size]
  std::vector<double> probability_;        // [vocab_size]
  std::vector<int32_t> counts_;            // [vocab_size], zero between calls
};

// A uniform double in [0, 1) from Philox4x32-10 (Salmon et al., SC 2011) keyed by the seed, counter `step`.
double philox_uniform(uint64_t seed, uint64_t step);

// Natural-log probabilities of raw logits: writes log_softmax(logits)[ids[i]] for each id.
void log_probabilities(const float* logits, int64_t vocab_size, const int32_t* ids, int64_t count, float* out);
// The `count` largest logits, best first (ties: lower id first), with their log probabilities.
void top_log_probabilities(const float* logits, int64_t vocab_size, int64_t count, int32_t* ids, float* out);

}  // namespace nbl

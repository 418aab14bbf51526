// Sampler: logits to one token id on the host, in the order of kernels/draw.h, which is that of transformers' logits
// processors. Backends that draw on their device are held to the same ids.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "kernels/backend.h"

namespace nbl {

class Sampler {
 public:
  // Takes all the memory it will ever need: sample() allocates nothing.
  explicit Sampler(int64_t vocab_size);

  // logits [vocab_size] are not changed. An id, or kLogitsNotFinite or kNothingToDraw.
  int32_t sample(const float* logits, const Draw& draw);

 private:
  struct Candidate {
    float logit;
    int32_t id;
  };
  static bool by_logit(const Candidate& a, const Candidate& b);  // the better one first
  void apply_penalties(const Draw& draw);
  int64_t list_best(const float* logits, int64_t count);
  int32_t pick(const float* logits, const SamplingOptions& options, uint64_t step);
  int64_t vocab_size() const { return static_cast<int64_t>(logits_.size()); }

  std::vector<float> logits_;              // [vocab_size] working copy
  std::vector<Candidate> candidates_;      // [vocab_size]
  std::vector<double> probability_;        // [vocab_size]
  std::vector<int32_t> counts_;            // [vocab_size], zero between calls
};

// Natural-log probabilities of raw logits: writes log_softmax(logits)[ids[i]] for each id.
void log_probabilities(const float* logits, int64_t vocab_size, const int32_t* ids, int64_t count, float* out);
// The `count` largest logits, best first (ties: lower id first), with their log probabilities.
void top_log_probabilities(const float* logits, int64_t vocab_size, int64_t count, int32_t* ids, float* out);

}  // namespace nbl

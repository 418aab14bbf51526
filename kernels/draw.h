// What decides a drawn token: the options of a generation and the place in the sequence. Plain data, shared by the
// engine's Sampler and by backends that draw on their device, so that a seed gives the same ids wherever they are drawn.
//
// The order of the operations, with the logits in float32: bias, repetition penalty, presence and frequency penalty,
// forbidden ids; then temperature 0 takes the largest logit. Any other: softmax at the temperature over the top_k
// largest, cut to the smallest set that reaches top_p, to those of at least min_p times the best, to the most typical
// that reach typical_p (each over what is left, made a distribution again); then the first id, counting up, at which
// the sum of the probabilities exceeds the random number. Of equal logits the lower id is the better one.
//
// Where the model's own logits hold NaN or plus infinity nothing is drawn, since whatever came of it would be no answer; nor
// where all are minus infinity in the end. What bias and penalties make of finite ones counts as minus infinity if it is NaN,
// as the largest float if it is plus infinity.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#ifdef __CUDACC__
#define NBL_HOST_DEVICE __host__ __device__
#else
#define NBL_HOST_DEVICE
#endif

namespace nbl {

// In the place of an id.
constexpr int32_t kLogitsNotFinite = -1;
constexpr int32_t kNothingToDraw = -2;

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

struct Draw {
  const SamplingOptions* options = nullptr;
  const int32_t* tokens = nullptr;           // the sequence that the drawn token follows
  int64_t token_count = 0;
  int64_t answer_start = 0;                  // tokens from here on are the answer
  const std::vector<std::pair<int32_t, float>>* bias = nullptr;  // ids inside the vocabulary; null: none
  const int32_t* forbidden = nullptr;        // ids not drawn at steps before forbidden_until (end of text)
  int64_t forbidden_count = 0;
  uint64_t forbidden_until = 0;
  uint64_t step = 0;                         // counts the draws of a seed: (seed, step) decides the random number
};

// A uniform double in [0, 1) from Philox4x32-10 (Salmon et al., SC 2011) keyed by the seed, counter `step`.
NBL_HOST_DEVICE inline double philox_uniform(uint64_t seed, uint64_t step) {
  uint32_t counter[4] = {static_cast<uint32_t>(step), static_cast<uint32_t>(step >> 32), 0, 0};
  uint32_t key[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = 0xD2511F53ull * counter[0];
    const uint64_t product1 = 0xCD9E8D57ull * counter[2];
    counter[0] = static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0];
    counter[2] = static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1];
    counter[1] = static_cast<uint32_t>(product1);
    counter[3] = static_cast<uint32_t>(product0);
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  const uint64_t bits = static_cast<uint64_t>(counter[0]) << 32 | counter[1];
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

}  // namespace nbl

#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace nbl {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

bool better(float logit_a, int32_t id_a, float logit_b, int32_t id_b) {
  return logit_a > logit_b || (logit_a == logit_b && id_a < id_b);
}

}  // namespace

Sampler::Sampler(int64_t vocab_size)
    : logits_(vocab_size), candidates_(vocab_size), probability_(vocab_size), counts_(vocab_size, 0) {}

int32_t Sampler::sample(const float* logits, const Draw& draw) {
  std::copy(logits, logits + logits_.size(), logits_.begin());
  apply_penalties(draw);
  for (float& logit : logits_) {
    if (!(logit <= std::numeric_limits<float>::max())) logit = logit > 0 ? std::numeric_limits<float>::max() : kNever;
  }
  return draw.options->temperature > 0 ? pick(*draw.options, draw.step) : greedy();
}

void Sampler::apply_penalties(const Draw& input) {
  const SamplingOptions& options = *input.options;
  const int64_t vocab_size = static_cast<int64_t>(logits_.size());
  if (input.bias) {
    for (const auto& [id, bias] : *input.bias) logits_[id] += bias;
  }
  const int64_t window_start =
      options.penalty_window > 0 ? std::max<int64_t>(0, input.token_count - options.penalty_window) : 0;
  if (options.repetition_penalty != 1) {
    const float penalty = static_cast<float>(options.repetition_penalty);
    for (int64_t i = window_start; i < input.token_count; ++i) {
      const int32_t id = input.tokens[i];
      if (id < 0 || id >= vocab_size || counts_[id]++ > 0) continue;  // each token once
      logits_[id] = logits_[id] > 0 ? logits_[id] / penalty : logits_[id] * penalty;
    }
    for (int64_t i = window_start; i < input.token_count; ++i) {
      if (const int32_t id = input.tokens[i]; id >= 0 && id < vocab_size) counts_[id] = 0;
    }
  }
  if (options.presence_penalty != 0 || options.frequency_penalty != 0) {
    const float presence = static_cast<float>(options.presence_penalty);
    const float frequency = static_cast<float>(options.frequency_penalty);
    const int64_t start = std::max(window_start, input.answer_start);
    for (int64_t i = start; i < input.token_count; ++i) {
      const int32_t id = input.tokens[i];
      logits_[id] -= frequency + (counts_[id]++ == 0 ? presence : 0);
    }
    for (int64_t i = start; i < input.token_count; ++i) counts_[input.tokens[i]] = 0;
  }
  for (int64_t i = 0; input.step < input.forbidden_until && i < input.forbidden_count; ++i) {
    if (const int32_t id = input.forbidden[i]; id >= 0 && id < vocab_size) logits_[id] = kNever;
  }
}

int32_t Sampler::greedy() const {
  int32_t best = 0;
  for (int32_t id = 1; id < static_cast<int32_t>(logits_.size()); ++id) {
    if (logits_[id] > logits_[best]) best = id;
  }
  return best;
}

int32_t Sampler::pick(const SamplingOptions& options, uint64_t step) {
  int64_t count = 0;
  for (int32_t id = 0; id < static_cast<int32_t>(logits_.size()); ++id) {
    if (logits_[id] > kNever) candidates_[count++] = {logits_[id], id};
  }
  if (count == 0) return 0;  // everything forbidden, or NaN: the caller gets a valid id all the same
  const auto by_logit = [](const Candidate& a, const Candidate& b) { return better(a.logit, a.id, b.logit, b.id); };
  if (options.top_k > 0 && options.top_k < count) {
    std::nth_element(candidates_.begin(), candidates_.begin() + options.top_k, candidates_.begin() + count, by_logit);
    count = options.top_k;
  }
  const auto begin = candidates_.begin();
  const bool sorted = options.top_p < 1;
  if (sorted) std::sort(begin, begin + count, by_logit);

  const auto softmax = [&] {
    float best = kNever;
    for (int64_t i = 0; i < count; ++i) best = std::max(best, candidates_[i].logit);
    double sum = 0;
    for (int64_t i = 0; i < count; ++i) {
      probability_[i] = std::exp((static_cast<double>(candidates_[i].logit) - best) / options.temperature);
      sum += probability_[i];
    }
    for (int64_t i = 0; i < count; ++i) probability_[i] /= sum;
  };
  softmax();

  if (sorted) {  // the smallest set of best tokens whose probabilities reach top_p; at least one
    double sum = 0;
    int64_t kept = 0;
    while (kept < count && (kept == 0 || sum < options.top_p)) sum += probability_[kept++];
    count = kept;
    softmax();
  }
  if (options.min_p > 0) {
    const double best = *std::max_element(probability_.begin(), probability_.begin() + count);
    int64_t kept = 0;
    for (int64_t i = 0; i < count; ++i) {
      if (probability_[i] >= options.min_p * best) candidates_[kept++] = candidates_[i];
    }
    count = kept;
    softmax();
  }
  if (options.typical_p < 1) {  // tokens whose surprise is nearest to the entropy, until they reach typical_p
    double entropy = 0;
    for (int64_t i = 0; i < count; ++i) {
      if (probability_[i] > 0) entropy -= probability_[i] * std::log(probability_[i]);
    }
    // The logit is kept, so that the candidates can be sorted by surprise: -ln p falls as the logit grows.
    const double best_probability = *std::max_element(probability_.begin(), probability_.begin() + count);
    float best_logit = kNever;
    for (int64_t i = 0; i < count; ++i) best_logit = std::max(best_logit, candidates_[i].logit);
    const auto oddness = [&](const Candidate& c) {
      const double surprise = (static_cast<double>(best_logit) - c.logit) / options.temperature - std::log(best_probability);
      return std::abs(surprise - entropy);
    };
    std::sort(begin, begin + count, [&](const Candidate& a, const Candidate& b) {
      const double odd_a = oddness(a), odd_b = oddness(b);
      return odd_a < odd_b || (odd_a == odd_b && a.id < b.id);
    });
    softmax();
    double sum = 0;
    int64_t kept = 0;
    while (kept < count && (kept == 0 || sum < options.typical_p)) sum += probability_[kept++];
    count = kept;
    softmax();
  }

  // By id, whatever the cuts did to the order: the draw depends on the set alone.
  const auto by_id = [](const Candidate& a, const Candidate& b) { return a.id < b.id; };
  if (!std::is_sorted(begin, begin + count, by_id)) {
    std::sort(begin, begin + count, by_id);
    softmax();
  }
  double target = philox_uniform(options.seed, step);
  for (int64_t i = 0; i < count; ++i) {
    target -= probability_[i];
    if (target < 0) return candidates_[i].id;
  }
  return candidates_[count - 1].id;
}

namespace {

double log_sum_exp(const float* logits, int64_t count) {
  float best = kNever;
  for (int64_t i = 0; i < count; ++i) best = std::max(best, logits[i]);
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += std::exp(static_cast<double>(logits[i]) - best);
  return best + std::log(sum);
}

}  // namespace

void log_probabilities(const float* logits, int64_t vocab_size, const int32_t* ids, int64_t count, float* out) {
  const double total = log_sum_exp(logits, vocab_size);
  for (int64_t i = 0; i < count; ++i) out[i] = static_cast<float>(logits[ids[i]] - total);
}

void top_log_probabilities(const float* logits, int64_t vocab_size, int64_t count, int32_t* ids, float* out) {
  // A heap of `count` ids, the worst of them in front.
  const auto worse_first = [&](int32_t a, int32_t b) { return better(logits[a], a, logits[b], b); };
  int64_t held = 0;
  for (int32_t id = 0; id < vocab_size; ++id) {
    if (held < count) {
      ids[held++] = id;
      std::push_heap(ids, ids + held, worse_first);
    } else if (count > 0 && better(logits[id], id, logits[ids[0]], ids[0])) {
      std::pop_heap(ids, ids + held, worse_first);
      ids[held - 1] = id;
      std::push_heap(ids, ids + held, worse_first);
    }
  }
  std::sort_heap(ids, ids + held, worse_first);
  const double total = log_sum_exp(logits, vocab_size);
  for (int64_t i = 0; i < held; ++i) out[i] = static_cast<float>(logits[ids[i]] - total);
}

}  // namespace nbl

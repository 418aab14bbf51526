#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace nbl {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity(), kMost = std::numeric_limits<float>::max();

bool better(float logit_a, int32_t id_a, float logit_b, int32_t id_b) {
  return logit_a > logit_b || (logit_a == logit_b && id_a < id_b);
}

// The id of the largest logit, of equals the lowest; what is no number counts as draw.h says. A vocabulary of 150 thousand is
// more than a hundredth of a small model's step when it is gone through one by one: lanes, which compilers make vectors of.
int32_t largest(const float* logits, int64_t count) {
  constexpr int64_t kLanes = 16, kStretch = 1024;
  float best = kNever;
  int64_t first = 0, last = 0;  // where it is
  for (int64_t start = 0; start < count; start += kStretch) {
    const int64_t end = std::min(count, start + kStretch);
    float lanes[kLanes];
    std::fill(lanes, lanes + kLanes, kNever);
    int64_t i = start;
    for (; i + kLanes <= end; i += kLanes) {
      for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] = logits[i + lane] > lanes[lane] ? logits[i + lane] : lanes[lane];
    }
    for (; i < end; ++i) lanes[0] = logits[i] > lanes[0] ? logits[i] : lanes[0];
    const float most = std::min(kMost, *std::max_element(lanes, lanes + kLanes));
    if (most > best) best = most, first = start, last = end;
  }
  for (int64_t id = first; id < last; ++id) {
    if (logits[id] >= best) return static_cast<int32_t>(id);
  }
  return kNothingToDraw;
}

// Whether there is neither NaN nor plus infinity among them. In lanes, for the same reason.
bool finite(const float* logits, int64_t count) {
  constexpr int64_t kLanes = 16;
  int32_t others[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) others[lane] |= !(logits[i + lane] <= kMost);
  }
  for (; i < count; ++i) others[0] |= !(logits[i] <= kMost);
  return std::all_of(others, others + kLanes, [](int32_t other) { return other == 0; });
}

// Whether the logits are drawn from as they are.
bool plain(const Draw& draw) {
  const SamplingOptions& options = *draw.options;
  return (!draw.bias || draw.bias->empty()) && options.repetition_penalty == 1 && options.presence_penalty == 0 &&
         options.frequency_penalty == 0 && (draw.step >= draw.forbidden_until || draw.forbidden_count == 0);
}

}  // namespace

Sampler::Sampler(int64_t vocab_size)
    : logits_(vocab_size), candidates_(vocab_size), probability_(vocab_size), counts_(vocab_size, 0) {}

int32_t Sampler::sample(const float* logits, const Draw& draw) {
  if (!finite(logits, vocab_size())) return kLogitsNotFinite;
  if (!plain(draw)) {
    std::copy(logits, logits + vocab_size(), logits_.begin());
    apply_penalties(draw);
    logits = logits_.data();
  }
  return draw.options->temperature > 0 ? pick(logits, *draw.options, draw.step) : largest(logits, vocab_size());
}

void Sampler::apply_penalties(const Draw& input) {
  const SamplingOptions& options = *input.options;
  if (input.bias) {
    for (const auto& [id, bias] : *input.bias) logits_[id] += bias;
  }
  const int64_t window_start =
      options.penalty_window > 0 ? std::max<int64_t>(0, input.token_count - options.penalty_window) : 0;
  if (options.repetition_penalty != 1) {
    const float penalty = static_cast<float>(options.repetition_penalty);
    for (int64_t i = window_start; i < input.token_count; ++i) {
      const int32_t id = input.tokens[i];
      if (id < 0 || id >= vocab_size() || counts_[id]++ > 0) continue;  // each token once
      logits_[id] = logits_[id] > 0 ? logits_[id] / penalty : logits_[id] * penalty;
    }
    for (int64_t i = window_start; i < input.token_count; ++i) {
      if (const int32_t id = input.tokens[i]; id >= 0 && id < vocab_size()) counts_[id] = 0;
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
    if (const int32_t id = input.forbidden[i]; id >= 0 && id < vocab_size()) logits_[id] = kNever;
  }
}

bool Sampler::by_logit(const Candidate& a, const Candidate& b) { return better(a.logit, a.id, b.logit, b.id); }

// Puts the `count` best ids in front of candidates_, or fewer where fewer may be drawn, and gives their number.
int64_t Sampler::list_best(const float* logits, int64_t count) {
  constexpr int64_t kLanes = 16;
  const auto begin = candidates_.begin();
  float least = kNever;  // what a further one must exceed: of equals the lower id is better, and it has been seen
  int64_t held = 0;
  for (int64_t start = 0; start < vocab_size(); start += kLanes) {
    const int64_t end = std::min(vocab_size(), start + kLanes);
    if (start + kLanes == end) {
      int above = 0;
      for (int64_t lane = 0; lane < kLanes; ++lane) above |= logits[start + lane] > least;
      if (!above) continue;
    }
    for (int64_t id = start; id < end; ++id) {
      const float logit = std::min(kMost, logits[id]);
      if (!(logits[id] > least) || logit <= least) continue;
      if (held == count) std::pop_heap(begin, begin + held--, by_logit);
      candidates_[held++] = {logit, static_cast<int32_t>(id)};
      std::push_heap(begin, begin + held, by_logit);
      if (held == count) least = candidates_.front().logit;
    }
  }
  return held;
}

int32_t Sampler::pick(const float* logits, const SamplingOptions& options, uint64_t step) {
  constexpr int64_t kFew = 1024;
  int64_t count = 0;
  if (options.top_k > 0 && options.top_k <= std::min(kFew, vocab_size())) {
    count = list_best(logits, options.top_k);
  } else {
    for (int32_t id = 0; id < static_cast<int32_t>(vocab_size()); ++id) {
      if (logits[id] > kNever) candidates_[count++] = {std::min(kMost, logits[id]), id};
    }
    if (options.top_k > 0 && options.top_k < count) {
      std::nth_element(candidates_.begin(), candidates_.begin() + options.top_k, candidates_.begin() + count, by_logit);
      count = options.top_k;
    }
  }
  if (count == 0) return kNothingToDraw;
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

#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <random>

namespace nbl {
namespace {

std::vector<float> random_logits(int count, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0, 2);
  std::vector<float> logits(count);
  for (float& logit : logits) logit = normal(generator);
  return logits;
}

// How often each id is drawn over many steps.
std::map<int32_t, double> frequencies(const std::vector<float>& logits, const SamplingOptions& options, int draws = 20000) {
  Sampler sampler(static_cast<int64_t>(logits.size()));
  std::map<int32_t, double> counts;
  for (int step = 0; step < draws; ++step) {
    Draw draw;
    draw.options = &options;
    draw.step = step;
    counts[sampler.sample(logits.data(), draw)] += 1.0 / draws;
  }
  return counts;
}

// Softmax over a set of ids, in double.
std::map<int32_t, double> softmax(const std::vector<float>& logits, const std::vector<int32_t>& ids, double temperature) {
  std::map<int32_t, double> out;
  double sum = 0;
  for (int32_t id : ids) sum += out[id] = std::exp(logits[id] / temperature);
  for (auto& [id, probability] : out) probability /= sum;
  return out;
}

void expect_near(const std::map<int32_t, double>& found, const std::map<int32_t, double>& expected) {
  for (const auto& [id, frequency] : found) EXPECT_TRUE(expected.count(id)) << "id " << id << " should never be drawn";
  for (const auto& [id, probability] : expected) {
    const auto at = found.find(id);
    // Five standard deviations of a frequency over 20,000 draws.
    const double slack = 5 * std::sqrt(probability * (1 - probability) / 20000) + 1e-4;
    EXPECT_NEAR(at == found.end() ? 0 : at->second, probability, slack) << "id " << id;
  }
}

// The first known-answer vector of Random123: philox4x32-10, counter 0, key 0 gives 6627e8d5 e169c58d ...
TEST(Philox, GivesThePublishedAnswer) {
  EXPECT_EQ(philox_uniform(0, 0), static_cast<double>(0x6627e8d5e169c58dull >> 11) * 0x1p-53);
  EXPECT_NE(philox_uniform(0, 1), philox_uniform(0, 0));
  EXPECT_NE(philox_uniform(1, 0), philox_uniform(0, 0));
}

TEST(Sampler, TemperatureZeroTakesTheLargestAndTheLowestIdOfEquals) {
  const std::vector<float> logits = {0, 3, -1, 3};
  Sampler sampler(4);
  SamplingOptions options;
  Draw input;
  input.options = &options;
  EXPECT_EQ(sampler.sample(logits.data(), input), 1);
}

TEST(Sampler, DrawsFromTheSoftmaxAtATemperature) {
  const std::vector<float> logits = random_logits(12, 1);
  SamplingOptions options;
  options.temperature = 0.7;
  expect_near(frequencies(logits, options), softmax(logits, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, 0.7));
}

TEST(Sampler, TopKKeepsTheBest) {
  const std::vector<float> logits = {1, 5, 2, 4, 3};
  SamplingOptions options;
  options.temperature = 1;
  options.top_k = 2;
  expect_near(frequencies(logits, options), softmax(logits, {1, 3}, 1));
}

TEST(Sampler, TopPKeepsTheSmallestSetThatReachesIt) {
  // Probabilities 0.5, 0.3, 0.15, 0.05.
  const std::vector<float> logits = {std::log(0.05f), std::log(0.3f), std::log(0.5f), std::log(0.15f)};
  SamplingOptions options;
  options.temperature = 1;
  options.top_p = 0.75;
  expect_near(frequencies(logits, options), softmax(logits, {1, 2}, 1));
  options.top_p = 0.01;  // never an empty set
  expect_near(frequencies(logits, options), softmax(logits, {2}, 1));
}

TEST(Sampler, MinPIsRelativeToTheBest) {
  const std::vector<float> logits = {std::log(0.05f), std::log(0.3f), std::log(0.5f), std::log(0.15f)};
  SamplingOptions options;
  options.temperature = 1;
  options.min_p = 0.4;  // 0.4 * 0.5 = 0.2
  expect_near(frequencies(logits, options), softmax(logits, {1, 2}, 1));
}

TEST(Sampler, TypicalKeepsWhatSurprisesAsExpected) {
  // Entropy of (0.9, 0.05, 0.05) is 0.394; surprises are 0.105 and 2.996: the first is nearest.
  const std::vector<float> logits = {std::log(0.9f), std::log(0.05f), std::log(0.05f)};
  SamplingOptions options;
  options.temperature = 1;
  options.typical_p = 0.5;
  expect_near(frequencies(logits, options), softmax(logits, {0}, 1));
  // Of (0.4, 0.2, 0.2, 0.2), entropy 1.332: surprises 0.916 and 1.609, so a 0.2 comes first and 0.55 takes three of them.
  const std::vector<float> flat = {std::log(0.4f), std::log(0.2f), std::log(0.2f), std::log(0.2f)};
  options.typical_p = 0.55;
  expect_near(frequencies(flat, options), softmax(flat, {1, 2, 3}, 1));
}

TEST(Sampler, RepetitionPenaltyCountsEachTokenOnce) {
  const std::vector<float> logits = {2, 1.5f, -1, 0};
  const std::vector<int32_t> tokens = {0, 0, 0, 2};
  Sampler sampler(4);
  SamplingOptions options;
  Draw input;
  input.options = &options;
  input.tokens = tokens.data();
  input.token_count = 4;
  input.answer_start = 4;
  options.repetition_penalty = 1.2;  // 2 / 1.2 = 1.67 stays ahead; three times over it would not
  EXPECT_EQ(sampler.sample(logits.data(), input), 0);
  options.repetition_penalty = 1.4;  // 1.43 falls behind 1.5
  EXPECT_EQ(sampler.sample(logits.data(), input), 1);
  options.penalty_window = 1;        // only the 2 counts
  EXPECT_EQ(sampler.sample(logits.data(), input), 0);
}

TEST(Sampler, PresenceAndFrequencyCountTheAnswerAlone) {
  const std::vector<float> logits = {2, 1, 0};
  const std::vector<int32_t> tokens = {0, 0, 0};
  Sampler sampler(3);
  SamplingOptions options;
  Draw input;
  input.options = &options;
  input.tokens = tokens.data();
  input.token_count = 3;
  input.answer_start = 3;
  options.presence_penalty = 1.5;
  EXPECT_EQ(sampler.sample(logits.data(), input), 0);  // the prompt is not penalized
  input.answer_start = 1;
  EXPECT_EQ(sampler.sample(logits.data(), input), 1);
  options = {};
  options.frequency_penalty = 0.4;               // twice in the answer: 2 - 0.8 = 1.2
  EXPECT_EQ(sampler.sample(logits.data(), input), 0);
  options.frequency_penalty = 0.6;               // 2 - 1.2 = 0.8
  EXPECT_EQ(sampler.sample(logits.data(), input), 1);
}

TEST(Sampler, ForbiddenAndBiasedIds) {
  const std::vector<float> logits = {2, 1, 0};
  const int32_t forbidden[] = {0};
  const std::vector<std::pair<int32_t, float>> bias = {{2, 5.0f}};
  Sampler sampler(3);
  SamplingOptions options;
  Draw input;
  input.options = &options;
  input.forbidden = forbidden;
  input.forbidden_count = 1;
  input.forbidden_until = 1;
  EXPECT_EQ(sampler.sample(logits.data(), input), 1);
  input.bias = &bias;
  EXPECT_EQ(sampler.sample(logits.data(), input), 2);
}

TEST(Sampler, TheSameSeedAndStepDrawTheSame) {
  const std::vector<float> logits = random_logits(1000, 3);
  SamplingOptions options;
  options.temperature = 1;
  options.seed = 77;
  Sampler first(1000), second(1000);
  int changes = 0;
  int32_t previous = -1;
  for (int step = 0; step < 50; ++step) {
    Draw draw;
    draw.options = &options;
    draw.step = step;
    const int32_t id = first.sample(logits.data(), draw);
    EXPECT_EQ(id, second.sample(logits.data(), draw));
    changes += id != previous;
    previous = id;
  }
  EXPECT_GT(changes, 30);
}

// Of logits that are no numbers nothing is drawn; minus infinity is what nobody wants, and may be.
TEST(Sampler, LogitsThatAreNotFiniteAreTold) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  Sampler sampler(4);
  const std::vector<std::pair<int32_t, float>> always = {{2, infinity}}, never = {{1, -infinity}};
  const std::vector<std::pair<int32_t, float>> contradictory = {{2, infinity}, {2, -infinity}};
  const std::vector<std::vector<float>> all_broken = {{0, 1, 2, nan}, {nan, 1, -infinity, nan}, {0, infinity, 2, 3}, {nan, nan, nan, nan}};
  for (double temperature : {0.0, 1.0}) {
    SamplingOptions options;
    options.temperature = temperature;
    Draw draw;
    draw.options = &options;
    for (draw.step = 0; draw.step < 50; ++draw.step) {
      draw.bias = nullptr;
      for (const std::vector<float>& broken : all_broken) EXPECT_EQ(sampler.sample(broken.data(), draw), kLogitsNotFinite);
      const std::vector<float> one = {-infinity, 1, -infinity, -infinity}, none(4, -infinity), plain = {1, 1, -infinity, 1};
      EXPECT_EQ(sampler.sample(one.data(), draw), 1);
      EXPECT_EQ(sampler.sample(none.data(), draw), kNothingToDraw);
      draw.bias = &never;
      EXPECT_EQ(sampler.sample(one.data(), draw), kNothingToDraw);
      // What a bias does to finite logits is the caller's wish.
      const std::vector<float> zeros(4, 0);
      draw.bias = &always;
      EXPECT_EQ(sampler.sample(zeros.data(), draw), 2);
      draw.bias = &contradictory;
      EXPECT_NE(sampler.sample(plain.data(), draw), 2);
    }
  }
}

// Vocabularies of all lengths are gone through in vectors, with whatever a broken model gives in between.
TEST(Sampler, TakesTheBestOfVocabulariesOfAnyLength) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  std::mt19937 generator(11);
  for (int count : {1, 2, 15, 16, 17, 33, 1000, 1023, 1024, 1025, 1040, 5003}) {
    for (int round = 0; round < 20; ++round) {
      std::vector<float> logits = random_logits(count, static_cast<unsigned>(round));
      if (round % 2) {  // many equals
        for (float& logit : logits) logit = std::round(logit);
      }
      for (int i = 0; round % 4 >= 2 && i < count / 8; ++i) logits[generator() % count] = -infinity;
      const bool broken = round % 8 >= 6;
      if (broken) logits[generator() % count] = round % 8 == 6 ? nan : infinity;
      std::vector<int32_t> ids;
      for (int32_t id = 0; id < count; ++id) {
        if (logits[id] > -infinity) ids.push_back(id);
      }
      std::stable_sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
      Sampler sampler(count);
      SamplingOptions options;
      Draw draw;
      draw.options = &options;
      const int32_t expected = broken ? kLogitsNotFinite : ids.empty() ? kNothingToDraw : ids.front();
      ASSERT_EQ(sampler.sample(logits.data(), draw), expected) << count << " logits, round " << round;
      if (broken) continue;

      options.temperature = 1e38;  // all that are left alike
      for (int64_t top_k : {1, 3, 40}) {
        options.top_k = top_k;
        std::vector<int32_t> best(ids.begin(), ids.begin() + std::min<int64_t>(top_k, static_cast<int64_t>(ids.size())));
        std::sort(best.begin(), best.end());
        std::map<int32_t, int> drawn;
        for (draw.step = 0; draw.step < 1000; ++draw.step) ++drawn[sampler.sample(logits.data(), draw)];
        if (best.empty()) best.push_back(kNothingToDraw);
        for (const auto& [id, times] : drawn) ASSERT_TRUE(std::binary_search(best.begin(), best.end(), id)) << id;
        ASSERT_EQ(drawn.size(), best.size()) << count << " logits, the best " << top_k;
      }
    }
  }
}

TEST(LogProbabilities, AreTheLogSoftmax) {
  const std::vector<float> logits = random_logits(500, 5);
  double sum = 0;
  for (float logit : logits) sum += std::exp(static_cast<double>(logit));
  const int32_t ids[] = {0, 17, 499};
  float found[3];
  log_probabilities(logits.data(), 500, ids, 3, found);
  for (int i = 0; i < 3; ++i) EXPECT_NEAR(found[i], logits[ids[i]] - std::log(sum), 1e-5);

  int32_t best[4];
  float best_log[4];
  top_log_probabilities(logits.data(), 500, 4, best, best_log);
  std::vector<float> sorted = logits;
  std::sort(sorted.rbegin(), sorted.rend());
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(logits[best[i]], sorted[i]);
    EXPECT_NEAR(best_log[i], sorted[i] - std::log(sum), 1e-5);
  }
}

}  // namespace
}  // namespace nbl

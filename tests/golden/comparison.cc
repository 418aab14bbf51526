#include "golden/comparison.h"

#include <algorithm>
#include <cmath>

namespace golden {
namespace {

double log_sum_exp(const float* logits, int64_t count) {
  const double top = *std::max_element(logits, logits + count);
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += std::exp(logits[i] - top);
  return top + std::log(sum);
}

}  // namespace

void Comparison::add(const float* actual, const float* expected, int64_t rows, int64_t vocab) {
  for (int64_t row = 0; row < rows; ++row, actual += vocab, expected += vocab) {
    double mean = 0, row_error = 0, row_scale = 0, divergence = 0;
    for (int64_t i = 0; i < vocab; ++i) mean += expected[i];
    mean /= static_cast<double>(vocab);
    const double actual_norm = log_sum_exp(actual, vocab), expected_norm = log_sum_exp(expected, vocab);
    for (int64_t i = 0; i < vocab; ++i) {
      const double error = static_cast<double>(actual[i]) - expected[i];
      squared_error_ += error * error;
      row_scale += (expected[i] - mean) * (expected[i] - mean);
      // A NaN must end up in the figures, and std::max would lose it.
      if (!(std::fabs(error) <= row_error)) row_error = std::fabs(error);
      const double log_expected = expected[i] - expected_norm;
      divergence += std::exp(log_expected) * (log_expected - (actual[i] - actual_norm));
    }
    const int64_t actual_best = std::max_element(actual, actual + vocab) - actual;
    const int64_t expected_best = std::max_element(expected, expected + vocab) - expected;
    const double gap = static_cast<double>(expected[expected_best]) - expected[actual_best];
    same_ += actual_best == expected_best ? 1 : 0;
    misses_ += gap > tolerance_.margin * std::sqrt(row_scale / static_cast<double>(vocab)) ? 1 : 0;
    squared_scale_ += row_scale;
    values_ += vocab;
    if (!(row_error <= max_error_)) max_error_ = row_error;
    divergence_ += divergence;
    ++rows_;
  }
}

double Comparison::relative_rms() const { return squared_scale_ > 0 ? std::sqrt(squared_error_ / squared_scale_) : 0; }

double Comparison::scale() const { return values_ > 0 ? std::sqrt(squared_scale_ / static_cast<double>(values_)) : 0; }

}  // namespace golden

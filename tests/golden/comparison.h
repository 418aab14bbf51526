// How far logits are from expected ones, and what distance is let through.
#pragma once

#include <cstdint>
#include <string>

namespace golden {

// Largest figures that pass.
struct Tolerance {
  double relative_rms;
  double divergence;     // mean KL(expected || actual), nats
  double top1;           // least share of rows with the same best id, asked of 300 rows or more
  double perplexity;     // relative
  double margin;         // two ids may change places where the expected logits are so close, in standard deviations
};

// float32 arithmetic throughout and weights rounded as the tool rounds them: the way the golden values were computed.
constexpr Tolerance kFloat32{1e-4, 1e-8, 1.0, 2e-5, 1e-3};
// The same where the golden values were computed from weights that the tool's float16 rounding was left out of.
constexpr Tolerance kFloat32Unrounded{1e-3, 1e-7, 1.0, 5e-5, 5e-3};
// The default: activations as 16-bit integers per group, keys and values in float16, products of code and scale not
// rounded to the model's type. 5e-5 nats is what float16 and bfloat16 runs of one model are apart; that a tool rounds to
// bfloat16 alone makes 6e-3 of relative RMS.
constexpr Tolerance kDefault{1e-2, 5e-5, 0.997, 1e-4, 2e-2};
// 8-bit activations: what fast8 and fastest8 trade.
constexpr Tolerance kFast{1e-1, 2e-2, 0.9, 1e-2, 3e-1};

// Sums over rows of logits; the figures are asked for at the end.
class Comparison {
 public:
  explicit Comparison(const Tolerance& tolerance) : tolerance_(tolerance) {}
  // actual, expected: [rows, vocab].
  void add(const float* actual, const float* expected, int64_t rows, int64_t vocab);

  int64_t rows() const { return rows_; }
  double max_error() const { return max_error_; }
  // RMS of the difference over the RMS of the expected logits about their mean (a constant added to all logits changes
  // no probability, so it must not make an error look small).
  double relative_rms() const;
  double mean_divergence() const { return rows_ ? divergence_ / static_cast<double>(rows_) : 0; }  // KL(expected || actual), nats
  double same_top1() const { return rows_ ? static_cast<double>(same_) / static_cast<double>(rows_) : 1; }
  int64_t misses() const { return misses_; }  // rows with another best id although the margin is clear
  double scale() const;                       // standard deviation of the expected logits

 private:
  Tolerance tolerance_;
  int64_t rows_ = 0, same_ = 0, misses_ = 0, values_ = 0;
  double squared_error_ = 0, squared_scale_ = 0, divergence_ = 0, max_error_ = 0;
};

}  // namespace golden

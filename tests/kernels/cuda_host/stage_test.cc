// How an operation of the resident kernel finds its input (kernels/cuda/resident/stage.cuh), run on the host by all consumer
// threads of a CTA and compared with the same in double. The words arrive while the threads look for them.
#include "kernels/cuda/resident/stage.cuh"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/cuda_host/formats.h"

namespace nbl::cuda {
namespace {

constexpr uint32_t kTag = 0x12345,
                   kOldTag = 0x12333;         // of the operation before, and of the last that wrote there
constexpr double kPairRounding = 1. / 65536;  // of a float with 15 bits of mantissa
constexpr int kMostLoads = 1000000;           // of one run
constexpr int kGuard = 64;                    // bytes or words behind each buffer, which stay as they are
constexpr uint32_t kNothing = 0x7fedcba9;

std::vector<float> random_values(std::mt19937& random, int count, float scale) {
  std::normal_distribution<float> normal(0.f, scale);
  std::vector<float> values(count);
  for (float& v : values) v = normal(random);
  return values;
}

// A CTA that stages one input.
class Staging {
 public:
  Staging(const HostFormat& format, int width, bool permuted)
      : random_(width * 31 + format.group_blocks * 7 + static_cast<int>(format.codes)) {
    op_.codes = format.codes, op_.group_blocks = format.group_blocks;
    op_.width = width, op_.padded_k = static_cast<int>(pad_up(width, kColumnAlign));
    places_.resize(op_.padded_k);
    std::iota(places_.begin(), places_.end(), 0);
    if (permuted) {
      std::shuffle(places_.begin(), places_.begin() + width, random_);
      op_.in_place = places_.data();
    }
    const int units = (op_.padded_k / kUnitColumns + kConsumerWarps - 1) / kConsumerWarps;
    units_ = units <= 1 ? 1 : units <= 2 ? 2 : 4;
  }

  // norm(h), of an RMS norm or a layer norm with bias.
  void expect_normed(Norm::Kind kind) {
    const int width = op_.width;
    const float mean_of_h = kind == Norm::Kind::kLayer ? 3.f : 0.f;
    h_ = random_values(random_, op_.padded_k, 1.f);
    weight_ = random_values(random_, width, 0.5f), bias_ = random_values(random_, width, 0.5f);
    for (int i = 0; i < op_.padded_k; ++i) h_[i] = i < width ? h_[i] + mean_of_h : 0.f;
    op_.input = kind == Norm::Kind::kRms && op_.padded_k <= kMostUnits * kConsumerWarps * kUnitColumns ? ResidentInput::kRms
                                                                                                       : ResidentInput::kNormed;
    op_.norm.kind = kind, op_.norm.weight = weight_.data(), op_.norm.epsilon = 1e-5f, op_.norm.width = width;
    op_.norm.bias = kind == Norm::Kind::kLayer ? bias_.data() : nullptr;
    words_.resize(op_.padded_k / 2);
    for (int i = 0; i < op_.padded_k / 2; ++i) {
      put_pair(&words_[i], 77.f, -77.f, kOldTag);
      writes_.push_back([this, i] { put_pair(&words_[i], h_[2 * i], h_[2 * i + 1], kTag); });
    }
    op_.input_words = words_.data();

    double sum = 0, squares = 0;
    for (int i = 0; i < width; ++i) sum += h_[i], squares += static_cast<double>(h_[i]) * h_[i];
    const double mean = kind == Norm::Kind::kLayer ? sum / width : 0.;
    const double deviation = std::sqrt(squares / width - mean * mean + 1e-5);
    std::vector<double> expected(op_.padded_k, 0.), slack(op_.padded_k, 0.);
    for (int i = 0; i < width; ++i) {
      expected[places_[i]] = (h_[i] - mean) / deviation * weight_[i] + (op_.norm.bias != nullptr ? bias_[i] : 0.);
      slack[places_[i]] = (std::abs(h_[i]) + std::abs(mean)) / deviation * std::abs(weight_[i]) * kPairRounding;
    }
    expect(expected, slack);
    if (op_.input != ResidentInput::kRms) return;
    // A guess that holds gives the same but for a factor, and one that does not is found out.
    int exponent = 0;
    std::frexp(static_cast<float>(1 / deviation), &exponent);
    for (const int power : {exponent - 1, exponent - 4, exponent - 8, exponent + 1, exponent - 30, exponent + 40}) {
      SCOPED_TRACE("guessed 2^" + std::to_string(power));
      guess_ = std::ldexp(1.f, power);
      expect(expected, slack);
      const bool holds = power <= exponent - 1 && power >= exponent - 8;
      if (x_digits(op_.codes) == 0 || op_.in_place != nullptr) {
        EXPECT_EQ(factor_ != 1.f, holds && 1 / deviation != std::ldexp(1., power));
      }
      EXPECT_EQ(next_guess_, std::ldexp(1.f, exponent - 3));
    }
    guess_ = 0.f;
  }

  // f16 that its writers have put where the matrix wants it.
  void expect_halves() {
    h_ = random_values(random_, op_.padded_k, 1.f);
    op_.input = op_.padded_k <= units_ * kConsumerWarps * kUnitColumns ? ResidentInput::kHalves : ResidentInput::kManyHalves;
    halves_.resize(op_.padded_k);
    std::vector<double> expected(op_.padded_k, 0.);
    for (int i = 0; i < op_.padded_k; ++i) {
      const __half value(i < op_.width ? h_[i] : 0.f);
      put_half(&halves_[i], __half(77.f), kOldTag);
      writes_.push_back([this, i, value] { put_half(&halves_[i], value, kTag); });
      expected[i] = __half2float(value);
    }
    op_.input_halves = halves_.data();
    expect(expected, std::vector<double>(op_.padded_k, 0.));
  }

  // activation(gate) * up.
  void expect_gate_up() {
    const int width = op_.width;
    h_ = random_values(random_, 2 * width, 1.5f);
    op_.input = ResidentInput::kGateUp;
    words_.resize(2 * width);
    for (int i = 0; i < 2 * width; ++i) {
      put_word(&words_[i], __float_as_uint(77.f), kOldTag);
      writes_.push_back([this, i] { put_word(&words_[i], __float_as_uint(h_[i]), kTag); });
    }
    op_.input_words = words_.data();
    std::vector<double> expected(op_.padded_k, 0.);
    for (int i = 0; i < width; ++i) expected[places_[i]] = h_[i] / (1. + std::exp(-static_cast<double>(h_[i]))) * h_[width + i];
    expect(expected, std::vector<double>(op_.padded_k, 0.));
  }

 private:
  // slack: what the rounding of the input makes of it; that of the result comes on top.
  void expect(const std::vector<double>& expected, const std::vector<double>& slack) {
    // By the kernel of all formats, then by those of few that have this one.
    for (const ResidentFormats formats : {ResidentFormats::kAny, ResidentFormats::kInt4, ResidentFormats::kCodebook}) {
      if (!has_codes(formats, op_.codes)) continue;
      formats_ = formats;
      for (const cuda_host::Turns turns : {cuda_host::Turns::kAscending, cuda_host::Turns::kDescending}) {
        SCOPED_TRACE(turns == cuda_host::Turns::kAscending ? "first threads first" : "last threads first");
        run(turns);
        compare(expected, slack);
        if (::testing::Test::HasFailure()) return;
      }
    }
  }

  int unit_count() const { return op_.padded_k / kUnitColumns; }
  int x_bytes() const { return unit_count() * x_unit_bytes(op_.codes); }
  int factor_count() const { return x_digits(op_.codes) == 0 ? 0 : unit_count() * x_factor_words(op_.group_blocks); }

  void run(cuda_host::Turns turns) {
    const float nothing = std::numeric_limits<float>::quiet_NaN();
    x_.assign((x_bytes() + kGuard) / 16, make_uint4(kNothing, kNothing, kNothing, kNothing));
    factors_.assign((factor_count() + kGuard) / 4, make_uint4(kNothing, kNothing, kNothing, kNothing));
    scratch_.assign(kConsumerWarps, make_float2(nothing, nothing));
    // The first run finds its words late, in any order; the second when all are there.
    std::shuffle(writes_.begin(), writes_.end(), random_);
    cuda_host::before_load = [this, loads = 0]() mutable {
      if (++loads > kMostLoads) throw std::logic_error("threads look for words that are there already");
      for (int i = 0; i < 2 && !writes_.empty(); ++i) {
        writes_.back()();
        writes_.pop_back();
      }
    };
    std::vector<float2> found(kConsumerThreads);  // factor, next guess
    cuda_host::run_ctas(1, kConsumerThreads, turns,
                        [&](int, int tid) {
                          float guess = guess_;
                          const float factor = units_ == 1   ? stage_by<1>(tid, guess)
                                               : units_ == 2 ? stage_by<2>(tid, guess)
                                                             : stage_by<4>(tid, guess);
                          found[tid] = make_float2(factor, guess);
                        });
    cuda_host::before_load = nullptr;
    for (const float2& f : found) ASSERT_TRUE(f.x == found[0].x && f.y == found[0].y) << "threads disagree about the factor";
    factor_ = found[0].x, next_guess_ = found[0].y;
  }

  template <int Units>
  float stage_by(int tid, float& guess) {
    switch (formats_) {
      case ResidentFormats::kInt4: return stage_for<Units, ResidentFormats::kInt4>(tid, guess);
      case ResidentFormats::kCodebook: return stage_for<Units, ResidentFormats::kCodebook>(tid, guess);
      case ResidentFormats::kAny: break;
    }
    return stage_for<Units, ResidentFormats::kAny>(tid, guess);
  }
  template <int Units, ResidentFormats Formats>
  float stage_for(int tid, float& guess) {
    return stage<Units, Formats>(op_, kTag, reinterpret_cast<unsigned char*>(x_.data()), reinterpret_cast<uint32_t*>(factors_.data()),
                                 scratch_.data(), guess, tid);
  }

  void compare(const std::vector<double>& expected, const std::vector<double>& slack) {
    const int digits = x_digits(op_.codes);
    const unsigned char* x = reinterpret_cast<const unsigned char*>(x_.data());
    const uint32_t* factors = reinterpret_cast<const uint32_t*>(factors_.data());
    const bool by_way_of_f16 =
        digits == 0 || op_.in_place != nullptr || op_.input == ResidentInput::kNormed || op_.input == ResidentInput::kGateUp;
    for (int c = 0; c < op_.padded_k; ++c) {
      const int unit = c / kUnitColumns, place = c % kUnitColumns;
      const unsigned char* unit_x = x + unit * x_unit_bytes(op_.codes);
      double found, rounding = 0;
      if (digits == 0) {
        found = __half2float(reinterpret_cast<const __half*>(unit_x)[place]);
      } else {
        const double fixed_factor = bits_to_float(factors[unit * x_factor_words(op_.group_blocks)]);
        const double times = digit_place(op_.codes, place).times;
        found = number_at(unit_x, op_.codes, place) / times * fixed_factor;
        double largest = 0;
        for (int other = unit * kUnitColumns; other < (unit + 1) * kUnitColumns; ++other) {
          largest = std::max(largest, std::abs(expected[other]) + slack[other]);
        }
        rounding = 0.505 / 16256 / times * largest;
      }
      // What is 0 stays 0: the matrix reads the columns behind the width.
      rounding = expected[c] == 0. ? 0.
                                   : rounding + (std::abs(expected[c]) + slack[c]) * 1e-5 +
                                         (by_way_of_f16 ? std::abs(expected[c]) * 0x1p-11 + 0x1p-25 * std::max(1.f, factor_) : 0.);
      ASSERT_NEAR(found * factor_, expected[c], slack[c] + rounding) << "column " << c;
    }
    const int columns = 32 * std::max(1, op_.group_blocks);
    for (int first = 0; digits > 0 && first < op_.padded_k; first += columns) {
      const int unit = first / kUnitColumns, group = first % kUnitColumns / columns;
      double sum = 0;
      for (int c = first; c < first + columns; ++c) {
        const int place = c % kUnitColumns;
        sum += static_cast<double>(number_at(x + unit * x_unit_bytes(op_.codes), op_.codes, place)) / digit_place(op_.codes, place).times;
      }
      const uint32_t found = factors[unit * x_factor_words(op_.group_blocks) + 1 + group];
      ASSERT_EQ(found, sum_word(op_.codes, sum)) << "the sum of columns from " << first;
    }
    for (int i = 0; i < kGuard / 4; ++i) {
      ASSERT_EQ(reinterpret_cast<const uint32_t*>(x_.data())[x_bytes() / 4 + i], kNothing) << "x is written behind its end, at " << i;
      ASSERT_EQ(factors[factor_count() + i], kNothing) << "the factors are written behind their end, at " << i;
    }
  }

  std::mt19937 random_;
  ResidentOp op_;
  int units_ = 1;  // of a warp, at most
  ResidentFormats formats_ = ResidentFormats::kAny;  // of the kernel
  float guess_ = 0.f, factor_ = 1.f, next_guess_ = 0.f;
  std::vector<int32_t> places_;  // column of the input -> column of x
  std::vector<float> h_, weight_, bias_;
  std::vector<uint2> words_;
  std::vector<uint32_t> halves_;
  std::vector<std::function<void()>> writes_;  // that other CTAs have not done yet
  std::vector<uint4> x_, factors_;
  std::vector<float2> scratch_;
};

// Widths of known models, of less than a unit, of all passes of the warps full or not, and some that pad.
const int kWidths[] = {64, 576, 1100, 4096, 4228, 14336, 16640};

class Stage : public ::testing::TestWithParam<HostFormat> {
 protected:
  template <typename Check>
  void all(std::vector<bool> permuted, int widest, Check check) {
    for (const int width : kWidths) {
      if (width > widest) continue;
      for (const bool is_permuted : permuted) {
        SCOPED_TRACE("width " + std::to_string(width) + (is_permuted ? ", permuted" : ""));
        Staging staging(GetParam(), width, is_permuted);
        check(staging);
        if (HasFailure()) return;
      }
    }
  }
};
INSTANTIATE_TEST_SUITE_P(Formats, Stage, ::testing::ValuesIn(kHostFormats), [](const auto& info) { return std::string(info.param.name); });

TEST_P(Stage, NormsTheResidual) {
  all({false, true}, 16640, [](Staging& staging) { staging.expect_normed(Norm::Kind::kRms); });
}
TEST_P(Stage, TakesLayerNormsWithBias) {
  all({false, true}, 4228, [](Staging& staging) { staging.expect_normed(Norm::Kind::kLayer); });
}
TEST_P(Stage, TakesHalvesWhereTheyAre) {
  all({false}, 16640, [](Staging& staging) { staging.expect_halves(); });
}
TEST_P(Stage, GatesWhatCameApart) {
  all({false, true}, 4228, [](Staging& staging) { staging.expect_gate_up(); });
}

TEST(TaggedWords, AreThereWhenAllOfTheirTagIs) {
  alignas(16) uint2 pairs[2];
  const auto pairs_have = [&](uint32_t tag) { return pairs_there(*reinterpret_cast<const uint4*>(pairs), tag); };
  for (const uint32_t other : {kTag + 1, kTag + 0x100, kTag - 0x1000}) {
    put_pair(&pairs[0], 1.f, 2.f, kTag), put_pair(&pairs[1], 3.f, 4.f, other);
    EXPECT_FALSE(pairs_have(kTag));
    put_pair(&pairs[1], 3.f, 4.f, kTag), put_pair(&pairs[0], 1.f, 2.f, other);
    EXPECT_FALSE(pairs_have(kTag));
    alignas(16) uint32_t halves[4];
    const auto halves_have = [&](uint32_t tag) { return halves_there(*reinterpret_cast<const uint4*>(halves), tag); };
    for (int late = 0; late < 4; ++late) {
      for (int i = 0; i < 4; ++i) put_half(&halves[i], __half(-1.f), i == late ? other : kTag);
      EXPECT_FALSE(halves_have(kTag));
      put_half(&halves[late], __half(-1.f), kTag);
      EXPECT_TRUE(halves_have(kTag));
    }
    alignas(16) uint2 words[2];
    put_word(&words[0], ~0u, kTag), put_word(&words[1], ~0u, other);
    EXPECT_FALSE(words_there(*reinterpret_cast<const uint4*>(words), kTag));
    put_word(&words[1], ~0u, kTag);
    EXPECT_TRUE(words_there(*reinterpret_cast<const uint4*>(words), kTag));
  }
  put_pair(&pairs[0], 1.f, -2.f, kTag), put_pair(&pairs[1], 3e30f, 4e-30f, kTag);
  EXPECT_TRUE(pairs_have(kTag));
  EXPECT_EQ(pair_value(pairs[0].x), 1.f);
  EXPECT_EQ(pair_value(pairs[0].y), -2.f);
  for (const uint32_t bits : {0x7fffffffu, 0x7fc00000u, 0xffffffffu, 0x7f800001u}) {
    put_pair(&pairs[0], __uint_as_float(bits), __uint_as_float(bits), kTag);
    EXPECT_TRUE(pairs_have(kTag) && std::isnan(pair_value(pairs[0].x)) && std::isnan(pair_value(pairs[0].y)));
  }
  put_pair(&pairs[0], std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(), kTag);
  EXPECT_TRUE(std::isinf(pair_value(pairs[0].x)) && std::isinf(pair_value(pairs[0].y)));
  EXPECT_NEAR(pair_value(pairs[1].x), 3e30f, 3e30f * kPairRounding);
  EXPECT_NEAR(pair_value(pairs[1].y), 4e-30f, 4e-30f * kPairRounding);
}

}  // namespace
}  // namespace nbl::cuda

// The kernel checker: y = x W^T of every backend, format and shape against float64 of the dequantized
// weights.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "backends.h"

namespace nbl {
namespace {

struct Shape {
  int64_t n, k;
};
constexpr Shape kShapes[] = {{16, 128}, {33, 256}, {1, 64}, {50, 100}, {35, 333}, {64, 576}, {17, 7}};
constexpr int64_t kTokenCounts[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 33};
constexpr int64_t kMostTokens = 33;

std::string title(const BackendCase& backend, const FormatCase& format, Shape shape, int64_t m) {
  return backend.name + ", " + format.name + ", N " + std::to_string(shape.n) + ", K " +
         std::to_string(shape.k) + ", m " + std::to_string(m);
}

TEST(Linear, AgreesWithFloat64OfTheDequantizedWeights) {
  const std::vector<BackendCase> backends = all_backends();
  std::mt19937 random(1);
  for (const FormatCase& format : format_cases()) {
    for (const Shape shape : kShapes) {
      const QuantWeight w = random_weight(format, shape.n, shape.k, random);
      std::vector<float> x = random_row(kMostTokens * shape.k, random);
      for (int64_t c = 0; c < shape.k; c += 37)
        x[static_cast<size_t>(c)] *= 8;  // outlier channels, as real models have
      const std::vector<double> rounded = exact_product(w, x, kMostTokens, true),
                                plain = exact_product(w, x, kMostTokens, false);
      for (const BackendCase& backend : backends) {
        ASSERT_NE(backend.backend, nullptr) << backend.name;
        Result<std::shared_ptr<const PackedWeight>> packed = backend.backend->pack({&w}, WeightRole::kOther);
        ASSERT_TRUE(packed.ok()) << title(backend, format, shape, 0) << ": " << packed.status().message();
        const std::vector<double>& exact = backend.rounds ? rounded : plain;
        const double tolerance =
            format.format == WeightFormat::kFloat ? backend.float_tolerance : backend.int_tolerance;
        for (const int64_t m : kTokenCounts) {
          std::vector<float> y(static_cast<size_t>(m * shape.n), std::nanf(""));
          const Status status = backend.backend->matmul(**packed, x.data(), m, y.data());
          ASSERT_TRUE(status.ok()) << title(backend, format, shape, m) << ": " << status.message();
          const std::vector<double> expected(exact.begin(), exact.begin() + m * shape.n);
          EXPECT_LE(relative_rms(expected, y.data(), expected_rms(w, x, m)), tolerance)
              << title(backend, format, shape, m);
        }
      }
    }
  }
}

TEST(Linear, HeadsAgreeToo) {
  // Backends may store a head in another way than other matrices of its format.
  std::mt19937 random(7);
  for (const FormatCase& format : format_cases()) {
    if (format.format != WeightFormat::kFloat) continue;
    for (const Shape shape : {Shape{100, 64}, Shape{33, 333}, Shape{48, 896}}) {
      const QuantWeight w = random_weight(format, shape.n, shape.k, random);
      const std::vector<float> x = random_row(9 * shape.k, random);
      for (const BackendCase& backend : all_backends()) {
        Result<std::shared_ptr<const PackedWeight>> packed = backend.backend->pack({&w}, WeightRole::kHead);
        ASSERT_TRUE(packed.ok()) << packed.status().message();
        const auto predicted = static_cast<double>(backend.backend->packed_bytes({w}, WeightRole::kHead));
        EXPECT_NEAR(predicted, static_cast<double>((*packed)->bytes()), 0.02 * predicted)
            << title(backend, format, shape, 0);
        for (const int64_t m : {1, 2, 9}) {
          std::vector<float> y(static_cast<size_t>(m * shape.n));
          ASSERT_TRUE(backend.backend->matmul(**packed, x.data(), m, y.data()).ok());
          EXPECT_LE(relative_rms(exact_product(w, x, m, true), y.data(), expected_rms(w, x, m)),
                    backend.int_tolerance)
              << title(backend, format, shape, m);
        }
      }
    }
  }
}

TEST(Linear, FusedPartsStandOneAfterAnother) {
  std::mt19937 random(2);
  for (const BackendCase& backend : all_backends()) {
    for (const FormatCase& format : {format_cases()[0], format_cases()[18], format_cases()[22]}) {
      const QuantWeight a = random_weight(format, 24, 128, random),
                        other = random_weight(format, 9, 128, random);
      QuantWeight b = other;
      b.codebook = a.codebook;  // matrices of one checkpoint share it
      const std::vector<float> x = random_row(2 * 128, random);
      ASSERT_TRUE(backend.backend->can_fuse({a, b}));
      Result<std::shared_ptr<const PackedWeight>> packed = backend.backend->pack({&a, &b}, WeightRole::kQkv);
      ASSERT_TRUE(packed.ok()) << packed.status().message();
      EXPECT_EQ((*packed)->spec().out_features, 33);
      std::vector<float> y(2 * 33);
      ASSERT_TRUE(backend.backend->matmul(**packed, x.data(), 2, y.data()).ok());
      const std::vector<double> ya = exact_product(a, x, 2, backend.rounds),
                                yb = exact_product(b, x, 2, backend.rounds);
      std::vector<double> expected;
      for (int t = 0; t < 2; ++t) {
        expected.insert(expected.end(), ya.begin() + t * 24, ya.begin() + (t + 1) * 24);
        expected.insert(expected.end(), yb.begin() + t * 9, yb.begin() + (t + 1) * 9);
      }
      EXPECT_LE(relative_rms(expected, y.data()), std::max(backend.int_tolerance, backend.float_tolerance))
          << backend.name << " " << format.name;
    }
  }
}

// The rows of gate and up come in order, however they stand in the memory of a backend.
TEST(Linear, GateAndUpComeOneAfterTheOther) {
  std::mt19937 random(12);
  for (const BackendCase& backend : all_backends()) {
    for (const FormatCase& format : format_cases()) {
      for (int64_t rows : {16, 48, 24}) {
        const QuantWeight gate = random_weight(format, rows, 128, random);
        QuantWeight up = random_weight(format, rows, 128, random);
        up.codebook = gate.codebook;
        up.k_order = gate.k_order;
        Result<std::shared_ptr<const PackedWeight>> packed = backend.backend->pack({&gate, &up}, WeightRole::kGateUp);
        ASSERT_TRUE(packed.ok()) << backend.name << " " << format.name << ": " << packed.status().message();
        const auto predicted = static_cast<double>(backend.backend->packed_bytes({gate, up}, WeightRole::kGateUp));
        EXPECT_NEAR(predicted, static_cast<double>((*packed)->bytes()), 0.02 * predicted) << backend.name << " " << format.name;
        for (int64_t m : {1, 3, 17}) {
          const std::vector<float> x = random_row(m * 128, random);
          std::vector<float> y(static_cast<size_t>(m * 2 * rows));
          ASSERT_TRUE(backend.backend->matmul(**packed, x.data(), m, y.data()).ok());
          const std::vector<double> of_gate = exact_product(gate, x, m, backend.rounds), of_up = exact_product(up, x, m, backend.rounds);
          std::vector<double> expected;
          for (int64_t t = 0; t < m; ++t) {
            expected.insert(expected.end(), of_gate.begin() + t * rows, of_gate.begin() + (t + 1) * rows);
            expected.insert(expected.end(), of_up.begin() + t * rows, of_up.begin() + (t + 1) * rows);
          }
          const double size = std::max(expected_rms(gate, x, m), expected_rms(up, x, m));
          EXPECT_LE(relative_rms(expected, y.data(), size), std::max(backend.int_tolerance, backend.float_tolerance))
              << backend.name << " " << format.name << " " << rows << " rows, " << m << " tokens";
        }
      }
    }
  }
}

// Whether every zero is the middle one is known only when a matrix has been read, so it may differ within a
// layer.
TEST(Linear, FusedPartsMayDifferInTheirZeros) {
  std::mt19937 random(4);
  const FormatCase format = {"asymmetric", WeightFormat::kIntGroup, 4, 32, false, false, DType::kF16,
                             DType::kF16};
  const QuantWeight a = random_weight(format, 24, 64, random);
  QuantWeight b = random_weight(format, 9, 64, random);
  std::fill(b.zeros.begin(), b.zeros.end(), uint8_t{8});
  b.symmetric = true;
  const std::vector<float> x = random_row(64, random);
  for (const BackendCase& backend : all_backends()) {
    Result<std::shared_ptr<const PackedWeight>> packed = backend.backend->pack({&a, &b}, WeightRole::kQkv);
    ASSERT_TRUE(packed.ok()) << packed.status().message();
    std::vector<float> y(33);
    ASSERT_TRUE(backend.backend->matmul(**packed, x.data(), 1, y.data()).ok());
    std::vector<double> expected = exact_product(a, x, 1, backend.rounds);
    const std::vector<double> below = exact_product(b, x, 1, backend.rounds);
    expected.insert(expected.end(), below.begin(), below.end());
    EXPECT_LE(relative_rms(expected, y.data()), std::max(backend.int_tolerance, backend.float_tolerance))
        << backend.name;
    if (backend.name == "ref") continue;  // keeps the parts apart and takes any
    EXPECT_EQ(backend.backend->pack({&b, &a}, WeightRole::kQkv).status().code(), Code::kState)
        << backend.name;
  }
}

TEST(Linear, MatricesInDifferentOrdersAreNotFused) {
  std::mt19937 random(3);
  const FormatCase format = {"act_order", WeightFormat::kIntGroup, 4, 32, true, true, DType::kF16,
                             DType::kF16};
  const QuantWeight a = random_weight(format, 16, 64, random), b = random_weight(format, 16, 64, random);
  for (const BackendCase& backend : all_backends()) {
    if (backend.name == "ref") continue;  // keeps the parts apart and takes any
    EXPECT_EQ(backend.backend->pack({&a, &b}, WeightRole::kQkv).status().code(), Code::kState)
        << backend.name;
  }
}

TEST(Linear, PredictsItsBytes) {
  std::mt19937 random(4);
  for (const BackendCase& backend : all_backends())
    for (const FormatCase& format : format_cases()) {
      const QuantWeight w = random_weight(format, 48, 320, random);
      const double predicted = static_cast<double>(backend.backend->packed_bytes({w}, WeightRole::kOther));
      Result<std::shared_ptr<const PackedWeight>> packed = backend.backend->pack({&w}, WeightRole::kOther);
      ASSERT_TRUE(packed.ok());
      EXPECT_NEAR(predicted, static_cast<double>((*packed)->bytes()), 0.02 * predicted)
          << backend.name << " " << format.name;
    }
}

TEST(Linear, RefusesWhatItCannotPack) {
  std::mt19937 random(5);
  QuantWeight w = random_weight(format_cases()[0], 16, 128, random);
  for (const BackendCase& backend : all_backends()) {
    if (backend.name == "ref") continue;  // computes weight_value() of whatever it is given
    QuantWeight nine_bits = w, short_codes = w;
    nine_bits.bits = 9;
    short_codes.codes.pop_back();
    EXPECT_FALSE(backend.backend->pack({&nine_bits}, WeightRole::kOther).ok()) << backend.name;
    EXPECT_FALSE(backend.backend->pack({&short_codes}, WeightRole::kOther).ok()) << backend.name;
  }
}

TEST(Linear, WhatIsRefusedIsNamedByItsType) {
  const struct {
    DType type;
    const char* expected;
  } cases[] = {{DType::kF16, "[16, 32], float16: no values"},
               {DType::kBF16, "[16, 32], bfloat16: no values"},
               {DType::kF32, "[16, 32], float32: no values"}};
  const auto cpu = make_cpu_backend({});
  ASSERT_TRUE(cpu.ok()) << cpu.status().message();
  for (const auto& c : cases) {
    QuantWeight weight;  // whose values nobody has set
    weight.format = WeightFormat::kFloat;
    weight.out_features = 16;
    weight.in_features = 32;
    weight.value_type = c.type;
    const auto packed = (*cpu)->pack({&weight}, WeightRole::kOther);
    ASSERT_FALSE(packed.ok());
    EXPECT_NE(packed.status().message().find(c.expected), std::string::npos) << packed.status().message();
  }
}

TEST(Linear, ExtremeInputsNeitherCrashNorVanish) {
  std::mt19937 random(6);
  const QuantWeight w = random_weight(format_cases()[0], 16, 256, random);
  for (const BackendCase& backend : all_backends()) {
    Result<std::shared_ptr<const PackedWeight>> packed = backend.backend->pack({&w}, WeightRole::kOther);
    ASSERT_TRUE(packed.ok());
    std::vector<float> y(16);
    const auto product = [&](const std::vector<float>& x) {
      const Status status = backend.backend->matmul(**packed, x.data(), 1, y.data());
      EXPECT_TRUE(status.ok()) << status.message();
    };
    product(std::vector<float>(256, 0.0f));
    for (float v : y) EXPECT_EQ(v, 0.0f) << backend.name;
    std::vector<float> tiny = random_row(256, random, 1e-12f);
    product(tiny);
    EXPECT_LE(relative_rms(exact_product(w, tiny, 1, backend.rounds), y.data()), backend.int_tolerance)
        << backend.name;
    std::vector<float> huge = random_row(256, random, 1e12f);
    product(huge);
    EXPECT_LE(relative_rms(exact_product(w, huge, 1, backend.rounds), y.data()), backend.int_tolerance)
        << backend.name;
    std::vector<float> broken = random_row(256, random);
    broken[200] = std::numeric_limits<float>::infinity();
    product(broken);
    bool finite = true;
    for (float v : y) finite = finite && std::isfinite(v);
    EXPECT_FALSE(finite) << backend.name
                         << ": an infinity in the input must not turn into an ordinary number";
  }
}

}  // namespace
}  // namespace nbl

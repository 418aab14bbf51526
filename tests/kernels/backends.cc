#include "backends.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace nbl {

namespace {

CpuIsa isa_named(const std::string& name) {
  if (name == "generic") return CpuIsa::kGeneric;
  if (name == "avx2") return CpuIsa::kAvx2;
  if (name == "avxvnni") return CpuIsa::kAvxVnni;
  if (name == "avx512vnni") return CpuIsa::kAvx512Vnni;
  return CpuIsa::kAuto;
}

std::shared_ptr<Backend> cpu(const std::string& isa, CpuPrecision precision, int threads) {
  CpuOptions options;
  options.isa = isa_named(isa);
  options.precision = precision;
  options.threads = threads;
  Result<std::unique_ptr<Backend>> backend = make_cpu_backend(options);
  return backend.ok() ? std::shared_ptr<Backend>(std::move(backend).value()) : nullptr;
}

}  // namespace

std::vector<BackendCase> all_backends() {
  std::vector<BackendCase> cases;
  for (const std::string& isa : cpu_isas()) {
    cases.push_back({"cpu " + isa + " exact16", cpu(isa, CpuPrecision::kExact16, 2), 2e-4, 2e-6, false});
    cases.push_back({"cpu " + isa + " fp32", cpu(isa, CpuPrecision::kFp32, 1), 2e-6, 2e-6, true});
    cases.push_back({"cpu " + isa + " fastest8", cpu(isa, CpuPrecision::kFastest8, 1), 4e-2, 2e-6, false});
  }
#if defined(NIBBLE_HAVE_REF)
  cases.push_back({"ref", make_ref_backend(), 1e-6, 1e-6, true});
#endif
#if defined(NIBBLE_HAVE_CUDA)
  Result<std::unique_ptr<Backend>> cuda = make_cuda_backend({});
  if (cuda.ok()) cases.push_back({"cuda", std::move(cuda).value(), 2e-3, 2e-3, true});
#endif
  return cases;
}

std::vector<BackendCase> default_backends(int threads) {
  std::vector<BackendCase> cases;
  for (const std::string& isa : cpu_isas())
    cases.push_back({"cpu " + isa, cpu(isa, CpuPrecision::kExact16, threads), 2e-4, 2e-6, false});
  return cases;
}

constexpr WeightFormat kInt = WeightFormat::kIntGroup, kBook = WeightFormat::kCodebook,
                       kPlain = WeightFormat::kFloat;
constexpr DType kH = DType::kF16, kB = DType::kBF16, kS = DType::kF32;

const std::vector<FormatCase>& format_cases() {
  static const std::vector<FormatCase> cases = {
      {"int4_g128", kInt, 4, 128, false, false, kH, kH},
      {"int4_g64", kInt, 4, 64, false, false, kH, kH},
      {"int4_g32_sym", kInt, 4, 32, true, false, kH, kH},
      {"int4_row", kInt, 4, -1, false, false, kH, kH},
      {"int4_g128_act_order", kInt, 4, 128, false, true, kH, kH},
      {"int4_g32_bf16", kInt, 4, 32, false, false, kB, kB},
      {"int4_g64_f32_scales", kInt, 4, 64, true, false, kS, kS},
      {"int4_g20", kInt, 4, 20, false, false, kH, kH},
      {"int4_g200_act_order", kInt, 4, 200, false, true, kH, kH},
      {"int4_g256", kInt, 4, 256, false, false, kH, kH},
      {"int2_g64", kInt, 2, 64, false, false, kH, kH},
      {"int2_g16_sym", kInt, 2, 16, true, false, kH, kH},
      {"int3_g128", kInt, 3, 128, false, false, kH, kH},
      {"int3_g32_act_order", kInt, 3, 32, true, true, kH, kH},
      {"int5_g64", kInt, 5, 64, false, false, kB, kS},
      {"int8_g128", kInt, 8, 128, false, false, kH, kH},
      {"int8_row_sym", kInt, 8, -1, true, false, kS, kS},
      {"int8_g24_act_order", kInt, 8, 24, false, true, kH, kH},
      {"nf4_g64", kBook, 4, 64, false, false, kH, kS},
      {"nf4_g64_bf16", kBook, 4, 64, false, false, kB, kS},
      {"nf4_g64_f32", kBook, 4, 64, false, false, kS, kS},
      {"book_g12", kBook, 4, 12, false, false, kS, kH},
      {"f16", kPlain, 0, 0, false, false, kH, kS},
      {"bf16", kPlain, 0, 0, false, false, kB, kS},
      {"f32", kPlain, 0, 0, false, false, kS, kS},
  };
  return cases;
}

QuantWeight random_weight(const FormatCase& format, int64_t n, int64_t k, std::mt19937& random) {
  QuantWeight w;
  w.format = format.format;
  w.out_features = n;
  w.in_features = k;
  w.bits = format.bits;
  w.group_size = format.format == kPlain ? 0 : format.group_size < 0 ? k : std::min(format.group_size, k);
  w.symmetric = format.symmetric;
  w.permuted = format.permuted;
  w.value_type = format.value_type;
  w.scale_type = format.scale_type;
  w.source = format.name;
  std::normal_distribution<float> normal;
  if (format.format == kPlain) {
    w.dense_owned.resize(static_cast<size_t>(n * k * dtype_bytes(format.value_type)));
    for (int64_t i = 0; i < n * k; ++i) {
      const float value = normal(random) * 0.05f;
      if (format.value_type == kS) {
        std::memcpy(&w.dense_owned[static_cast<size_t>(4 * i)], &value, 4);
      } else {
        const uint16_t half = format.value_type == kH ? float_to_f16(value) : float_to_bf16(value);
        std::memcpy(&w.dense_owned[static_cast<size_t>(2 * i)], &half, 2);
      }
    }
    w.dense = w.dense_owned.data();
    return w;
  }
  const int codes = 1 << format.bits;
  std::uniform_int_distribution<int> code(0, codes - 1);
  w.codes.resize(static_cast<size_t>(n * k));
  for (uint8_t& c : w.codes) c = static_cast<uint8_t>(code(random));
  const int64_t entries = n * w.groups();
  for (int64_t i = 0; i < entries; ++i) {
    float scale = (0.5f + 0.5f * std::fabs(normal(random))) / static_cast<float>(codes);
    if (i % 29 == 7) scale = 3e-6f * static_cast<float>(1 + i % 5);  // subnormal as a half
    w.scales.push_back(round_to(format.scale_type, scale));
  }
  if (format.format == kInt) {
    std::uniform_int_distribution<int> zero(0, std::min(codes, 255));  // GPTQ's "stored + 1" reaches 2^bits
    for (int64_t i = 0; i < entries; ++i)
      w.zeros.push_back(static_cast<uint8_t>(format.symmetric ? codes / 2
                                             : i % 7 == 0     ? 0
                                             : i % 7 == 1     ? std::min(codes, 255)
                                                              : zero(random)));
  } else {
    for (int i = 0; i < 16; ++i)
      w.codebook[static_cast<size_t>(i)] = i == 7 ? 0.0f : std::tanh(normal(random));
  }
  if (format.permuted) {
    w.k_order.resize(static_cast<size_t>(k));
    std::iota(w.k_order.begin(), w.k_order.end(), 0);
    std::shuffle(w.k_order.begin(), w.k_order.end(), random);
  }
  return w;
}

double exact_value(const QuantWeight& w, int64_t n, int64_t p, bool rounded) {
  if (rounded || w.format == kPlain) return weight_value(w, n, p);
  const auto at = static_cast<size_t>(n * w.in_features + p);
  const auto group = static_cast<size_t>(n * w.groups() + p / w.group_size);
  if (w.format == kBook) return static_cast<double>(w.codebook[w.codes[at]]) * w.scales[group];
  return (static_cast<double>(w.codes[at]) - w.zeros[group]) * w.scales[group];
}

std::vector<double> exact_product(const QuantWeight& w, const std::vector<float>& x, int64_t m,
                                  bool rounded) {
  const int64_t n = w.out_features, k = w.in_features;
  std::vector<double> y(static_cast<size_t>(m * n)), row(static_cast<size_t>(k));
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t p = 0; p < k; ++p)
      row[static_cast<size_t>(w.k_order.empty() ? p : w.k_order[static_cast<size_t>(p)])] =
          exact_value(w, i, p, rounded);
    for (int64_t t = 0; t < m; ++t) {
      double sum = 0;
      for (int64_t c = 0; c < k; ++c) sum += row[static_cast<size_t>(c)] * x[static_cast<size_t>(t * k + c)];
      y[static_cast<size_t>(t * n + i)] = sum;
    }
  }
  return y;
}

double expected_rms(const QuantWeight& w, const std::vector<float>& x, int64_t m) {
  double weights = 0, inputs = 0;
  for (int64_t n = 0; n < w.out_features; ++n)
    for (int64_t p = 0; p < w.in_features; ++p) weights += std::pow(exact_value(w, n, p, true), 2);
  for (int64_t i = 0; i < m * w.in_features; ++i) inputs += std::pow(x[static_cast<size_t>(i)], 2);
  return std::sqrt(weights * inputs / static_cast<double>(w.out_features * m * w.in_features));
}

double relative_rms(const std::vector<double>& expected, const float* actual, double least) {
  double error = 0, size = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    error += (actual[i] - expected[i]) * (actual[i] - expected[i]);
    size += expected[i] * expected[i];
  }
  return std::sqrt(error / std::max({size, least * least * static_cast<double>(expected.size()), 1e-300}));
}

std::vector<float> random_row(int64_t n, std::mt19937& random, float scale) {
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<size_t>(n));
  for (float& v : x) v = scale * normal(random);
  return x;
}

}  // namespace nbl

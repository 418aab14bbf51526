// Bytes of weights per second of every instruction set and format, over the table of the kernel tests.
//
//   kernels_bench --benchmark_filter=avx512.*int4_g128
#include <benchmark/benchmark.h>

#include "backends.h"

namespace nbl {
namespace {

struct Size {
  int64_t n, k;
};
constexpr Size kSizes[] = {{4096, 4096}};
constexpr int64_t kTokens[] = {1, 8, 128};

void product(benchmark::State& state, const BackendCase& backend, const FormatCase& format, Size size,
             int64_t m) {
  std::mt19937 random(1);
  const QuantWeight w = random_weight(format, size.n, size.k, random);
  Result<std::shared_ptr<const PackedWeight>> packed = backend.backend->pack({&w}, WeightRole::kOther);
  if (!packed.ok()) return state.SkipWithError(packed.status().message().c_str());
  const std::vector<float> x = random_row(m * size.k, random);
  std::vector<float> y(static_cast<size_t>(m * size.n));
  for (auto _ : state) {
    if (!backend.backend->matmul(**packed, x.data(), m, y.data()).ok()) return state.SkipWithError("failed");
    benchmark::DoNotOptimize(y.data());
  }
  state.SetBytesProcessed(state.iterations() * (*packed)->bytes());
  state.counters["MAC/s"] = benchmark::Counter(static_cast<double>(state.iterations() * m * size.n * size.k),
                                               benchmark::Counter::kIsRate);
}

const bool kRegistered = [] {
  for (const BackendCase& backend : default_backends(1))
    for (const FormatCase& format : format_cases())
      for (const Size size : kSizes)
        for (const int64_t m : kTokens) {
          std::string name = backend.name + "/" + format.name + "/" + std::to_string(size.n) + "x" +
                             std::to_string(size.k) + "/m" + std::to_string(m);
          for (char& c : name)
            if (c == ' ') c = '_';
          benchmark::RegisterBenchmark(
              name.c_str(), [=](benchmark::State& state) { product(state, backend, format, size, m); });
        }
  return true;
}();

}  // namespace
}  // namespace nbl

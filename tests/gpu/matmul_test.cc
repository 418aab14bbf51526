// Packed weights times x against the same product in double, for every format and odd shapes.
#include "check.h"
#include "models.h"

namespace nbl::gpu_test {
namespace {

// f16 activations: 2^-11 of each, averaged over a sum. The reference rounds every weight to the type that the checkpoint's
// tool would have used, the kernels do not: for bf16 that alone is 2^-9 of each weight.
double tolerance(const WeightSpec& w) { return w.format != WeightFormat::kFloat && w.value_type == DType::kBF16 ? 3e-3 : 1e-3; }

std::unique_ptr<Backend> make_backend() {
  auto backend = make_cuda_backend({});
  CHECK_THAT(backend.ok(), "%s", backend.ok() ? "" : backend.status().message().c_str());
  return backend.ok() ? std::move(backend).value() : nullptr;
}

void check_product(const Backend& backend, const QuantWeight& w, int64_t m, uint32_t seed) {
  const std::vector<float> x = random_values(m * w.in_features, 1.f, seed);
  auto packed = backend.pack({&w}, WeightRole::kOther);
  CHECK_THAT(packed.ok(), "%s: %s", w.source.c_str(), packed.status().message().c_str());
  if (!packed.ok()) return;
  const int64_t promised = backend.packed_bytes({w}, WeightRole::kOther);
  CHECK_THAT((*packed)->bytes() == promised, "%s takes %lld bytes, promised %lld", w.source.c_str(),
             static_cast<long long>((*packed)->bytes()), static_cast<long long>(promised));
  std::vector<float> y(static_cast<size_t>(m * w.out_features), 1e30f);
  const Status status = backend.matmul(**packed, x.data(), m, y.data());
  CHECK_THAT(status.ok(), "%s", status.message().c_str());
  const std::vector<double> exact = exact_matmul(w, x.data(), m);
  const double e = relative_error(y.data(), exact.data(), static_cast<int64_t>(y.size()));
  CHECK_THAT(e < tolerance(w), "%s [%lld, %lld] x %lld rows: relative error %.2e", w.source.c_str(), static_cast<long long>(w.out_features),
             static_cast<long long>(w.in_features), static_cast<long long>(m), e);
}

}  // namespace

GPU_TEST(MatmulAgreesWithDoubleForEveryFormatAndShape) {
  const auto backend = make_backend();
  if (backend == nullptr) return;
  const int64_t shapes[][2] = {{16, 128}, {320, 96}, {33, 352}, {256, 768}, {144, 1024}, {8, 24}, {1000, 264}};
  const int64_t rows[] = {1, 3, 8, 13, 16, 27, 32, 50, 64, 70};
  uint32_t seed = 1;
  for (const FormatCase& format : formats()) {
    for (const auto& shape : shapes) {
      const QuantWeight w = random_weight(format, shape[0], shape[1], seed);
      check_product(*backend, w, rows[seed % 10], seed);
      ++seed;
    }
  }
}

GPU_TEST(MatmulAgreesWithDoubleForEveryRowCount) {
  const auto backend = make_backend();
  if (backend == nullptr) return;
  for (const FormatCase& format : formats()) {
    const QuantWeight w = random_weight(format, 80, 640, 5);
    for (int64_t m : {1, 2, 7, 8, 9, 16, 17, 32, 33, 64, 65, 129}) check_product(*backend, w, m, static_cast<uint32_t>(m));
  }
}

// Every number of tokens that a kernel, a tile of tokens or a choice between them can begin or end with.
GPU_TEST(MatmulAgreesWithDoubleForAllRowsUpTo65AndSomeBeyond) {
  const auto backend = make_backend();
  if (backend == nullptr) return;
  for (const FormatCase& format : formats()) {
    const QuantWeight w = random_weight(format, 48, 384, 21);
    for (int64_t m = 1; m <= 65; ++m) check_product(*backend, w, m, static_cast<uint32_t>(m));
    for (int64_t m : {96, 127, 128, 129, 175, 192, 193}) check_product(*backend, w, m, static_cast<uint32_t>(m));
  }
}

// Few strips and a long K, many strips and a short one: K is split over CTAs and clusters in as many ways as there are.
GPU_TEST(MatmulAgreesWithDoubleHoweverTheWorkIsSplit) {
  const auto backend = make_backend();
  if (backend == nullptr) return;
  const int64_t shapes[][2] = {{16, 4096}, {64, 2176}, {272, 1152}, {528, 1920}, {1040, 896}, {2304, 512}, {4352, 256}, {6160, 128}};
  for (const FormatCase& format : {formats()[0], formats()[1], formats().back()}) {
    uint32_t seed = 31;
    for (const auto& shape : shapes) {
      const QuantWeight w = random_weight(format, shape[0], shape[1], seed++);
      for (int64_t m : {2, 11, 20, 61, 100}) check_product(*backend, w, m, seed);
    }
  }
}

GPU_TEST(MatmulOfFusedGateAndUpKeepsTheOrderOfItsParts) {
  const auto backend = make_backend();
  if (backend == nullptr) return;
  for (const FormatCase& format : formats()) {
    const QuantWeight gate = random_weight(format, 72, 256, 7), up = random_weight_like(gate, format, 72, 8);
    auto packed = backend->pack({&gate, &up}, WeightRole::kGateUp);
    CHECK_THAT(packed.ok(), "%s", format.name);
    if (!packed.ok()) continue;
    const std::vector<float> x = random_values(5 * 256, 1.f, 9);
    std::vector<float> y(5 * 144);
    CHECK_THAT(backend->matmul(**packed, x.data(), 5, y.data()).ok(), "%s", format.name);
    const std::vector<double> a = exact_matmul(gate, x.data(), 5), b = exact_matmul(up, x.data(), 5);
    std::vector<double> both;
    for (int i = 0; i < 5; ++i) {
      both.insert(both.end(), a.begin() + i * 72, a.begin() + (i + 1) * 72);
      both.insert(both.end(), b.begin() + i * 72, b.begin() + (i + 1) * 72);
    }
    const double e = relative_error(y.data(), both.data(), 5 * 144);
    CHECK_THAT(e < tolerance(gate), "%s: %.2e", format.name, e);
  }
}

GPU_TEST(MatmulGivesTheSameBitsEveryTime) {
  const auto backend = make_backend();
  if (backend == nullptr) return;
  const QuantWeight w = random_weight(formats()[0], 512, 4096, 11);
  auto packed = backend->pack({&w}, WeightRole::kOther);
  if (!packed.ok()) return;
  for (int64_t m : {1, 8, 16, 17, 32, 64, 128, 160}) {
    const std::vector<float> x = random_values(m * 4096, 1.f, 12);
    std::vector<float> first(static_cast<size_t>(m * 512)), again(first);
    CHECK_THAT(backend->matmul(**packed, x.data(), m, first.data()).ok(), "first run");
    for (int i = 0; i < 5; ++i) {
      CHECK_THAT(backend->matmul(**packed, x.data(), m, again.data()).ok(), "run %d", i);
      CHECK_THAT(first == again, "m = %lld, run %d differs", static_cast<long long>(m), i);
    }
  }
}

GPU_TEST(PackRefusesPartsWithDifferentActOrders) {
  const auto backend = make_backend();
  if (backend == nullptr) return;
  const FormatCase format = {"int4 act-order", WeightFormat::kIntGroup, 4, 32, DType::kF16, DType::kF16, true};
  const QuantWeight a = random_weight(format, 32, 64, 1), b = random_weight(format, 32, 64, 2);
  const auto packed = backend->pack({&a, &b}, WeightRole::kQkv);
  CHECK_THAT(!packed.ok() && packed.status().code() == Code::kState, "packed two permutations together");
}

}  // namespace nbl::gpu_test

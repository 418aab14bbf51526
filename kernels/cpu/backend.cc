// The CPU backend: packing, caches, plans and single products over one pool of threads and one set of
// kernels.
#include <algorithm>
#include <limits>
#include <new>

#include "kernels/cpu/activations.h"
#include "kernels/cpu/isa_select.h"
#include "kernels/cpu/kv_cache.h"
#include "kernels/cpu/plan.h"
#include "kernels/cpu/pool.h"
#include "kernels/cpu/weight.h"

namespace nbl {
namespace cpu {

namespace {

const char* precision_name(CpuPrecision precision) {
  switch (precision) {
    case CpuPrecision::kExact16:
      return "exact16";
    case CpuPrecision::kFast8:
      return "fast8";
    case CpuPrecision::kFastest8:
      return "fastest8";
    case CpuPrecision::kFp32:
      return "fp32";
  }
  return "?";
}

class CpuBackend final : public Backend {
 public:
  CpuBackend(const Kernels& kernels, const CpuOptions& options)
      : kernels_(kernels),
        precision_(options.precision),
        pool_(std::make_shared<Pool>(options.threads > 0 ? options.threads : usable_cores(), options.spin)) {}

  std::string name() const override { return "cpu"; }
  std::string description() const override {
    return std::string(kernels_.name) + ", " + std::to_string(pool_->threads()) +
           (pool_->threads() == 1 ? " thread, " : " threads, ") + precision_name(precision_);
  }

  bool can_fuse(const std::vector<WeightSpec>& parts) const override {
    return !parts.empty() && std::all_of(parts.begin(), parts.end(), [&](const WeightSpec& part) {
      return part.symmetric == parts.front().symmetric && can_follow(parts.front(), part);
    });
  }

  Result<std::shared_ptr<const PackedWeight>> pack(const std::vector<const QuantWeight*>& parts,
                                                   WeightRole role) const override {
    std::vector<WeightSpec> specs;
    for (const QuantWeight* part : parts) specs.push_back(*part);
    return pack(
        specs, [&](size_t i) { return Result<const QuantWeight*>(parts[i]); }, role);
  }

  Result<std::shared_ptr<const PackedWeight>> pack_in_turn(const std::vector<WeightSpec>& specs,
                                                           const PartLoader& load,
                                                           WeightRole role) const override {
    QuantWeight part;
    return pack(
        specs,
        [&](size_t i) -> Result<const QuantWeight*> {
          part = QuantWeight();  // before the next one is there
          NBL_ASSIGN_OR_RETURN(part, load(i));
          return &part;
        },
        role);
  }

  int64_t packed_bytes(const std::vector<WeightSpec>& parts, WeightRole role) const override {
    if (parts.empty()) return 0;
    for (const WeightSpec& part : parts)
      if (!check_spec(part).ok()) return 0;
    return layout_of(parts, role, precision_).bytes();
  }

  Result<std::unique_ptr<Plan>> compile(std::shared_ptr<const Decoder> decoder,
                                        const PlanLimits& limits) const override {
    try {
      auto plan = std::make_unique<CpuPlan>(std::move(decoder), limits, kernels_, precision_, pool_);
      NBL_RETURN_IF_ERROR(plan->prepare());
      return std::unique_ptr<Plan>(std::move(plan));
    } catch (const std::bad_alloc&) {
      return error(Code::kNoMemory, "no memory to compile the decoder");
    }
  }

  Result<std::unique_ptr<KvCache>> make_kv_cache(const Decoder& decoder,
                                                 const KvOptions& options) const override {
    return CpuKvCache::create(decoder.config, options);
  }

  int64_t kv_bytes(const DecoderConfig& config, const KvOptions& options) const override {
    const Result<KvShape> shape = CpuKvCache::shape_of(config, options);
    if (!shape.ok()) return 0;
    return shape.value().bytes() < 0 ? std::numeric_limits<int64_t>::max() : shape.value().bytes();
  }

  int64_t plan_bytes(const DecoderConfig& config, const std::vector<MatrixSpecs>&, const PlanLimits& limits) const override {
    return CpuPlan::bytes_of(CpuPlan::shape_of(config, limits, pool_->threads()));
  }

  Status matmul(const PackedWeight& packed, const float* x, int64_t m, float* y) const override;

 private:
  Result<std::shared_ptr<const PackedWeight>> pack(const std::vector<WeightSpec>& specs,
                                                   const CpuWeight::Parts& part, WeightRole role) const {
    if (specs.empty()) return error(Code::kArgument, "there is no matrix to pack");
    for (const WeightSpec& spec : specs) NBL_RETURN_IF_ERROR(check_spec(spec));
    try {
      return CpuWeight::pack(specs, part, role, precision_, kernels_, *pool_, arena_);
    } catch (const std::bad_alloc&) {
      return error(Code::kNoMemory, "%s: no memory to pack it", specs.front().source.c_str());
    }
  }

  const Kernels& kernels_;
  const CpuPrecision precision_;
  const std::shared_ptr<Pool> pool_;
  mutable Arena arena_;
};

Status CpuBackend::matmul(const PackedWeight& packed, const float* x, int64_t m, float* y) const {
  const auto* weight = dynamic_cast<const CpuWeight*>(&packed);
  if (!weight) return error(Code::kArgument, "the matrix was not packed by the CPU backend");
  if (m < 1 || m > (int64_t{1} << 24))
    return error(Code::kArgument, "a product of %lld rows", static_cast<long long>(m));
  const WeightView& view = weight->view();
  const int threads = pool_->threads();
  ActBuffer input;
  float* partial = nullptr;
  const int64_t partial_size = (std::min<int64_t>(m, 512) + kTile) * 32;
  const auto carve = [&](Carver& carver) {
    input.carve(carver, m, weight->positions(), view.shape.blocks);
    partial = carver.take<float>(partial_size * threads);
  };
  Carver count(nullptr);
  carve(count);
  Memory memory;
  if (!memory.allocate(count.used(), false))
    return error(Code::kNoMemory, "no memory for a product of %lld rows", static_cast<long long>(m));
  Carver carver(memory.data());
  carve(carver);

  const int planes = planes_for(*weight, precision_, m);
  const int64_t tiles = (m + kTile - 1) / kTile, panels = (view.rows + kPanel - 1) / kPanel;
  const ActView activations = input.view(m, planes);
  pool_->run([&](int thread, int) {
    Ahead nothing{};
    for (int64_t tile = tiles * thread / threads; tile < tiles * (thread + 1) / threads; ++tile) {
      const float* rows[kTile] = {};
      for (int64_t i = 0; i < kTile && tile * kTile + i < m; ++i)
        rows[i] = x + (tile * kTile + i) * weight->columns();
      pack_tile(kernels_, *weight, planes, m, tile, rows, input, &nothing);
    }
    pool_->barrier();
    const int64_t first = panels * thread / threads, last = panels * (thread + 1) / threads;
    if (first >= last) return;
    kernels_.linear(&view, &activations, first, last, y, view.rows, partial + partial_size * thread);
    if (weight->low())
      kernels_.linear(weight->low(), &activations, first, last, y, view.rows,
                      partial + partial_size * thread);
  });
  return {};
}

}  // namespace
}  // namespace cpu

Result<std::unique_ptr<Backend>> make_cpu_backend(const CpuOptions& options) {
  NBL_ASSIGN_OR_RETURN(const cpu::Kernels* kernels, cpu::select_kernels(options.isa));
  if (options.threads < 0 || options.threads > 1024)
    return error(Code::kOptionValue, "threads is %d, expected 0 (all cores) .. 1024", options.threads);
  try {
    return std::unique_ptr<Backend>(new cpu::CpuBackend(*kernels, options));
  } catch (const std::bad_alloc&) {
    return error(Code::kNoMemory, "no memory for a CPU backend");
  }
}

}  // namespace nbl

// The CUDA backend: one object a device, used by any number of threads. Packing goes through one Packer behind a lock;
// plans and caches are independent.
#include <algorithm>
#include <mutex>

#include "kernels/cuda/attention/kv_cache.h"
#include "kernels/cuda/matmul/cublas.h"
#include "kernels/cuda/plan/plan.h"
#include "kernels/cuda/rates.h"
#include "kernels/cuda/weights/weight.h"

namespace nbl {
namespace cuda {
namespace {

constexpr int64_t kMatmulRows = 192;  // rows of one matmul() launch

class CudaBackend final : public Backend {
 public:
  static Result<std::unique_ptr<Backend>> create(const CudaOptions& options);

  std::string name() const override { return "cuda:" + std::to_string(traits_.device); }
  std::string description() const override {
    const std::string cublas = Cublas::file();
    return traits_.name + ", sm_" + std::to_string(traits_.sm) + ", " + std::to_string(traits_.multiprocessors) + " multiprocessors, " +
           (cublas.empty() ? "no cuBLAS: prefill by the tile kernel" : cublas);
  }
  bool can_fuse(const std::vector<WeightSpec>& parts) const override;
  Result<std::shared_ptr<const PackedWeight>> pack(const std::vector<const QuantWeight*>& parts, WeightRole role) const override;
  int64_t packed_bytes(const std::vector<WeightSpec>& parts, WeightRole role) const override { return plan_tiles(parts, role).total_bytes; }
  bool takes_stored(const std::vector<WeightSpec>& parts) const override;
  Result<std::shared_ptr<const PackedEmbedding>> pack_embedding(const Embedding& embedding, int64_t rows, int64_t width) const override;
  int64_t embedding_bytes(DType type, int64_t rows, int64_t width) const override { return rows * width * dtype_bytes(type); }
  Status begin_load(int64_t packed_bytes) const override;
  void end_load() const override;
  int64_t free_bytes() const override;
  // Measured on an H100 with Mistral-7B's shape in AWQ: 512, 1024 and 2048 tokens at a time make 32.9k, 37.8k and 38.3k tokens/s, and a
  // session takes 62, 89 and 277 MB for them.
  int64_t prefill_chunk() const override { return 2048; }
  Result<DeviceRates> measure_rates() const override {
    DeviceScope scope(traits_.device);
    NBL_RETURN_IF_ERROR(scope.status());
    return cuda::measure_rates(traits_, free_bytes());
  }
  Result<std::unique_ptr<Plan>> compile(std::shared_ptr<const Decoder> decoder, const PlanLimits& limits) const override;
  Result<std::unique_ptr<KvCache>> make_kv_cache(const Decoder& decoder, const KvOptions& options) const override;
  int64_t kv_bytes(const DecoderConfig& config, const KvOptions& options) const override {
    return CudaKvCache::bytes_for(config, options);
  }
  int64_t plan_bytes(const DecoderConfig& config, const std::vector<MatrixSpecs>& matrices, const PlanLimits& limits) const override {
    return CudaPlan::bytes_for(config, matrices, limits, traits_);
  }
  Status matmul(const PackedWeight& weight, const float* x, int64_t m, float* y) const override;

 private:
  CudaBackend() = default;

  DeviceTraits traits_;
  mutable std::mutex pack_mutex_;
  std::unique_ptr<Packer> packer_;
};

}  // namespace

Status check_capability(const DeviceTraits& traits) {
  if (traits.sm >= 75) return {};
  return error(Code::kUnsupported, "cuda:%d is a %s of compute capability %d.%d; 7.5 (Turing) or later is needed, or run on the CPU", traits.device,
               traits.name.c_str(), traits.sm / 10, traits.sm % 10)
      .with("sm", traits.sm);
}

namespace {

Result<std::unique_ptr<Backend>> CudaBackend::create(const CudaOptions& options) {
  int count = 0;
  const cudaError_t counted = fault_due() ? fault_error() : cudaGetDeviceCount(&count);
  if (counted != cudaSuccess) {
    cudaGetLastError();
    return error(Code::kDevice, "cuda:%d cannot be used: %s; install an NVIDIA driver for CUDA %d or later, or run on the CPU", options.device,
                 cudaGetErrorString(counted), CUDART_VERSION / 1000);
  }
  if (options.device < 0 || options.device >= count) {
    return error(Code::kDevice, "cuda:%d does not exist; this machine has %d usable CUDA devices", options.device, count);
  }
  DeviceScope scope(options.device);
  NBL_RETURN_IF_ERROR(scope.status());
  std::unique_ptr<CudaBackend> backend(new CudaBackend);
  DeviceTraits& traits = backend->traits_;
  cudaDeviceProp properties;
  NBL_CUDA(cudaGetDeviceProperties(&properties, options.device));
  traits.device = options.device;
  traits.kernel = options.kernel;
  traits.multiprocessors = properties.multiProcessorCount;
  traits.sm = properties.major * 10 + properties.minor;
  traits.shared_optin = static_cast<int>(properties.sharedMemPerBlockOptin);
  traits.name = properties.name;
  NBL_RETURN_IF_ERROR(check_capability(traits));
  const Status usable = prepare_matmul(traits);
  if (!usable.ok()) {
    return error(usable.code(),
                 "cuda:%d (%s, sm_%d) cannot run this build's kernels, which are for %s: %s; build with NIBBLE_CUDA_ARCHITECTURES=%d, "
                 "or run on the CPU",
                 options.device, properties.name, traits.sm, built_architectures(), usable.message().c_str(), traits.sm)
        .with("sm", traits.sm)
        .with("architectures", built_architectures());
  }
  NBL_RETURN_IF_ERROR(prepare_attention(traits));
  if (traits.kernel == CudaKernel::kCublas && Cublas::file().empty()) {
    return error(Code::kUnsupported, "cuda:%d: the kernel cublas was asked for, but no libcublas of CUDA 12 or 13 is found; install it, or leave the kernel at auto",
                 options.device)
        .with("option", "kernel");
  }
  NBL_ASSIGN_OR_RETURN(backend->packer_, Packer::create(options.device));
  return Result<std::unique_ptr<Backend>>(std::move(backend));
}

bool CudaBackend::can_fuse(const std::vector<WeightSpec>& parts) const {
  const WeightSpec& a = parts.front();
  return std::all_of(parts.begin(), parts.end(), [&](const WeightSpec& b) {
    return b.format == a.format && b.bits == a.bits && b.group_size == a.group_size && b.in_features == a.in_features &&
           b.outlier_threshold == a.outlier_threshold &&
           b.permuted == a.permuted && (a.format != WeightFormat::kCodebook || b.source == a.source) &&
           (a.format != WeightFormat::kFloat || b.value_type == a.value_type);
  });
}

Result<std::shared_ptr<const PackedWeight>> CudaBackend::pack(const std::vector<const QuantWeight*>& parts, WeightRole role) const {
  std::lock_guard<std::mutex> lock(pack_mutex_);
  DeviceScope scope(traits_.device);
  NBL_RETURN_IF_ERROR(scope.status());
  return packer_->pack(parts, role);
}

bool CudaBackend::takes_stored(const std::vector<WeightSpec>& parts) const {
  return parts.front().format != WeightFormat::kFloat && !plan_tiles(parts, WeightRole::kOther).dequantized;
}

Result<std::shared_ptr<const PackedEmbedding>> CudaBackend::pack_embedding(const Embedding& embedding, int64_t rows, int64_t width) const {
  std::lock_guard<std::mutex> lock(pack_mutex_);
  DeviceScope scope(traits_.device);
  NBL_RETURN_IF_ERROR(scope.status());
  NBL_ASSIGN_OR_RETURN(Stream stream, Stream::create(traits_.device));
  auto made = std::make_shared<DeviceEmbedding>();
  made->type = embedding.type;
  const int64_t bytes = embedding_bytes(embedding.type, rows, width);
  NBL_ASSIGN_OR_RETURN(made->data, DeviceBuffer::allocate(traits_.device, bytes, "the embedding", stream.get()));
  NBL_CUDA(cudaStreamSynchronize(stream.get()));  // it is zeroed before it is filled
  NBL_RETURN_IF_ERROR(packer_->upload(made->data.as<void>(), embedding.data, bytes));
  return std::shared_ptr<const PackedEmbedding>(std::move(made));
}

Status CudaBackend::begin_load(int64_t packed_bytes) const {
  std::lock_guard<std::mutex> lock(pack_mutex_);
  DeviceScope scope(traits_.device);
  NBL_RETURN_IF_ERROR(scope.status());
  return packer_->begin_load(packed_bytes);
}

void CudaBackend::end_load() const {
  std::lock_guard<std::mutex> lock(pack_mutex_);
  DeviceScope scope(traits_.device);
  packer_->end_load();
}

int64_t CudaBackend::free_bytes() const {
  DeviceScope scope(traits_.device);
  size_t free = 0, total = 0;
  if (cudaMemGetInfo(&free, &total) == cudaSuccess) return static_cast<int64_t>(free);
  cudaGetLastError();
  return -1;
}

Result<std::unique_ptr<Plan>> CudaBackend::compile(std::shared_ptr<const Decoder> decoder, const PlanLimits& limits) const {
  DeviceScope scope(traits_.device);
  NBL_RETURN_IF_ERROR(scope.status());
  auto table = std::dynamic_pointer_cast<const DeviceEmbedding>(decoder->embedding.packed);
  if (table == nullptr) {  // a decoder that was put together by hand
    NBL_ASSIGN_OR_RETURN(const auto packed, pack_embedding(decoder->embedding, decoder->config.vocab_size, decoder->config.hidden_size));
    table = std::static_pointer_cast<const DeviceEmbedding>(packed);
  }
  return CudaPlan::create(std::move(decoder), std::move(table), limits, traits_);
}

Result<std::unique_ptr<KvCache>> CudaBackend::make_kv_cache(const Decoder& decoder, const KvOptions& options) const {
  if (options.type != DType::kF16 && options.type != DType::kI8) {
    return error(Code::kUnsupported, "the CUDA backend keeps keys and values as F16 or I8, not %s", dtype_name(options.type));
  }
  if (options.capacity < 1 || options.capacity > (1 << 30)) {
    return error(Code::kArgument, "a cache of %lld positions cannot be made", static_cast<long long>(options.capacity));
  }
  DeviceScope scope(traits_.device);
  NBL_RETURN_IF_ERROR(scope.status());
  NBL_ASSIGN_OR_RETURN(Stream stream, Stream::create(traits_.device));
  NBL_ASSIGN_OR_RETURN(DeviceBuffer data, DeviceBuffer::allocate(traits_.device, kv_bytes(decoder.config, options), "a KV cache", stream.get()));
  NBL_CUDA(cudaStreamSynchronize(stream.get()));
  return Result<std::unique_ptr<KvCache>>(std::make_unique<CudaKvCache>(std::move(data), decoder.config, options));
}

// For tests and measurements: uploads x, runs the kernel for its rows, and puts interleaved rows back in order.
Status CudaBackend::matmul(const PackedWeight& packed, const float* x, int64_t m, float* y) const {
  const auto* weight = dynamic_cast<const CudaWeight*>(&packed);
  if (weight == nullptr || weight->device() != traits_.device) return error(Code::kArgument, "the weight was not packed for this device");
  DeviceScope scope(traits_.device);
  NBL_RETURN_IF_ERROR(scope.status());
  const int64_t k = weight->spec().in_features, n = weight->tiles().rows, pitch = weight->padded_k();
  const Tiles& tiles = weight->tiles();
  NBL_ASSIGN_OR_RETURN(Stream stream, Stream::create(traits_.device));
  const cudaStream_t s = stream.get();
  const int64_t partial = static_cast<int64_t>(traits_.multiprocessors) * 128 * 1024;
  NBL_ASSIGN_OR_RETURN(DeviceBuffer raw, DeviceBuffer::allocate(traits_.device, kMatmulRows * k * 4, "x", s));
  NBL_ASSIGN_OR_RETURN(DeviceBuffer ordered, DeviceBuffer::allocate(traits_.device, kMatmulRows * pitch * 2, "x", s));
  NBL_ASSIGN_OR_RETURN(DeviceBuffer result, DeviceBuffer::allocate(traits_.device, kMatmulRows * n * 4, "y", s));
  NBL_ASSIGN_OR_RETURN(DeviceBuffer sums, DeviceBuffer::allocate(traits_.device, partial, "partial sums", s));
  NBL_ASSIGN_OR_RETURN(DeviceBuffer tickets, DeviceBuffer::allocate(traits_.device, SplitScratch::kTickets * 4, "tickets", s));
  const SplitScratch scratch{sums.as<float>(), partial, tickets.as<unsigned>()};
  for (int64_t done = 0; done < m; done += kMatmulRows) {
    const int rows = static_cast<int>(std::min(kMatmulRows, m - done));
    const int from = blocked_from(traits_.sm);
    const ActivationLayout layout(pitch, from > 0 && rows >= from);
    NBL_CUDA(cudaMemsetAsync(ordered.as<void>(), 0, static_cast<size_t>(ordered.bytes()), s));
    NBL_CUDA(cudaMemcpyAsync(raw.as<void>(), x + done * k, static_cast<size_t>(rows * k * 4), cudaMemcpyHostToDevice, s));
    NBL_RETURN_IF_ERROR(normalize(DeviceNorm{}, raw.as<float>(), k, nullptr, rows, ordered.as<void>(), layout, tiles.k_place, traits_, s));
    Output out;
    out.values = result.as<float>();
    out.pitch = n;
    NBL_RETURN_IF_ERROR(matmul_tiles(tiles, ordered.as<void>(), layout, rows, out, scratch, traits_, s));
    NBL_CUDA(cudaMemcpyAsync(y + done * n, result.as<void>(), static_cast<size_t>(rows * n * 4), cudaMemcpyDeviceToHost, s));
    NBL_CUDA(cudaStreamSynchronize(s));
  }
  if (!tiles.interleaved) return {};
  std::vector<float> row(static_cast<size_t>(n));
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) row[j / 16 * 8 + j % 8 + (j / 8 % 2) * (n / 2)] = y[i * n + j];
    std::copy(row.begin(), row.end(), y + i * n);
  }
  return {};
}

}  // namespace
}  // namespace cuda

Result<std::unique_ptr<Backend>> make_cuda_backend(const CudaOptions& options) { return cuda::CudaBackend::create(options); }

}  // namespace nbl

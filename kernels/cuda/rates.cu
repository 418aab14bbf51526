// What the device reaches at best: reading memory, and multiplying f16 matrices with cuBLAS. Beside these a measured speed
// says how far it is from what the device allows.
#include <cuda_fp16.h>

#include <algorithm>

#include "kernels/cuda/rates.h"

namespace nbl::cuda {
namespace {

constexpr int64_t kMostBytes = int64_t{2} << 30;   // much more than any second-level cache
constexpr int64_t kLeastBytes = int64_t{64} << 20;
constexpr int64_t kSide = 8192;                     // of the matrices
constexpr int kRepeats = 7;

__global__ void read_all(const uint4* data, int64_t count, unsigned* sink) {
  uint4 sum = make_uint4(0, 0, 0, 0);
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < count; i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const uint4 v = __ldcs(data + i);
    sum.x ^= v.x, sum.y ^= v.y, sum.z ^= v.z, sum.w ^= v.w;
  }
  if ((sum.x ^ sum.y ^ sum.z ^ sum.w) == 0x12345678u) *sink = 1;  // never: the memory is zero. But the reads must happen
}

// Values between -1 and 1: with zeros the device would be faster than it is.
__global__ void fill(__half* values, int64_t count) {
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < count; i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const uint32_t mixed = (static_cast<uint32_t>(i) + 1u) * 2654435761u;
    values[i] = __float2half_rn(static_cast<float>(static_cast<int32_t>(mixed ^ mixed >> 15)) * 0x1p-31f);
  }
}

// The shortest time of what `launch` puts into the stream.
template <typename Launch>
Result<double> best_seconds(cudaStream_t stream, const Launch& launch) {
  NBL_ASSIGN_OR_RETURN(const Event begin, Event::create());
  NBL_ASSIGN_OR_RETURN(const Event end, Event::create());
  float best_ms = 0;
  for (int i = -1; i < kRepeats; ++i) {  // the first one warms up
    NBL_CUDA(cudaEventRecord(begin.get(), stream));
    NBL_RETURN_IF_ERROR(launch());
    NBL_CUDA(cudaEventRecord(end.get(), stream));
    NBL_CUDA(cudaEventSynchronize(end.get()));
    float ms = 0;
    NBL_CUDA(cudaEventElapsedTime(&ms, begin.get(), end.get()));
    if (i == 0 || (i > 0 && ms < best_ms)) best_ms = ms;
  }
  return static_cast<double>(best_ms) * 1e-3;
}

}  // namespace

Result<DeviceRates> measure_rates(const DeviceTraits& traits, int64_t free_bytes) {
  DeviceRates rates;
  NBL_ASSIGN_OR_RETURN(const Stream stream, Stream::create(traits.device));
  const int64_t bytes = std::min(kMostBytes, free_bytes / 2) / 16 * 16;
  if (bytes >= kLeastBytes) {
    NBL_ASSIGN_OR_RETURN(const DeviceBuffer data, DeviceBuffer::allocate(traits.device, bytes, "measuring the memory", stream.get()));
    NBL_ASSIGN_OR_RETURN(const double seconds, best_seconds(stream.get(), [&]() -> Status {
      read_all<<<traits.multiprocessors * 16, 512, 0, stream.get()>>>(data.as<uint4>(), bytes / 16, data.as<unsigned>());
      NBL_LAUNCHED("read_all");
      return {};
    }));
    rates.read_bytes_per_second = static_cast<double>(bytes) / seconds;
  }
  constexpr int64_t kMatrix = kSide * kSide * 2;
  const std::unique_ptr<Cublas> blas = free_bytes > 4 * kMatrix ? Cublas::open(stream.get()) : nullptr;
  if (blas != nullptr) {
    NBL_ASSIGN_OR_RETURN(const DeviceBuffer matrices, DeviceBuffer::allocate(traits.device, 3 * kMatrix, "measuring products", stream.get()));
    auto* at = matrices.as<unsigned char>();
    fill<<<traits.multiprocessors * 16, 512, 0, stream.get()>>>(matrices.as<__half>(), 2 * kSide * kSide);
    NBL_LAUNCHED("fill");
    NBL_ASSIGN_OR_RETURN(const double seconds, best_seconds(stream.get(), [&] {
      return blas->multiply(at, kSide, at + kMatrix, kSide, kSide, at + 2 * kMatrix, true, kSide, false);
    }));
    rates.multiply_operations_per_second = 2.0 * kSide * kSide * kSide / seconds;
  }
  return rates;
}

}  // namespace nbl::cuda

// Products of many rows: slices of a matrix are unpacked to f16 and multiplied by cuBLAS, the next slice
// being unpacked on a stream of its own meanwhile. Matrix products keep the tensor cores busy, unpacking the
// memory.
#pragma once

#include "kernels/cuda/device_traits.h"
#include "kernels/cuda/matmul/cublas.h"
#include "kernels/cuda/weights/weight.h"

namespace nbl::cuda {

class UnpackedMatmul {
 public:
  // `buffers` holds two of `buffer_bytes` each; all products are launched on `stream`, which is that of `cublas`.
  static Result<std::unique_ptr<UnpackedMatmul>> create(const DeviceTraits& traits, std::unique_ptr<Cublas> cublas, cudaStream_t stream,
                                                        void* buffers, int64_t buffer_bytes);
  ~UnpackedMatmul();

  // How many strips of a matrix to take at a time for so many rows of x.
  int slice_strips(const Tiles& tiles, int64_t padded_k, int rows) const {
    return slice_strips(tiles.strips, padded_k, rows, buffer_bytes_, traits_.multiprocessors);
  }
  static int slice_strips(int strips, int64_t padded_k, int rows, int64_t buffer_bytes, int multiprocessors);

  // c[rows, N] (+)= x[rows, padded K] * W^T: c float32 or f16.
  Status multiply(const CudaWeight& weight, const void* x, int rows, void* c, bool half, int64_t c_pitch, bool add);
  // The same for some strips of W; c begins with the first of their rows.
  Status multiply_slice(const CudaWeight& weight, int first_strip, int strips, const void* x, int rows, void* c, bool half, int64_t c_pitch,
                        bool add);

 private:
  UnpackedMatmul() = default;
  DeviceTraits traits_;
  cudaStream_t stream_ = nullptr;
  Stream unpack_stream_;
  cudaEvent_t ready_[2] = {nullptr, nullptr}, used_[2] = {nullptr, nullptr};
  unsigned char* buffers_ = nullptr;
  int64_t buffer_bytes_ = 0;
  int next_ = 0;
  std::unique_ptr<Cublas> cublas_;
};

}  // namespace nbl::cuda

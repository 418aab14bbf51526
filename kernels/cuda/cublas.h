// cuBLAS, opened by name when a GPU is used: the library runs without it, only prefill is slower then.
#pragma once

#include <memory>
#include <string>

#include "kernels/cuda/check.h"

namespace nbl::cuda {

// One handle with its workspace; belongs to one caller at a time.
class Cublas {
 public:
  static constexpr int64_t kWorkspaceBytes = 32 << 20;           // what NVIDIA recommends for Hopper
  static constexpr int64_t kBytes = kWorkspaceBytes + (64 << 20);  // with what cublasCreate takes: measured on an H200, cuBLAS 13
  // Null when no cuBLAS is found.
  static std::unique_ptr<Cublas> open(int device, cudaStream_t stream);
  ~Cublas();
  // c[T, N] (+)= x[T, K] * w[N, K]^T: x and w f16, products summed in float32, c float32 or f16.
  Status multiply(const void* w, int64_t w_pitch, int64_t n, const void* x, int64_t x_pitch, int64_t t, int64_t k, void* c, bool half_result,
                  int64_t c_pitch, bool add);
  // The file that was opened, empty when there is none.
  static std::string file();

 private:
  Cublas() = default;
  void* handle_ = nullptr;
  DeviceBuffer workspace_;
};

}  // namespace nbl::cuda

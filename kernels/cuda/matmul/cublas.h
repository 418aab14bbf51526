// cuBLAS, opened by name when a GPU is used: the library runs without it, only prefill is slower then.
//
// What is called is cublasLt, which cuBLAS itself calls: a handle of cuBLAS takes 64 MB of device memory (cuBLAS 13 on H100
// and H200), one of cublasLt none, and the workspace is the caller's.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <tuple>

#include "kernels/cuda/check.h"

namespace nbl::cuda {

// One handle; belongs to one caller at a time.
class Cublas {
 public:
  // Null when no cuBLAS is found, or it cannot be used. Products are launched on `stream`.
  static std::unique_ptr<Cublas> open(cudaStream_t stream);
  // Memory for the products to work in, before the first of them; without it kernels are chosen that need none.
  void set_workspace(void* workspace, int64_t bytes) { workspace_ = workspace, workspace_bytes_ = bytes; }
  ~Cublas();
  // c[T, N] (+)= x[T, K] * w[N, K]^T: x and w f16, products summed in float32, c float32 or f16. Rows of x and w lie K apart; w and
  // x begin at multiples of 256 bytes, c anywhere.
  Status multiply(const void* w, int64_t n, const void* x, int64_t t, int64_t k, void* c, bool half_result, int64_t c_pitch, bool add);
  // The file that was opened, empty when there is none.
  static std::string file();

 private:
  // A product's description, and the kernel that cublasLt chose for it.
  struct Product;
  struct Shape {
    int64_t n, t, k, c_pitch;
    uint32_t c_alignment;  // bytes
    bool half_result;
    bool operator<(const Shape& o) const {
      return std::tie(n, t, k, c_pitch, c_alignment, half_result) < std::tie(o.n, o.t, o.k, o.c_pitch, o.c_alignment, o.half_result);
    }
  };
  Cublas() = default;
  Result<const Product*> product(const Shape& shape);

  void* handle_ = nullptr;
  cudaStream_t stream_ = nullptr;
  void* workspace_ = nullptr;
  int64_t workspace_bytes_ = 0;
  std::map<Shape, std::unique_ptr<Product>> products_;
};

}  // namespace nbl::cuda

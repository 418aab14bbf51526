#include "kernels/cuda/cublas.h"

#include <dlfcn.h>

#include <cstdint>

namespace nbl::cuda {
namespace {

// The four functions used, with the enumerations of cublas_api.h as plain integers.
struct Library {
  void* file = nullptr;
  std::string name;
  int (*create)(void** handle) = nullptr;
  int (*destroy)(void* handle) = nullptr;
  int (*set_stream)(void* handle, cudaStream_t stream) = nullptr;
  int (*set_workspace)(void* handle, void* workspace, size_t bytes) = nullptr;
  int (*gemm)(void* handle, int op_a, int op_b, int m, int n, int k, const void* alpha, const void* a, int a_type, int lda, const void* b,
              int b_type, int ldb, const void* beta, void* c, int c_type, int ldc, int compute_type, int algorithm) = nullptr;
  bool usable() const { return create && destroy && set_stream && set_workspace && gemm; }
};
constexpr int kOpN = 0, kOpT = 1, kTypeF32 = 0, kTypeF16 = 2, kCompute32 = 68, kDefaultAlgorithm = -1;

Library open_library() {
  static const char* const folders[] = {"", "/usr/local/cuda/lib64/"};
  static const char* const names[] = {"libcublas.so.13", "libcublas.so.12"};
  Library library;
  for (const char* folder : folders) {
    for (const char* name : names) {
      library.name = std::string(folder) + name;
      library.file = dlopen(library.name.c_str(), RTLD_NOW | RTLD_LOCAL);
      if (library.file == nullptr) continue;
      library.create = reinterpret_cast<decltype(library.create)>(dlsym(library.file, "cublasCreate_v2"));
      library.destroy = reinterpret_cast<decltype(library.destroy)>(dlsym(library.file, "cublasDestroy_v2"));
      library.set_stream = reinterpret_cast<decltype(library.set_stream)>(dlsym(library.file, "cublasSetStream_v2"));
      library.set_workspace = reinterpret_cast<decltype(library.set_workspace)>(dlsym(library.file, "cublasSetWorkspace_v2"));
      library.gemm = reinterpret_cast<decltype(library.gemm)>(dlsym(library.file, "cublasGemmEx"));
      if (!library.usable()) continue;
      Dl_info found;  // which file that was
      if (dladdr(reinterpret_cast<const void*>(library.gemm), &found) != 0 && found.dli_fname != nullptr) library.name = found.dli_fname;
      return library;
    }
  }
  return {};
}

const Library& library() {
  static const Library opened = open_library();
  return opened;
}

}  // namespace

std::string Cublas::file() { return library().usable() ? library().name : std::string(); }

std::unique_ptr<Cublas> Cublas::open(int device, cudaStream_t stream) {
  if (!library().usable()) return nullptr;
  std::unique_ptr<Cublas> blas(new Cublas);
  if (library().create(&blas->handle_) != 0) return nullptr;
  auto workspace = DeviceBuffer::allocate(device, kWorkspaceBytes, "cuBLAS's workspace", stream);
  if (!workspace.ok()) return nullptr;
  blas->workspace_ = std::move(workspace).value();
  if (library().set_stream(blas->handle_, stream) != 0) return nullptr;
  if (library().set_workspace(blas->handle_, blas->workspace_.as<void>(), kWorkspaceBytes) != 0) return nullptr;
  return blas;
}

Cublas::~Cublas() {
  if (handle_ != nullptr) library().destroy(handle_);
}

Status Cublas::multiply(const void* w, int64_t w_pitch, int64_t n, const void* x, int64_t x_pitch, int64_t t, int64_t k, void* c,
                        bool half_result, int64_t c_pitch, bool add) {
  const float alpha = 1, beta = add ? 1.f : 0.f;
  const int code = fault_due() ? -1
                               : library().gemm(handle_, kOpT, kOpN, static_cast<int>(n), static_cast<int>(t), static_cast<int>(k), &alpha, w,
                                                kTypeF16, static_cast<int>(w_pitch), x, kTypeF16, static_cast<int>(x_pitch), &beta, c,
                                                half_result ? kTypeF16 : kTypeF32, static_cast<int>(c_pitch), kCompute32, kDefaultAlgorithm);
  if (code != 0) return error(Code::kDevice, "cublasGemmEx failed with status %d", code);
  return {};
}

}  // namespace nbl::cuda

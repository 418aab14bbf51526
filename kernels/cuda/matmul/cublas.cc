#include "kernels/cuda/matmul/cublas.h"

#include <dlfcn.h>

#include <type_traits>

namespace nbl::cuda {
namespace {

// What of cublasLt.h is used, its enumerations as plain integers.
struct Algorithm {
  uint64_t data[8];
};
struct Choice {  // cublasLtMatmulHeuristicResult_t
  Algorithm algorithm;
  size_t workspace_bytes;
  int state;
  float waves;
  int reserved[4];
};
struct Library {
  void* file = nullptr;
  std::string name;
  int (*create)(void** handle) = nullptr;
  int (*destroy)(void* handle) = nullptr;
  int (*description_create)(void** description, int compute_type, int scale_type) = nullptr;
  int (*description_destroy)(void* description) = nullptr;
  int (*description_set)(void* description, int attribute, const void* value, size_t bytes) = nullptr;
  int (*layout_create)(void** layout, int type, uint64_t rows, uint64_t columns, int64_t pitch) = nullptr;
  int (*layout_destroy)(void* layout) = nullptr;
  int (*preference_create)(void** preference) = nullptr;
  int (*preference_destroy)(void* preference) = nullptr;
  int (*preference_set)(void* preference, int attribute, const void* value, size_t bytes) = nullptr;
  int (*choose)(void* handle, void* description, void* a, void* b, void* c, void* d, void* preference, int wanted, Choice* choices,
                int* found) = nullptr;
  int (*multiply)(void* handle, void* description, const void* alpha, const void* a, void* a_layout, const void* b, void* b_layout,
                  const void* beta, const void* c, void* c_layout, void* d, void* d_layout, const Algorithm* algorithm, void* workspace,
                  size_t workspace_bytes, cudaStream_t stream) = nullptr;
  bool usable() const {
    return create && destroy && description_create && description_destroy && description_set && layout_create && layout_destroy &&
           preference_create && preference_destroy && preference_set && choose && multiply;
  }
};
constexpr int kTypeF32 = 0, kTypeF16 = 2, kCompute32 = 68, kTransposeA = 3, kTransposed = 1, kMaxWorkspaceBytes = 1, kAlignmentOfC = 7,
              kAlignmentOfD = 8;
constexpr uint32_t kUsualAlignment = 256;
constexpr size_t kMostProducts = 1024;  // kept: a prompt has eight shapes for each length that a chunk may have

Library open_library() {
  static const char* const folders[] = {"", "/usr/local/cuda/lib64/"};
  static const char* const names[] = {"libcublasLt.so.13", "libcublasLt.so.12"};
  Library library;
  const auto find = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library.file, name));
  };
  for (const char* folder : folders) {
    for (const char* name : names) {
      library.name = std::string(folder) + name;
      library.file = dlopen(library.name.c_str(), RTLD_NOW | RTLD_LOCAL);
      if (library.file == nullptr) continue;
      find(library.create, "cublasLtCreate");
      find(library.destroy, "cublasLtDestroy");
      find(library.description_create, "cublasLtMatmulDescCreate");
      find(library.description_destroy, "cublasLtMatmulDescDestroy");
      find(library.description_set, "cublasLtMatmulDescSetAttribute");
      find(library.layout_create, "cublasLtMatrixLayoutCreate");
      find(library.layout_destroy, "cublasLtMatrixLayoutDestroy");
      find(library.preference_create, "cublasLtMatmulPreferenceCreate");
      find(library.preference_destroy, "cublasLtMatmulPreferenceDestroy");
      find(library.preference_set, "cublasLtMatmulPreferenceSetAttribute");
      find(library.choose, "cublasLtMatmulAlgoGetHeuristic");
      find(library.multiply, "cublasLtMatmul");
      if (!library.usable()) continue;
      Dl_info found;  // which file that was
      if (dladdr(reinterpret_cast<const void*>(library.multiply), &found) != 0 && found.dli_fname != nullptr)
        library.name = found.dli_fname;
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

struct Cublas::Product {
  void *description = nullptr, *w = nullptr, *x = nullptr, *c = nullptr;
  Algorithm algorithm{};
  ~Product() {
    for (void* layout : {w, x, c}) {
      if (layout != nullptr) library().layout_destroy(layout);
    }
    if (description != nullptr) library().description_destroy(description);
  }
};

std::string Cublas::file() { return library().usable() ? library().name : std::string(); }

std::unique_ptr<Cublas> Cublas::open(cudaStream_t stream) {
  if (!library().usable()) return nullptr;
  std::unique_ptr<Cublas> blas(new Cublas);
  if (library().create(&blas->handle_) != 0) return nullptr;
  blas->stream_ = stream;
  return blas;
}

Cublas::~Cublas() {
  products_.clear();
  if (handle_ != nullptr) library().destroy(handle_);
}

// cuBLAS counts columns first: our rows are its columns, and c^T = w * x^T.
Result<const Cublas::Product*> Cublas::product(const Shape& shape) {
  const auto known = products_.find(shape);
  if (known != products_.end()) return known->second.get();
  if (products_.size() >= kMostProducts) products_.clear();
  auto made = std::make_unique<Product>();
  const Library& lt = library();
  const auto failed_with = [&](int status) {
    return error(Code::kDevice, "cublasLt cannot multiply f16 matrices of %lld x %lld by %lld: status %d", static_cast<long long>(shape.t),
                 static_cast<long long>(shape.k), static_cast<long long>(shape.n), status);
  };
  const auto unsigned_of = [](int64_t value) { return static_cast<uint64_t>(value); };
  int status = lt.description_create(&made->description, kCompute32, kTypeF32);
  const int32_t transposed = kTransposed;
  if (status == 0) status = lt.description_set(made->description, kTransposeA, &transposed, sizeof transposed);
  if (status == 0) status = lt.layout_create(&made->w, kTypeF16, unsigned_of(shape.k), unsigned_of(shape.n), shape.k);
  if (status == 0) status = lt.layout_create(&made->x, kTypeF16, unsigned_of(shape.k), unsigned_of(shape.t), shape.k);
  if (status == 0)
    status = lt.layout_create(&made->c, shape.half_result ? kTypeF16 : kTypeF32, unsigned_of(shape.n), unsigned_of(shape.t), shape.c_pitch);
  if (status != 0) return failed_with(status);
  void* preference = nullptr;
  Choice choice{};
  int found = 0;
  const auto bytes = static_cast<size_t>(workspace_bytes_);
  status = lt.preference_create(&preference);
  if (status == 0) status = lt.preference_set(preference, kMaxWorkspaceBytes, &bytes, sizeof bytes);
  for (int attribute : {kAlignmentOfC, kAlignmentOfD}) {
    if (status == 0) status = lt.preference_set(preference, attribute, &shape.c_alignment, sizeof shape.c_alignment);
  }
  if (status == 0) status = lt.choose(handle_, made->description, made->w, made->x, made->c, made->c, preference, 1, &choice, &found);
  if (preference != nullptr) lt.preference_destroy(preference);
  if (status != 0 || found < 1 || choice.state != 0) return failed_with(status != 0 ? status : choice.state);
  made->algorithm = choice.algorithm;
  return (products_[shape] = std::move(made)).get();
}

Status Cublas::multiply(const void* w, int64_t n, const void* x, int64_t t, int64_t k, void* c, bool half_result, int64_t c_pitch,
                        bool add) {
  const auto address = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(c) % kUsualAlignment);
  const uint32_t alignment = address == 0 ? kUsualAlignment : address & (0u - address);
  NBL_ASSIGN_OR_RETURN(const Product* product, this->product({n, t, k, c_pitch, alignment, half_result}));
  const float alpha = 1, beta = add ? 1.f : 0.f;
  const int code = fault_due()
                       ? -1
                       : library().multiply(handle_, product->description, &alpha, w, product->w, x, product->x, &beta, c, product->c, c,
                                            product->c, &product->algorithm, workspace_, static_cast<size_t>(workspace_bytes_), stream_);
  if (code != 0) return error(Code::kDevice, "cublasLtMatmul failed with status %d", code);
  return {};
}

}  // namespace nbl::cuda

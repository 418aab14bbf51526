// The answers of a build without CUDA: no device, and a sentence that says how to get one.
#include "kernels/backend.h"

namespace nbl {

Result<std::unique_ptr<Backend>> make_cuda_backend(const CudaOptions& options) {
  return error(Code::kUnsupported,
               "cuda:%d was asked for, but this nibble was built without CUDA; rebuild with -DNIBBLE_CUDA=ON where "
               "nvcc is installed, or run on the CPU",
               options.device);
}

int cuda_device_count() { return 0; }

Result<CudaDevice> cuda_device(int index) {
  return error(Code::kUnsupported, "cuda:%d: this nibble was built without CUDA (NIBBLE_CUDA=OFF, or no nvcc)", index);
}

std::string cuda_build_info() { return "{\"built\":false}"; }

}  // namespace nbl

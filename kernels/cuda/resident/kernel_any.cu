// The resident kernel for matrices of any formats.
#include "kernels/cuda/resident/kernel.cuh"

namespace nbl::cuda {

template const void* resident_kernel_with<ResidentFormats::kAny>(int units);

}  // namespace nbl::cuda

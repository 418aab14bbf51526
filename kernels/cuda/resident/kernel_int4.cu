// The resident kernel for matrices of 4-bit integers, and of f16.
#include "kernels/cuda/resident/kernel.cuh"

namespace nbl::cuda {

template const void* resident_kernel_with<ResidentFormats::kInt4>(int units);

}  // namespace nbl::cuda

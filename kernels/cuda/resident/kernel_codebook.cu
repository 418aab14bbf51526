// The resident kernel for matrices of a codebook, and of f16.
#include "kernels/cuda/resident/kernel.cuh"

namespace nbl::cuda {

template const void* resident_kernel_with<ResidentFormats::kCodebook>(int units);

}  // namespace nbl::cuda

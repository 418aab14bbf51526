// Makes the device unusable for the rest of the process, as a hardware fault would.
#include <cuda_runtime_api.h>

namespace nbl::gpu_test {

__global__ void trap() { __trap(); }

void lose_device() {
  trap<<<1, 1>>>();
  cudaDeviceSynchronize();
  cudaGetLastError();
}

}  // namespace nbl::gpu_test

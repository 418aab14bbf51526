// Kernels that begin while the one in front of them still runs: programmatic dependent launch, on sm_90 and later.
//
// A kernel launched with launch_after() may be resident before its predecessor has ended. It calls let_next_begin() first,
// and await_previous() in every thread before it touches anything that a kernel of the same stream reads or writes; weights,
// and keys and values of earlier steps, may be asked for before. Since every such kernel waits, what came before the
// predecessor has ended by then as well. Activations must not be read through __ldg or const __restrict__: the compiler
// would be free to read them before the wait.
#pragma once

#include <cuda_runtime.h>

namespace nbl::cuda {

#ifdef __CUDACC__
__device__ __forceinline__ void let_next_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ __forceinline__ void await_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// early: DeviceTraits::early_launch; false: an ordinary launch.
template <typename... Parameters, typename... Arguments>
cudaError_t launch_after(bool early, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
                         Arguments... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &attribute;
  config.numAttrs = early ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}
#endif

}  // namespace nbl::cuda

// What the parts of the resident kernel share: shared memory by name, meetings, registers, and who a thread is.
#pragma once

#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/resident/program.h"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || defined(__CUDA_ARCH_FEAT_SM100_ALL) || defined(__CUDA_ARCH_FEAT_SM120_ALL)
#define NIBBLE_SETMAXNREG 1
#endif
#if __CUDA_ARCH__ >= 900
namespace nbl::cuda {

extern __shared__ __align__(128) unsigned char shared_memory[];  // a name the compiler knows the address space of

// As barrier_wait() of ptx.cuh, with the loop inside: the compiler makes other code around it, and what this kernel's speed was
// measured with is this.
__device__ __forceinline__ void await_barrier(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n .reg .pred done;\n"
      "again:\n mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n @!done bra again;\n}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
// A barrier of the consumer warps alone.
__device__ __forceinline__ void consumers_meet() { meet_first<kConsumerThreads>(); }

// The registers of the producer's warps go to the consumers, where the device can do that: without it they spill, and a
// spilled register comes back from far away, since the stream of weights drives local memory out of the caches.
#if NIBBLE_SETMAXNREG
constexpr bool kRegistersMove = true;
#else
constexpr bool kRegistersMove = false;
#endif
__device__ __forceinline__ void give_registers() {
#if NIBBLE_SETMAXNREG
  asm volatile("setmaxnreg.dec.sync.aligned.u32 56;");
#endif
}
__device__ __forceinline__ void take_registers() {
#if NIBBLE_SETMAXNREG
  asm volatile("setmaxnreg.inc.sync.aligned.u32 224;");
#endif
}

// The indices of a thread, read anew where this is called: what is computed from them is not kept in
// registers from one operation to the next, of which there are too few.
struct Where {
  int tid, cta, ctas;
};
__device__ __forceinline__ Where here() {
  Where w;
  asm volatile("mov.u32 %0, %%tid.x;\n mov.u32 %1, %%ctaid.x;\n mov.u32 %2, %%nctaid.x;" : "=r"(w.tid), "=r"(w.cta), "=r"(w.ctas));
  return w;
}

// Where the strips of CTA `part` of `parts` begin. Where there are fewer strips than CTAs, those from `first` on have one each:
// the others have time for something else.
__device__ __forceinline__ int first_strip(int strips, int part, int parts, int first) {
  if (strips < parts) return min(strips, max(0, part - first));
  return static_cast<int>(static_cast<uint32_t>(strips) * static_cast<uint32_t>(part) / static_cast<uint32_t>(parts));
}

// A CTA's first task of attention; each next one is `ctas` further. The last CTA has task 0.
__device__ __forceinline__ int first_task(int cta, int ctas) { return ctas - 1 - cta; }

}  // namespace nbl::cuda
#endif

// What the kernels for sm_90a share beside ptx.cuh: clusters and wgmma.
#pragma once

#include "kernels/cuda/ptx.cuh"

namespace nbl::cuda {

// Lets no CTA of the cluster end while another still reads its shared memory; orders nothing else.
__device__ __forceinline__ void cluster_leave() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}
__device__ __forceinline__ float4 load_of_rank(uint32_t address, uint32_t rank) {
  float4 v;
  asm volatile(
      "{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %4, %5;\nld.shared::cluster.v4.f32 {%0, %1, %2, "
      "%3}, [there];\n}\n"
      : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
      : "r"(address), "r"(rank)
      : "memory");
  return v;
}

// An operand in shared memory: rows of 128 bytes, swizzled (16-byte chunk c of row r at c ^ (r % 8)), 8 of
// them 1024 bytes apart from the next 8; the whole aligned to 1024 bytes.
__device__ __forceinline__ uint64_t operand(uint32_t address) {
  return static_cast<uint64_t>(address >> 4 & 0x3fff) | uint64_t{1} << 16 | uint64_t{64} << 32 |
         uint64_t{1} << 62;
}
__device__ __forceinline__ void wgmma_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int Pending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}

// Sums as operands of an instruction, and their names in it: d[n] are the four of a lane in columns 8n .. 8n+7.
#define NBL_SUM(n) "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])
#define NBL_SUMS_16 NBL_SUM(0), NBL_SUM(1)
#define NBL_SUMS_32 NBL_SUMS_16, NBL_SUM(2), NBL_SUM(3)
#define NBL_SUMS_64 NBL_SUMS_32, NBL_SUM(4), NBL_SUM(5), NBL_SUM(6), NBL_SUM(7)
#define NBL_SUMS_128 \
  NBL_SUMS_64, NBL_SUM(8), NBL_SUM(9), NBL_SUM(10), NBL_SUM(11), NBL_SUM(12), NBL_SUM(13), NBL_SUM(14), NBL_SUM(15)
#define NBL_NAMES_16 "{%0, %1, %2, %3, %4, %5, %6, %7}, "
#define NBL_NAMES_32 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
#define NBL_NAMES_64                                                                                        \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                 \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
#define NBL_NAMES_128                                                                                       \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                 \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "                        \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                        \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
// `add` decides whether the product is added to the sums or takes their place; it is the operand of that number.
#define NBL_WGMMA(columns, add_name)                                                                        \
  "{\n.reg .pred p;\nsetp.ne.b32 p, " add_name ", 0;\nwgmma.mma_async.sync.aligned.m64n" #columns "k16.f32.f16.f16 " NBL_NAMES_##columns

// d[64 x 8n] (+)= a[64 x 16] * b[16 x 8n], where column n of b is a row of 128 bytes; a warp's a and d as
// those of mma.m16n8k16.
template <int NT>
__device__ __forceinline__ void wgmma(float (&d)[NT][4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint64_t b, int add) {
  static_assert(NT == 2 || NT == 4 || NT == 8 || NT == 16, "a number of columns that has no instruction here");
  if constexpr (NT == 2) {
    asm volatile(NBL_WGMMA(16, "%13") "{%8, %9, %10, %11}, %12, p, 1, 1, 0;\n}\n"
                 : NBL_SUMS_16 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b), "r"(add));
  } else if constexpr (NT == 4) {
    asm volatile(NBL_WGMMA(32, "%21") "{%16, %17, %18, %19}, %20, p, 1, 1, 0;\n}\n"
                 : NBL_SUMS_32 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b), "r"(add));
  } else if constexpr (NT == 8) {
    asm volatile(NBL_WGMMA(64, "%37") "{%32, %33, %34, %35}, %36, p, 1, 1, 0;\n}\n"
                 : NBL_SUMS_64 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b), "r"(add));
  } else {
    asm volatile(NBL_WGMMA(128, "%69") "{%64, %65, %66, %67}, %68, p, 1, 1, 0;\n}\n"
                 : NBL_SUMS_128 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b), "r"(add));
  }
}
// The same with a in shared memory as b is.
__device__ __forceinline__ void wgmma(float (&d)[8][4], uint64_t a, uint64_t b, int add) {
  asm volatile(NBL_WGMMA(64, "%34") "%32, %33, p, 1, 1, 0, 0;\n}\n" : NBL_SUMS_64 : "l"(a), "l"(b), "r"(add));
}
// d[64 x 64] += a[64 x 16] * b[16 x 64], where row k of b is a row of 128 bytes.
__device__ __forceinline__ void wgmma_rows(float (&d)[8][4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 " NBL_NAMES_64 "{%32, %33, %34, %35}, %36, 1, 1, 1, 1;\n"
               : NBL_SUMS_64 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b));
}
#undef NBL_SUM
#undef NBL_SUMS_16
#undef NBL_SUMS_32
#undef NBL_SUMS_64
#undef NBL_SUMS_128
#undef NBL_NAMES_16
#undef NBL_NAMES_32
#undef NBL_NAMES_64
#undef NBL_NAMES_128
#undef NBL_WGMMA

// Keeps the compiler from moving reads and writes of a sum over the point where the matrix unit owns it.
template <int NT>
__device__ __forceinline__ void hold(float (&d)[NT][4]) {
#pragma unroll
  for (int n = 0; n < NT; ++n)
    asm volatile("" : "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])::"memory");
}

}  // namespace nbl::cuda

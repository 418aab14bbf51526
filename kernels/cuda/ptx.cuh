// Instructions that CUDA C++ has no name for and that more than one kernel uses: one function each and nothing else, so that a
// test on the host (tests/kernels/cuda_host) can put a file of its own in the place of this one and run what is built on it.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace nbl::cuda {

// ---- numbers

#if __CUDA_ARCH__ >= 900
// An f16; a value beyond its range becomes the largest finite one, NaN stays what it is.
__device__ __forceinline__ uint16_t convert_one(float v) {
  uint16_t bits;
  asm("cvt.rn.satfinite.f16.f32 %0, %1;" : "=h"(bits) : "f"(v));
  return bits;
}
// The same of two, in one word.
__device__ __forceinline__ uint32_t convert_pair(float first, float second) {
  uint32_t bits;
  asm("cvt.rn.satfinite.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(second), "f"(first));
  return bits;
}
#endif

#if __CUDA_ARCH__ >= 800
// The largest magnitude of four values, NaN where one of them is.
__device__ __forceinline__ float largest_magnitude(float a, float b, float c, float d) {
  float largest;
  asm("{\n .reg .f32 a, b, c, d;\n abs.f32 a, %1;\n abs.f32 b, %2;\n abs.f32 c, %3;\n abs.f32 d, %4;\n"
      " max.NaN.f32 a, a, b;\n max.NaN.f32 c, c, d;\n max.NaN.f32 %0, a, c;\n}"
      : "=f"(largest)
      : "f"(a), "f"(b), "f"(c), "f"(d));
  return largest;
}
// Of the lanes of a warp.
__device__ __forceinline__ uint32_t warp_largest(uint32_t v) { return __reduce_max_sync(~0u, v); }
__device__ __forceinline__ int warp_total(int v) { return __reduce_add_sync(~0u, v); }
#endif

// ---- tensor cores

// c[16x8] += a[16x16] * b[16x8]; see tile.h for which lane holds what.
__device__ __forceinline__ void mma(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
#else
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5},{%6},{%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a0), "r"(a1), "r"(b0));
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5},{%6},{%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a2), "r"(a3), "r"(b1));
#endif
}

#if __CUDA_ARCH__ >= 800
// c[16x8] += a[16x32] * b[32x8] of unsigned and signed bytes. Lane 4g+t holds of A rows g (a0, a2) and g+8 (a1, a3) in columns
// 4t .. 4t+3 and 16 more, of B column g in the same rows (b0, b1), of C what it holds of that of mma().
__device__ __forceinline__ void mma_bytes(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
#endif

// ---- shared memory

__device__ __forceinline__ uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// The word 128 * row bytes behind `at`, where the row is byte i of `rows`. A dot product of bytes takes it out, scales it and adds the
// address in one operation.
__device__ __forceinline__ uint32_t load_shared_row(const uint32_t* at, uint32_t rows, int i) {
  uint32_t word;
  asm volatile("{\n .reg .b32 address;\n dp4a.u32.u32 address, %2, %3, %1;\n ld.shared.b32 %0, [address];\n}"
               : "=r"(word)
               : "r"(shared_address(at)), "r"(rows), "r"(128u << 8 * i));
  return word;
}

// Four matrices of 8 x 8; the address is that of a row of one of them.
__device__ __forceinline__ void load_matrix4(uint32_t (&r)[4], const void* shared) {
  const uint32_t address = shared_address(shared);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ void load_matrix4_transposed(uint32_t (&r)[4], const void* shared) {
  const uint32_t address = shared_address(shared);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

// ---- copies

// Copies 16 bytes from global to shared memory, without a register on sm_80 and later.
__device__ __forceinline__ void copy16(void* shared, const void* global) {
#if __CUDA_ARCH__ >= 800
  const uint32_t address = shared_address(shared);
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(global) : "memory");
#else
  *static_cast<uint4*>(shared) = *static_cast<const uint4*>(global);
#endif
}
// The same, or zeros; the address is one of shared memory.
__device__ __forceinline__ void copy16_or_zero(uint32_t address, const void* global, bool valid) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(global), "r"(valid ? 16 : 0) : "memory");
#else
  const uint4 v = valid ? *static_cast<const uint4*>(global) : make_uint4(0, 0, 0, 0);
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
#endif
}
__device__ __forceinline__ void copy16_or_zero(void* shared, const void* global, bool valid) {
  copy16_or_zero(shared_address(shared), global, valid);
}
__device__ __forceinline__ void copy_commit() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int Pending>
__device__ __forceinline__ void copy_wait() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
#endif
}

// ---- bulk copies, and the barriers in shared memory that count them: sm_90 and later

__device__ __forceinline__ void barrier_init(uint32_t barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
// All that this thread has initialized is seen by the cluster's CTAs.
__device__ __forceinline__ void barriers_are_ready() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ __forceinline__ void barrier_expect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ __forceinline__ void barrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity) {
  uint32_t done = 0;
  while (done == 0) {
    asm volatile("{\n .reg .pred p;\n mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n selp.b32 %0, 1, 0, p;\n}"
                 : "=r"(done)
                 : "r"(barrier), "r"(parity)
                 : "memory");
  }
}
__device__ __forceinline__ bool barrier_passed(uint32_t barrier, uint32_t parity) {
  uint32_t passed;
  asm volatile("{\n .reg .pred done;\n mbarrier.test_wait.parity.shared::cta.b64 done, [%1], %2;\n selp.u32 %0, 1, 0, done;\n}"
               : "=r"(passed)
               : "r"(barrier), "r"(parity)
               : "memory");
  return passed != 0;
}
// For copies of what is read once: the second-level cache need not keep it.
__device__ __forceinline__ uint64_t read_once() {
  uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
__device__ __forceinline__ void bulk_copy(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from), "r"(bytes),
      "r"(barrier)
      : "memory");
}
__device__ __forceinline__ void bulk_copy(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(to), "l"(from),
      "r"(bytes), "r"(barrier), "l"(policy)
      : "memory");
}
// As far as the second-level cache.
__device__ __forceinline__ void bulk_prefetch(const void* from, uint32_t bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
}
__device__ __forceinline__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// ---- what other CTAs see (resident/words.cuh): stored and loaded whole

__device__ __forceinline__ void store_word(uint2* at, uint32_t low, uint32_t high) {
  asm volatile("{\n .reg .b64 word;\n mov.b64 word, {%1, %2};\n st.relaxed.gpu.global.b64 [%0], word;\n}" ::"l"(at), "r"(low), "r"(high)
               : "memory");
}
__device__ __forceinline__ void store_half(uint32_t* at, uint32_t word) {
  asm volatile("st.relaxed.gpu.global.b32 [%0], %1;" ::"l"(at), "r"(word) : "memory");
}
// Two words {value, tag, value, tag}, aligned to 16 bytes, into v where `wanted`; predicated and not a branch, so that many
// of them share their registers.
__device__ __forceinline__ void load_words(uint4& v, const uint2* at, bool wanted = true) {
  asm volatile(
      "{\n .reg .b64 a, b;\n .reg .pred p;\n setp.ne.b32 p, %5, 0;\n mov.b64 a, {%0, %1};\n mov.b64 b, {%2, %3};\n"
      " @p ld.relaxed.gpu.global.v2.b64 {a, b}, [%4];\n mov.b64 {%0, %1}, a;\n mov.b64 {%2, %3}, b;\n}"
      : "+r"(v.x), "+r"(v.y), "+r"(v.z), "+r"(v.w)
      : "l"(at), "r"(static_cast<int>(wanted))
      : "memory");
}
__device__ __forceinline__ void load_word(uint2& v, const uint2* at, bool wanted = true) {
  asm volatile(
      "{\n .reg .b64 a;\n .reg .pred p;\n setp.ne.b32 p, %3, 0;\n mov.b64 a, {%0, %1};\n @p ld.relaxed.gpu.global.b64 a, [%2];\n"
      " mov.b64 {%0, %1}, a;\n}"
      : "+r"(v.x), "+r"(v.y)
      : "l"(at), "r"(static_cast<int>(wanted))
      : "memory");
}
// The same of four words of one f16.
__device__ __forceinline__ void load_halves(uint4& v, const uint32_t* at, bool wanted = true) {
  asm volatile("{\n .reg .pred p;\n setp.ne.b32 p, %5, 0;\n @p ld.relaxed.gpu.global.v4.b32 {%0, %1, %2, %3}, [%4];\n}"
               : "+r"(v.x), "+r"(v.y), "+r"(v.z), "+r"(v.w)
               : "l"(at), "r"(static_cast<int>(wanted))
               : "memory");
}

__device__ __forceinline__ float exp2_fast(float v) {
  float r;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v));
  return r;
}

// ---- barriers

// A barrier of the first `Threads` threads of a CTA that has more: they are whole warps.
template <int Threads>
__device__ __forceinline__ void meet_first() {
  asm volatile("bar.sync 1, %0;" ::"n"(Threads) : "memory");
}

}  // namespace nbl::cuda

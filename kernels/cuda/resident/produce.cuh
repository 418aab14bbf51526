// The resident kernel's producer: one thread that streams the weights of its CTA into a ring in shared memory.
#pragma once

#include "kernels/cuda/resident/attention.cuh"
#include "kernels/cuda/resident/device.cuh"

#if __CUDA_ARCH__ >= 900
namespace nbl::cuda {

// Keys and values of this CTA's tasks, brought near while the matrices before attention still run.
__device__ __forceinline__ void prefetch_keys(const ResidentStep& step, const StepSequence& s, int layer, int64_t window) {
  AttentionShape a;
  a.kv_heads = step.kv_heads, a.head_dim = step.head_dim, a.layer = layer;
  const int tasks = attention_tasks(step.heads, step.kv_heads, kMmaHeads) * step.splits;
  for (int i = first_task(blockIdx.x, gridDim.x); i < tasks; i += gridDim.x) {
    const MmaTask task = mma_task(step.heads, step.kv_heads, window, s.length + 1, i, step.splits);
    const int rows = min(task.end, s.length) - task.begin;
    if (rows <= 0) continue;
    for (int what = 0; what < 2; ++what) {
      bulk_prefetch(cache_head(a, s, what, task.kv_head) + static_cast<int64_t>(task.begin) * a.head_dim,
                    static_cast<uint32_t>(rows * a.head_dim * 2));
    }
  }
}

// A place in the stream of all weights of this CTA, piece after piece.
struct StreamPlace {
  int op = -1, records_left = 0, chunk_records = 0, record_bytes = 0;
  uint32_t chunk_left = 0;  // bytes
  const unsigned char* at = nullptr;

  // Goes on to the next chunk when this one is at its end; false behind the last. Prefetches keys on the way.
  __device__ __forceinline__ bool find_chunk(const ResidentStep& step) {
    if (chunk_left > 0) return true;
    const ResidentStream* streams = reinterpret_cast<const ResidentStream*>(shared_memory + step.streams_at);
    while (records_left <= 0) {
      if (++op >= step.op_count) return false;
      const ResidentStream s = streams[op];
      if (s.strips == 0) {
        prefetch_keys(step, *reinterpret_cast<const StepSequence*>(shared_memory + step.sequence_at), s.records, s.chunk_records);
        continue;
      }
      at = s.data + static_cast<int64_t>(s.begin) * s.records * s.record_bytes;
      records_left = (s.end - s.begin) * s.records;
      chunk_records = s.chunk_records, record_bytes = s.record_bytes;
    }
    chunk_left = min(chunk_records, records_left) * record_bytes;
    records_left -= chunk_records;
    return true;
  }
  // The bytes of a whole piece, and of the next one, which the last chunk of a matrix may lack.
  __device__ __forceinline__ uint32_t piece_bytes() const { return chunk_records / kSlotPieces * record_bytes; }
  __device__ __forceinline__ uint32_t next_bytes() const { return min(chunk_left, piece_bytes()); }
  __device__ __forceinline__ uint32_t take_piece() {
    const uint32_t bytes = next_bytes();
    at += bytes, chunk_left -= bytes;
    return bytes;
  }
};

// A piece of the ring and how often the ring has been around, as the parity of its mbarrier.
struct PiecePlace {
  int piece = 0;
  uint32_t parity = 0;
  __device__ __forceinline__ void next(int pieces) {
    if (++piece == pieces) piece = 0, parity ^= 1;
  }
};

// One thread streams every byte of this CTA's weights, for the whole step. It waits for its own consumers, and for its
// own copies: step.in_flight pieces keep memory busy, and every further one would only stand in a queue with the words
// that the CTAs wait for (program.cc). While the ring is full, one piece more comes as far as the second-level cache.
__device__ __forceinline__ void produce(const ResidentStep& step) {
  const uint64_t policy = read_once();
  const uint32_t ring = shared_address(shared_memory + step.ring_at), full = shared_address(shared_memory + step.barriers_at);
  const int pieces = step.slots * kSlotPieces;
  const uint32_t empty = full + 8 * pieces;
  StreamPlace place;
  PiecePlace to, oldest;  // where the next piece goes, and the oldest that may still be under way
  int under_way = 0;
  for (int slot = 0; place.find_chunk(step); slot = to.piece / kSlotPieces) {
    if (!barrier_passed(empty + 8 * slot, to.parity ^ 1)) bulk_prefetch(place.at, place.next_bytes());
    await_barrier(empty + 8 * slot, to.parity ^ 1);
    const uint32_t piece_bytes = place.piece_bytes();
#pragma unroll
    for (int i = 0; i < kSlotPieces; ++i) {
      if (under_way == step.in_flight) {
        await_barrier(full + 8 * oldest.piece, oldest.parity);
        oldest.next(pieces);
      } else {
        ++under_way;
      }
      const unsigned char* from = place.at;
      const uint32_t bytes = place.take_piece();  // none, maybe: the warps of the piece wait all the same
      barrier_expect(full + 8 * to.piece, bytes);
      if (bytes > 0) bulk_copy(ring + slot * step.slot_bytes + i * piece_bytes, from, bytes, full + 8 * to.piece, policy);
      to.next(pieces);
    }
  }
}

}  // namespace nbl::cuda
#endif

// The resident kernel (program.h).
//
// A CTA owns a range of whole strips of every matrix: a contiguous range of records, so that its share of an
// operation is one stream of bytes. The producer cuts it into chunks of up to slot_bytes (chunk_records
// records) and copies each when a slot of the ring is free, in two pieces, a bulk copy each; an mbarrier a
// piece says full, one a slot says empty. Of a chunk of 8 P records, consumer warp w multiplies records
// P w .. P w + P - 1. A warp keeps the sums of one strip in registers and writes them, when the strip ends,
// to `red`, where kWindow strips wait; when all warps have left a window its strips are summed over the
// warps in order, so that the result is the same from run to run. Bound: all weights and the keys and
// values, once, over the memory's bandwidth.
#include <cuda_bf16.h>

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/resident/program.h"
#include "kernels/cuda/resident/attention.cuh"
#include "kernels/cuda/resident/record_product.cuh"
#include "kernels/cuda/resident/stage.cuh"

namespace nbl::cuda {
namespace {

#if __CUDA_ARCH__ >= 900
// ---- the producer

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

// ---- the consumers

// Where a warp is in the ring.
struct Ring {
  int slot = 0;
  uint32_t phase = 0;
  int window = 0;  // of the running operation: the first that is not finished
};

// Operations read rows of words to the end of the last unit of columns.
__device__ __forceinline__ int padded_columns(int width) { return (width + kUnitColumns - 1) / kUnitColumns * kUnitColumns; }
__device__ __forceinline__ void pad_pairs(uint2* pairs, int width, uint32_t tag, int tid) {
  if (width + 2 * tid < padded_columns(width)) put_pair(pairs + width / 2 + tid, 0.f, 0.f, tag);
}
__device__ __forceinline__ void pad_halves(uint32_t* halves, int width, uint32_t tag, int tid) {
  if (width + tid < padded_columns(width)) put_half(halves + width + tid, __half(0.f), tag);
}

// All warps have left the window: its strips are summed over the warps, and cleared. A thread has one row of a strip, and all that
// belongs to the row at hand before the warps meet.
__device__ __forceinline__ void finish_window(const ResidentStep& step, const ResidentOp& op, uint32_t tag, int window, int begin, int end,
                                              float factor, int tid) {
  const unsigned slot = static_cast<unsigned>(tid) / kStripRows, r = static_cast<unsigned>(tid) % kStripRows;
  const int strip = begin + window * kWindow + slot, row = strip * kStripRows + r;
  const ResidentOutput output = op.output;
  const Activation activation = op.activation;
  float scale = factor * op.unit, bias = 0.f;
  void* to = nullptr;  // where the result goes, null: nowhere
  if (tid < kWindow * kStripRows && strip < end) {
    const float* row_scale = op.row_scale;
    const float* biases = op.bias;
    int vector_row = row;
    if (output == ResidentOutput::kGate) {  // interleaved: rows r < 8 are the gates of i, the others their ups
      const int half = op.rows / 2, i = strip * 8 + r % 8;
      vector_row = r < 8 ? i : half + i;
      if (i < half) to = op.halves + (op.out_place != nullptr ? __ldg(op.out_place + i) : i);
    } else if (row < op.rows) {
      to = output == ResidentOutput::kResidual ? static_cast<void*>(op.tagged + row / 2u)
           : output == ResidentOutput::kTagged ? static_cast<void*>(op.tagged + row)
                                               : static_cast<void*>(op.out + row);
    }
    if (row_scale != nullptr && to != nullptr) scale *= __ldg(row_scale + row);
    if (biases != nullptr && to != nullptr) bias = __ldg(biases + vector_row);
  }
  // Of the rows that this CTA owns.
  float* residual = reinterpret_cast<float*>(shared_memory + step.residual_at) + (row - begin * kStripRows);
  float* at = reinterpret_cast<float*>(shared_memory + step.red_at) + ((window & 1) * kWindow + slot) * kConsumerWarps * kStripRows + r;
  consumers_meet();
  if (tid >= kWindow * kStripRows) return;
  float parts[kConsumerWarps];
#pragma unroll
  for (int w = 0; w < kConsumerWarps; ++w) parts[w] = at[w * kStripRows];
  float v = 0.f;
#pragma unroll
  for (int w = 0; w < kConsumerWarps; ++w) v += parts[w];
  v = v * scale + bias;
  if (output == ResidentOutput::kResidual) {
    if (to != nullptr) v = *residual += v;
    const float next = __shfl_down_sync(~0u, v, 1);
    if (to != nullptr && r % 2 == 0) put_pair(static_cast<uint2*>(to), v, next, tag);  // h, with the indices of all of h
  } else if (output == ResidentOutput::kGate) {
    const float up = __shfl_down_sync(~0u, v, 8);
    if (to != nullptr && r < 8) put_half(static_cast<uint32_t*>(to), to_half(activate(activation, v) * up), tag);
  } else if (to != nullptr) {
    if (output == ResidentOutput::kTagged) {
      put_word(static_cast<uint2*>(to), __float_as_uint(v), tag);
    } else {
      *static_cast<float*>(to) = v;
      PartBest& best = reinterpret_cast<PartBest*>(shared_memory + step.best_at)[tid];
      if (!(v <= kLargest)) best = {INFINITY, row};
      if (v > best.logit) best = {v, row};
    }
  }
#pragma unroll
  for (int w = 0; w < kConsumerWarps; ++w) at[w * kStripRows] = 0.f;
}

// A warp is done with its part of a chunk, and goes on to the next slot of the ring.
__device__ __forceinline__ void leave_chunk(Ring& ring, uint32_t empty, int slots, int lane) {
  __syncwarp();
  if (lane == 0) barrier_arrive(empty + 8 * ring.slot);
  if (++ring.slot == slots) ring.slot = 0, ring.phase ^= 1;
}

// Where a lane leaves a sum of strip 0 in `red`; null where it has none.
template <typename Product>
__device__ __forceinline__ float* sums_place(const ResidentStep& step, int warp, int lane) {
  const int t = lane % 4;
  if (t != 0 && t != Product::kSecondRow) return nullptr;
  return reinterpret_cast<float*>(shared_memory + step.red_at) + warp * kStripRows + lane / 4 + (t != 0 ? 8 : 0);
}
__device__ __forceinline__ void put_sum(float* place, int strip, float sum) {
  if (place != nullptr) place[(strip & (2 * kWindow - 1)) * (kConsumerWarps * kStripRows)] = sum;
}

// Where a warp has kRunRecords of each chunk and they are of one strip (ResidentOp::runs). Nothing that takes time stands between one
// chunk and the next: where that is here by then, codes of its first half come into the registers of this one's first half while the
// second half is multiplied, and the sums of a strip go to `red` while the next one is.
// Where chunks are whole strips (chunk_strips), a warp has the same columns of every strip, and keeps their x.
template <Codes C, int GB, bool Wide>
__device__ __forceinline__ Ring consume_runs(const ResidentStep& step, const ResidentOp& op, uint32_t tag, int begin, int end,
                                             float factor, Ring ring) {
  using Product = RecordProduct<C, GB, Wide>;
  constexpr int kAtOnce = Product::kAtOnce, kInputs = kRunRecords / kAtOnce, kChunk = kRunRecords * kConsumerWarps;
  const int tid = here().tid, lane = tid & 31, warp = tid >> 5;
  const int records = op.records, chunk_strips = op.chunk_strips, total = (end - begin) * records;
  const int slots = step.slots, slot_bytes = step.slot_bytes;
  const uint32_t barriers = shared_address(shared_memory + step.barriers_at), empty = barriers + 8 * slots * kSlotPieces;
  const uint32_t full = barriers + 8 * (warp * kSlotPieces / kConsumerWarps);
  const unsigned char* records_at = shared_memory + step.ring_at + warp * kRunRecords * Product::kRecordBytes;
  const uint32_t* pairs = reinterpret_cast<const uint32_t*>(shared_memory + step.pairs_at);
  const uint32_t* factors = reinterpret_cast<const uint32_t*>(shared_memory + step.factors_at);
  float* const place = sums_place<Product>(step, warp, lane);
  int left = (total - warp * kRunRecords + kChunk - 1) / kChunk;  // chunks with records of this warp: maybe not the last one
  const int others = (total + kChunk - 1) / kChunk - left;
  int window = 0;
  // What the loop keeps is loaded and used in here alone: had another path led to the loop, past the loads, its registers would be taken
  // through all operations, and others would spill.
  if (left > 0) {
    // The warp's records of a chunk are from k on of `strip`, which has sums; those of strip `done` are complete, if it is not negative.
    int strip = __umulhi(warp * kRunRecords, op.records_inverse), k = warp * kRunRecords - strip * records, done = -1;
    LaneSums sums, done_sums;
    typename Product::Input inputs[kInputs];
    LaneCodes<C> codes[kRunRecords];
    const auto load_x = [&] {
      const int x_offset = Product::x_offset(lane), x_step = x_offset < 0 ? 0 : Product::kXBytes;
      const unsigned char* x = shared_memory + (x_offset < 0 ? step.zeros_at : x_offset) + k * x_step;
#pragma unroll
      for (int i = 0; i < kInputs; ++i) {
        Product::template load<kAtOnce>(inputs[i], x + i * kAtOnce * x_step, factors + (k + i * kAtOnce) * Product::kFactorWords, lane);
      }
    };
    constexpr int kHalfRun = kRunRecords / 2;
    const auto load_half = [&](const unsigned char* from, int half) {
#pragma unroll
      for (int i = half * kHalfRun; i < (half + 1) * kHalfRun; ++i) codes[i].load(from + i * Product::kRecordBytes, lane);
    };
    // Before the sums of `done` go to theirs. A thread's index is read anew, so that nothing that follows from it is kept meanwhile.
    const auto finish_windows = [&] {
      for (; done >= (window + 1) * kWindow; ++window) finish_window(step, op, tag, window, begin, end, factor, here().tid);
    };
    const unsigned char* record = records_at + ring.slot * slot_bytes;
    load_x();
    await_barrier(full + 8 * kSlotPieces * ring.slot, ring.phase);
    load_half(record, 0);
#pragma unroll 1
    do {
      --left;
      const int next_slot = ring.slot + 1 == slots ? 0 : ring.slot + 1;
      const unsigned char* next = records_at + next_slot * slot_bytes;
      const uint32_t next_full = full + 8 * kSlotPieces * next_slot, next_phase = ring.phase ^ (next_slot == 0 ? 1 : 0);
      bool begun = left == 0;  // whether codes of the next chunk have been loaded
      finish_windows();
      load_half(record, 1);
      const float done_sum = Product::row_sum(done_sums, lane);
#pragma unroll
      for (int i = 0; i < kInputs; ++i) {
        Product::add(record + i * kAtOnce * Product::kRecordBytes, codes + i * kAtOnce, pairs, inputs[i], lane, sums, [&](int of_input) {
          if (i * kAtOnce + of_input != kHalfRun - 1) return;
          if (done >= 0) put_sum(place, done, done_sum);
          if (!begun && __all_sync(~0u, barrier_passed(next_full, next_phase))) {
            load_half(next, 0);
            begun = true;
          }
        });
      }
      done = -1;
      if (k + kChunk >= records || left == 0) {
        done = strip, done_sums = sums;
        sums = LaneSums();
      }
      if (chunk_strips > 0) {
        strip += chunk_strips;
      } else {
        for (k += kChunk; k >= records; k -= records) ++strip;
        load_x();
      }
      leave_chunk(ring, empty, slots, lane);
      record = next;
      if (!begun) {
        await_barrier(next_full, next_phase);
        load_half(next, 0);
      }
    } while (left > 0);
    finish_windows();
    put_sum(place, done, Product::row_sum(done_sums, lane));
  }
  if (others > 0) {
    await_barrier(full + 8 * kSlotPieces * ring.slot, ring.phase);
    leave_chunk(ring, empty, slots, lane);
  }
  ring.window = window;
  return ring;
}

// factor: of all results, beside what belongs to their rows.
template <Codes C, int GB, bool Wide>
__device__ __forceinline__ Ring consume(const ResidentStep& step, const ResidentOp& op, uint32_t tag, int begin, int end, float factor,
                                        Ring ring) {
  using Product = RecordProduct<C, GB, Wide>;
  constexpr int kAtOnce = kRegistersMove ? Product::kAtOnce : 2;
  if constexpr (has_runs(resident_format(C, GB, Wide)) && kRegistersMove) {
    if (op.runs) return consume_runs<C, GB, Wide>(step, op, tag, begin, end, factor, ring);
  }
  const int tid = here().tid, lane = tid & 31, warp = tid >> 5;
  const int records = op.records, share = op.warp_records, chunk = share * kConsumerWarps;
  const int total = (end - begin) * records, slots = step.slots, slot_bytes = step.slot_bytes;
  const uint32_t barriers = shared_address(shared_memory + step.barriers_at), empty = barriers + 8 * slots * kSlotPieces;
  const uint32_t full = barriers + 8 * (warp * kSlotPieces / kConsumerWarps);  // of this warp's piece of slot 0
  const unsigned char* slots_at = shared_memory + step.ring_at;
  float* const place = sums_place<Product>(step, warp, lane);
  const uint32_t* factors = reinterpret_cast<const uint32_t*>(shared_memory + step.factors_at);
  const uint32_t* pairs = reinterpret_cast<const uint32_t*>(shared_memory + step.pairs_at);
  // Where a lane finds x of record 0 of a strip, and how far the next one's is.
  const int x_offset = Product::x_offset(lane), x_step = x_offset < 0 ? 0 : Product::kXBytes;
  const unsigned char* x = shared_memory + (x_offset < 0 ? step.zeros_at : x_offset);
  int strip = 0, k = warp * share;  // the strip whose sums are kept, and the warp's first record of the chunk, counted from the strip's
  int window = 0;                   // the one that strip lies in
  LaneSums sums;
  const auto leave_strip = [&] {
    put_sum(place, strip, Product::row_sum(sums, lane));
    sums = LaneSums();
  };
#pragma unroll 1
  for (int base = warp * share; base - warp * share < total; base += chunk) {
    await_barrier(full + 8 * kSlotPieces * ring.slot, ring.phase);
    const unsigned char* record = slots_at + ring.slot * slot_bytes + warp * share * Product::kRecordBytes;
    int left = min(share, total - base), at = k;
#pragma unroll 1
    while (left > 0) {
      if (at >= records) {
        leave_strip();
        const int passed = max(1u, __umulhi(at, op.records_inverse));  // strips; of one record each maybe one less than there are
        strip += passed, at -= passed * records, k -= passed * records;
        for (; at >= records; at -= records, k -= records) ++strip;
        for (; strip >= (window + 1) * kWindow; ++window) finish_window(step, op, tag, window, begin, end, factor, tid);
      }
      const int run = min(left, records - at);  // of this strip
      const unsigned char* lane_x = x + at * x_step;
      const uint32_t* factors_of_x = factors + at * Product::kFactorWords;
      left -= run, at += run;
      int r = run;
#pragma unroll 1
      for (; r >= kAtOnce; r -= kAtOnce) {
        Product::template add<kAtOnce>(record, pairs, lane_x, factors_of_x, lane, sums);
        record += kAtOnce * Product::kRecordBytes, lane_x += kAtOnce * x_step, factors_of_x += kAtOnce * Product::kFactorWords;
      }
      if (kAtOnce > 2 && r >= 2) {
        Product::template add<2>(record, pairs, lane_x, factors_of_x, lane, sums);
        record += 2 * Product::kRecordBytes, lane_x += 2 * x_step, factors_of_x += 2 * Product::kFactorWords, r -= 2;
      }
      if (r > 0) {
        Product::template add<1>(record, pairs, lane_x, factors_of_x, lane, sums);
        record += Product::kRecordBytes;
      }
    }
    k += chunk;
    leave_chunk(ring, empty, slots, lane);
  }
  if (end > begin) leave_strip();
  ring.window = window;
  return ring;
}

// One jump to the code of a format: it is far from all else, and each step on the way to it is fetched anew. The most common one
// comes first.
__device__ __forceinline__ Ring multiply(const ResidentStep& step, const ResidentOp& op, uint32_t tag, int begin, int end, float factor,
                                         Ring ring) {
  if (op.format == resident_format(Codes::kInt4, 4, false)) {
    return consume<Codes::kInt4, 4, false>(step, op, tag, begin, end, factor, ring);
  }
#define NBL_CONSUME(codes, group_blocks, wide) \
  case resident_format(codes, group_blocks, wide): \
    return consume<codes, group_blocks, wide>(step, op, tag, begin, end, factor, ring);
#define NBL_CONSUME_SCALES(codes) \
  NBL_CONSUME(codes, 1, false) \
  NBL_CONSUME(codes, 2, false) \
  NBL_CONSUME(codes, 4, false) \
  NBL_CONSUME(codes, 1, true) \
  NBL_CONSUME(codes, 2, true) \
  NBL_CONSUME(codes, 4, true)
  switch (op.format) {
    NBL_CONSUME_SCALES(Codes::kInt2)
    NBL_CONSUME_SCALES(Codes::kInt3)
    NBL_CONSUME_SCALES(Codes::kInt4)
    NBL_CONSUME_SCALES(Codes::kInt8)
    NBL_CONSUME_SCALES(Codes::kCode4)
    NBL_CONSUME(Codes::kHalf, 0, false)
  }
#undef NBL_CONSUME
#undef NBL_CONSUME_SCALES
  return ring;
}

__device__ __forceinline__ void attend_tasks(const ResidentStep& step, const ResidentOp& op, uint32_t base, const float2* turns) {
  const AttentionShape& a = op.attention;
  const Where at_work = here();
  const int tid = at_work.tid;
  const StepSequence& s = *reinterpret_cast<const StepSequence*>(shared_memory + step.sequence_at);
  const int tasks = attention_tasks(a.heads, a.kv_heads, kMmaHeads) * step.splits;
  if (at_work.cta == 0) pad_halves(op.halves, a.heads * a.head_dim, base + op.out_tag, tid);
  const auto meet = [] { consumers_meet(); };
  for (int i = first_task(at_work.cta, at_work.ctas); i < tasks; i += at_work.ctas) {
    const MmaTask task = mma_task(a.heads, a.kv_heads, a.window, s.length + 1, i, step.splits);
    const AttentionWords words = {op.input_words, base + op.in_tag, step.parts,         step.part_states,
                                  op.halves,      op.out_place,     base + op.out_tag};
    if (a.head_dim == 64) {
      attend_mma<64>(a, s, task, words, turns, shared_memory, tid, meet);
    } else {
      attend_mma<128>(a, s, task, words, turns, shared_memory, tid, meet);
    }
    if (i + at_work.ctas < tasks) meet();
  }
}

// Begins to bring the next operation's description; op_is_here() waits for it.
__device__ __forceinline__ void copy_op(ResidentOp* to, const ResidentOp* from, int tid) {
  static_assert(sizeof(ResidentOp) % 16 == 0 && sizeof(ResidentOp) / 16 <= 32, "copied by one warp");
  const int lane = tid - (kConsumerThreads - 32);
  if (lane >= 0 && lane < static_cast<int>(sizeof(ResidentOp) / 16))
    copy16(reinterpret_cast<uint4*>(to) + lane, reinterpret_cast<const uint4*>(from) + lane);
  copy_commit();
}
__device__ __forceinline__ void op_is_here() { copy_wait<0>(); }

// The best of the CTA's logits, by one warp.
__device__ __forceinline__ void put_best(const ResidentStep& step) {
  const Where at_work = here();
  if (at_work.tid >= 32) return;
  const PartBest* bests = reinterpret_cast<const PartBest*>(shared_memory + step.best_at);
  PartBest best = bests[at_work.tid];
  for (int i = at_work.tid + 32; i < kWindow * kStripRows; i += 32) keep_better(best.logit, best.id, bests[i].logit, bests[i].id);
  warp_best(best.logit, best.id);
  if (at_work.tid == 0) step.bests[at_work.cta] = best;
}

#endif

// Units: of 128 columns, that a warp has of a row of the residual.
template <int Units>
__global__ void __launch_bounds__(kThreads, 1) resident_step(const __grid_constant__ ResidentStep step) {
#if __CUDA_ARCH__ >= 900
  const int tid = threadIdx.x;
  const uint32_t base = __ldcg(step.sync);
  float* red = reinterpret_cast<float*>(shared_memory + step.red_at);
  float2* turns = reinterpret_cast<float2*>(shared_memory + step.turns_at);
  ResidentOp* ops = reinterpret_cast<ResidentOp*>(shared_memory + step.ops_at);  // this and the next
  if (tid == 0) {
    const uint32_t full = shared_address(shared_memory + step.barriers_at);
    const int pieces = step.slots * kSlotPieces;
    for (int i = 0; i < pieces + step.slots; ++i) barrier_init(full + 8 * i, i < pieces ? 1 : kConsumerWarps);
    barriers_are_ready();
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  }
  for (int i = tid; i < kRedFloats; i += blockDim.x) red[i] = 0.f;
  if (tid < kWindow * kStripRows) reinterpret_cast<PartBest*>(shared_memory + step.best_at)[tid] = {-INFINITY, 0x7fffffff};
  if (tid == 0) *reinterpret_cast<CarriedState*>(shared_memory + step.carried_at) = {nullptr, base, 0.f, 0, 0};
  if (tid < kZeroBytes / 4) reinterpret_cast<uint32_t*>(shared_memory + step.zeros_at)[tid] = 0;
  for (int i = tid; i < step.rotary_half; i += blockDim.x) turns[i] = turn(*step.position, step.inv_freq[i], step.rotary_factor);
  // The residual of the rows that this CTA owns, which is how kResidual operations divide them.
  const int hidden_strips = (step.hidden + kStripRows - 1) / kStripRows;
  const int owned = first_strip(hidden_strips, blockIdx.x, gridDim.x, step.residual_cta) * kStripRows;
  const int owned_end = min(step.hidden, first_strip(hidden_strips, blockIdx.x + 1, gridDim.x, step.residual_cta) * kStripRows);
  float* residual = reinterpret_cast<float*>(shared_memory + step.residual_at);
  for (int i = owned + 2 * tid; i < owned_end; i += 2 * blockDim.x) {
    const int64_t at = static_cast<int64_t>(*step.token) * step.hidden + i;
    const float first = table_value(step.table, step.table_type, at), second = table_value(step.table, step.table_type, at + 1);
    residual[i - owned] = first, residual[i - owned + 1] = second;
    put_pair(step.h + i / 2, first, second, base + kEmbeddingTag);
  }
  if (blockIdx.x == 0) pad_pairs(step.h, step.hidden, base + kEmbeddingTag, tid);
  for (int i = tid; i < step.op_count * static_cast<int>(sizeof(ResidentStream) / 4); i += blockDim.x) {
    reinterpret_cast<uint32_t*>(shared_memory + step.streams_at)[i] = reinterpret_cast<const uint32_t*>(step.streams)[i];
  }
  __syncthreads();
  for (int i = tid; i < step.op_count; i += blockDim.x) {
    ResidentStream& s = reinterpret_cast<ResidentStream*>(shared_memory + step.streams_at)[i];
    s.begin = first_strip(s.strips, blockIdx.x, gridDim.x, s.first_cta);
    s.end = first_strip(s.strips, blockIdx.x + 1, gridDim.x, s.first_cta);
  }
  if (tid < static_cast<int>(sizeof(StepSequence) / 4)) {
    reinterpret_cast<uint32_t*>(shared_memory + step.sequence_at)[tid] = reinterpret_cast<const uint32_t*>(step.sequence)[tid];
  }
  if (tid < kConsumerThreads) copy_op(ops, step.ops, tid);
  op_is_here();
  __syncthreads();
  if (tid >= kConsumerThreads) {
    give_registers();
    if (tid == kConsumerThreads) produce(step);
    return;
  }
  take_registers();
#pragma unroll 1
  for (int i = 0; i < step.op_count; ++i) {
    const int tid = here().tid;
    volatile CarriedState& carried = *reinterpret_cast<volatile CarriedState*>(shared_memory + step.carried_at);
    const uint32_t base = carried.base;
    ResidentOp* ops = reinterpret_cast<ResidentOp*>(shared_memory + step.ops_at);  // this and the next
    const ResidentOp& op = ops[i & 1];
    if (i + 1 < step.op_count) copy_op(ops + (i + 1 & 1), step.ops + i + 1, tid);
    const ResidentStream& stream = reinterpret_cast<const ResidentStream*>(shared_memory + step.streams_at)[i];
    const int begin = stream.begin, end = stream.end;
    if (op.strips == 0) {
      attend_tasks(step, op, base, reinterpret_cast<const float2*>(shared_memory + step.turns_at));
    } else if (begin < end) {  // a CTA without strips waits for nobody: it could miss words that nobody keeps for it
      float guess = carried.guess;
      Ring ring = {carried.slot, carried.phase, 0};
      if (op.code_pairs != nullptr && op.code_pairs != carried.pairs) {
        // Seen by all after the meeting in stage(); nobody still reads the old ones, since the last operation
        // has ended.
        for (int j = tid; j < 256 * 32; j += kConsumerThreads)
          reinterpret_cast<uint32_t*>(shared_memory + step.pairs_at)[j] = op.code_pairs[j / 32];
      }
      const float factor = stage<Units>(op, base + op.in_tag, shared_memory,
                                        reinterpret_cast<uint32_t*>(shared_memory + step.factors_at),
                                        reinterpret_cast<float2*>(shared_memory + step.norm_at), guess, tid);
      // All have met in stage(), and so read what the last operation left.
      if (tid == 0) carried.guess = guess, carried.pairs = op.code_pairs != nullptr ? op.code_pairs : carried.pairs;
      ring = multiply(step, op, base + op.out_tag, begin, end, factor, ring);
      if (tid == 0) carried.slot = ring.slot, carried.phase = ring.phase;
      for (int window = ring.window; window * kWindow < end - begin; ++window) {
        finish_window(step, op, base + op.out_tag, window, begin, end, factor, tid);
      }
      if (begin == 0 && op.output == ResidentOutput::kResidual) pad_pairs(op.tagged, op.rows, base + op.out_tag, tid);
      if (begin == 0 && op.output == ResidentOutput::kGate) pad_halves(op.halves, op.rows / 2, base + op.out_tag, tid);
    }
    op_is_here();
    consumers_meet();
  }
  put_best(step);
  // The last CTA leaves the counters as the next step wants them.
  if (threadIdx.x == 0 && atomicAdd(step.sync + 1, 1u) == gridDim.x - 1) {
    step.sync[1] = 0;
    step.sync[0] = reinterpret_cast<const CarriedState*>(shared_memory + step.carried_at)->base + kEmbeddingTag + step.op_count;
  }
#endif
}

}  // namespace

const void* resident_kernel(int width) {
  const int units = (width + kUnitColumns * kConsumerWarps - 1) / (kUnitColumns * kConsumerWarps);
  return units <= 1   ? reinterpret_cast<const void*>(&resident_step<1>)
         : units <= 2 ? reinterpret_cast<const void*>(&resident_step<2>)
                      : reinterpret_cast<const void*>(&resident_step<4>);
}

}  // namespace nbl::cuda

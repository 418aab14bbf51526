// The resident kernel's consumers: what a warp does with the records that it finds in the ring (produce.cuh), and with the sums of strips.
#pragma once

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/resident/device.cuh"
#include "kernels/cuda/resident/record_product.cuh"
#include "kernels/cuda/resident/words.cuh"

#if __CUDA_ARCH__ >= 900
namespace nbl::cuda {

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
// chunk and the next: codes of its first half come into the registers of this one's first half while the last records are multiplied, and
// the sums of a strip go to `red` while the next one is. Before these codes the warp waits for the chunk; to ask and go on without it where
// it is not here yet takes more time where products do (ARCHITECTURE.md).
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
    // The record behind which codes of the next chunk are loaded: as late as something is left to be multiplied meanwhile.
    constexpr int kLoadBehind = kInputs == 1 ? kRunRecords - 2 : kRunRecords - kAtOnce - 1;
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
      const unsigned char* next = left > 0 ? records_at + next_slot * slot_bytes : record;  // of the last chunk, itself once more
      finish_windows();
      load_half(record, 1);
      const float done_sum = Product::row_sum(done_sums, lane);
#pragma unroll
      for (int i = 0; i < kInputs; ++i) {
        Product::add(record + i * kAtOnce * Product::kRecordBytes, codes + i * kAtOnce, pairs, inputs[i], lane, sums, [&](int of_input) {
          if (i * kAtOnce + of_input != kLoadBehind) return;
          if (done >= 0) put_sum(place, done, done_sum);
          if (left > 0) await_barrier(full + 8 * kSlotPieces * next_slot, ring.phase ^ (next_slot == 0 ? 1 : 0));
          load_half(next, 0);
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
template <ResidentFormats Formats>
__device__ __forceinline__ Ring multiply(const ResidentStep& step, const ResidentOp& op, uint32_t tag, int begin, int end, float factor,
                                         Ring ring) {
  if constexpr (has_codes(Formats, Codes::kInt4)) {
    if (op.format == resident_format(Codes::kInt4, 4, false)) {
      return consume<Codes::kInt4, 4, false>(step, op, tag, begin, end, factor, ring);
    }
  }
#define NBL_CONSUME(codes, group_blocks, wide) \
  case resident_format(codes, group_blocks, wide): \
    if constexpr (has_codes(Formats, codes)) return consume<codes, group_blocks, wide>(step, op, tag, begin, end, factor, ring); \
    break;
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

}  // namespace nbl::cuda
#endif

// The resident kernel (program.h). Each file that includes this compiles it for some formats.
//
// A CTA owns a range of whole strips of every matrix: a contiguous range of records, so that its share of an
// operation is one stream of bytes. The producer cuts it into chunks of up to slot_bytes (chunk_records
// records) and copies each when a slot of the ring is free, in two pieces, a bulk copy each; an mbarrier a
// piece says full, one a slot says empty. Of a chunk of 8 P records, consumer warp w multiplies records
// P w .. P w + P - 1. A warp keeps the sums of one strip in registers and writes them, when the strip ends,
// to `red`, where kWindow strips wait; when all warps have left a window its strips are summed over the
// warps in order, so that the result is the same from run to run. Bound: all weights and the keys and
// values, once, over the memory's bandwidth.
#pragma once

#include "kernels/cuda/resident/attention.cuh"
#include "kernels/cuda/resident/consume.cuh"
#include "kernels/cuda/resident/produce.cuh"
#include "kernels/cuda/resident/program.h"
#include "kernels/cuda/resident/stage.cuh"

namespace nbl::cuda {
namespace {

#if __CUDA_ARCH__ >= 900
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
// Formats: that its operations may have.
template <int Units, ResidentFormats Formats>
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
      const float factor = stage<Units, Formats>(op, base + op.in_tag, shared_memory,
                                                 reinterpret_cast<uint32_t*>(shared_memory + step.factors_at),
                                                 reinterpret_cast<float2*>(shared_memory + step.norm_at), guess, tid);
      // All have met in stage(), and so read what the last operation left.
      if (tid == 0) carried.guess = guess, carried.pairs = op.code_pairs != nullptr ? op.code_pairs : carried.pairs;
      ring = multiply<Formats>(step, op, base + op.out_tag, begin, end, factor, ring);
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

template <ResidentFormats Formats>
const void* resident_kernel_with(int units) {
  return units <= 1   ? reinterpret_cast<const void*>(&resident_step<1, Formats>)
         : units <= 2 ? reinterpret_cast<const void*>(&resident_step<2, Formats>)
                      : reinterpret_cast<const void*>(&resident_step<4, Formats>);
}

}  // namespace nbl::cuda

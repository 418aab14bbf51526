// CpuPlan: a decoder made executable. Each step is one job of the pool; this header is what its threads
// share.
//
// A step of one token (decode) lets every thread norm and quantize the whole row for itself: a microsecond of
// work that saves a barrier. With more tokens the threads share that work, tile by tile. The matrices are
// divided by panels (portions.h).
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/activations.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/kv_cache.h"
#include "kernels/cpu/memory.h"
#include "kernels/cpu/pool.h"
#include "kernels/cpu/portions.h"
#include "kernels/cpu/weight.h"

namespace nbl {
namespace cpu {

// Steps that ask for the exact values of at most kMostTop logits, in at most kTopRows rows, need not read all
// of the head.
constexpr int64_t kMostTop = 256, kTopRows = 8;

// Where there are fewer (key head, query tile) pairs than threads, in a step of at most kSplitTokens tokens,
// positions are split into up to kMostPieces pieces.
constexpr int64_t kSplitTokens = 8, kMostPieces = 16;

// What a plan's buffers must hold.
struct PlanShape {
  int64_t tokens = 0, sequences = 0, logit_rows = 0;
  int64_t hidden = 0, query_width = 0, kv_width = 0, intermediate = 0;
  int64_t head_dim = 0, rotary_half = 0;
  int64_t positions = 0, blocks = 0;  // the widest packed input
  int threads = 1;

  // Weighted values, then their maximum and total.
  int64_t piece_stride() const { return (head_dim + 15) / 16 * 16 + 16; }
};

// What one thread has to itself.
struct ThreadScratch {
  ActBuffer input;            // one token
  float* rows = nullptr;      // [8][widest input]
  float* partial = nullptr;   // [min(tokens, 512) + 8][32]
  float* scores = nullptr;    // [8][kKeyBlock]
  float* queries = nullptr;   // [8][head_dim]
  float* attended = nullptr;  // [8][head_dim rounded up to 16]
  float* top = nullptr;  // [kTopRows][kMostTop], the largest lower bounds of this thread's logits; -inf: none
  float* merged = nullptr;  // [threads * kMostTop]
};

// Everything a step writes to, all in one block of memory.
struct PlanScratch {
  float* hidden = nullptr;    // [tokens][hidden], the residual stream
  float* qkv = nullptr;       // [tokens][query_width + 2 * kv_width]
  float* attended = nullptr;  // [tokens][query_width]
  float* gate_up = nullptr;   // [tokens][2 * intermediate]
  float* output = nullptr;    // [tokens][hidden]
  float* cosine = nullptr;    // [tokens][rotary_half]
  float* sine = nullptr;
  float* inv_freq = nullptr;       // [rotary_half]
  int64_t* position = nullptr;     // [tokens]
  int32_t* sequence = nullptr;     // [tokens]
  int64_t* logit_token = nullptr;  // [logit_rows]
  int64_t* logit_top = nullptr;    // [logit_rows], how many of the largest must be exact; 0: all
  int64_t* first_token = nullptr;  // [sequences]
  CpuKvCache** caches = nullptr;   // [sequences]
  float* pieces =
      nullptr;      // [min(tokens, kSplitTokens) * heads][kMostPieces][piece_stride()], attention in parts
  ActBuffer input;  // all tokens
  ThreadScratch* thread = nullptr;  // [threads]

  void carve(Carver& carver, const PlanShape& shape);
};

class CpuPlan final : public Plan {
 public:
  CpuPlan(std::shared_ptr<const Decoder> decoder, const PlanLimits& limits, const Kernels& kernels,
          CpuPrecision precision, std::shared_ptr<Pool> pool)
      : decoder_(std::move(decoder)),
        limits_(limits),
        kernels_(kernels),
        precision_(precision),
        pool_(std::move(pool)),
        portions_(pool_->threads()) {}

  static PlanShape shape_of(const DecoderConfig& config, const PlanLimits& limits, int threads);
  static int64_t bytes_of(PlanShape shape);

  Status prepare();  // checks the decoder and takes the memory
  Status step(const Batch& batch) override;
  int64_t scratch_bytes() const override { return memory_.bytes(); }
  int64_t outliers() const override { return outliers_.load(std::memory_order_relaxed); }

 private:
  friend class StepWorker;
  Status check_decoder() const;
  Status check_batch(const Batch& batch) const;
  void lay_out(const Batch& batch);

  std::shared_ptr<const Decoder> decoder_;
  PlanLimits limits_;
  const Kernels& kernels_;
  CpuPrecision precision_;
  std::shared_ptr<Pool> pool_;
  PlanShape shape_;
  Memory memory_;
  PlanScratch scratch_;

  // Of the step that runs.
  const Batch* batch_ = nullptr;
  int64_t tokens_ = 0, logit_rows_ = 0;
  std::atomic<bool> stop_{false};
  std::atomic<int64_t> outliers_{0};
  std::vector<std::atomic<int64_t>> next_item_;  // [layers], attention work not yet taken
  Portions portions_;
  uint64_t matrices_ = 0;     // of a step: what it uses of the rounds of `portions_`
  uint64_t first_round_ = 0;
};

}  // namespace cpu
}  // namespace nbl

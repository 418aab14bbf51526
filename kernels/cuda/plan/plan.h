// A Plan on the GPU: scratch memory for its limits (plan_memory.cc), the step as a sequence of launches on the plan's own stream
// (plan.cc), and steps that run ahead of the host (plan_flights.cc).
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/attention/kv_cache.h"
#include "kernels/cuda/device_decoder.h"
#include "kernels/cuda/device_traits.h"
#include "kernels/cuda/matmul/matmul.h"
#include "kernels/cuda/matmul/unpacked_matmul.h"
#include "kernels/cuda/resident/program.h"
#include "kernels/cuda/sampling/draws.h"

namespace nbl::cuda {

// Rows from which a matrix is unpacked for cuBLAS, at least, and where no matrix is f16. By mma.sync 64 rows take as long as this way.
// By wgmma, measured on an H100 with Mistral-7B's shape, in ms this way and by wgmma: f16 640 rows 32.8 and 29.5, 768 rows 34.4 and
// 35.7; AWQ 1024 rows 31.7 and 27.1, 1280 rows 36.0 and 37.4; NF4 512 rows 22.8 and 17.9, 1024 rows 31.9 and 31.6; int8 with float32
// scales 1024 rows 33.3 and 32.9.
inline bool prefers_wgmma(const DeviceTraits& traits) { return traits.sm == 90 && traits.kernel != CudaKernel::kCublas; }
inline int unpack_from(const DeviceTraits& traits) { return prefers_wgmma(traits) ? 641 : 65; }
inline int unpack_codes_from(const DeviceTraits& traits) { return prefers_wgmma(traits) ? 1025 : unpack_from(traits); }
constexpr int64_t kGateUpRows = 128;  // rows of gate and up that pass through memory at a time, where they must: a multiple of 64
constexpr int kDecodeRows = 64;    // rows up to which a step of single tokens is captured as a graph

constexpr int64_t kTokensPerSplit = 32;  // fewer positions than this are not worth a CTA of their own

// What the host uploads for a step, at fixed places.
struct InputLayout {
  int64_t sequences, tokens, positions, sequence_of, tiles, logit_list, inv_freq, total;
  InputLayout(int64_t rows, int64_t sequence_count, int64_t logit_rows, int64_t rotary_half) {
    int64_t at = 0;
    auto take = [&](int64_t bytes) {
      const int64_t here = at;
      at += pad_up(bytes, 16);
      return here;
    };
    sequences = take(sequence_count * static_cast<int64_t>(sizeof(StepSequence)));
    tokens = take(rows * 4);
    positions = take(rows * 4);
    sequence_of = take(rows * 4);
    tiles = take((rows / kQueryTile + sequence_count) * static_cast<int64_t>(sizeof(QueryTile)));
    logit_list = take(logit_rows * 4);
    inv_freq = take(sequence_count * rotary_half * 4);
    total = at;
  }
};

// Sizes of everything a plan takes, from the limits alone.
struct ScratchSizes {
  int64_t rows = 0, padded_rows = 0;  // rows of a step; padded to the 64 that a matrix kernel may read
  int64_t hidden_pad = 0, query_pad = 0, inner_pad = 0;
  int64_t qkv_width = 0;
  int64_t unpacked_bytes = 0;         // f16 copy of a slice of one matrix, for cuBLAS; there are two
  int64_t gate_up_bytes = 0;
  int64_t partial_bytes = 0;
  int64_t split_rows = 0;             // sequences of a decode step
  int max_splits = 1;
  int64_t input_bytes = 0;            // what the host uploads for a step
};
// `unpacks`: steps of many rows go by cuBLAS, which wants_cublas() asked for and which was found.
ScratchSizes scratch_sizes(const DecoderConfig& config, const PlanLimits& limits, const DeviceTraits& traits, bool unpacks);
// Whether there can be steps of so many rows; `from`: of unpack_rows().
bool wants_cublas(const PlanLimits& limits, const DeviceTraits& traits, int from);
// Rows of a step from which the matrices of blocks are unpacked. all_codes: none of them is f16.
inline int unpack_rows(const DeviceTraits& traits, bool all_codes) { return all_codes ? unpack_codes_from(traits) : unpack_from(traits); }

inline int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

class CudaPlan final : public Plan {
 public:
  static Result<std::unique_ptr<Plan>> create(std::shared_ptr<const Decoder> decoder, std::shared_ptr<const DeviceEmbedding> embedding,
                                              const PlanLimits& limits, const DeviceTraits& traits);
  ~CudaPlan() override;
  Status step(const Batch& batch) override;
  bool can_draw(const Draw& draw) const override { return draws_ != nullptr && draws_->can_draw(draw); }
  Status begin(const Batch& batch) override;
  bool can_follow() const override;
  Status follow() override;
  Status finish(DrawnToken* drawn) override;
  void abandon() override;
  int64_t outliers() const override;
  std::vector<StepKernel> kernels() const override;
  int64_t scratch_bytes() const override {
    return scratch_.bytes() + decoder_->bytes() + (resident_ != nullptr ? resident_->bytes() : 0);
  }
  // What a plan with these limits takes on the device, before there is one.
  static int64_t bytes_for(const DecoderConfig& config, const std::vector<MatrixSpecs>& matrices, const PlanLimits& limits,
                           const DeviceTraits& traits);

 private:
  CudaPlan() = default;
  struct GraphKey {
    int rows, logit_rows, splits;
    bool draws, half_caches, byte_caches;
    bool operator<(const GraphKey& o) const {
      return std::tie(rows, logit_rows, splits, draws, half_caches, byte_caches) <
             std::tie(o.rows, o.logit_rows, o.splits, o.draws, o.half_caches, o.byte_caches);
    }
  };

  Status reserve();
  bool wants_resident() const { return traits_.kernel != CudaKernel::kLaunches && traits_.kernel != CudaKernel::kTiles; }
  Status make_resident();
  bool has_codes_only() const;
  std::string resident_needs() const;
  int64_t lay_out(const DecoderConfig& config, unsigned char* base, unsigned char** draw_scratch, void** unpack_buffers);
  Status check(const Batch& batch) const;
  Status prepare(const Batch& batch);
  void choose_splits(int64_t longest);
  Status upload(const Batch& batch);
  Status run(const Batch& batch);
  Status launch(const std::atomic<bool>* cancel);
  Status download(const Batch& batch);
  Status replay(const GraphKey& key);
  Status launch_all(const std::atomic<bool>* cancel);
  Status launch_blocks(const std::atomic<bool>* cancel);
  Status launch_resident();
  Status fly();
  Status launch_block(const DeviceBlock& block);
  Status launch_attention(const DeviceBlock& block);
  Status launch_logits();
  Status round_input(const DeviceLinear& linear, void* x, int64_t x_pad, int rows);
  Status multiply(const DeviceLinear& linear, const void* x, int64_t x_pad, int rows, const Output& output);
  Status launch_gate_up(const DeviceBlock& block);
  Status launch_separate_gate_up(const DeviceBlock& block);
  Status launch_unpacked_gate_up(const DeviceBlock& block);
  Status clear_padding(int rows);
  // How the kernel that multiplies this many rows reads them.
  ActivationLayout layout(int64_t pad, int rows) const {
    const int from = blocked_from(traits_.sm);
    return {pad, from > 0 && rows >= from && !unpacks(rows)};
  }
  bool unpacks(int rows) const { return unpacked_ != nullptr && rows >= unpack_from_; }

  std::unique_ptr<DeviceDecoder> decoder_;
  PlanLimits limits_;
  DeviceTraits traits_;
  ScratchSizes sizes_;
  int unpack_from_ = 1;               // rows, where there is unpacked_
  Stream stream_;

  DeviceBuffer scratch_;
  std::unique_ptr<UnpackedMatmul> unpacked_;  // null: no step has the rows for it, or there is no cuBLAS
  PinnedBuffer host_input_, host_logits_;
  // Parts of scratch_.
  unsigned char* input_ = nullptr;
  float *h_ = nullptr, *qkv_ = nullptr, *logits_ = nullptr, *part_ = nullptr;
  float2 *turns_ = nullptr, *part_state_ = nullptr;
  void *x_ = nullptr, *attended_ = nullptr, *act_ = nullptr, *q_ = nullptr, *gate_up_ = nullptr;
  SplitScratch split_;
  unsigned long long* outliers_ = nullptr;

  // The step that is being prepared or run.
  StepRows rows_;
  const float* step_inv_freq_ = nullptr;
  const QueryTile* tiles_ = nullptr;
  const int32_t* logit_list_ = nullptr;
  int tile_rows_ = kQueryTile, tile_count_ = 0, logit_rows_ = 0, splits_ = 1;
  bool resident_step_ = false;   // the resident kernel runs this step
  bool decode_ = false;

  std::unique_ptr<ResidentProgram> resident_;  // null: this device or decoder is not for it

  std::map<GraphKey, cudaGraphExec_t> graphs_;  // null: seen once, captured the next time

  Event block_begins_[2];                 // of the last two blocks launched, when a step can be cancelled

  // Drawing, and steps that were begun and not finished yet.
  std::unique_ptr<Draws> draws_;          // null: the limits allow none
  bool drawing_ = false;                  // the prepared step draws
  struct Flight {
    Event end;
    int64_t started_ns = 0;
  };
  Flight flights_[kMostInFlight];         // a ring: those of steps finished_steps_ .. begun_steps_ - 1 behind the last upload
  int64_t begun_steps_ = 0, finished_steps_ = 0;
  struct Flying {
    CudaKvCache* cache;
    int64_t count;                        // tokens of the next step to be finished
  };
  std::vector<Flying> flying_;            // the sequences of these steps
};

}  // namespace nbl::cuda

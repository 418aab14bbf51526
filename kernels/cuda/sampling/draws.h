// Draws: what one plan keeps to draw tokens on the device: its scratch, the ring of drawn ids, and the upload of what the
// draws of a step need. Nothing is uploaded for a step that follows another.
#pragma once

#include <memory>

#include "kernels/cuda/attention/kv_cache.h"
#include "kernels/cuda/sampling/sampling.h"

namespace nbl::cuda {

class Draws {
 public:
  // Device memory that create() wants, zeroed.
  static int64_t scratch_bytes(int64_t max_draws, int64_t vocab, int shared_optin);
  static Result<std::unique_ptr<Draws>> create(unsigned char* scratch, int64_t max_draws, int64_t vocab, int shared_optin);

  bool can_draw(const Draw& draw) const;
  // Uploads what the draws of a batch need; its first draw is of logit row 0, counting the rows of sequences without one.
  Status upload(const Batch& batch, cudaStream_t stream);
  // Draws for every sequence of the batch that was uploaded, or again for those that follow it.
  Status launch(const StepRows& step, bool advance, const float* logits, cudaStream_t stream, RowBests bests = {}) const;
  // Whether what sequence `row` draws is put down in its cache's history.
  bool records(int64_t row) const { return host_states_.as<DrawState>()[row].history != nullptr; }
  // What sequence `row` drew in the step that is `steps` behind the last upload, once that has been waited for.
  int32_t id(int64_t steps, int64_t row) const { return ring_.as<int32_t>()[steps % kRingSteps * scratch_.max_draws + row]; }

 private:
  Draws() = default;
  Status fill(const BatchSequence& sequence, int64_t row, int32_t logit_row, cudaStream_t stream);
  Status copy(const void* from, int64_t bytes, void* to, cudaStream_t stream);

  int64_t vocab_ = 0;
  DrawPlan plan_;
  DrawScratch scratch_;
  DrawBias* biases_ = nullptr;       // [max_draws][kMostBiases]
  PinnedBuffer host_states_, staging_, ring_;
  int64_t staged_ = 0;               // bytes of staging_ that the stream may still be reading
};

}  // namespace nbl::cuda

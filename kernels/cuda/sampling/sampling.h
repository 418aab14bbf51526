// The kernel that draws the next token of every sequence of a step where the logits are, and its view of a Draw.
//
// After a draw the kernel turns the step's input into that of the following step: token, position, length, count of
// draws. So a step that follows another needs nothing from the host. The drawn ids go to a ring in page-locked memory.
#pragma once

#include "kernels/backend.h"
#include "kernels/cuda/plan/step.h"

namespace nbl::cuda {

constexpr int kMostForbidden = 16;   // more of them: the host draws
constexpr int64_t kMostVocabulary = 1 << 19;  // the sum of so many weights of 2^44 fits 64 bits
constexpr float kLargest = 3.402823466e38f;   // that is finite
constexpr int kRingSteps = 2 * Plan::kMostInFlight;

struct DrawBias {
  int32_t id, place;                 // in this order: place is where it stood in the caller's list
  float value;
};

// One row of a step, in device memory. Everything is as in kernels/draw.h.
struct DrawState {
  int32_t logit_row = -1;            // its row of the logits; < 0: nothing is drawn
  bool greedy = true;
  float scale = 1, scale_low = 0;    // log2(e) / temperature, in two parts
  int32_t top_k = 0;
  double top_p = 1, typical_p = 1;
  uint64_t min_weight = 0;           // min_p in units of the best token's weight
  float repetition = 1, presence = 0, frequency = 0;
  int32_t window = 0;
  int32_t answer_start = 0;
  int32_t token_count = 0;           // tokens in history
  int32_t* history = nullptr;        // the sequence; null: no penalty looks at it
  const DrawBias* bias = nullptr;    // by id
  int32_t bias_count = 0;
  int32_t forbidden_count = 0;
  int32_t forbidden[kMostForbidden] = {};
  uint64_t forbidden_until = 0;
  uint64_t seed = 0, step = 0;
  int32_t ring_step = 0;             // where in the ring the next id goes
};

// Where the kernel works.
struct DrawScratch {
  DrawState* states = nullptr;       // [max_draws]
  uint32_t* occurrences = nullptr;   // [max_draws][vocab], zero between draws
  float* logits = nullptr;           // [max_draws][vocab] a copy to change; null: it fits the multiprocessors' own memory
  int32_t* ring = nullptr;           // page-locked [kRingSteps][max_draws]
  int max_draws = 0;
};

// The largest logit of each part of a row and its id (2^31-1: none is above minus infinity), as a kernel left them that has made all
// logits; of a part with NaN or plus infinity, plus infinity. A greedy draw that changes no logit needs no more.
struct PartBest {
  float logit;
  int32_t id;
};
struct RowBests {
  const PartBest* parts = nullptr;   // null: nobody has looked
  int count = 0;
};

// How the kernel runs on this device with rows of this length.
struct DrawPlan {
  bool cluster = false;
  bool copies = false;               // DrawScratch::logits is needed
  int shared_bytes = 0;
};
DrawPlan plan_draw(int64_t vocab, int shared_optin);

// Draws for the first `rows` states. With `advance` (one token a sequence) the input of the step becomes that of the next.
Status draw_tokens(const DrawScratch& scratch, const DrawPlan& plan, const StepRows& step, int rows, bool advance, const float* logits,
                   int64_t vocab, cudaStream_t stream, RowBests bests = {});
Status prepare_sampling(int shared_optin);

}  // namespace nbl::cuda

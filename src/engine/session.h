// Session: one token sequence of a model: its KV cache, its sampling options, the generation that is running.
//
// One caller at a time (try_acquire() tells a second one that it is busy), from any thread; cancel() from any thread at
// any moment. After create() a decode step allocates no memory.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/status.h"
#include "engine/model.h"
#include "engine/sampler.h"
#include "engine/text_stream.h"
#include "kernels/backend.h"

namespace nbl {

struct SessionOptions {
  int64_t context = 0;                 // positions it may hold; 0: default_context()
  DType kv_type = DType::kF16;
  int64_t prefill_chunk = 0;           // tokens computed at a time: bounds scratch memory and how long a cancel takes; 0: the backend's
  enum class Logits : uint8_t { kLast, kAll } logits = Logits::kLast;
};

struct GenerationOptions {
  SamplingOptions sampling;
  int64_t max_length = 0;              // prompt and answer together; 0: the context
  int64_t min_new_tokens = 0;          // end-of-text is not drawn before
  bool ignore_eos = false;
  bool skip_special = true;            // special tokens give no text
  std::vector<int32_t> stop_ids;
  std::vector<std::string> stop_strings;
  std::vector<std::pair<int32_t, float>> bias;
};

enum class StopReason : int32_t { kNone = 0, kEos = 1, kStopId = 2, kStopString = 3, kMaxTokens = 4, kContext = 5, kCancelled = 6 };

// One generated token: its id and the text that became complete with it (whole characters; often empty).
struct GeneratedToken {
  int32_t id = -1;
  std::string text;
};

struct SessionCounters {
  int64_t prompt_tokens = 0;           // appended since creation or reset
  int64_t generated_tokens = 0;        // of the running or last generation
  int64_t reused_tokens = 0;           // of the last append_chat: found in the cache already
  int64_t prefill_ns = 0, prefill_tokens = 0;  // of the last append
  int64_t decode_ns = 0, decode_tokens = 0;    // of the running or last generation
};

// The context of a session that asks for none: the smaller of 4096 and what the model was trained for.
int64_t default_context(const DecoderConfig& config);

class Session {
 public:
  static Result<std::shared_ptr<Session>> create(std::shared_ptr<Model> model, const SessionOptions& options);
  ~Session();

  bool try_acquire() { return !busy_.exchange(true, std::memory_order_acquire); }
  void release() { busy_.store(false, std::memory_order_release); }

  // To change them: the next token is drawn by the new ones, and so is one that could not be drawn.
  GenerationOptions& generation() {
    abandon_steps();
    if (state_ == State::kFailed) state_ = State::kGenerating;
    return generation_;
  }
  const GenerationOptions& generation() const { return generation_; }
  const SessionOptions& options() const { return options_; }
  Model& model() const { return *model_; }

  // Runs the tokens through the model (prefill). Stops a running generation. On failure the session holds what was
  // complete before; ids outside the vocabulary are kArgument, more than the context kContextFull.
  Status append(const int32_t* ids, int64_t count);
  Status append_text(std::string_view text, const EncodeOptions& options);
  // Renders the conversation by the chat template and makes it the session's sequence, keeping the part of the cache
  // that is the same: a turn costs what it adds.
  Status append_chat(const Json& request);

  // Arms a generation of at most max_tokens (< 0: up to the context). kState when nothing was appended.
  Status begin(int64_t max_tokens);
  // Computes the next token if none is waiting; kDone when the generation has ended. `token` stays valid until the next
  // call; take() then lets go of it. A token not taken is given again. Where none can be drawn (kNotFinite; kArgument: biases
  // forbid all) the generation is over and says so again; begin(), append() and truncate() go on from the tokens there are.
  Status next(const GeneratedToken** token);
  void take();
  // append_text + begin + next until done, as one piece of text.
  Result<std::string> generate(std::string_view prompt, const EncodeOptions& options, int64_t max_tokens);

  void cancel() { cancel_.store(true, std::memory_order_relaxed); }
  // Keeps the first `count` tokens; 0 empties the session.
  Status truncate(int64_t count);

  const std::vector<int32_t>& tokens() const { return tokens_; }
  int64_t context() const { return context_; }
  StopReason stop_reason() const { return stop_reason_; }
  // False as soon as it was cancelled: next() will say so.
  bool generating() const { return state_ == State::kGenerating && !cancel_.load(std::memory_order_relaxed); }
  const SessionCounters& counters() const { return counters_; }
  int64_t chunk() const { return chunk_; }         // tokens of a prompt computed at a time
  int64_t bytes() const;               // KV cache and scratch

  // The logits that the last token was drawn from, or after an append those that follow it: [rows, vocab_size]; one row
  // unless Logits::kAll. kState if none.
  Status logits(const float** data, int64_t* rows);
  // Log probability of each id, given everything before it. The first one of an empty session has nothing before it
  // and gives NaN. The ids are appended. kNotFinite where the logits are no numbers.
  Status score(const int32_t* ids, int64_t count, float* log_probability);
  // The largest logits of the last row that logits() gives, best first, with their log probabilities.
  Status top(int64_t count, int32_t* ids, float* log_probability);
  Json describe() const;

  // For Batch: whether a step is due, its input for that plan, and what it gave.
  bool wants_step() const { return generating() && !has_ready_ && !untold_; }
  bool can_draw() const { return can_draw_; }      // true after a prefill: draw() at once, nothing to run
  BatchSequence step_input(const Plan& plan);
  // logits [vocab_size] of a step that took `ns`: keeps them and draws the next token.
  Status accept_step(const float* logits, int64_t ns);
  void accept_drawn(const DrawnToken& drawn);      // the step has drawn
  Status draw();                                   // the next token from the logits in hand, made ready for next()

 private:
  enum class State : uint8_t { kIdle, kGenerating, kEnded, kFailed };
  Session() = default;
  Status forward(const int32_t* ids, int64_t count, int64_t call_length, int64_t exact_top);
  int64_t exact_top() const;
  Status ensure_exact_logits();
  Status extend(const int32_t* ids, int64_t count);
  Status check_ids(const int32_t* ids, int64_t count) const;
  Status ensure_logits();
  int64_t prepare_last();
  void stop_generating();
  void end(StopReason reason);
  bool stops_at(int32_t id, StopReason* reason) const;
  Plan* plan_for_rows(int64_t rows, Status* status);
  Draw next_draw() const;
  bool draws_on(const Plan& plan, const Draw& draw) const;
  int64_t most_tokens() const;
  Status draw_on_device(const Draw& draw);
  void abandon_steps();
  void accept_id(int32_t id);
  static Status not_finite(int64_t position);
  void make_ready();

  std::shared_ptr<Model> model_;
  std::shared_ptr<const Model::Placement> placement_;
  std::shared_ptr<const Decoder> decoder_;   // of the placement
  SessionOptions options_;
  GenerationOptions generation_;
  int64_t context_ = 0;
  int64_t chunk_ = 0;
  std::unique_ptr<KvCache> cache_;
  std::unique_ptr<Plan> plan_;
  std::unique_ptr<Plan> rows_plan_;          // for score() and Logits::kAll, made when first needed
  int64_t rows_limit_ = 0;
  Batch batch_;                              // of one sequence; kept so that a step allocates nothing
  std::unique_ptr<Sampler> sampler_;
  std::unique_ptr<TextStream> stream_;

  std::vector<int32_t> tokens_;              // the sequence; the last one may not be in the cache yet
  std::vector<float> last_logits_;           // [vocab_size] after the last token in the cache; valid if readable_
  std::vector<float> all_logits_;            // [rows, vocab_size] with Logits::kAll
  int64_t all_rows_ = 0;
  bool readable_ = false;
  bool exact_ = false;                       // last_logits_ are exact everywhere, not only at the top
  bool want_exact_ = false;                  // somebody has read logits in this generation: keep them exact
  bool can_draw_ = false;                    // last_logits_ follow the end of the sequence
  State state_ = State::kIdle;
  Status failure_;                           // of State::kFailed
  bool finishing_ = false;                   // the last token waits to be taken
  bool untold_ = false;                      // the last token of the sequence has no text yet: make_ready() is due
  bool stream_is_right_ = true;              // stream_ has taken every token of the answer but the untold one
  bool has_ready_ = false;
  GeneratedToken ready_;
  StopReason stop_reason_ = StopReason::kNone;
  int64_t batch_exact_top_ = 0;              // what step_input() asked for
  Draw batch_draw_;
  int64_t steps_in_flight_ = 0;              // of plan_: they run ahead of what the caller has been given
  int64_t answer_start_ = 0;
  int64_t message_start_ = -1;  // tokens behind which a chat's answer begins; -1: they are text to go on with
  int64_t max_tokens_ = 0;
  SessionCounters counters_;
  std::atomic<bool> cancel_{false};
  std::atomic<bool> busy_{false};
};

}  // namespace nbl

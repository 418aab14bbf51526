#include "engine/session.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "engine/chat_ids.h"
#include "engine/clock.h"
#include "model/estimate.h"
#include "text/chat_request.h"

namespace nbl {
namespace {

constexpr int64_t kDefaultContext = 4096;
constexpr int64_t kRowsScratchBytes = 64ll << 20;  // for logits of many rows at once
constexpr int64_t kMostExactTop = 256;             // beyond that, all logits are asked for
constexpr int64_t kStepsAhead = 2;                 // one is waited for while the next one stands in line

// Logits::kAll for as long as it lives.
class AllLogits {
 public:
  explicit AllLogits(SessionOptions& options) : options_(options), wanted_(options.logits) {
    options.logits = SessionOptions::Logits::kAll;
  }
  ~AllLogits() { options_.logits = wanted_; }

 private:
  SessionOptions& options_;
  SessionOptions::Logits wanted_;
};

// A cancel ends a generation, it does not take away the logits of the tokens that it left: it waits for as long as this lives.
class WithoutCancel {
 public:
  explicit WithoutCancel(std::atomic<bool>& cancel) : cancel_(cancel), cancelled_(cancel.exchange(false, std::memory_order_relaxed)) {}
  ~WithoutCancel() {
    if (cancelled_) cancel_.store(true, std::memory_order_relaxed);
  }

 private:
  std::atomic<bool>& cancel_;
  bool cancelled_;
};

// A session that there is no memory for, with what makes it smaller.
Status about_scratch(Status refusal, const PlanLimits& limits) {
  if (refusal.code() != Code::kNoMemory && refusal.code() != Code::kNoDeviceMemory) return refusal;
  refusal.in("a session with a context of " + std::to_string(limits.max_context) + " that takes prompts by " +
             std::to_string(limits.max_tokens) + " tokens (a shorter context or a smaller prefill_chunk takes less)");
  refusal.with("context", limits.max_context).with("prefill_chunk", limits.max_tokens);
  return refusal;
}

}  // namespace

int64_t default_context(const DecoderConfig& config) {
  return config.max_position_embeddings > 0 ? std::min(kDefaultContext, config.max_position_embeddings) : kDefaultContext;
}

Result<std::shared_ptr<Session>> Session::create(std::shared_ptr<Model> model, const SessionOptions& options) {
  std::shared_ptr<Session> session(new Session());
  NBL_RETURN_IF_ERROR(model->enter());
  session->model_ = std::move(model);  // from here on the destructor leaves the model
  Model& m = *session->model_;
  session->placement_ = m.placement();
  session->decoder_ = session->placement_->decoder;
  const Backend& backend = *session->placement_->backend;
  session->options_ = options;
  session->context_ = options.context > 0 ? options.context : default_context(m.config());
  session->chunk_ = std::min(options.prefill_chunk > 0 ? options.prefill_chunk : backend.prefill_chunk(), session->context_);
  session->generation_.sampling = m.default_sampling();

  auto cache = backend.make_kv_cache(*session->decoder_, {session->context_, options.kv_type});
  if (!cache.ok()) return about_kv_type(cache.status());
  session->cache_ = std::move(cache).value();
  PlanLimits limits;
  limits.max_tokens = session->chunk_;
  limits.max_context = session->context_;
  limits.max_draws = 1;
  auto plan = backend.compile(session->decoder_, limits);
  if (!plan.ok()) return about_scratch(plan.status(), limits);
  session->plan_ = std::move(plan).value();

  const int64_t vocab_size = m.config().vocab_size;
  const int64_t affordable = std::max<int64_t>(1, kRowsScratchBytes / (vocab_size * static_cast<int64_t>(sizeof(float))));
  session->rows_limit_ = std::min(session->chunk_, affordable);
  session->sampler_ = std::make_unique<Sampler>(vocab_size);
  session->last_logits_.resize(vocab_size);
  session->tokens_.reserve(session->context_ + 1);
  session->batch_.cancel = &session->cancel_;
  session->batch_.sequences.resize(1);
  // A token's text is a few bytes; reserving keeps a decode step free of allocations in all but odd cases.
  session->ready_.text.reserve(256);
  return session;
}

Session::~Session() {
  abandon_steps();
  cache_.reset();
  plan_.reset();
  rows_plan_.reset();
  if (model_) model_->leave();
}

int64_t Session::bytes() const {
  return cache_->bytes() + plan_->scratch_bytes() + (rows_plan_ ? rows_plan_->scratch_bytes() : 0);
}

// ---- running tokens through the model

Plan* Session::plan_for_rows(int64_t rows, Status* status) {
  if (rows <= 1) return plan_.get();
  if (!rows_plan_) {
    PlanLimits limits;
    limits.max_tokens = rows_limit_;
    limits.max_logit_rows = rows_limit_;
    limits.max_context = context_;
    auto plan = placement_->backend->compile(decoder_, limits);
    if (!plan.ok()) {
      *status = plan.status();
      return nullptr;
    }
    rows_plan_ = std::move(plan).value();
  }
  return rows_plan_.get();
}

// Runs ids[0, count) behind what the cache holds and leaves the last one's logits (all of them with Logits::kAll).
Status Session::forward(const int32_t* ids, int64_t count, int64_t call_length, int64_t exact_top) {
  abandon_steps();
  const bool all = options_.logits == SessionOptions::Logits::kAll && count > 1;
  const int64_t vocab_size = decoder_->config.vocab_size;
  all_rows_ = 0;
  can_draw_ = readable_ = false;
  if (all) all_logits_.resize(static_cast<size_t>(count * vocab_size));
  Status status;
  Plan* plan = plan_for_rows(all ? 2 : 1, &status);
  if (!plan) return status;
  const int64_t chunk = all ? rows_limit_ : chunk_;
  for (int64_t done = 0; done < count;) {
    if (cancel_.load(std::memory_order_relaxed)) return Status(Code::kCancelled, "cancelled");
    const int64_t now = std::min(chunk, count - done);
    BatchSequence& sequence = batch_.sequences[0];
    sequence = {};
    sequence.cache = cache_.get();
    sequence.tokens = ids + done;
    sequence.token_count = now;
    sequence.call_length = call_length;
    sequence.exact_top = exact_top;
    sequence.logit_rows = all ? now : done + now == count ? 1 : 0;
    batch_.logits = all ? all_logits_.data() + done * vocab_size : last_logits_.data();
    NBL_RETURN_IF_ERROR(plan->step(batch_));
    done += now;
    if (all) all_rows_ = done;
  }
  if (all) std::copy(all_logits_.end() - vocab_size, all_logits_.end(), last_logits_.begin());
  can_draw_ = readable_ = true;
  exact_ = exact_top == 0;
  return {};
}

// How many of the largest logits the next draw looks at; 0: at all of them. A penalty only lowers the logits of tokens
// that occurred, so the best k of the others are among the best k + occurred.
int64_t Session::exact_top() const {
  const SamplingOptions& sampling = generation_.sampling;
  if (want_exact_ || !generation_.bias.empty()) return 0;
  int64_t top = sampling.temperature > 0 ? sampling.top_k : 1;
  if (top == 0) return 0;
  if (sampling.repetition_penalty < 1 || sampling.presence_penalty < 0 || sampling.frequency_penalty < 0) return 0;
  if (sampling.repetition_penalty != 1 || sampling.presence_penalty != 0 || sampling.frequency_penalty != 0) {
    const int64_t length = static_cast<int64_t>(tokens_.size());
    top += sampling.penalty_window > 0 ? std::min(length, sampling.penalty_window) : length;
  }
  if (generation_.min_new_tokens > 0) top += static_cast<int64_t>(model_->eos_ids().size());
  return top <= kMostExactTop ? top : 0;
}

// Makes last_logits_ those that follow the sequence: runs what has not run, or the last token if its logits are gone.
Status Session::ensure_logits() {
  if (can_draw_) return {};
  if (tokens_.empty()) return error(Code::kState, "nothing to continue: append a prompt first");
  const int64_t length = static_cast<int64_t>(tokens_.size());
  const int64_t cached = prepare_last();
  return forward(tokens_.data() + cached, length - cached, length, state_ == State::kGenerating ? exact_top() : 0);
}

// Sees to it that at least the last token is not in the cache yet; how many tokens are.
int64_t Session::prepare_last() {
  const int64_t last = static_cast<int64_t>(tokens_.size()) - 1;
  if (cache_->length() > last) cache_->truncate(last);
  return cache_->length();
}

void Session::stop_generating() {
  abandon_steps();
  if (state_ == State::kGenerating) stop_reason_ = StopReason::kNone;
  state_ = State::kIdle;
  has_ready_ = finishing_ = untold_ = false;
}

Status Session::append(const int32_t* ids, int64_t count) {
  cancel_.store(false, std::memory_order_relaxed);
  stop_generating();
  if (count > 0) message_start_ = -1;
  return extend(ids, count);
}

Status Session::check_ids(const int32_t* ids, int64_t count) const {
  const int64_t vocab_size = decoder_->config.vocab_size;
  for (int64_t i = 0; i < count; ++i) {
    if (ids[i] < 0 || ids[i] >= vocab_size) {
      return error(Code::kArgument, "token %lld of %lld is %d, outside the vocabulary of 0 to %lld", static_cast<long long>(i),
                   static_cast<long long>(count), ids[i], static_cast<long long>(vocab_size - 1));
    }
  }
  return {};
}

Status Session::extend(const int32_t* ids, int64_t count) {
  NBL_RETURN_IF_ERROR(check_ids(ids, count));
  const int64_t before = static_cast<int64_t>(tokens_.size());
  if (count > context_ - before) {
    return error(Code::kContextFull,
                 "%lld tokens do not fit: the session holds %lld of its context of %lld; make it with a larger context, "
                 "truncate it, or append less",
                 static_cast<long long>(count), static_cast<long long>(before), static_cast<long long>(context_))
        .with("context", context_)
        .with("tokens", before)
        .with("appended", count);
  }
  if (count == 0) return {};
  const int64_t start = now_ns();
  // A token that was drawn last and has not run yet goes first, in the same call.
  tokens_.insert(tokens_.end(), ids, ids + count);
  const int64_t cached = cache_->length();
  const int64_t todo = static_cast<int64_t>(tokens_.size()) - cached;
  // What the cache has taken stays; the rest of the tokens is not part of the sequence.
  const auto keep_complete = [&] {
    tokens_.resize(static_cast<size_t>(std::max(cache_->length(), before)));
    counters_.prompt_tokens += static_cast<int64_t>(tokens_.size()) - before;
  };
  Status status;
  try {
    status = forward(tokens_.data() + cached, todo, static_cast<int64_t>(tokens_.size()), 0);
  } catch (...) {  // no memory, most likely for the logits of all tokens
    keep_complete();
    throw;
  }
  if (!status.ok()) {
    keep_complete();
    return status;
  }
  counters_.prompt_tokens += count;
  counters_.prefill_ns = now_ns() - start;
  counters_.prefill_tokens = todo;
  return {};
}

Status Session::append_text(std::string_view text, const EncodeOptions& options) {
  if (!model_->tokenizer()) return model_->tokenizer_status();
  NBL_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, model_->tokenizer()->encode(text, options));
  return append(ids.data(), static_cast<int64_t>(ids.size()));
}

Status Session::append_chat(const Json& request) {
  if (!model_->tokenizer()) return model_->tokenizer_status();
  if (!model_->chat()) return model_->chat_status();
  NBL_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, chat_ids(*model_->chat(), *model_->tokenizer(), request));
  if (ids.empty()) return error(Code::kArgument, "the conversation renders to no tokens");
  size_t same = 0;
  while (same < ids.size() && same < tokens_.size() && ids[same] == tokens_[same]) ++same;
  // At least one token must run, or there would be no logits to go on from.
  same = std::min(same, ids.size() - 1);
  if (static_cast<int64_t>(ids.size()) > context_) {
    return error(Code::kContextFull, "the conversation has %zu tokens, more than the session's context of %lld", ids.size(),
                 static_cast<long long>(context_))
        .with("context", context_)
        .with("tokens", static_cast<int64_t>(ids.size()));
  }
  NBL_RETURN_IF_ERROR(truncate(static_cast<int64_t>(same)));
  counters_.reused_tokens = static_cast<int64_t>(same);
  NBL_RETURN_IF_ERROR(append(ids.data() + same, static_cast<int64_t>(ids.size() - same)));
  if (!continues_message(request)) message_start_ = static_cast<int64_t>(tokens_.size());
  return {};
}

Status Session::truncate(int64_t count) {
  if (count < 0 || count > static_cast<int64_t>(tokens_.size())) {
    return error(Code::kArgument, "cannot keep %lld tokens: the session has %zu", static_cast<long long>(count), tokens_.size());
  }
  stop_generating();
  if (count == static_cast<int64_t>(tokens_.size())) return {};
  tokens_.resize(static_cast<size_t>(count));
  if (count < message_start_) message_start_ = -1;
  // The last kept token runs again when logits are needed: those in hand are of a later one.
  cache_->truncate(std::min(cache_->length(), std::max<int64_t>(0, count - 1)));
  can_draw_ = readable_ = false;
  all_rows_ = 0;
  if (count == 0) counters_ = {};
  return {};
}

// ---- generation

Status Session::begin(int64_t max_tokens) {
  cancel_.store(false, std::memory_order_relaxed);
  if (tokens_.empty()) return error(Code::kState, "nothing to continue: append a prompt before begin");
  stop_generating();
  stop_reason_ = StopReason::kNone;
  want_exact_ = false;
  answer_start_ = static_cast<int64_t>(tokens_.size());
  max_tokens_ = max_tokens < 0 ? std::numeric_limits<int64_t>::max() : max_tokens;
  counters_.generated_tokens = counters_.decode_ns = counters_.decode_tokens = 0;
  // One decoder a generation. A message begins with it; any other text goes on behind what was appended.
  stream_ = std::make_unique<TextStream>(model_->tokenizer(), generation_.skip_special);
  const size_t before = answer_start_ == message_start_ ? 0 : std::min<size_t>(tokens_.size(), 8);
  stream_->reset(generation_.stop_strings, {tokens_.end() - static_cast<ptrdiff_t>(before), tokens_.end()});
  stream_is_right_ = true;
  state_ = State::kGenerating;
  if (max_tokens_ == 0) end(StopReason::kMaxTokens);
  return {};
}

void Session::end(StopReason reason) {
  state_ = State::kEnded;
  stop_reason_ = reason;
}

bool Session::stops_at(int32_t id, StopReason* reason) const {
  const auto holds = [id](const std::vector<int32_t>& ids) { return std::find(ids.begin(), ids.end(), id) != ids.end(); };
  if (!generation_.ignore_eos && holds(model_->eos_ids())) {
    *reason = StopReason::kEos;
    return true;
  }
  if (holds(generation_.stop_ids)) {
    *reason = StopReason::kStopId;
    return true;
  }
  return false;
}

Draw Session::next_draw() const {
  Draw draw;
  draw.options = &generation_.sampling;
  draw.tokens = tokens_.data();
  draw.token_count = static_cast<int64_t>(tokens_.size());
  draw.answer_start = answer_start_;
  draw.bias = &generation_.bias;
  draw.forbidden = model_->eos_ids().data();
  draw.forbidden_count = static_cast<int64_t>(model_->eos_ids().size());
  draw.forbidden_until = static_cast<uint64_t>(std::max<int64_t>(0, generation_.min_new_tokens));
  draw.step = static_cast<uint64_t>(counters_.generated_tokens);
  return draw;
}

// Draws the next token from last_logits_.
Status Session::draw() {
  if (static_cast<int64_t>(tokens_.size()) >= context_) {
    end(StopReason::kContext);
    return {};
  }
  accept_id(sampler_->sample(last_logits_.data(), next_draw()));
  return {};
}

// Tokens that the sequence has when the generation ends for its length.
int64_t Session::most_tokens() const {
  int64_t most = context_;
  if (generation_.max_length > 0) most = std::min(most, generation_.max_length);
  return max_tokens_ < most - answer_start_ ? answer_start_ + max_tokens_ : most;
}

// Whether the next token can be drawn by the plan: then its logits do not come to the host. Who reads logits, or wants
// those of all tokens, gets them the plain way.
bool Session::draws_on(const Plan& plan, const Draw& draw) const {
  return !want_exact_ && options_.logits == SessionOptions::Logits::kLast && draw.token_count < context_ && plan.can_draw(draw);
}

// The plan draws, and goes on by itself with the token that it has drawn while the host turns it into text. Whatever
// else is done to the session abandons the steps that ran ahead, so that nothing but the time shows that they did.
Status Session::draw_on_device(const Draw& draw) {
  if (steps_in_flight_ == 0) {
    BatchSequence& sequence = batch_.sequences[0];
    const int64_t cached = prepare_last();
    sequence = {};
    sequence.cache = cache_.get();
    sequence.tokens = tokens_.data() + cached;
    sequence.token_count = static_cast<int64_t>(tokens_.size()) - cached;
    sequence.call_length = static_cast<int64_t>(tokens_.size());
    sequence.draw = &draw;
    NBL_RETURN_IF_ERROR(plan_->begin(batch_));
    steps_in_flight_ = 1;
  }
  while (steps_in_flight_ < kStepsAhead && draw.token_count + steps_in_flight_ < most_tokens() && plan_->can_follow()) {
    if (!plan_->follow().ok()) break;  // the same failure meets the next begin(), which tells it
    ++steps_in_flight_;
  }
  DrawnToken drawn;
  const Status status = plan_->finish(&drawn);
  --steps_in_flight_;
  if (!status.ok()) return status;
  if (cancel_.load(std::memory_order_relaxed)) return Status(Code::kCancelled, "cancelled");
  accept_drawn(drawn);
  return {};
}

void Session::abandon_steps() {
  if (steps_in_flight_ == 0) return;
  plan_->abandon();
  steps_in_flight_ = 0;
}

// Logits behind `position` tokens from which nothing follows.
Status Session::not_finite(int64_t position) {
  return error(Code::kNotFinite,
               "the logits behind %lld tokens hold NaN or infinity: the checkpoint has weights or scales that are no numbers, or a float16 "
               "overflowed on the way; fetch the checkpoint again, or try kv_dtype f32 and cpu_precision fp32 on the CPU",
               static_cast<long long>(position))
      .with("position", position);
}

// Appends a drawn token and makes it ready; what is none ends the generation.
void Session::accept_id(int32_t id) {
  if (id < 0) {
    abandon_steps();
    const int64_t position = static_cast<int64_t>(tokens_.size());
    const bool by_choice = id == kNothingToDraw && (!generation_.bias.empty() || counters_.generated_tokens < generation_.min_new_tokens);
    failure_ = by_choice ? error(Code::kArgument,
                                 "no token is left to draw behind %lld tokens: the biases and min_new_tokens give minus infinity to all; "
                                 "change one of them",
                                 static_cast<long long>(position))
                               .with("position", position)
                         : not_finite(position);
    state_ = State::kFailed;
    return;
  }
  tokens_.push_back(id);
  can_draw_ = false;
  ++counters_.generated_tokens;
  untold_ = true;
  make_ready();
}

// Gives the last token its text and decides whether it ends the generation. When memory runs out on the way, next() comes
// here again: the text of the answer is then made anew up to that token.
void Session::make_ready() {
  ready_.id = tokens_.back();
  if (!stream_is_right_) {
    stream_->restart();
    for (size_t i = static_cast<size_t>(answer_start_); i + 1 < tokens_.size(); ++i) {
      ready_.text.clear();
      stream_->push(tokens_[i], ready_.text);  // has been told
    }
  }
  ready_.text.clear();
  stream_is_right_ = false;
  const int32_t id = ready_.id;
  StopReason reason = StopReason::kNone;
  bool last = stops_at(id, &reason);
  if (!last && stream_->push(id, ready_.text)) {
    reason = StopReason::kStopString;
    last = true;
  }
  if (!last) {
    const bool full = counters_.generated_tokens >= max_tokens_;
    const bool long_enough = generation_.max_length > 0 && static_cast<int64_t>(tokens_.size()) >= generation_.max_length;
    if (full || long_enough) {
      reason = StopReason::kMaxTokens;
      last = true;
    } else if (static_cast<int64_t>(tokens_.size()) >= context_) {
      reason = StopReason::kContext;
      last = true;
    }
  }
  if (last && reason != StopReason::kStopString) stream_->flush(ready_.text);
  stream_is_right_ = true;
  untold_ = false;
  has_ready_ = true;
  finishing_ = last;
  if (last) stop_reason_ = reason;
}

Status Session::next(const GeneratedToken** token) {
  if (untold_) make_ready();
  if (has_ready_) {
    *token = &ready_;
    return {};
  }
  if (state_ == State::kIdle) return error(Code::kState, "no generation is running: call begin first");
  if (state_ == State::kEnded) return Status(Code::kDone, "the generation has ended");
  if (state_ == State::kFailed) return failure_;
  if (cancel_.load(std::memory_order_relaxed)) {
    abandon_steps();
    stop_reason_ = StopReason::kCancelled;
    return Status(Code::kCancelled, "cancelled");
  }
  const int64_t start = now_ns();
  const Draw next = next_draw();
  const bool on_device = !can_draw_ && draws_on(*plan_, next) && static_cast<int64_t>(tokens_.size()) - cache_->length() <= chunk_;
  if (!can_draw_) {
    const Status status = on_device ? draw_on_device(next) : ensure_logits();
    if (!status.ok()) {
      abandon_steps();
      readable_ = false;
      if (status.code() == Code::kCancelled) stop_reason_ = StopReason::kCancelled;
      return status;
    }
    if (!on_device) {
      counters_.decode_ns += now_ns() - start;
      ++counters_.decode_tokens;
    }
  }
  if (!on_device) NBL_RETURN_IF_ERROR(draw());
  if (state_ == State::kFailed) return failure_;
  if (!has_ready_) return Status(Code::kDone, "the generation has ended");
  *token = &ready_;
  return {};
}

void Session::take() {
  has_ready_ = false;
  if (finishing_) {
    finishing_ = false;
    state_ = State::kEnded;
  }
}

Result<std::string> Session::generate(std::string_view prompt, const EncodeOptions& options, int64_t max_tokens) {
  NBL_RETURN_IF_ERROR(append_text(prompt, options));
  NBL_RETURN_IF_ERROR(begin(max_tokens));
  std::string text;
  for (;;) {
    const GeneratedToken* token = nullptr;
    const Status status = next(&token);
    if (status.code() == Code::kDone) return text;
    NBL_RETURN_IF_ERROR(status);
    text += token->text;
    take();
  }
}

// ---- logits

// Runs the last cached token again, asking for all its logits.
Status Session::ensure_exact_logits() {
  want_exact_ = true;
  if (exact_) return {};
  const bool could_draw = can_draw_;
  abandon_steps();
  const int64_t last = cache_->length() - 1;
  cache_->truncate(last);
  const WithoutCancel hold(cancel_);
  const Status status = forward(tokens_.data() + last, 1, last + 1, 0);
  can_draw_ = status.ok() && could_draw;
  return status;
}

Status Session::logits(const float** data, int64_t* rows) {
  if (!readable_) {
    return error(Code::kState, "there are no logits: they are there after an append, and after a token has been computed");
  }
  NBL_RETURN_IF_ERROR(ensure_exact_logits());
  *data = all_rows_ > 0 ? all_logits_.data() : last_logits_.data();
  *rows = all_rows_ > 0 ? all_rows_ : 1;
  return {};
}

Status Session::top(int64_t count, int32_t* ids, float* log_probability) {
  const float* data = nullptr;
  int64_t rows = 0;
  NBL_RETURN_IF_ERROR(logits(&data, &rows));
  const int64_t vocab_size = decoder_->config.vocab_size;
  top_log_probabilities(data + (rows - 1) * vocab_size, vocab_size, count, ids, log_probability);
  return count > 0 && std::isnan(log_probability[0]) ? not_finite(cache_->length()) : Status();
}

Status Session::score(const int32_t* ids, int64_t count, float* log_probability) {
  if (count == 0) return {};
  cancel_.store(false, std::memory_order_relaxed);
  stop_generating();
  NBL_RETURN_IF_ERROR(check_ids(ids, count));
  const int64_t vocab_size = decoder_->config.vocab_size;
  const int64_t before = static_cast<int64_t>(tokens_.size());
  if (count > context_ - before) return extend(ids, count);  // gives the error with its figures
  if (before > 0) NBL_RETURN_IF_ERROR(ensure_logits());
  const auto tell = [&](const float* logits, int64_t i) -> Status {
    log_probabilities(logits, vocab_size, ids + i, 1, log_probability + i);
    return std::isnan(log_probability[i]) ? not_finite(before + i) : Status();
  };
  log_probability[0] = std::numeric_limits<float>::quiet_NaN();
  if (before > 0) NBL_RETURN_IF_ERROR(tell(last_logits_.data(), 0));

  // Appended piece by piece with the logits of every row; Logits::kAll does that, whatever the session was made with.
  const AllLogits all(options_);
  Status status;
  for (int64_t done = 0; done < count && status.ok();) {
    const int64_t now = std::min(rows_limit_, count - done);
    status = extend(ids + done, now);
    if (!status.ok()) break;
    const float* rows = nullptr;
    int64_t row_count = 0;
    status = logits(&rows, &row_count);
    for (int64_t i = 0; i < row_count && status.ok(); ++i) {
      if (done + i + 1 < count) status = tell(rows + i * vocab_size, done + i + 1);
    }
    done += now;
  }
  return status;
}

Json Session::describe() const {
  Json out;
  out["context"] = context_;
  out["tokens"] = static_cast<int64_t>(tokens_.size());
  out["kv_type"] = dtype_name(options_.kv_type);
  out["kv_bytes"] = cache_->bytes();
  out["scratch_bytes"] = plan_->scratch_bytes() + (rows_plan_ ? rows_plan_->scratch_bytes() : 0);
  out["prefill_chunk"] = chunk_;
  if (const std::vector<StepKernel> kernels = plan_->kernels(); !kernels.empty()) {
    Json list = Json::array();
    for (const StepKernel& k : kernels) {
      list.push_back({{"first_rows", k.first_rows}, {"last_rows", k.last_rows}, {"kernel", k.kernel}, {"reason", k.reason}});
    }
    out["kernels"] = std::move(list);
  }
  out["int8_outliers"] = plan_->outliers() + (rows_plan_ ? rows_plan_->outliers() : 0);
  out["backend"] = placement_->backend->name();
  const SamplingOptions& sampling = generation_.sampling;
  out["sampling"] = {{"temperature", sampling.temperature},
                     {"top_k", sampling.top_k},
                     {"top_p", sampling.top_p},
                     {"min_p", sampling.min_p},
                     {"typical_p", sampling.typical_p},
                     {"repetition_penalty", sampling.repetition_penalty},
                     {"presence_penalty", sampling.presence_penalty},
                     {"frequency_penalty", sampling.frequency_penalty},
                     {"penalty_window", sampling.penalty_window},
                     {"seed", sampling.seed}};
  return out;
}

// ---- for SessionBatch

BatchSequence Session::step_input(const Plan& plan) {
  abandon_steps();
  const int64_t cached = prepare_last();
  BatchSequence sequence;
  sequence.cache = cache_.get();
  sequence.tokens = tokens_.data() + cached;
  sequence.token_count = static_cast<int64_t>(tokens_.size()) - cached;
  sequence.call_length = static_cast<int64_t>(tokens_.size());
  batch_draw_ = next_draw();
  if (draws_on(plan, batch_draw_)) {
    sequence.draw = &batch_draw_;
  } else {
    sequence.logit_rows = 1;
    sequence.exact_top = batch_exact_top_ = exact_top();
  }
  return sequence;
}

Status Session::accept_step(const float* logits, int64_t ns) {
  std::copy(logits, logits + decoder_->config.vocab_size, last_logits_.begin());
  can_draw_ = readable_ = true;
  exact_ = batch_exact_top_ == 0;
  all_rows_ = 0;
  counters_.decode_ns += ns;
  ++counters_.decode_tokens;
  return draw();
}

// The logits stay on the device; logits() computes them again.
void Session::accept_drawn(const DrawnToken& drawn) {
  readable_ = true;
  exact_ = false;
  all_rows_ = 0;
  counters_.decode_ns += drawn.ns;
  ++counters_.decode_tokens;
  accept_id(drawn.id);
}

}  // namespace nbl

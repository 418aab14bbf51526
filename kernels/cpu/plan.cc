#include "kernels/cpu/plan.h"

#include <algorithm>
#include <new>

#include "kernels/cpu/step.h"
#include "kernels/rope.h"

namespace nbl {
namespace cpu {

namespace {
int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }
long long ll(int64_t value) { return value; }
}  // namespace

void PlanScratch::carve(Carver& carver, const PlanShape& s) {
  const int64_t widest = std::max({s.hidden, s.query_width, s.intermediate});
  thread = carver.take<ThreadScratch>(s.threads);
  hidden = carver.take<float>(s.tokens * s.hidden);
  qkv = carver.take<float>(s.tokens * (s.query_width + 2 * s.kv_width));
  attended = carver.take<float>(s.tokens * s.query_width);
  gate_up = carver.take<float>(s.tokens * 2 * s.intermediate);
  output = carver.take<float>(s.tokens * s.hidden);
  cosine = carver.take<float>(s.tokens * s.rotary_half);
  sine = carver.take<float>(s.tokens * s.rotary_half);
  inv_freq = carver.take<float>(s.rotary_half);
  position = carver.take<int64_t>(s.tokens);
  sequence = carver.take<int32_t>(s.tokens);
  logit_token = carver.take<int64_t>(s.logit_rows);
  logit_top = carver.take<int64_t>(s.logit_rows);
  first_token = carver.take<int64_t>(s.sequences);
  caches = carver.take<CpuKvCache*>(s.sequences);
  const int64_t heads = s.head_dim > 0 ? s.query_width / s.head_dim : 0;
  pieces = carver.take<float>(
      s.threads > 1 ? std::min(s.tokens, kSplitTokens) * heads * kMostPieces * s.piece_stride() : 0);
  input.carve(carver, s.tokens, s.positions, s.blocks);
  for (int i = 0; i < s.threads; ++i) {
    ThreadScratch t;
    t.input.carve(carver, 1, s.positions, s.blocks);
    t.rows = carver.take<float>(kTile * (widest + 16));
    t.partial = carver.take<float>((std::min<int64_t>(s.tokens, 512) + kTile) * 32);
    t.scores = carver.take<float>(kTile * kKeyBlock);
    t.queries = carver.take<float>(kTile * s.head_dim);
    t.attended = carver.take<float>(kTile * round_up(s.head_dim, 16));
    t.top = carver.take<float>(kTopRows * kMostTop);
    t.merged = carver.take<float>(s.threads * kMostTop);
    if (thread) thread[i] = t;
  }
}

PlanShape CpuPlan::shape_of(const DecoderConfig& c, const PlanLimits& limits, int threads) {
  PlanShape s;
  s.tokens = std::max<int64_t>(limits.max_tokens, 1);
  s.sequences = std::max<int64_t>(limits.max_sequences, 1);
  s.logit_rows = std::max<int64_t>(limits.max_logit_rows, 1);
  s.hidden = c.hidden_size;
  s.query_width = c.num_attention_heads * c.head_dim;
  s.kv_width = c.num_key_value_heads * c.head_dim;
  s.intermediate = c.intermediate_size;
  s.head_dim = c.head_dim;
  s.rotary_half = c.head_dim / 2;
  // What blocks of 32 columns and more need; prepare() looks at the weights themselves.
  const int64_t widest = std::max({s.hidden, s.query_width, s.intermediate});
  s.positions = round_up(widest, kMaxBlock);
  s.blocks = widest / 32 + 1;
  s.threads = threads;
  return s;
}

int64_t CpuPlan::bytes_of(PlanShape shape) {
  Carver carver(nullptr);
  PlanScratch().carve(carver, shape);
  return carver.used();
}

Status CpuPlan::check_decoder() const {
  const DecoderConfig& c = decoder_->config;
  if (c.num_key_value_heads < 1 || c.num_attention_heads % c.num_key_value_heads != 0)
    return error(Code::kUnsupported, "num_attention_heads %lld is no multiple of num_key_value_heads %lld",
                 ll(c.num_attention_heads), ll(c.num_key_value_heads));
  if (c.head_dim < 2 || c.head_dim % 2 != 0)
    return error(Code::kUnsupported, "head_dim is %lld; the CPU backend wants an even one", ll(c.head_dim));
  if (decoder_->rope.rotary_dim > c.head_dim || decoder_->rope.rotary_dim % 2 != 0)
    return error(Code::kUnsupported, "the rotary dimension is %lld, of a head_dim of %lld",
                 ll(decoder_->rope.rotary_dim), ll(c.head_dim));
  if (static_cast<int64_t>(decoder_->blocks.size()) != c.num_hidden_layers)
    return error(Code::kArgument, "num_hidden_layers is %lld, but the decoder has %lld layers",
                 ll(c.num_hidden_layers), ll(decoder_->blocks.size()));
  return {};
}

namespace {

// Every linear of a decoder, in any order.
template <typename Visit>
Status each_linear(const Decoder& decoder, Visit visit) {
  for (const Block& block : decoder.blocks) {
    for (const Linear& linear : block.attention.qkv) NBL_RETURN_IF_ERROR(visit(linear));
    NBL_RETURN_IF_ERROR(visit(block.attention.output));
    for (const Linear& linear : block.mlp.gate_up) NBL_RETURN_IF_ERROR(visit(linear));
    NBL_RETURN_IF_ERROR(visit(block.mlp.down));
  }
  return visit(decoder.head);
}

int64_t rows_of(const std::vector<Linear>& linears) {
  int64_t rows = 0;
  for (const Linear& linear : linears) rows += linear.out_features;
  return rows;
}

}  // namespace

Status CpuPlan::prepare() {
  NBL_RETURN_IF_ERROR(check_decoder());
  constexpr int64_t kMost = int64_t{1} << 30;
  if (limits_.max_tokens > kMost || limits_.max_sequences > kMost || limits_.max_logit_rows > kMost)
    return error(
        Code::kArgument,
        "a plan for steps of %lld tokens, %lld sequences and %lld rows of logits is beyond any memory",
        ll(limits_.max_tokens), ll(limits_.max_sequences), ll(limits_.max_logit_rows));
  shape_ = shape_of(decoder_->config, limits_, pool_->threads());
  NBL_RETURN_IF_ERROR(each_linear(*decoder_, [&](const Linear& linear) -> Status {
    const std::string name = linear.names.empty() ? "a linear layer" : linear.names.front();
    const auto* weight = dynamic_cast<const CpuWeight*>(linear.weight.get());
    if (!weight) return error(Code::kArgument, "%s was not packed by the CPU backend", name.c_str());
    if (weight->columns() != linear.in_features || weight->view().rows != linear.out_features)
      return error(Code::kArgument, "%s is [%lld, %lld], expected [%lld, %lld]", name.c_str(),
                   ll(weight->view().rows), ll(weight->columns()), ll(linear.out_features),
                   ll(linear.in_features));
    if (linear.in_features > std::max({shape_.hidden, shape_.query_width, shape_.intermediate}))
      return error(Code::kArgument, "%s takes %lld inputs, more than any layer of this model makes",
                   name.c_str(), ll(linear.in_features));
    shape_.positions = std::max(shape_.positions, weight->positions());
    shape_.blocks = std::max(shape_.blocks, weight->view().shape.blocks);
    return {};
  }));
  for (const Block& block : decoder_->blocks) {
    if (rows_of(block.attention.qkv) != shape_.query_width + 2 * shape_.kv_width ||
        rows_of(block.mlp.gate_up) != 2 * shape_.intermediate)
      return error(Code::kArgument,
                   "a layer's q, k, v or gate, up have %lld and %lld rows, expected %lld and %lld",
                   ll(rows_of(block.attention.qkv)), ll(rows_of(block.mlp.gate_up)),
                   ll(shape_.query_width + 2 * shape_.kv_width), ll(2 * shape_.intermediate));
  }
  matrices_ = 2;  // the head counts twice: its lower half is a matrix of its own
  for (const Block& block : decoder_->blocks) matrices_ += block.attention.qkv.size() + block.mlp.gate_up.size() + 2;
  next_item_ = std::vector<std::atomic<int64_t>>(decoder_->blocks.size());
  if (!memory_.allocate(bytes_of(shape_), false))
    return error(Code::kNoMemory, "no memory for %lld bytes of scratch", ll(bytes_of(shape_)));
  Carver carver(memory_.data());
  scratch_.carve(carver, shape_);
  return {};
}

Status CpuPlan::check_batch(const Batch& batch) const {
  const int64_t sequences = static_cast<int64_t>(batch.sequences.size());
  if (sequences < 1 || sequences > shape_.sequences)
    return error(Code::kArgument, "a step has %lld sequences, the plan was made for 1 .. %lld", ll(sequences),
                 ll(shape_.sequences));
  int64_t tokens = 0, rows = 0;
  const DecoderConfig& c = decoder_->config;
  for (int64_t i = 0; i < sequences; ++i) {
    const BatchSequence& s = batch.sequences[static_cast<size_t>(i)];
    const auto* cache = dynamic_cast<const CpuKvCache*>(s.cache);
    if (!cache)
      return error(Code::kArgument, "the cache of sequence %lld was not made by the CPU backend", ll(i));
    const KvShape& shape = cache->shape();
    if (shape.layers != c.num_hidden_layers || shape.heads != c.num_key_value_heads ||
        shape.head_dim != c.head_dim)
      return error(Code::kArgument, "the cache of sequence %lld was made for another model", ll(i));
    for (int64_t j = 0; j < i; ++j)
      if (batch.sequences[static_cast<size_t>(j)].cache == s.cache)
        return error(Code::kArgument, "sequences %lld and %lld share a cache", ll(j), ll(i));
    if (!s.tokens || s.token_count < 1 || s.token_count > shape_.tokens || s.logit_rows < 0 ||
        s.logit_rows > s.token_count)
      return error(Code::kArgument, "sequence %lld has %lld tokens and asks for %lld rows of logits", ll(i),
                   ll(s.token_count), ll(s.logit_rows));
    if (s.token_count > cache->capacity() - cache->length())
      return error(Code::kContextFull, "%lld tokens do not fit: the cache holds %lld of %lld positions",
                   ll(s.token_count), ll(cache->length()), ll(cache->capacity()));
    for (int64_t t = 0; t < s.token_count; ++t)
      if (s.tokens[t] < 0 || s.tokens[t] >= c.vocab_size)
        return error(Code::kArgument, "token %d is not in a vocabulary of %lld", s.tokens[t],
                     ll(c.vocab_size));
    tokens += s.token_count;
    rows += s.logit_rows;
  }
  if (tokens > shape_.tokens || rows > shape_.logit_rows)
    return error(Code::kArgument,
                 "a step has %lld tokens and %lld rows of logits, the plan was made for %lld and %lld",
                 ll(tokens), ll(rows), ll(shape_.tokens), ll(shape_.logit_rows));
  if (rows > 0 && !batch.logits)
    return error(Code::kArgument, "logits are asked for, but there is nowhere to put them");
  return {};
}

// Positions, rotary tables and the rows of logits of every token of the step.
void CpuPlan::lay_out(const Batch& batch) {
  batch_ = &batch;
  tokens_ = logit_rows_ = 0;
  const Rope& rope = decoder_->rope;
  const int64_t half = rope.rotary_dim / 2;
  for (size_t i = 0; i < batch.sequences.size(); ++i) {
    const BatchSequence& s = batch.sequences[i];
    const int64_t start = s.cache->length();
    scratch_.first_token[i] = tokens_;
    scratch_.caches[i] = static_cast<CpuKvCache*>(s.cache);
    if (half > 0)
      rope_inv_freq(rope, s.call_length > 0 ? s.call_length : start + s.token_count, scratch_.inv_freq);
    for (int64_t t = 0; t < s.token_count; ++t, ++tokens_) {
      scratch_.position[tokens_] = start + t;
      scratch_.sequence[tokens_] = static_cast<int32_t>(i);
      if (half > 0)
        rope_tables(rope, scratch_.inv_freq, start + t, scratch_.cosine + tokens_ * half,
                    scratch_.sine + tokens_ * half);
    }
    for (int64_t r = 0; r < s.logit_rows; ++r) {
      scratch_.logit_top[logit_rows_] = s.exact_top;
      scratch_.logit_token[logit_rows_++] = tokens_ - s.logit_rows + r;
    }
  }
  for (auto& item : next_item_) item.store(0, std::memory_order_relaxed);
  first_round_ += matrices_;
  stop_.store(false, std::memory_order_relaxed);
}

Status CpuPlan::step(const Batch& batch) {
  NBL_RETURN_IF_ERROR(check_batch(batch));
  if (!pool_->has_workers()) {
    return error(Code::kState,
                 "this process was forked from the one that loaded the model, and the model's threads stayed there; load it in this "
                 "process, or there with n_threads 1");
  }
  lay_out(batch);
  pool_->run([this](int thread, int threads) { StepWorker(*this, thread, threads).run(); });
  if (stop_.load()) return error(Code::kCancelled, "the step was cancelled");
  for (const BatchSequence& s : batch.sequences) static_cast<CpuKvCache*>(s.cache)->grow(s.token_count);
  return {};
}

}  // namespace cpu
}  // namespace nbl

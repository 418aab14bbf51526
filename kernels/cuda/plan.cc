#include "kernels/cuda/plan.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>

#include "kernels/rope.h"

namespace nbl::cuda {
namespace {

constexpr int64_t kUnpackedLimit = 56 << 20;  // bytes of a matrix that are unpacked at a time: half of the down matrix of a 7B
constexpr int64_t kAllocationStep = 2 << 20;   // the driver hands out memory in such pieces
constexpr int64_t kStreamBytes = 2 << 20;      // what it takes for a plan's streams: measured
constexpr int64_t kTokensPerSplit = 32;        // fewer positions than this are not worth a CTA of their own
constexpr int64_t kTensorTokensPerSplit = 256; // the same of decode_on_tensor_core, whose CTAs ask for so many at once

// Hands out aligned pieces of one buffer; with a null base it only adds up.
class Pieces {
 public:
  explicit Pieces(unsigned char* base) : base_(base) {}
  template <typename T>
  T* take(int64_t bytes) {
    T* at = reinterpret_cast<T*>(base_ + total_);
    total_ += pad_up(bytes, 256);
    return at;
  }
  int64_t total() const { return total_; }

 private:
  unsigned char* base_;
  int64_t total_ = 0;
};

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

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

}  // namespace

bool wants_cublas(const PlanLimits& limits, const DeviceTraits& traits) {
  return traits.kernel != CudaKernel::kTiles && std::max(limits.max_tokens, limits.max_logit_rows) >= unpack_from(traits.sm);
}

ScratchSizes scratch_sizes(const DecoderConfig& c, const PlanLimits& limits, const DeviceTraits& traits, bool unpacks) {
  ScratchSizes s;
  s.rows = std::max<int64_t>(limits.max_tokens, 1);
  s.padded_rows = pad_up(std::max(s.rows, limits.max_logit_rows), 64);
  s.hidden_pad = pad_up(c.hidden_size, kColumnAlign);
  s.query_pad = pad_up(c.num_attention_heads * c.head_dim, kColumnAlign);
  s.inner_pad = pad_up(c.intermediate_size, kColumnAlign);
  s.qkv_width = (c.num_attention_heads + 2 * c.num_key_value_heads) * c.head_dim;
  // The largest matrix of a block, cut into slices of rows.
  const int64_t widest = std::max({s.qkv_width * s.hidden_pad, c.hidden_size * s.query_pad, 2 * c.intermediate_size * s.hidden_pad,
                                   c.hidden_size * s.inner_pad});
  const int64_t longest_row = std::max({s.hidden_pad, s.query_pad, s.inner_pad}) * 2;
  if (unpacks) s.unpacked_bytes = pad_up(std::max(std::min(widest * 2 + 16 * longest_row, kUnpackedLimit), 16 * longest_row), 256);
  // Gate and up pass through memory as float32 where the kernel could not combine them, and as f16 slices after cuBLAS.
  const int64_t columns = 2 * pad_up(c.intermediate_size, 8);
  s.gate_up_bytes = (unpacks ? std::min<int64_t>(s.rows, unpack_from(traits.sm) - 1) : s.rows) * columns * 4;
  if (unpacks) {
    const int64_t slice = c.intermediate_size % 8 != 0 ? columns : std::min(columns, s.unpacked_bytes / (s.hidden_pad * 2) / 16 * 16);
    s.gate_up_bytes = std::max(s.gate_up_bytes, s.rows * slice * 2);
  }
  s.partial_bytes = static_cast<int64_t>(traits.multiprocessors) * 128 * 1024;
  s.split_rows = std::min(std::max<int64_t>(limits.max_sequences, 1), s.rows);
  const int64_t kv_heads = std::max<int64_t>(c.num_key_value_heads, 1);
  const int64_t tasks = attention_tasks(c.num_attention_heads, kv_heads, kHeadsPerTask);
  const int64_t useful = std::max<int64_t>(1, (limits.max_context + kTokensPerSplit - 1) / kTokensPerSplit);
  s.max_splits = static_cast<int>(std::max<int64_t>(1, std::min({traits.multiprocessors / tasks, useful, static_cast<int64_t>(32)})));
  s.input_bytes = InputLayout(s.rows, limits.max_sequences, limits.max_logit_rows, c.head_dim / 2).total;
  return s;
}

Result<std::unique_ptr<Plan>> CudaPlan::create(std::shared_ptr<const Decoder> decoder, std::shared_ptr<const DeviceEmbedding> embedding,
                                               const PlanLimits& limits, const DeviceTraits& traits) {
  std::unique_ptr<CudaPlan> plan(new CudaPlan);
  plan->limits_ = limits;
  plan->traits_ = traits;
  NBL_ASSIGN_OR_RETURN(plan->stream_, Stream::create(traits.device));
  NBL_ASSIGN_OR_RETURN(plan->decoder_, DeviceDecoder::create(std::move(decoder), std::move(embedding), traits.device, plan->stream_.get()));
  NBL_RETURN_IF_ERROR(plan->reserve());
  return Result<std::unique_ptr<Plan>>(std::move(plan));
}

CudaPlan::~CudaPlan() {
  DeviceScope scope(traits_.device);
  if (stream_.get() != nullptr) cudaStreamSynchronize(stream_.get());
  for (auto& entry : graphs_) {
    if (entry.second != nullptr) cudaGraphExecDestroy(entry.second);
  }
}

// Hands out the pieces of the scratch memory that begins at `base`, and says how long they are together; with a null
// base that is all it is good for.
int64_t CudaPlan::lay_out(const DecoderConfig& c, unsigned char* base, unsigned char** draw_scratch, void** unpack_buffers) {
  const ScratchSizes& s = sizes_;
  // What the attention of a block uses is free again when its MLP begins. Buffers whose padding must stay zero are not shared.
  const bool no_padding = s.hidden_pad == c.hidden_size && s.query_pad == c.num_attention_heads * c.head_dim && s.inner_pad == c.intermediate_size;
  const int64_t states = s.split_rows * s.max_splits * c.num_attention_heads;
  Pieces pieces(base);
  input_ = pieces.take<unsigned char>(s.input_bytes);
  h_ = pieces.take<float>(s.rows * c.hidden_size * 4);
  x_ = pieces.take<void>(s.padded_rows * std::max(s.hidden_pad, no_padding ? s.query_pad : 0) * 2);
  attended_ = no_padding ? x_ : pieces.take<void>(s.padded_rows * s.query_pad * 2);
  const int64_t qkv_bytes = pad_up(s.rows * s.qkv_width * 4, 256), q_bytes = s.rows * c.num_attention_heads * c.head_dim * 2;
  const int64_t act_bytes = pad_up(s.padded_rows * s.inner_pad * 2, 256);
  auto* shared = pieces.take<unsigned char>(no_padding ? std::max(qkv_bytes + q_bytes, act_bytes + s.gate_up_bytes) : qkv_bytes + q_bytes);
  auto* mlp = no_padding ? shared : pieces.take<unsigned char>(act_bytes + s.gate_up_bytes);
  qkv_ = reinterpret_cast<float*>(shared);
  q_ = shared + qkv_bytes;
  act_ = mlp;
  gate_up_ = mlp + act_bytes;
  *unpack_buffers = pieces.take<void>(2 * s.unpacked_bytes);
  logits_ = pieces.take<float>(limits_.max_logit_rows * c.vocab_size * 4);
  turns_ = pieces.take<float2>(s.rows * c.head_dim / 2 * 8);
  part_ = pieces.take<float>(states * c.head_dim * 4);
  part_state_ = pieces.take<float2>(states * 8);
  split_.partial = pieces.take<float>(s.partial_bytes);
  split_.partial_bytes = s.partial_bytes;
  split_.tickets = pieces.take<unsigned>(SplitScratch::kTickets * 4);
  outliers_ = pieces.take<unsigned long long>(sizeof(unsigned long long));
  *draw_scratch = pieces.take<unsigned char>(Draws::scratch_bytes(limits_.max_draws, c.vocab_size, traits_.shared_optin));
  return pieces.total();
}

int64_t CudaPlan::bytes_for(const DecoderConfig& config, const PlanLimits& limits, const DeviceTraits& traits) {
  CudaPlan plan;  // only to add up
  plan.traits_ = traits;
  plan.limits_ = limits;
  plan.sizes_ = scratch_sizes(config, limits, traits, wants_cublas(limits, traits) && !Cublas::file().empty());
  unsigned char* no_draws = nullptr;
  void* no_buffers = nullptr;
  const int64_t norms = (2 * config.num_hidden_layers + 1) * config.hidden_size * 4;
  const int64_t program = plan.wants_resident() ? ResidentProgram::bytes_for(config, traits) : 0;
  return pad_up(plan.lay_out(config, nullptr, &no_draws, &no_buffers), kAllocationStep) + norms + program + kStreamBytes;
}

Status CudaPlan::reserve() {
  const DecoderConfig& c = decoder_->config();
  // cuBLAS is opened first: where it cannot be, steps of many rows need other room.
  std::unique_ptr<Cublas> cublas = wants_cublas(limits_, traits_) ? Cublas::open(stream_.get()) : nullptr;
  sizes_ = scratch_sizes(c, limits_, traits_, cublas != nullptr);
  const ScratchSizes& s = sizes_;
  unsigned char* draw_scratch = nullptr;
  void* unpack_buffers = nullptr;
  NBL_ASSIGN_OR_RETURN(scratch_, DeviceBuffer::allocate(traits_.device, lay_out(c, nullptr, &draw_scratch, &unpack_buffers), "a session's scratch",
                                                        stream_.get()));
  lay_out(c, scratch_.as<unsigned char>(), &draw_scratch, &unpack_buffers);
  NBL_ASSIGN_OR_RETURN(host_input_, PinnedBuffer::allocate(s.input_bytes));
  NBL_ASSIGN_OR_RETURN(host_logits_, PinnedBuffer::allocate(limits_.max_logit_rows * c.vocab_size * 4));
  for (Event& begin : block_begins_) {
    NBL_ASSIGN_OR_RETURN(begin, Event::create());
  }
  if (limits_.max_draws > 0) {
    NBL_ASSIGN_OR_RETURN(draws_, Draws::create(draw_scratch, limits_.max_draws, c.vocab_size, traits_.shared_optin));
    for (Flight& flight : flights_) {
      NBL_ASSIGN_OR_RETURN(flight.end, Event::create());
    }
    flying_.reserve(static_cast<size_t>(limits_.max_draws));
  }
  NBL_RETURN_IF_ERROR(make_resident());
  if (s.unpacked_bytes > 0) {
    // Its products and the splits over K follow one another on one stream: they share their scratch memory.
    cublas->set_workspace(split_.partial, split_.partial_bytes);
    NBL_ASSIGN_OR_RETURN(unpacked_, UnpackedMatmul::create(traits_, std::move(cublas), stream_.get(), unpack_buffers, s.unpacked_bytes));
  }
  NBL_CUDA(cudaStreamSynchronize(stream_.get()));
  return {};
}

// What the resident kernel asks of a model and a device, and what these are.
std::string CudaPlan::resident_needs() const {
  const DecoderConfig& c = decoder_->config();
  char text[320];
  std::snprintf(text, sizeof text,
                "the resident kernel is for compute capability 9.0 and later, heads of 64 or 128, an even intermediate_size, rows of x that leave "
                "shared memory to the weights, and no LLM.int8; here: sm_%d, heads of %lld, %lld of %lld columns",
                traits_.sm, static_cast<long long>(c.head_dim), static_cast<long long>(c.hidden_size), static_cast<long long>(c.intermediate_size));
  return text;
}

Status CudaPlan::make_resident() {
  if (!wants_resident()) return {};
  NBL_ASSIGN_OR_RETURN(resident_, ResidentProgram::create(*decoder_, logits_, traits_.device, traits_.multiprocessors, traits_.shared_optin,
                                                          stream_.get()));
  if (resident_ == nullptr && traits_.kernel == CudaKernel::kResident) {
    return error(Code::kUnsupported, "cuda:%d: the kernel resident was asked for, but cannot run this model: %s", traits_.device, resident_needs().c_str())
        .with("option", "kernel");
  }
  return {};
}

std::vector<StepKernel> CudaPlan::kernels() const {
  const bool forced = traits_.kernel != CudaKernel::kAuto;
  const int64_t most = limits_.max_tokens, blocked = blocked_from(traits_.sm), unpacked = unpacked_ != nullptr ? unpack_from(traits_.sm) : most + 1;
  const int64_t streamed = blocked > 0 ? blocked - 1 : kStreamRows;
  std::vector<StepKernel> list;
  const auto add = [&](int64_t last, const char* kernel, const std::string& reason) {
    const int64_t first = list.empty() ? 1 : list.back().last_rows + 1;
    last = std::min({last, most, std::max<int64_t>(first, unpacked - 1)});
    if (first <= last) list.push_back({first, last, kernel, reason});
  };
  if (resident_ != nullptr) {
    add(1, "resident", "one cooperative kernel for all layers; int8 keys and values take launches");
  } else {
    add(1, "launches, mma.sync on streamed tiles", forced ? "asked for" : resident_needs());
  }
  add(streamed, "launches, mma.sync on streamed tiles", "few rows: the memory limits");
  add(unpacked - 1, blocked > 0 ? "launches, wgmma on tiles" : "launches, mma.sync on tiles", "the codes are read once for all rows");
  if (unpacked <= most) {
    list.push_back({unpacked, most, "launches, unpacked to f16 and " + Cublas::file(), "so many rows: the matrix units limit"});
  } else if (unpacked_ == nullptr && most >= unpack_from(traits_.sm)) {
    list.back().reason = traits_.kernel == CudaKernel::kTiles ? "asked for" : "no cuBLAS is found";
  }
  return list;
}

Status CudaPlan::check(const Batch& batch) const {
  int64_t rows = 0, logit_rows = 0, draws = 0;
  for (const BatchSequence& s : batch.sequences) {
    auto* cache = dynamic_cast<CudaKvCache*>(s.cache);
    if (cache == nullptr || s.tokens == nullptr || s.token_count < 1 || s.logit_rows < 0 || s.logit_rows > s.token_count) {
      return error(Code::kArgument, "a sequence of the step has no CUDA cache, no tokens, or asks for more logits than it has tokens");
    }
    if (cache->length() + s.token_count > cache->capacity()) {
      return error(Code::kContextFull, "%lld positions are held and %lld are added, but the cache holds %lld",
                   static_cast<long long>(cache->length()), static_cast<long long>(s.token_count), static_cast<long long>(cache->capacity()));
    }
    rows += s.token_count;
    logit_rows += s.draw != nullptr ? 1 : s.logit_rows;
    draws += s.draw != nullptr;
    if (s.draw != nullptr && (s.logit_rows > 0 || !can_draw(*s.draw))) {
      return error(Code::kArgument, "a sequence of the step wants both a draw and logits, or a draw that this plan cannot do");
    }
  }
  const auto count = static_cast<int64_t>(batch.sequences.size());
  if (draws > 0 && count > limits_.max_draws) {
    return error(Code::kArgument, "a step of %lld sequences with draws exceeds the plan's %lld", static_cast<long long>(count),
                 static_cast<long long>(limits_.max_draws));
  }
  if (count == 0 || count > limits_.max_sequences || rows > limits_.max_tokens || logit_rows > limits_.max_logit_rows) {
    return error(Code::kArgument, "a step of %lld sequences, %lld tokens and %lld logit rows exceeds the plan's %lld, %lld and %lld",
                 static_cast<long long>(count), static_cast<long long>(rows), static_cast<long long>(logit_rows),
                 static_cast<long long>(limits_.max_sequences), static_cast<long long>(limits_.max_tokens),
                 static_cast<long long>(limits_.max_logit_rows));
  }
  return {};
}

// Fills the page-locked input and the description of the step.
Status CudaPlan::prepare(const Batch& batch) {
  const Rope& rope = decoder_->decoder().rope;
  const int half = decoder_->rotary_half();
  const InputLayout layout(limits_.max_tokens > 0 ? limits_.max_tokens : 1, limits_.max_sequences, limits_.max_logit_rows,
                           decoder_->config().head_dim / 2);
  unsigned char* host = host_input_.as<unsigned char>();
  auto* sequences = reinterpret_cast<StepSequence*>(host + layout.sequences);
  auto* tokens = reinterpret_cast<int32_t*>(host + layout.tokens);
  auto* positions = reinterpret_cast<int32_t*>(host + layout.positions);
  auto* sequence_of = reinterpret_cast<int32_t*>(host + layout.sequence_of);
  auto* tiles = reinterpret_cast<QueryTile*>(host + layout.tiles);
  auto* logit_list = reinterpret_cast<int32_t*>(host + layout.logit_list);
  int row = 0;
  int64_t longest = 0;
  tile_count_ = logit_rows_ = 0;
  decode_ = true;
  drawing_ = rows_.has_half_caches = rows_.has_byte_caches = false;
  tile_rows_ = query_tile_rows(traits_.sm, decoder_->config().head_dim);
  for (const BatchSequence& s : batch.sequences) {
    if (static_cast<const CudaKvCache*>(s.cache)->scales() != nullptr) tile_rows_ = kQueryTile;  // the wide kernel reads f16 only
  }
  for (size_t i = 0; i < batch.sequences.size(); ++i) {
    const BatchSequence& s = batch.sequences[i];
    const auto* cache = static_cast<const CudaKvCache*>(s.cache);
    const auto count = static_cast<int32_t>(s.token_count);
    sequences[i] = {cache->data(), cache->capacity(), static_cast<int32_t>(cache->length()), row, count, static_cast<__half*>(cache->scales())};
    (cache->scales() != nullptr ? rows_.has_byte_caches : rows_.has_half_caches) = true;
    longest = std::max(longest, cache->length() + s.token_count);
    decode_ = decode_ && count == 1;
    for (int32_t first = 0; first < count; first += tile_rows_) tiles[tile_count_++] = {static_cast<int32_t>(i), first};
    for (int32_t j = 0; j < count; ++j, ++row) {
      tokens[row] = s.tokens[j];
      positions[row] = static_cast<int32_t>(cache->length()) + j;
      sequence_of[row] = static_cast<int32_t>(i);
      if (j >= count - (s.draw != nullptr ? 1 : s.logit_rows)) logit_list[logit_rows_++] = row;
    }
    drawing_ = drawing_ || s.draw != nullptr;
    if (rope.dynamic) {
      const int64_t call = s.call_length > 0 ? s.call_length : cache->length() + s.token_count;
      rope_inv_freq(rope, call, reinterpret_cast<float*>(host + layout.inv_freq) + static_cast<int64_t>(i) * half);
    }
  }
  decode_ = decode_ && row <= kDecodeRows;
  rows_.sequences = reinterpret_cast<const StepSequence*>(input_ + layout.sequences);
  rows_.tokens = reinterpret_cast<const int32_t*>(input_ + layout.tokens);
  rows_.positions = reinterpret_cast<const int32_t*>(input_ + layout.positions);
  rows_.sequence_of = reinterpret_cast<const int32_t*>(input_ + layout.sequence_of);
  rows_.turns = turns_;
  rows_.rows = row;
  rows_.sequence_count = static_cast<int>(batch.sequences.size());
  tiles_ = reinterpret_cast<const QueryTile*>(input_ + layout.tiles);
  logit_list_ = reinterpret_cast<const int32_t*>(input_ + layout.logit_list);
  step_inv_freq_ = rope.dynamic ? reinterpret_cast<const float*>(input_ + layout.inv_freq) : decoder_->inv_freq();
  resident_step_ = resident_ != nullptr && decode_ && row == 1 && logit_rows_ == 1 && !rows_.has_byte_caches;
  choose_splits(longest);
  return {};
}

// Over how many parts the positions of a decode step are spread, so that attention fills the GPU.
void CudaPlan::choose_splits(int64_t longest) {
  if (resident_step_) {
    splits_ = resident_->splits(longest);
    return;
  }
  const DecoderConfig& c = decoder_->config();
  const bool on_tensor_core = !decoder_->blocks().empty() && decodes_on_tensor_core(decoder_->blocks().front().attention) && !rows_.has_byte_caches;
  const int64_t a_split = on_tensor_core ? kTensorTokensPerSplit : kTokensPerSplit;
  const int64_t useful = (longest + a_split - 1) / a_split;
  const int64_t tasks = attention_tasks(c.num_attention_heads, c.num_key_value_heads, kHeadsPerTask) * rows_.rows;
  splits_ = 1;
  while (splits_ * 2 <= sizes_.max_splits && splits_ < useful && tasks * splits_ * 2 <= 2 * traits_.multiprocessors) splits_ *= 2;
}

Status CudaPlan::step(const Batch& batch) {
  DeviceScope scope(traits_.device);
  NBL_RETURN_IF_ERROR(scope.status());
  abandon();
  NBL_RETURN_IF_ERROR(check(batch));
  NBL_RETURN_IF_ERROR(prepare(batch));
  const int64_t start = now_ns();
  const Status status = run(batch);
  if (!status.ok()) {
    cudaStreamSynchronize(stream_.get());  // nothing of a failed step may still run when the caller goes on
    cudaGetLastError();
    return status;
  }
  int64_t row = 0, rows = 0;
  const int64_t vocab = decoder_->config().vocab_size, ns = now_ns() - start;
  for (const BatchSequence& s : batch.sequences) {
    if (s.draw != nullptr) batch.drawn[row] = {draws_->id(0, row), ns};
    rows += s.logit_rows;
    ++row;
    static_cast<CudaKvCache*>(s.cache)->grow(s.token_count);
  }
  if (batch.logits != nullptr && rows > 0) std::memcpy(batch.logits, host_logits_.as<void>(), static_cast<size_t>(rows * vocab) * 4);
  return {};
}

Status CudaPlan::upload(const Batch& batch) {
  NBL_CUDA(cudaMemcpyAsync(input_, host_input_.as<void>(), sizes_.input_bytes, cudaMemcpyHostToDevice, stream_.get()));
  return drawing_ ? draws_->upload(batch, stream_.get()) : Status();
}

Status CudaPlan::run(const Batch& batch) {
  NBL_RETURN_IF_ERROR(upload(batch));
  NBL_RETURN_IF_ERROR(launch(batch.cancel));
  NBL_RETURN_IF_ERROR(download(batch));
  NBL_CUDA(cudaStreamSynchronize(stream_.get()));
  if (batch.cancel != nullptr && batch.cancel->load(std::memory_order_relaxed)) {
    return error(Code::kCancelled, "the step was cancelled");
  }
  return {};
}

Status CudaPlan::launch(const std::atomic<bool>* cancel) {
  if (decode_ && logit_rows_ == rows_.rows) return replay({rows_.rows, logit_rows_, splits_, drawing_, rows_.has_half_caches, rows_.has_byte_caches});
  return launch_all(cancel);
}

// The logits of sequences without a draw, closed up.
Status CudaPlan::download(const Batch& batch) {
  const int64_t row_bytes = decoder_->config().vocab_size * 4;
  const auto copy = [&](int64_t from, int64_t to, int64_t rows) -> Status {
    if (rows == 0) return {};
    NBL_CUDA(cudaMemcpyAsync(host_logits_.as<unsigned char>() + to * row_bytes, reinterpret_cast<unsigned char*>(logits_) + from * row_bytes,
                             static_cast<size_t>(rows * row_bytes), cudaMemcpyDeviceToHost, stream_.get()));
    return {};
  };
  if (!drawing_) return copy(0, 0, logit_rows_);
  int64_t from = 0, to = 0;
  for (const BatchSequence& s : batch.sequences) {
    NBL_RETURN_IF_ERROR(copy(from, to, s.logit_rows));
    from += s.draw != nullptr ? 1 : s.logit_rows;
    to += s.logit_rows;
  }
  return {};
}

// ---- steps in flight

Status CudaPlan::begin(const Batch& batch) {
  DeviceScope scope(traits_.device);
  NBL_RETURN_IF_ERROR(scope.status());
  abandon();
  NBL_RETURN_IF_ERROR(check(batch));
  for (const BatchSequence& s : batch.sequences) {
    if (s.draw == nullptr) return error(Code::kArgument, "a step that is begun draws for every sequence");
  }
  NBL_RETURN_IF_ERROR(prepare(batch));
  flying_.clear();
  for (const BatchSequence& s : batch.sequences) flying_.push_back({static_cast<CudaKvCache*>(s.cache), s.token_count});
  begun_steps_ = finished_steps_ = 0;
  Status status = upload(batch);
  if (status.ok()) status = fly();
  if (!status.ok()) cudaStreamSynchronize(stream_.get());
  return status;
}

// Launches the prepared step and marks its end.
Status CudaPlan::fly() {
  Flight& flight = flights_[begun_steps_ % kMostInFlight];
  flight.started_ns = now_ns();
  NBL_RETURN_IF_ERROR(launch(nullptr));
  NBL_CUDA(cudaEventRecord(flight.end.get(), stream_.get()));
  ++begun_steps_;
  return {};
}

bool CudaPlan::can_follow() const {
  const int64_t in_flight = begun_steps_ - finished_steps_;
  if (in_flight < 1 || in_flight >= kMostInFlight || !decode_ || decoder_->decoder().rope.dynamic) return false;
  return std::all_of(flying_.begin(), flying_.end(),
                     [&](const Flying& f) { return f.cache->length() + in_flight < f.cache->capacity(); });
}

Status CudaPlan::follow() {
  DeviceScope scope(traits_.device);
  NBL_RETURN_IF_ERROR(scope.status());
  if (!can_follow()) return error(Code::kState, "there is no step that another could follow");
  int64_t longest = 0;
  for (const Flying& f : flying_) longest = std::max(longest, f.cache->length());
  choose_splits(longest + begun_steps_ - finished_steps_ + 1);
  return fly();
}

Status CudaPlan::finish(DrawnToken* drawn) {
  DeviceScope scope(traits_.device);
  NBL_RETURN_IF_ERROR(scope.status());
  if (begun_steps_ == finished_steps_) return error(Code::kState, "no step is in flight");
  const Flight& flight = flights_[finished_steps_ % kMostInFlight];
  const Status status = [&]() -> Status {
    NBL_CUDA(cudaEventSynchronize(flight.end.get()));
    return {};
  }();
  if (!status.ok()) {
    abandon();
    return status;
  }
  // The device worked since the host began the step, but not before the step in front of it ended.
  int64_t ns = now_ns() - flight.started_ns;
  float since_last_ms = 0;
  if (finished_steps_ > 0 &&
      cudaEventElapsedTime(&since_last_ms, flights_[(finished_steps_ - 1) % kMostInFlight].end.get(), flight.end.get()) == cudaSuccess) {
    ns = std::min(ns, static_cast<int64_t>(static_cast<double>(since_last_ms) * 1e6));
  }
  for (size_t i = 0; i < flying_.size(); ++i) {
    drawn[i] = {draws_->id(finished_steps_, static_cast<int64_t>(i)), ns};
    flying_[i].cache->grow(flying_[i].count);
    flying_[i].count = 1;
    if (decode_ && draws_->records(static_cast<int64_t>(i))) flying_[i].cache->set_recorded(flying_[i].cache->length() + 1);
  }
  ++finished_steps_;
  return {};
}

void CudaPlan::abandon() {
  if (begun_steps_ == finished_steps_) return;
  DeviceScope scope(traits_.device);
  cudaStreamSynchronize(stream_.get());
  cudaGetLastError();
  begun_steps_ = finished_steps_;
}

// A decode step is captured the second time its shape occurs; everything that changes from step to step is read from
// device memory, so that the graph serves every later one.
Status CudaPlan::replay(const GraphKey& key) {
  const auto found = graphs_.find(key);
  if (found == graphs_.end()) {
    graphs_[key] = nullptr;
    return launch_all(nullptr);
  }
  if (found->second == nullptr) {
    NBL_CUDA(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal));
    const Status status = launch_all(nullptr);
    cudaGraph_t graph = nullptr;
    const cudaError_t ended = cudaStreamEndCapture(stream_.get(), &graph);
    if (!status.ok() || ended != cudaSuccess) {
      if (graph != nullptr) cudaGraphDestroy(graph);
      return status.ok() ? failed(ended, "cudaStreamEndCapture") : status;
    }
    const cudaError_t made = fault_due() ? fault_error() : cudaGraphInstantiate(&found->second, graph, 0);
    cudaGraphDestroy(graph);
    if (made != cudaSuccess) {
      found->second = nullptr;
      return failed(made, "cudaGraphInstantiate");
    }
  }
  NBL_CUDA(cudaGraphLaunch(found->second, stream_.get()));
  return {};
}

Status CudaPlan::launch_blocks(const std::atomic<bool>* cancel) {
  const DecoderConfig& c = decoder_->config();
  NBL_RETURN_IF_ERROR(embed(rows_, decoder_->embedding().data.as<void>(), decoder_->embedding().type, h_, c.hidden_size, stream_.get()));
  NBL_RETURN_IF_ERROR(turn_angles(rows_, step_inv_freq_, decoder_->decoder().rope.dynamic, decoder_->rotary_half(),
                                  decoder_->decoder().rope.attention_factor, traits_, stream_.get()));
  NBL_RETURN_IF_ERROR(clear_padding(rows_.rows));
  const std::vector<DeviceBlock>& blocks = decoder_->blocks();
  for (size_t i = 0; i < blocks.size(); ++i) {
    if (cancel != nullptr) {
      // The host launches no more than three blocks ahead of the device: a cancel waits for no more than these.
      const cudaEvent_t before = block_begins_[i % 2].get();
      if (i >= 2) NBL_CUDA(cudaEventSynchronize(before));
      NBL_CUDA(cudaEventRecord(before, stream_.get()));
    }
    if (cancel != nullptr && cancel->load(std::memory_order_relaxed)) return error(Code::kCancelled, "the step was cancelled");
    NBL_RETURN_IF_ERROR(launch_block(blocks[i]));
  }
  return launch_logits();
}

Status CudaPlan::launch_resident() {
  ResidentStep step;
  step.sequence = rows_.sequences;
  step.token = rows_.tokens;
  step.position = rows_.positions;
  step.inv_freq = step_inv_freq_;
  step.splits = splits_;
  return resident_->launch(step, stream_.get());
}

Status CudaPlan::launch_all(const std::atomic<bool>* cancel) {
  NBL_RETURN_IF_ERROR(resident_step_ ? launch_resident() : launch_blocks(cancel));
  return drawing_ ? draws_->launch(rows_, decode_, logits_, stream_.get()) : Status();
}

// The columns beyond a width must be zero, but where they lie depends on the layout: an earlier step may have left values
// there. Nothing to do for widths that need no padding, as nearly all models have, or where there is one layout.
Status CudaPlan::clear_padding(int rows) {
  if (blocked_from(traits_.sm) == 0) return {};
  const DecoderConfig& c = decoder_->config();
  const struct {
    void* x;
    int64_t width, pad;
  } inputs[] = {{x_, c.hidden_size, sizes_.hidden_pad},
                {attended_, c.num_attention_heads * c.head_dim, sizes_.query_pad},
                {act_, c.intermediate_size, sizes_.inner_pad}};
  for (const auto& input : inputs) {
    if (input.width == input.pad) continue;
    NBL_CUDA(cudaMemsetAsync(input.x, 0, static_cast<size_t>(pad_up(rows, 64) * input.pad * 2), stream_.get()));
  }
  return {};
}

Status CudaPlan::multiply(const DeviceLinear& linear, const void* x, int64_t x_pad, int rows, const Output& output) {
  if (!unpacks(rows)) {
    Output with_bias = output;
    with_bias.bias = linear.bias;
    return matmul_tiles(linear.weight->tiles(), x, layout(x_pad, rows), rows, with_bias, split_, traits_, stream_.get());
  }
  return unpacked_->multiply(*linear.weight, x, rows, output.values, false, output.pitch, output.kind == Output::Kind::kAdd);
}

// What is about to be multiplied by an int8 matrix that asks for it.
Status CudaPlan::round_input(const DeviceLinear& linear, void* x, int64_t x_pad, int rows) {
  const WeightSpec& spec = linear.weight->spec();
  if (spec.outlier_threshold < 0) return {};
  return round_rows(x, layout(x_pad, rows), spec.in_features, rows, spec.outlier_threshold, outliers_, stream_.get());
}

int64_t CudaPlan::outliers() const {
  DeviceScope scope(traits_.device);
  unsigned long long count = 0;
  if (cudaMemcpyAsync(&count, outliers_, sizeof count, cudaMemcpyDeviceToHost, stream_.get()) != cudaSuccess ||
      cudaStreamSynchronize(stream_.get()) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return static_cast<int64_t>(count);
}

Status CudaPlan::launch_attention(const DeviceBlock& block) {
  const DecoderConfig& c = decoder_->config();
  const int rows = rows_.rows;
  const cudaStream_t stream = stream_.get();
  const int32_t* place = nullptr;
  for (size_t i = 0; i < block.qkv.size(); ++i) {
    const DeviceLinear& linear = block.qkv[i];
    const int32_t* wanted = linear.weight->tiles().k_place;
    if (i == 0 || wanted != place) {
      NBL_RETURN_IF_ERROR(normalize(block.input_norm, h_, c.hidden_size, nullptr, rows, x_, layout(sizes_.hidden_pad, rows), wanted, traits_, stream));
      NBL_RETURN_IF_ERROR(round_input(linear, x_, sizes_.hidden_pad, rows));
    }
    place = wanted;
    Output out;
    out.values = qkv_ + linear.offset;
    out.pitch = sizes_.qkv_width;
    NBL_RETURN_IF_ERROR(multiply(linear, x_, sizes_.hidden_pad, rows, out));
    if (unpacks(rows) && linear.bias != nullptr) {
      NBL_RETURN_IF_ERROR(add_bias(out.values, linear.bias, linear.weight->tiles().rows, out.pitch, rows, stream));
    }
  }
  const int32_t* output_place = block.output.weight->tiles().k_place;
  if (decode_) {
    return decode_attention(block.attention, rows_, qkv_, splits_, {part_, part_state_, split_.tickets}, attended_,
                            layout(sizes_.query_pad, rows), output_place, traits_, stream);
  }
  NBL_RETURN_IF_ERROR(rotate_and_append(block.attention, rows_, qkv_, q_, stream));
  return prefill_attention(block.attention, rows_, tiles_, tile_count_, tile_rows_, q_, attended_,
                           layout(sizes_.query_pad, rows), output_place, stream);
}

// act = activation(gate) * up, by the matrix kernel itself where it has both in one thread.
Status CudaPlan::launch_gate_up(const DeviceBlock& block) {
  const DecoderConfig& c = decoder_->config();
  const int rows = rows_.rows;
  const cudaStream_t stream = stream_.get();
  const int32_t* down_place = block.down.weight->tiles().k_place;
  const ActivationLayout x_layout = layout(sizes_.hidden_pad, rows), act_layout = layout(sizes_.inner_pad, rows);
  const bool interleaved = block.gate_up.size() == 1 && block.gate_up[0].weight->tiles().interleaved;
  const int32_t* place = nullptr;
  for (size_t i = 0; i < block.gate_up.size(); ++i) {
    const DeviceLinear& linear = block.gate_up[i];
    const int32_t* wanted = linear.weight->tiles().k_place;
    if (i == 0 || wanted != place) {
      NBL_RETURN_IF_ERROR(normalize(block.post_norm, h_, c.hidden_size, nullptr, rows, x_, x_layout, wanted, traits_, stream));
      NBL_RETURN_IF_ERROR(round_input(linear, x_, sizes_.hidden_pad, rows));
    }
    place = wanted;
    Output out;
    if (interleaved) {
      out.kind = Output::Kind::kGate;
      out.half_values = act_;
      out.pitch = sizes_.inner_pad;
      out.blocked = act_layout.blocked;
      out.place = down_place;
      out.activation = block.activation;
    } else {
      out.values = static_cast<float*>(gate_up_) + linear.offset;
      out.pitch = 2 * c.intermediate_size;
    }
    NBL_RETURN_IF_ERROR(multiply(linear, x_, sizes_.hidden_pad, rows, out));
  }
  if (interleaved) return {};
  const GateInput in{gate_up_, false, false, 2 * c.intermediate_size, nullptr, nullptr};
  return gate(in, block.activation, c.intermediate_size, rows, act_, act_layout, down_place, stream);
}

// The same through f16 slices of gate and up.
Status CudaPlan::launch_unpacked_gate_up(const DeviceBlock& block) {
  const DecoderConfig& c = decoder_->config();
  const int rows = rows_.rows;
  const cudaStream_t stream = stream_.get();
  const int32_t* down_place = block.down.weight->tiles().k_place;
  const DeviceLinear& first = block.gate_up[0];
  const bool both = block.gate_up.size() == 1, interleaved = both && first.weight->tiles().interleaved;
  const auto normalized = [&](const DeviceLinear& linear) -> Status {
    NBL_RETURN_IF_ERROR(normalize(block.post_norm, h_, c.hidden_size, nullptr, rows, x_, sizes_.hidden_pad, linear.weight->tiles().k_place, traits_, stream));
    return round_input(linear, x_, sizes_.hidden_pad, rows);
  };
  // Columns of act to one slice; a strip has 8 of them when it has gate and up. Fused parts that could not be interleaved end
  // within a strip, so they go as one slice.
  // Matrices that read x in different orders need it made anew for each.
  const bool same_x = both || block.gate_up[1].weight->tiles().k_place == first.weight->tiles().k_place;
  const int strip_columns = interleaved ? kStripRows / 2 : kStripRows;
  int step = unpacked_->slice_strips(first.weight->tiles(), first.weight->padded_k(), rows);
  if (!both) step = std::max(1, step / 2);
  const int64_t inner = c.intermediate_size;
  NBL_RETURN_IF_ERROR(normalized(first));
  for (int64_t column = 0; column < inner;) {
    const int64_t width = both && !interleaved ? inner : std::min<int64_t>(inner - column, static_cast<int64_t>(step) * strip_columns);
    const int strip = static_cast<int>(column / strip_columns), strips = static_cast<int>((width + strip_columns - 1) / strip_columns);
    GateInput in{gate_up_, true, interleaved, 2 * width, nullptr, nullptr};
    if (both && !interleaved) {
      NBL_RETURN_IF_ERROR(unpacked_->multiply(*first.weight, x_, rows, gate_up_, true, in.pitch, false));
    } else {
      for (size_t i = 0; i < block.gate_up.size(); ++i) {
        if (!same_x && (i > 0 || column > 0)) NBL_RETURN_IF_ERROR(normalized(block.gate_up[i]));
        NBL_RETURN_IF_ERROR(unpacked_->multiply_slice(*block.gate_up[i].weight, strip, strips, x_, rows,
                                                      static_cast<uint16_t*>(gate_up_) + i * width, true, in.pitch, false));
      }
    }
    if (first.bias != nullptr) in.bias = first.bias + column;
    if (both && first.bias != nullptr) in.second_bias = first.bias + inner + column;
    if (!both && block.gate_up[1].bias != nullptr) in.second_bias = block.gate_up[1].bias + column;
    NBL_RETURN_IF_ERROR(gate(in, block.activation, width, rows, static_cast<uint16_t*>(act_) + (down_place == nullptr ? column : 0),
                             sizes_.inner_pad, down_place == nullptr ? nullptr : down_place + column, stream));
    column += width;
  }
  return {};
}

Status CudaPlan::launch_block(const DeviceBlock& block) {
  const DecoderConfig& c = decoder_->config();
  const int rows = rows_.rows;
  const cudaStream_t stream = stream_.get();
  NBL_RETURN_IF_ERROR(launch_attention(block));
  Output residual;
  residual.kind = Output::Kind::kAdd;
  residual.values = h_;
  residual.pitch = c.hidden_size;
  NBL_RETURN_IF_ERROR(round_input(block.output, attended_, sizes_.query_pad, rows));
  NBL_RETURN_IF_ERROR(multiply(block.output, attended_, sizes_.query_pad, rows, residual));
  if (unpacks(rows)) NBL_RETURN_IF_ERROR(add_bias(h_, block.output.bias, c.hidden_size, c.hidden_size, rows, stream));

  NBL_RETURN_IF_ERROR(unpacks(rows) ? launch_unpacked_gate_up(block) : launch_gate_up(block));
  NBL_RETURN_IF_ERROR(round_input(block.down, act_, sizes_.inner_pad, rows));
  NBL_RETURN_IF_ERROR(multiply(block.down, act_, sizes_.inner_pad, rows, residual));
  if (unpacks(rows)) NBL_RETURN_IF_ERROR(add_bias(h_, block.down.bias, c.hidden_size, c.hidden_size, rows, stream));
  return {};
}

Status CudaPlan::launch_logits() {
  if (logit_rows_ == 0) return {};
  const DecoderConfig& c = decoder_->config();
  const cudaStream_t stream = stream_.get();
  const DeviceLinear& head = decoder_->head();
  if (layout(0, logit_rows_).blocked != layout(0, rows_.rows).blocked) NBL_RETURN_IF_ERROR(clear_padding(logit_rows_));
  NBL_RETURN_IF_ERROR(normalize(decoder_->final_norm(), h_, c.hidden_size, logit_list_, logit_rows_, x_,
                                layout(sizes_.hidden_pad, logit_rows_), head.weight->tiles().k_place, traits_, stream));
  NBL_RETURN_IF_ERROR(round_input(head, x_, sizes_.hidden_pad, logit_rows_));
  Output out;
  out.values = logits_;
  out.pitch = c.vocab_size;
  NBL_RETURN_IF_ERROR(multiply(head, x_, sizes_.hidden_pad, logit_rows_, out));
  if (unpacks(logit_rows_)) NBL_RETURN_IF_ERROR(add_bias(logits_, head.bias, c.vocab_size, c.vocab_size, logit_rows_, stream));
  return {};
}

}  // namespace nbl::cuda

// How a plan is made and how a step goes: what the host uploads for it, and the launches in their order. Its memory is laid out
// in plan_memory.cc; steps that run ahead of the host are in plan_flights.cc.
#include "kernels/cuda/plan/plan.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "kernels/rope.h"

namespace nbl::cuda {
namespace {

constexpr int64_t kTensorTokensPerSplit = 256;  // kTokensPerSplit of decode_on_tensor_core, whose CTAs ask for so many at once

}  // namespace

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

Status CudaPlan::reserve() {
  const DecoderConfig& c = decoder_->config();
  // cuBLAS is opened first: where it cannot be, steps of many rows need other room.
  unpack_from_ = unpack_rows(traits_, has_codes_only());
  std::unique_ptr<Cublas> cublas = wants_cublas(limits_, traits_, unpack_from_) ? Cublas::open(stream_.get()) : nullptr;
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

// Whether none of the blocks' matrices is f16.
bool CudaPlan::has_codes_only() const {
  const auto coded = [](const DeviceLinear& linear) { return linear.weight->tiles().codes != Codes::kHalf; };
  const std::vector<DeviceBlock>& blocks = decoder_->blocks();
  return std::all_of(blocks.begin(), blocks.end(), [&](const DeviceBlock& block) {
    return std::all_of(block.qkv.begin(), block.qkv.end(), coded) && std::all_of(block.gate_up.begin(), block.gate_up.end(), coded) &&
           coded(block.output) && coded(block.down);
  });
}

std::vector<StepKernel> CudaPlan::kernels() const {
  const bool forced = traits_.kernel != CudaKernel::kAuto;
  const int64_t most = limits_.max_tokens, blocked = blocked_from(traits_.sm), unpacked = unpacked_ != nullptr ? unpack_from_ : most + 1;
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
  } else if (unpacked_ == nullptr && most >= unpack_from_) {
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
  const RowBests bests = resident_step_ ? resident_->bests() : RowBests();
  return drawing_ ? draws_->launch(rows_, decode_, logits_, stream_.get(), bests) : Status();
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
  const int rows = rows_.rows;
  const cudaStream_t stream = stream_.get();
  if (block.gate_up.size() > 1 || !block.gate_up[0].weight->tiles().interleaved) return launch_separate_gate_up(block);
  const DeviceLinear& linear = block.gate_up[0];
  const ActivationLayout act_layout = layout(sizes_.inner_pad, rows);
  NBL_RETURN_IF_ERROR(normalize(block.post_norm, h_, decoder_->config().hidden_size, nullptr, rows, x_, layout(sizes_.hidden_pad, rows),
                                linear.weight->tiles().k_place, traits_, stream));
  NBL_RETURN_IF_ERROR(round_input(linear, x_, sizes_.hidden_pad, rows));
  Output out;
  out.kind = Output::Kind::kGate;
  out.half_values = act_;
  out.pitch = sizes_.inner_pad;
  out.blocked = act_layout.blocked;
  out.place = block.down.weight->tiles().k_place;
  out.activation = block.activation;
  return multiply(linear, x_, sizes_.hidden_pad, rows, out);
}

// The same where gate and up come one after the other: through memory.
Status CudaPlan::launch_separate_gate_up(const DeviceBlock& block) {
  const DecoderConfig& c = decoder_->config();
  const int rows = rows_.rows;
  const cudaStream_t stream = stream_.get();
  const ActivationLayout x_layout = layout(sizes_.hidden_pad, rows), act_layout = layout(sizes_.inner_pad, rows);
  const GateInput in{gate_up_, false, false, 2 * c.intermediate_size, nullptr, nullptr};
  const int32_t* place = nullptr;
  for (int first = 0; first < rows; first += kGateUpRows) {
    const int count = std::min<int>(kGateUpRows, rows - first);
    // The same in both layouts, since it is a multiple of 64.
    const auto row_of = [&](void* x, int64_t pad) { return static_cast<uint16_t*>(x) + first * pad; };
    for (size_t i = 0; i < block.gate_up.size(); ++i) {
      const DeviceLinear& linear = block.gate_up[i];
      const int32_t* wanted = linear.weight->tiles().k_place;
      if ((i == 0 && first == 0) || wanted != place) {
        NBL_RETURN_IF_ERROR(normalize(block.post_norm, h_, c.hidden_size, nullptr, rows, x_, x_layout, wanted, traits_, stream));
        NBL_RETURN_IF_ERROR(round_input(linear, x_, sizes_.hidden_pad, rows));
      }
      place = wanted;
      Output out;
      out.values = static_cast<float*>(gate_up_) + linear.offset;
      out.pitch = in.pitch;
      out.bias = linear.bias;
      NBL_RETURN_IF_ERROR(matmul_tiles(linear.weight->tiles(), row_of(x_, sizes_.hidden_pad), x_layout, count, out, split_, traits_,
                                       stream));
    }
    NBL_RETURN_IF_ERROR(gate(in, block.activation, c.intermediate_size, count, row_of(act_, sizes_.inner_pad), act_layout,
                             block.down.weight->tiles().k_place, stream));
  }
  return {};
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

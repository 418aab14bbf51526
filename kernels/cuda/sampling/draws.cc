#include "kernels/cuda/sampling/draws.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace nbl::cuda {
namespace {

constexpr int64_t kMostBiases = 1024;          // more of them: the host draws
constexpr int64_t kStagingBytes = 64 << 10;
static_assert(kMostBiases * static_cast<int64_t>(sizeof(DrawBias)) <= kStagingBytes, "a list of biases is staged at once");

struct Layout {
  int64_t states, occurrences, biases, logits, total;
  Layout(int64_t max_draws, int64_t vocab, const DrawPlan& plan) {
    states = 0;
    occurrences = pad_up(max_draws * static_cast<int64_t>(sizeof(DrawState)), 256);
    biases = occurrences + pad_up(max_draws * vocab * 4, 256);
    logits = biases + pad_up(max_draws * kMostBiases * static_cast<int64_t>(sizeof(DrawBias)), 256);
    total = logits + (plan.copies ? pad_up(max_draws * vocab * 4, 256) : 0);
  }
};

}  // namespace

int64_t Draws::scratch_bytes(int64_t max_draws, int64_t vocab, int shared_optin) {
  return max_draws > 0 ? Layout(max_draws, vocab, plan_draw(vocab, shared_optin)).total : 0;
}

Result<std::unique_ptr<Draws>> Draws::create(unsigned char* scratch, int64_t max_draws, int64_t vocab, int shared_optin) {
  NBL_RETURN_IF_ERROR(prepare_sampling(shared_optin));
  std::unique_ptr<Draws> draws(new Draws);
  draws->vocab_ = vocab;
  draws->plan_ = plan_draw(vocab, shared_optin);
  const Layout layout(max_draws, vocab, draws->plan_);
  NBL_ASSIGN_OR_RETURN(draws->host_states_, PinnedBuffer::allocate(max_draws * static_cast<int64_t>(sizeof(DrawState))));
  NBL_ASSIGN_OR_RETURN(draws->staging_, PinnedBuffer::allocate(kStagingBytes));
  NBL_ASSIGN_OR_RETURN(draws->ring_, PinnedBuffer::allocate(kRingSteps * max_draws * 4));
  DrawScratch& s = draws->scratch_;
  s.states = reinterpret_cast<DrawState*>(scratch + layout.states);
  s.occurrences = reinterpret_cast<uint32_t*>(scratch + layout.occurrences);
  s.logits = draws->plan_.copies ? reinterpret_cast<float*>(scratch + layout.logits) : nullptr;
  s.ring = draws->ring_.as<int32_t>();
  s.max_draws = static_cast<int>(max_draws);
  draws->biases_ = reinterpret_cast<DrawBias*>(scratch + layout.biases);
  return Result<std::unique_ptr<Draws>>(std::move(draws));
}

bool Draws::can_draw(const Draw& draw) const {
  return scratch_.max_draws > 0 && vocab_ <= kMostVocabulary && draw.forbidden_count <= kMostForbidden &&
         (draw.bias == nullptr || static_cast<int64_t>(draw.bias->size()) <= kMostBiases);
}

// Through page-locked memory, which is used again once the stream has read it.
Status Draws::copy(const void* from, int64_t bytes, void* to, cudaStream_t stream) {
  for (int64_t done = 0; done < bytes;) {
    if (staged_ == kStagingBytes) {
      NBL_CUDA(cudaStreamSynchronize(stream));
      staged_ = 0;
    }
    const int64_t now = std::min(bytes - done, kStagingBytes - staged_);
    unsigned char* staging = staging_.as<unsigned char>() + staged_;
    std::memcpy(staging, static_cast<const unsigned char*>(from) + done, static_cast<size_t>(now));
    NBL_CUDA(cudaMemcpyAsync(static_cast<unsigned char*>(to) + done, staging, static_cast<size_t>(now), cudaMemcpyHostToDevice, stream));
    staged_ += now;
    done += now;
  }
  return {};
}

Status Draws::fill(const BatchSequence& sequence, int64_t row, int32_t logit_row, cudaStream_t stream) {
  DrawState& state = host_states_.as<DrawState>()[row];
  state = DrawState();
  if (sequence.draw == nullptr) return {};
  const Draw& draw = *sequence.draw;
  const SamplingOptions& o = *draw.options;
  state.logit_row = logit_row;
  state.greedy = !(o.temperature > 0);
  if (!state.greedy) {
    const double scale = std::min(1.4426950408889634 / o.temperature, 1e37);
    state.scale = static_cast<float>(scale);
    state.scale_low = static_cast<float>(scale - state.scale);
  }
  state.top_k = static_cast<int32_t>(o.top_k < vocab_ ? std::max<int64_t>(o.top_k, 0) : 0);
  state.top_p = o.top_p;
  state.typical_p = o.typical_p;
  state.min_weight = static_cast<uint64_t>(std::ceil(std::min(std::max(o.min_p, 0.), 1.) * 0x1p44));
  state.repetition = static_cast<float>(o.repetition_penalty);
  state.presence = static_cast<float>(o.presence_penalty);
  state.frequency = static_cast<float>(o.frequency_penalty);
  state.window = static_cast<int32_t>(std::min<int64_t>(std::max<int64_t>(o.penalty_window, 0), 1 << 30));
  state.answer_start = static_cast<int32_t>(draw.answer_start);
  state.token_count = static_cast<int32_t>(draw.token_count);
  state.forbidden_count = static_cast<int32_t>(draw.forbidden_count);
  std::copy(draw.forbidden, draw.forbidden + draw.forbidden_count, state.forbidden);
  state.forbidden_until = draw.forbidden_until;
  state.seed = o.seed;
  state.step = draw.step;

  if (o.repetition_penalty != 1 || o.presence_penalty != 0 || o.frequency_penalty != 0) {
    // What the cache remembers of the sequence, and the rest of it. The kernel appends what it draws.
    auto* cache = static_cast<CudaKvCache*>(sequence.cache);
    const int64_t known = std::min(cache->recorded(), cache->length());
    if (draw.token_count > known) {
      NBL_RETURN_IF_ERROR(copy(draw.tokens + known, (draw.token_count - known) * 4, cache->history() + known, stream));
    }
    cache->set_recorded(draw.token_count);
    state.history = cache->history();
  }
  if (draw.bias != nullptr && !draw.bias->empty()) {
    if (kStagingBytes - staged_ < kMostBiases * static_cast<int64_t>(sizeof(DrawBias))) {
      NBL_CUDA(cudaStreamSynchronize(stream));
      staged_ = 0;
    }
    const auto count = static_cast<int32_t>(draw.bias->size());
    auto* sorted = reinterpret_cast<DrawBias*>(staging_.as<unsigned char>() + staged_);
    for (int32_t i = 0; i < count; ++i) sorted[i] = {(*draw.bias)[i].first, i, (*draw.bias)[i].second};
    std::sort(sorted, sorted + count, [](const DrawBias& a, const DrawBias& b) { return a.id != b.id ? a.id < b.id : a.place < b.place; });
    DrawBias* to = biases_ + row * kMostBiases;
    NBL_CUDA(cudaMemcpyAsync(to, sorted, static_cast<size_t>(count) * sizeof(DrawBias), cudaMemcpyHostToDevice, stream));
    staged_ += pad_up(count * static_cast<int64_t>(sizeof(DrawBias)), 16);
    state.bias = to;
    state.bias_count = count;
  }
  return {};
}

Status Draws::upload(const Batch& batch, cudaStream_t stream) {
  staged_ = 0;  // no step is in flight
  int32_t logit_row = 0;
  for (size_t i = 0; i < batch.sequences.size(); ++i) {
    const BatchSequence& sequence = batch.sequences[i];
    NBL_RETURN_IF_ERROR(fill(sequence, static_cast<int64_t>(i), logit_row, stream));
    logit_row += sequence.draw != nullptr ? 1 : static_cast<int32_t>(sequence.logit_rows);
  }
  NBL_CUDA(cudaMemcpyAsync(scratch_.states, host_states_.as<void>(), batch.sequences.size() * sizeof(DrawState), cudaMemcpyHostToDevice,
                           stream));
  return {};
}

Status Draws::launch(const StepRows& step, bool advance, const float* logits, cudaStream_t stream, RowBests bests) const {
  return draw_tokens(scratch_, plan_, step, step.sequence_count, advance, logits, vocab_, stream, bests);
}

}  // namespace nbl::cuda

#include "kernels/cpu/step.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/outliers.h"

namespace nbl {
namespace cpu {

namespace {

const CpuWeight& weight_of(const Linear& linear) { return static_cast<const CpuWeight&>(*linear.weight); }

void layer_norm(const Norm& norm, const float* x, int64_t n, float* out) {
  double sum = 0, squares = 0;
  for (int64_t i = 0; i < n; ++i) sum += x[i];
  const float mean = static_cast<float>(sum / static_cast<double>(n));
  for (int64_t i = 0; i < n; ++i) squares += static_cast<double>(x[i] - mean) * (x[i] - mean);
  const float factor = 1.0f / std::sqrt(static_cast<float>(squares / static_cast<double>(n)) + norm.epsilon);
  for (int64_t i = 0; i < n; ++i) {
    out[i] = (x[i] - mean) * factor * norm.weight[static_cast<size_t>(i)];
    if (!norm.bias.empty()) out[i] += norm.bias[static_cast<size_t>(i)];
  }
}

void embedding_row(const Embedding& table, int64_t row, int64_t width, float* out) {
  widen(table.type, static_cast<const uint8_t*>(table.data) + row * width * dtype_bytes(table.type), width, out);
}

}  // namespace

void StepWorker::run() {
  look_ahead(decoder_.blocks.empty() ? &decoder_.head : &decoder_.blocks.front().attention.qkv.front());
  embed();
  for (size_t layer = 0; layer < decoder_.blocks.size(); ++layer) {
    // Read by all after the next barrier, and not written again before the one after that.
    const std::atomic<bool>* cancel = plan_.batch_->cancel;
    if (thread_ == 0 && cancel && cancel->load(std::memory_order_relaxed))
      plan_.stop_.store(true, std::memory_order_relaxed);
    attention_block(decoder_.blocks[layer], static_cast<int64_t>(layer));
    if (plan_.stop_.load(std::memory_order_relaxed)) return;
    const bool last = layer + 1 == decoder_.blocks.size();
    mlp_block(decoder_.blocks[layer], last ? decoder_.head : decoder_.blocks[layer + 1].attention.qkv.front());
  }
  if (plan_.logit_rows_ > 0) logits();
}

void StepWorker::embed() {
  const int64_t width = plan_.shape_.hidden;
  const Range tokens = share(m_);
  for (int64_t t = tokens.first; t < tokens.last; ++t) {
    const int32_t sequence = shared_.sequence[t];
    const int32_t id =
        plan_.batch_->sequences[static_cast<size_t>(sequence)].tokens[t - shared_.first_token[sequence]];
    embedding_row(decoder_.embedding, id, width, shared_.hidden + t * width);
  }
  barrier();
}

const float* StepWorker::normed(const Norm& norm, const float* x, int64_t width, float* out) {
  fetch(&ahead_, width / 64);
  if (norm.kind == Norm::Kind::kLayer) {
    layer_norm(norm, x, width, out);
  } else {
    kernels_.rms_norm(x, norm.weight.data(), norm.epsilon, width, out);
  }
  return out;
}

void StepWorker::activate(const Mlp& mlp, const float* gate, const float* up, int64_t count, float* out) {
  constexpr int64_t kAtOnce = 128;
  switch (mlp.activation) {
    case Activation::kSilu:
      for (int64_t i = 0; i < count; i += kAtOnce) {
        fetch(&ahead_, kAtOnce / 8);
        kernels_.silu_mul(gate + i, up + i, std::min(kAtOnce, count - i), out + i);
      }
      break;
    case Activation::kGeluTanh:
      for (int64_t i = 0; i < count; i += kAtOnce) {
        fetch(&ahead_, kAtOnce / 8);
        kernels_.gelu_tanh_mul(gate + i, up + i, std::min(kAtOnce, count - i), out + i);
      }
      break;
    case Activation::kGelu:
      for (int64_t i = 0; i < count; ++i) out[i] = 0.5f * gate[i] * (1.0f + std::erf(gate[i] * 0.70710678f)) * up[i];
      break;
    case Activation::kRelu:
      for (int64_t i = 0; i < count; ++i) out[i] = std::max(gate[i], 0.0f) * up[i];
      break;
  }
}

// ---- matrix products

// The row as an int8 matrix wants it, in `scratch`; as it is for every other matrix.
const float* StepWorker::rounded(const CpuWeight& weight, const float* row, float* scratch, bool counts) const {
  const double threshold = weight.spec().outlier_threshold;
  if (threshold < 0) return row;
  if (row != scratch) std::copy(row, row + weight.columns(), scratch);
  const int64_t outliers = round_activations(scratch, weight.columns(), threshold);
  if (counts) plan_.outliers_.fetch_add(outliers, std::memory_order_relaxed);
  return scratch;
}

template <typename Rows>
ActView StepWorker::pack(const CpuWeight& weight, int64_t m, Rows rows) {
  const int planes = planes_for(weight, plan_.precision_, m);
  if (m == 1) {
    const float* row = rounded(weight, rows(0, mine_.rows), mine_.rows, thread_ == 0);
    pack_tile(kernels_, weight, planes, 1, 0, &row, mine_.input, &ahead_);
    return mine_.input.view(1, planes);
  }
  const int64_t width =
      std::max({plan_.shape_.hidden, plan_.shape_.query_width, plan_.shape_.intermediate}) + 16;
  const Range tiles = share((m + kTile - 1) / kTile);
  for (int64_t tile = tiles.first; tile < tiles.last; ++tile) {
    const float* tile_rows[kTile] = {};
    for (int64_t i = 0; i < kTile && tile * kTile + i < m; ++i)
      tile_rows[i] = rounded(weight, rows(tile * kTile + i, mine_.rows + i * width), mine_.rows + i * width, true);
    pack_tile(kernels_, weight, planes, m, tile, tile_rows, shared_.input, &ahead_);
  }
  barrier();
  return shared_.input.view(m, planes);
}

template <typename Then>
void StepWorker::product(const Linear& linear, const ActView& input, const Linear* next, float* out, int64_t ldo, Then then) {
  const CpuWeight& weight = weight_of(linear);
  look_ahead(next);
  each_piece(weight.view(), panels_a_piece(weight.view(), input.m, input.planes), [&](Range panels) {
    kernels_.linear(&weight.view(), &input, panels.first, panels.last, out, ldo, mine_.partial);
    if (weight.low()) kernels_.linear(weight.low(), &input, panels.first, panels.last, out, ldo, mine_.partial);
    const auto add_bias = [&](Range rows) {
      for (int64_t t = 0; t < input.m && !linear.bias.empty(); ++t)
        for (int64_t n = rows.first; n < rows.last; ++n) out[t * ldo + n] += linear.bias[static_cast<size_t>(n)];
    };
    Range rows = {panels.first * kPanel, std::min(panels.last * kPanel, weight.view().rows)};
    if (const int64_t each = weight.view().alternating; each > 0) {
      rows = {panels.first / 2 * kPanel, panels.last / 2 * kPanel};
      add_bias({rows.first + each * kPanel, rows.last + each * kPanel});
    }
    add_bias(rows);
    then(rows);
  });
}

template <typename Rows>
void StepWorker::project(const std::vector<Linear>& linears, int64_t m, const Linear* next, float* out, int64_t ldo, Rows rows) {
  const CpuWeight* before = nullptr;
  ActView input{};
  for (size_t i = 0; i < linears.size(); ++i) {
    const Linear& linear = linears[i];
    const CpuWeight& weight = weight_of(linear);
    if (!before || !weight.same_input(*before)) {
      if (before && m > 1) barrier();  // others may still read what is about to be overwritten
      input = pack(weight, m, rows);
    }
    before = &weight;
    product(linear, input, i + 1 < linears.size() ? &linears[i + 1] : next, out, ldo, [](Range) {});
    out += linear.out_features;
  }
}

void StepWorker::add_to_hidden(Range rows) {
  const int64_t width = plan_.shape_.hidden;
  for (int64_t t = 0; t < m_; ++t) {
    float* hidden = shared_.hidden + t * width;
    const float* output = shared_.output + t * width;
    for (int64_t n = rows.first; n < rows.last; ++n) hidden[n] += output[n];
  }
}

// From now on this thread asks for the beginning of its portion of the matrix that a token meets next, whenever it does
// something that would leave the memory at rest: while it activates, while the threads meet, and while they make the matrix's
// input.
void StepWorker::look_ahead(const Linear* next) {
  ahead_ = {};
  if (m_ > 1 || !next) return;
  constexpr int64_t kBytes = 256 << 10;  // a part of the second-level cache
  const CpuWeight& weight = weight_of(*next);
  const WeightView& view = weight.view();
  const int64_t panels = (view.rows + kPanel - 1) / kPanel;
  const int64_t together = panels_a_piece(view, 1, planes_for(weight, plan_.precision_, 1));
  const int64_t first = share((panels + together - 1) / together).first * together;
  ahead_.at = view.data + first * view.panel_bytes;
  ahead_.end = ahead_.at + std::min(kBytes, (panels - first) * view.panel_bytes);
}

// ---- the stages

void StepWorker::attention_block(const Block& block, int64_t layer) {
  const int64_t width = plan_.shape_.hidden, query_width = plan_.shape_.query_width;
  const Attention& attention = block.attention;
  fetch_places(layer);
  project(attention.qkv, m_, &attention.output, shared_.qkv, query_width + 2 * plan_.shape_.kv_width,
          [&](int64_t t, float* scratch) {
            return normed(block.input_norm, shared_.hidden + t * width, width, scratch);
          });
  barrier();
  if (plan_.stop_.load(std::memory_order_relaxed)) return;
  attend_all(block, layer);
  barrier();
  const ActView input = pack(weight_of(attention.output), m_,
                             [&](int64_t t, float*) { return shared_.attended + t * query_width; });
  product(attention.output, input, &block.mlp.gate_up.front(), shared_.output, width, [&](Range rows) { add_to_hidden(rows); });
  barrier();
}

// Gate and up of every token, activated already where this is a step of one token and the rows of both come to one thread.
void StepWorker::gate_and_up(const Block& block) {
  const int64_t width = plan_.shape_.hidden, inner = plan_.shape_.intermediate;
  const Mlp& mlp = block.mlp;
  const auto rows = [&](int64_t t, float* scratch) {
    return normed(block.post_attention_norm, shared_.hidden + t * width, width, scratch);
  };
  if (!activates_at_once(mlp)) return project(mlp.gate_up, m_, &mlp.down, shared_.gate_up, 2 * inner, rows);
  float *gate = shared_.gate_up, *up = gate + inner;
  Range done = {};  // rows that wait for their activation: a portion is done at once, while what is read next is on its way
  const auto activate_done = [&] { activate(mlp, gate + done.first, up + done.first, done.last - done.first, gate + done.first); };
  const ActView input = pack(weight_of(mlp.gate_up.front()), 1, rows);
  product(mlp.gate_up.front(), input, &mlp.down, gate, 2 * inner, [&](Range piece) {
    if (piece.first != done.last) {
      activate_done();
      done.first = piece.first;
    }
    done.last = piece.last;
  });
  activate_done();
}

bool StepWorker::activates_at_once(const Mlp& mlp) const {
  return m_ == 1 && mlp.gate_up.size() == 1 && weight_of(mlp.gate_up.front()).view().alternating > 0;
}

void StepWorker::mlp_block(const Block& block, const Linear& next) {
  const int64_t width = plan_.shape_.hidden, inner = plan_.shape_.intermediate;
  const Mlp& mlp = block.mlp;
  gate_and_up(block);
  barrier();
  const ActView input = pack(weight_of(mlp.down), m_, [&](int64_t t, float* scratch) -> const float* {
    const float* gate = shared_.gate_up + t * 2 * inner;
    if (activates_at_once(mlp)) return gate;
    activate(mlp, gate, gate + inner, inner, scratch);
    return scratch;
  });
  product(mlp.down, input, &next, shared_.output, width, [&](Range rows) { add_to_hidden(rows); });
  barrier();
}

void StepWorker::logits() {
  const int64_t width = plan_.shape_.hidden;
  float lengths[kTopRows] = {};
  const bool top = only_top();
  const ActView input = pack(weight_of(decoder_.head), plan_.logit_rows_, [&](int64_t row, float* scratch) {
    return normed(decoder_.final_norm, shared_.hidden + shared_.logit_token[row] * width, width, scratch);
  });
  if (!top) {
    product(decoder_.head, input, nullptr, plan_.batch_->logits, decoder_.config.vocab_size, [](Range) {});
    return;
  }
  for (int64_t row = 0; row < plan_.logit_rows_; ++row) {
    const float* x =
        normed(decoder_.final_norm, shared_.hidden + shared_.logit_token[row] * width, width, mine_.rows);
    double squares = 0;
    for (int64_t i = 0; i < width; ++i) squares += static_cast<double>(x[i]) * x[i];
    lengths[row] = static_cast<float>(std::sqrt(squares) * 1.001);  // what rounding to 16 bits may add
  }
  top_logits(input, lengths);
}

}  // namespace cpu
}  // namespace nbl

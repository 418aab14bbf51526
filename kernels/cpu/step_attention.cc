// The attention stage of a step: norms and rotation of queries and keys, writing to the caches, and the work
// list.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/cpu/step.h"

namespace nbl {
namespace cpu {

void StepWorker::rotate(float* head, int64_t token) const {
  const int64_t half = decoder_.rope.rotary_dim / 2;
  const float* cosine = shared_.cosine + token * half;
  const float* sine = shared_.sine + token * half;
  for (int64_t i = 0; i < half; ++i) {
    const float a = head[i], b = head[i + half];
    head[i] = a * cosine[i] - b * sine[i];
    head[i + half] = b * cosine[i] + a * sine[i];
  }
}

void StepWorker::prepare_query(const Block& block, int64_t token, int64_t head) {
  const PlanShape& s = plan_.shape_;
  float* q = shared_.qkv + token * (s.query_width + 2 * s.kv_width) + head * s.head_dim;
  if (!block.attention.q_norm.empty()) normed(block.attention.q_norm.front(), q, s.head_dim, q);
  if (block.attention.rotary) rotate(q, token);
  for (int64_t d = 0; d < s.head_dim; ++d) q[d] *= block.attention.scale;
}

void StepWorker::place_keys_and_values(const Block& block, int64_t layer, int64_t token, int64_t kv_head) {
  const PlanShape& s = plan_.shape_;
  float* k = shared_.qkv + token * (s.query_width + 2 * s.kv_width) + s.query_width + kv_head * s.head_dim;
  const float* v = k + s.kv_width;
  if (!block.attention.k_norm.empty()) normed(block.attention.k_norm.front(), k, s.head_dim, k);
  if (block.attention.rotary) rotate(k, token);

  const CpuKvCache& cache = *shared_.caches[shared_.sequence[token]];
  const int64_t position = shared_.position[token], stride = cache.shape().value_stride();
  const int64_t panel = position / kPanel * s.head_dim * kPanel + position % kPanel;
  if (!cache.shape().half) {
    float* keys = reinterpret_cast<float*>(cache.keys(layer, kv_head)) + panel;
    for (int64_t d = 0; d < s.head_dim; ++d) keys[d * kPanel] = k[d];
    std::memcpy(reinterpret_cast<float*>(cache.values(layer, kv_head)) + position * stride, v,
                static_cast<size_t>(s.head_dim) * 4);
    return;
  }
  uint16_t halves[kKeyBlock];
  uint16_t* keys = reinterpret_cast<uint16_t*>(cache.keys(layer, kv_head)) + panel;
  for (int64_t start = 0; start < s.head_dim; start += kKeyBlock) {
    const int64_t count = std::min<int64_t>(kKeyBlock, s.head_dim - start);
    kernels_.to_f16(k + start, count, halves);
    for (int64_t d = 0; d < count; ++d) keys[(start + d) * kPanel] = halves[d];
  }
  kernels_.to_f16(v, s.head_dim,
                  reinterpret_cast<uint16_t*>(cache.values(layer, kv_head)) + position * stride);
}

// Asks early for the lines that keys and values of a token are written to: they were last touched a whole token ago.
void StepWorker::fetch_places(int64_t layer) const {
  const int64_t kv_heads = decoder_.config.num_key_value_heads;
  if (m_ > 1 || threads_ > kv_heads) return;
  const CpuKvCache& cache = *shared_.caches[0];
  const int64_t position = shared_.position[0], element = cache.shape().element();
  const auto ask = [](uint8_t* from, int64_t bytes) {
    for (int64_t at = 0; at < bytes; at += kLine) __builtin_prefetch(from + at, 1);
  };
  const Range heads = share(kv_heads);
  for (int64_t head = heads.first; head < heads.last; ++head) {
    const int64_t panel_bytes = plan_.shape_.head_dim * kPanel * element, value_bytes = cache.shape().value_stride() * element;
    ask(cache.keys(layer, head) + position / kPanel * panel_bytes, panel_bytes);
    ask(cache.values(layer, head) + position * value_bytes, value_bytes);
  }
}

// The keys that attention to the one token of a step begins with.
Ahead StepWorker::first_keys(const Block& block, int64_t layer, int64_t kv_head) const {
  const CpuKvCache& cache = *shared_.caches[0];
  const int64_t window = block.attention.sliding_window, last = shared_.position[0] + 1;
  const int64_t first = window > 0 ? std::max<int64_t>(0, last - window) / kPanel * kPanel : 0;
  const int64_t bytes = plan_.shape_.head_dim * cache.shape().element();
  const uint8_t* keys = cache.keys(layer, kv_head);
  return {keys + first * bytes, keys + std::min(last, first + kKeyBlock) * bytes};
}

void StepWorker::attend_all(const Block& block, int64_t layer) {
  const int64_t kv_heads = decoder_.config.num_key_value_heads;
  const int64_t group = decoder_.config.num_attention_heads / kv_heads;
  // Every thread works through (token, key head) pairs; the keys of all tokens must be there before any query
  // looks.
  const Range pairs = share(m_ * kv_heads);
  const bool alone = m_ == 1 && threads_ <= kv_heads;  // this thread attends with the heads that it prepares
  Ahead keys = alone ? first_keys(block, layer, pairs.first) : Ahead{};
  for (int64_t pair = pairs.first; pair < pairs.last; ++pair) {
    const int64_t token = pair / kv_heads, kv_head = pair % kv_heads;
    place_keys_and_values(block, layer, token, kv_head);
    for (int64_t h = 0; h < group; ++h) {
      fetch(&keys, 8);
      prepare_query(block, token, kv_head * group + h);
    }
  }
  if (alone) {
    const int64_t tiles = (group + kTile - 1) / kTile;
    for (int64_t head = pairs.first; head < pairs.last; ++head) {
      const bool last = head + 1 == pairs.last;
      if (!last) keys = first_keys(block, layer, head + 1);
      for (int64_t tile = 0; tile < tiles; ++tile) attend_tile(block, layer, 0, head, tile, {0, 1}, last ? &ahead_ : &keys);
    }
    return;
  }
  barrier();
  const auto tiles_of = [&](size_t s) {
    return (plan_.batch_->sequences[s].token_count * group + kTile - 1) / kTile;
  };
  int64_t items = 0;
  for (size_t s = 0; s < plan_.batch_->sequences.size(); ++s) items += tiles_of(s) * kv_heads;
  const int64_t pieces = pieces_wanted(items);
  // Later tokens see more: the longest tiles are handed out first.
  std::atomic<int64_t>& next = plan_.next_item_[static_cast<size_t>(layer)];
  int64_t base = 0, item = next.fetch_add(1, std::memory_order_relaxed);
  for (size_t s = 0; s < plan_.batch_->sequences.size(); ++s) {
    const int64_t tiles = tiles_of(s), count = tiles * kv_heads * pieces;
    while (item < base + count) {
      const int64_t at = (item - base) / pieces;
      attend_tile(block, layer, static_cast<int64_t>(s), at % kv_heads, tiles - 1 - at / kv_heads,
                  {(item - base) % pieces, pieces}, m_ == 1 ? &ahead_ : nullptr);
      item = next.fetch_add(1, std::memory_order_relaxed);
    }
    base += count;
  }
  if (pieces == 1) return;
  barrier();
  merge_pieces(pieces);
}

// How many pieces the positions are cut into, so that every thread has work; pieces of fewer than a block are
// not worth it.
int64_t StepWorker::pieces_wanted(int64_t items) const {
  if (items >= threads_ || m_ > kSplitTokens) return 1;
  int64_t longest = 0;
  for (int64_t t = 0; t < m_; ++t) longest = std::max(longest, shared_.position[t] + 1);
  return std::max<int64_t>(1,
                           std::min({kMostPieces, (2 * threads_ + items - 1) / items, longest / kKeyBlock}));
}

// Brings the pieces of every (token, head) to their common maximum and adds them.
void StepWorker::merge_pieces(int64_t count) {
  const PlanShape& s = plan_.shape_;
  const int64_t stride = s.piece_stride(), width = stride - 16;
  const Range heads = share(m_ * decoder_.config.num_attention_heads);
  for (int64_t row = heads.first; row < heads.last; ++row) {
    const float* pieces = shared_.pieces + row * kMostPieces * stride;
    float top = -std::numeric_limits<float>::infinity(), total = 0;
    for (int64_t i = 0; i < count; ++i) top = std::max(top, pieces[i * stride + width]);
    float* out = shared_.attended + row * s.head_dim;
    std::fill(out, out + s.head_dim, 0.0f);
    for (int64_t i = 0; i < count; ++i) {
      const float* piece = pieces + i * stride;
      if (piece[width + 1] == 0) continue;
      const float factor = std::exp(piece[width] - top);
      total += factor * piece[width + 1];
      for (int64_t d = 0; d < s.head_dim; ++d) out[d] += factor * piece[d];
    }
    for (int64_t d = 0; d < s.head_dim; ++d) out[d] /= total;
  }
}

// Up to 8 query rows (tokens and heads of one key head's group, tokens outermost) over what they see, or a
// piece of it.
void StepWorker::attend_tile(const Block& block, int64_t layer, int64_t sequence, int64_t kv_head,
                             int64_t tile, Piece piece, Ahead* ahead) {
  const PlanShape& s = plan_.shape_;
  const int64_t group = decoder_.config.num_attention_heads / decoder_.config.num_key_value_heads;
  const int64_t total = plan_.batch_->sequences[static_cast<size_t>(sequence)].token_count * group;
  const CpuKvCache& cache = *shared_.caches[sequence];
  const int64_t stride = cache.shape().value_stride(), window = block.attention.sliding_window;
  float maximum[kTile], sum[kTile];
  int64_t place[kTile];  // token * heads + head
  AttendView view{};
  view.q = mine_.queries;
  view.keys = cache.keys(layer, kv_head);
  view.values = cache.values(layer, kv_head);
  view.rows = std::min<int64_t>(kTile, total - tile * kTile);
  view.head_dim = s.head_dim;
  view.value_stride = stride;
  view.half = cache.shape().half;
  view.scores = mine_.scores;
  view.out = mine_.attended;
  view.maximum = maximum;
  view.total = sum;
  view.ahead = ahead;
  view.begin = std::numeric_limits<int64_t>::max();
  for (int64_t r = 0; r < view.rows; ++r) {
    const int64_t token = shared_.first_token[sequence] + (tile * kTile + r) / group;
    const int64_t head = kv_head * group + (tile * kTile + r) % group;
    const int64_t position = shared_.position[token];
    std::memcpy(mine_.queries + r * s.head_dim,
                shared_.qkv + token * (s.query_width + 2 * s.kv_width) + head * s.head_dim,
                static_cast<size_t>(s.head_dim) * sizeof(float));
    place[r] = token * decoder_.config.num_attention_heads + head;
    view.first[r] = window > 0 ? std::max<int64_t>(0, position - window + 1) : 0;
    view.last[r] = position + 1;
    view.begin = std::min(view.begin, view.first[r]);
    view.end = std::max(view.end, view.last[r]);
    maximum[r] = -std::numeric_limits<float>::infinity();
    sum[r] = 0;
  }
  if (piece.count > 1) {
    const int64_t begin = view.begin, length = view.end - view.begin;
    const auto cut = [&](int64_t i) {
      return i == piece.count ? begin + length : begin + length * i / piece.count / kPanel * kPanel;
    };
    view.begin = cut(piece.index);
    view.end = cut(piece.index + 1);
  }
  std::memset(mine_.attended, 0, static_cast<size_t>(view.rows * stride) * sizeof(float));
  kernels_.attend(&view);
  for (int64_t r = 0; r < view.rows; ++r) {
    const float* result = mine_.attended + r * stride;
    if (piece.count > 1) {
      float* out = shared_.pieces + (place[r] * kMostPieces + piece.index) * s.piece_stride();
      std::memcpy(out, result, static_cast<size_t>(stride) * sizeof(float));
      out[stride] = maximum[r];
      out[stride + 1] = sum[r];
      continue;
    }
    const float factor = 1.0f / sum[r];
    float* out = shared_.attended + place[r] * s.head_dim;
    for (int64_t d = 0; d < s.head_dim; ++d) out[d] = result[d] * factor;
  }
}

}  // namespace cpu
}  // namespace nbl

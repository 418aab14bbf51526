// What the programs that make a decoder of weights of their own have in common: the shape, and parts packed as one matrix.
// It needs kernels/backend.h and nothing else, so that nvcc alone builds it (tests/run-gpu).
#pragma once

#include <cmath>
#include <memory>
#include <vector>

#include "kernels/backend.h"

namespace nbl::testing {

struct DecoderShape {
  int64_t hidden, intermediate, layers, heads, kv_heads, head_dim, vocab;
};

// A decoder of that shape without weights and blocks, with a plain rotary embedding over `rotary_dim` values of a head (< 0: all).
inline std::shared_ptr<Decoder> decoder_of_shape(const DecoderShape& shape, double rope_theta, int64_t rotary_dim = -1) {
  auto decoder = std::make_shared<Decoder>();
  DecoderConfig& config = decoder->config;
  config.vocab_size = shape.vocab;
  config.hidden_size = shape.hidden;
  config.intermediate_size = shape.intermediate;
  config.num_hidden_layers = shape.layers;
  config.num_attention_heads = shape.heads;
  config.num_key_value_heads = shape.kv_heads;
  config.head_dim = shape.head_dim;
  Rope& rope = decoder->rope;
  rope.theta = rope_theta;
  rope.rotary_dim = rotary_dim < 0 ? shape.head_dim : rotary_dim;
  for (int64_t i = 0; i < rope.rotary_dim / 2; ++i) {
    rope.inv_freq.push_back(static_cast<float>(1 / std::pow(rope_theta, 2.0 * static_cast<double>(i) / static_cast<double>(rope.rotary_dim))));
  }
  return decoder;
}

// The parts stand one after another as the rows of one matrix.
inline Result<Linear> pack_linear(const Backend& backend, const std::vector<const QuantWeight*>& parts, WeightRole role) {
  Linear linear;
  for (const QuantWeight* part : parts) {
    linear.part_rows.push_back(part->out_features);
    linear.out_features += part->out_features;
  }
  linear.in_features = parts[0]->in_features;
  NBL_ASSIGN_OR_RETURN(linear.weight, backend.pack(parts, role));
  return linear;
}

// Kinds of rotary embedding whose frequencies depend on the length of a call: beyond 8 positions.
enum class TestRope { kPlain, kDynamic, kLong };
inline void set_rope(TestRope kind, Rope& rope) {
  rope.dynamic = kind != TestRope::kPlain;
  rope.factor = 2;
  rope.original_length = 8;
  if (kind != TestRope::kLong) return;
  rope.long_inv_freq = rope.inv_freq;
  for (size_t i = 0; i < rope.long_inv_freq.size(); ++i) rope.long_inv_freq[i] /= 1.5f + static_cast<float>(i);
}

}  // namespace nbl::testing

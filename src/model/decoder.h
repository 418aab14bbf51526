// Decoder: a language model as plain data. Architectures (src/model) fill it, backends (kernels) run it.
//
// Plain data: kernels may include this header. A Decoder owns its packed weights and small vectors; the embedding
// points into the checkpoint's mapping, which the Model keeps alive.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/dtype.h"

namespace nbl {

class PackedWeight;     // kernels/backend.h
class PackedEmbedding;

// Fields spelled as in config.json, so that one search connects file, code and paper.
struct DecoderConfig {
  std::string architecture;   // "LlamaForCausalLM"
  std::string model_type;     // "llama"
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;
  int64_t head_dim = 0;
  int64_t max_position_embeddings = 0;
  bool tie_word_embeddings = false;
};

struct Norm {
  enum class Kind : uint8_t { kRms, kLayer };
  Kind kind = Kind::kRms;
  std::vector<float> weight;  // [width]; for "1 + w" norms the 1 is already added
  std::vector<float> bias;    // [width] or empty
  float epsilon = 0;
};

// One matrix product, or several over the same input fused into one: outputs stand one after another.
struct Linear {
  std::vector<std::string> names;          // module paths in the checkpoint, one for each fused part
  std::vector<int64_t> part_rows;          // out_features of each part
  int64_t in_features = 0;
  int64_t out_features = 0;                // sum of part_rows
  std::shared_ptr<const PackedWeight> weight;
  std::vector<float> bias;                 // [out_features] or empty
};

// Rotary position embedding (arXiv:2104.09864). Pairs (i, i + rotary_dim/2) turn by position * inv_freq[i];
// cosine and sine are multiplied by attention_factor (yarn, longrope). kernels/rope.h makes the tables.
struct Rope {
  int64_t rotary_dim = 0;                  // 0: no rotary embedding
  std::vector<float> inv_freq;             // [rotary_dim / 2]
  float attention_factor = 1;
  // Whether the frequencies of a call depend on its length: beyond original_length those of "longrope" are long_inv_freq,
  // and with "dynamic" NTK scaling the base grows with the length. Keys already cached keep theirs (as transformers does).
  bool dynamic = false;
  std::vector<float> long_inv_freq;        // [rotary_dim / 2]; empty: NTK scaling
  double theta = 0;
  double factor = 1;
  int64_t original_length = 0;
};

struct Attention {
  std::vector<Linear> qkv;                 // one fused (rows q, k, v) or three
  Linear output;
  std::vector<Norm> q_norm, k_norm;        // empty, or one norm over each head's head_dim (Qwen3)
  float scale = 0;                         // multiplies q.k, usually 1/sqrt(head_dim)
  int64_t sliding_window = 0;              // position i sees i-window+1 .. i; 0: everything before
  bool rotary = true;
};

enum class Activation : uint8_t { kSilu, kGelu, kGeluTanh, kRelu };

struct Mlp {
  Activation activation = Activation::kSilu;
  std::vector<Linear> gate_up;             // one fused (rows gate, up) or two
  Linear down;                             // down(activation(gate) * up)
};

// h += attention(input_norm(h)); h += mlp(post_attention_norm(h))
struct Block {
  Norm input_norm;
  Attention attention;
  Norm post_attention_norm;
  Mlp mlp;
};

struct Embedding {
  const void* data = nullptr;              // [vocab_size, hidden_size], row-major, borrowed
  DType type = DType::kF32;                // kF16, kBF16 or kF32
  std::shared_ptr<const PackedEmbedding> packed;  // on the backend's device; null where it reads `data`
};

struct Decoder {
  DecoderConfig config;
  Rope rope;
  Embedding embedding;
  std::vector<Block> blocks;
  Norm final_norm;
  Linear head;                             // [vocab_size, hidden_size]
  std::shared_ptr<const void> keep_alive;  // owns what embedding.data points to
};

}  // namespace nbl

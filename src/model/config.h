// config.json as a ModelConfig: both spellings of transformers (4 and 5), checked for plausibility.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "checkpoint/checkpoint.h"
#include "model/decoder.h"

namespace nbl {

struct ModelConfig {
  DecoderConfig decoder;
  Rope rope;
  double partial_rotary_factor = 1;      // where config.json does not tell
  Activation activation = Activation::kSilu;
  Norm::Kind norm_kind = Norm::Kind::kRms;
  float norm_epsilon = 1e-6f;
  bool head_norms = false;               // q_norm and k_norm over each head
  bool joined_projections = false;       // one qkv_proj, one gate_up_proj
  std::vector<int64_t> sliding_window;   // for each layer; 0: none
  std::vector<bool> rotary;              // for each layer
};

// kUnsupported naming the architecture and those that are known; kFormat naming the key.
Result<ModelConfig> read_model_config(const Json& config);

// The epsilon of all norms.
Status read_epsilon(const Json& config, const char* key, double absent, ModelConfig& out);

// "sliding_window": 0 where it is null (none), `absent` where it is not mentioned (an architecture's own default).
Result<int64_t> read_sliding_window(const Json& config, int64_t absent);

// "layer_types", by which transformers 5 lists "sliding_attention" and "full_attention" layer by layer: fills
// config.sliding_window with `window` where it slides. False where there is no list.
Result<bool> read_layer_types(const Json& json, int64_t window, ModelConfig& config);

}  // namespace nbl

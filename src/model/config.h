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
  Activation activation = Activation::kSilu;
  float norm_epsilon = 1e-6f;
  std::vector<int64_t> sliding_window;   // for each layer; 0: none
};

// kUnsupported naming the architecture and those that are known; kFormat naming the key.
Result<ModelConfig> read_model_config(const Json& config);

// "sliding_window": 0 where it is null (none), `absent` where it is not mentioned (an architecture's own default).
Result<int64_t> read_sliding_window(const Json& config, int64_t absent);

// "layer_types", by which transformers 5 lists "sliding_attention" and "full_attention" layer by layer: fills
// config.sliding_window with `window` where it slides. False where there is no list.
Result<bool> read_layer_types(const Json& json, int64_t window, ModelConfig& config);

}  // namespace nbl

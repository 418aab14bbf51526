// Qwen2, Qwen2.5 and Qwen3: Llama with biases on q, k, v (Qwen2) or norms on them (Qwen3), and, when use_sliding_window
// says so, a sliding window in the layers from max_window_layers on; transformers 5 lists the layers in layer_types.
#include "model/architectures.h"

namespace nbl {

Status configure_qwen2(const Json& json, ModelConfig& config) {
  NBL_ASSIGN_OR_RETURN(const bool use, json_bool(json, "use_sliding_window", false));
  NBL_ASSIGN_OR_RETURN(const int64_t window, read_sliding_window(json, 4096));
  NBL_ASSIGN_OR_RETURN(const int64_t first, json_i64(json, "max_window_layers", 28));  // as transformers does
  NBL_ASSIGN_OR_RETURN(const bool listed, read_layer_types(json, window, config));
  if (!use || window <= 0 || listed) return {};
  for (int64_t layer = first < 0 ? 0 : first; layer < config.decoder.num_hidden_layers; ++layer) config.sliding_window[layer] = window;
  return {};
}

Status configure_qwen3(const Json& json, ModelConfig& config) {
  config.head_norms = true;
  return configure_qwen2(json, config);
}

}  // namespace nbl

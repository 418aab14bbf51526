// Mistral (arXiv:2310.06825): Llama with a sliding window in every layer, where sliding_window is a number (null: none; not
// mentioned: 4096, as in the first release). Ministral lists in layer_types which layers have it, under either name.
#include <algorithm>

#include "model/architectures.h"

namespace nbl {

Status configure_mistral(const Json& json, ModelConfig& config) {
  NBL_ASSIGN_OR_RETURN(const int64_t window, read_sliding_window(json, 4096));
  NBL_ASSIGN_OR_RETURN(const bool listed, read_layer_types(json, window, config));
  if (!listed) std::fill(config.sliding_window.begin(), config.sliding_window.end(), window);
  return {};
}

}  // namespace nbl

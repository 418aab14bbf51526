// Phi-3, Phi-3.5, Phi-4 and their mini models (arXiv:2404.14219): Llama with q, k and v in one matrix, gate and up in another, a
// sliding window in every layer where sliding_window is a number, and in Phi-4-mini a part of each head that does not turn.
#include <algorithm>

#include "model/architectures.h"

namespace nbl {

Status configure_phi3(const Json& json, ModelConfig& config) {
  config.joined_projections = true;
  NBL_ASSIGN_OR_RETURN(const int64_t window, read_sliding_window(json, 0));
  std::fill(config.sliding_window.begin(), config.sliding_window.end(), window);
  return {};
}

}  // namespace nbl

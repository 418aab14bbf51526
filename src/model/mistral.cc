// Mistral (arXiv:2310.06825): Llama with a sliding window in every layer, where sliding_window is a number.
#include <algorithm>

#include "model/architectures.h"

namespace nbl {

Status configure_mistral(const Json& json, ModelConfig& config) {
  NBL_ASSIGN_OR_RETURN(const int64_t window, json_i64(json, "sliding_window", 0));
  if (window < 0) return error(Code::kFormat, "config.json: \"sliding_window\" is %lld", static_cast<long long>(window));
  std::fill(config.sliding_window.begin(), config.sliding_window.end(), window);
  return {};
}

}  // namespace nbl

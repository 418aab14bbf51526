// SmolLM3: Llama in which some layers do not turn their queries and keys: those with a 0 in no_rope_layers, or where there is no
// list, each no_rope_layer_interval-th one. With use_sliding_window these are the layers that see a window only.
#include "model/architectures.h"

namespace nbl {

Status configure_smollm3(const Json& json, ModelConfig& config) {
  const size_t layers = config.rotary.size();
  if (json.contains("no_rope_layers") && !json["no_rope_layers"].is_null()) {
    const Json& list = json["no_rope_layers"];
    if (!list.is_array() || list.size() != layers) {
      return error(Code::kFormat, "config.json: \"no_rope_layers\" is %s, expected a list of %zu numbers, 1 where a layer turns, else 0",
                   to_text(list).c_str(), layers)
          .with("key", "no_rope_layers");
    }
    for (size_t i = 0; i < layers; ++i) config.rotary[i] = list[i] != 0;
  } else {
    NBL_ASSIGN_OR_RETURN(const int64_t interval, json_i64(json, "no_rope_layer_interval", 4));
    if (interval < 1) {
      return error(Code::kFormat, "config.json: \"no_rope_layer_interval\" is %lld, expected at least 1", static_cast<long long>(interval))
          .with("key", "no_rope_layer_interval");
    }
    for (size_t i = 0; i < layers; ++i) config.rotary[i] = (i + 1) % static_cast<size_t>(interval) != 0;
  }
  NBL_ASSIGN_OR_RETURN(const bool use, json_bool(json, "use_sliding_window", false));
  NBL_ASSIGN_OR_RETURN(const int64_t window, read_sliding_window(json, 0));
  NBL_ASSIGN_OR_RETURN(const bool listed, read_layer_types(json, window, config));
  if (!use || window <= 0 || listed) return {};
  for (size_t i = 0; i < layers; ++i) config.sliding_window[i] = config.rotary[i] ? 0 : window;
  return {};
}

}  // namespace nbl

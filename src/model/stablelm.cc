// StableLM (3B, Zephyr-3B, StableLM 2 1.6B): Llama with layer norms and only the first quarter of each head turning.
#include "model/architectures.h"

namespace nbl {

Status configure_stablelm(const Json& json, ModelConfig& config) {
  for (const char* key : {"use_parallel_residual", "qk_layernorm"}) {  // StableLM 2 12B
    NBL_ASSIGN_OR_RETURN(const bool used, json_bool(json, key, false));
    if (used) return error(Code::kUnsupported, "config.json: StableLM with \"%s\" is not known here", key).with("key", key);
  }
  config.norm_kind = Norm::Kind::kLayer;
  config.partial_rotary_factor = 0.25;
  return read_epsilon(json, "layer_norm_eps", 1e-5, config);
}

}  // namespace nbl

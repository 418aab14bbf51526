#include "model/config.h"

#include <cmath>

#include "model/architectures.h"
#include "model/rope_scaling.h"

namespace nbl {
namespace {

// A whole number within bounds that no honest model leaves.
Result<int64_t> bounded(const Json& json, const char* key, int64_t fallback, int64_t least, int64_t most) {
  Result<int64_t> value = json_i64(json, key, fallback);
  if (!value.ok()) return value.status().in("config.json");
  if (*value < least || *value > most) {
    return error(Code::kFormat, "config.json: \"%s\" is %lld, expected a number from %lld to %lld", key, static_cast<long long>(*value),
                 static_cast<long long>(least), static_cast<long long>(most))
        .with("key", key);
  }
  return value;
}

// A look-up whose error names the file.
template <typename T>
Result<T> in_config(Result<T> value) {
  if (!value.ok()) value.status().in("config.json");
  return value;
}

Result<Activation> activation_of(const Json& json) {
  std::string key = json.contains("hidden_act") ? "hidden_act" : "hidden_activation";
  NBL_ASSIGN_OR_RETURN(const std::string name, in_config(json_str(json, key.c_str(), "silu")));
  if (name == "silu" || name == "swish") return Activation::kSilu;
  if (name == "gelu") return Activation::kGelu;
  if (name == "gelu_new" || name == "gelu_pytorch_tanh" || name == "gelu_fast") return Activation::kGeluTanh;
  if (name == "relu") return Activation::kRelu;
  return error(Code::kUnsupported, "config.json: \"%s\" is \"%s\"; known are silu, gelu, gelu_new, gelu_pytorch_tanh, relu", key.c_str(),
               name.c_str())
      .with("key", key);
}

Status read_shape(const Json& json, DecoderConfig& c) {
  NBL_ASSIGN_OR_RETURN(c.vocab_size, bounded(json, "vocab_size", 0, 1, 1 << 24));
  NBL_ASSIGN_OR_RETURN(c.hidden_size, bounded(json, "hidden_size", 0, 1, 1 << 18));
  NBL_ASSIGN_OR_RETURN(c.intermediate_size, bounded(json, "intermediate_size", 0, 1, 1 << 20));
  NBL_ASSIGN_OR_RETURN(c.num_hidden_layers, bounded(json, "num_hidden_layers", 0, 1, 1024));
  NBL_ASSIGN_OR_RETURN(c.num_attention_heads, bounded(json, "num_attention_heads", 0, 1, 4096));
  NBL_ASSIGN_OR_RETURN(c.num_key_value_heads, bounded(json, "num_key_value_heads", c.num_attention_heads, 1, 4096));
  const bool divides = c.hidden_size % c.num_attention_heads == 0;
  if (!divides && (!json.contains("head_dim") || json["head_dim"].is_null())) {
    return error(Code::kFormat,
                 "config.json: \"hidden_size\" %lld is no multiple of \"num_attention_heads\" %lld, and there is no \"head_dim\"",
                 static_cast<long long>(c.hidden_size), static_cast<long long>(c.num_attention_heads))
        .with("key", "num_attention_heads");
  }
  NBL_ASSIGN_OR_RETURN(c.head_dim, bounded(json, "head_dim", c.hidden_size / c.num_attention_heads, 2, 4096));
  NBL_ASSIGN_OR_RETURN(c.max_position_embeddings, bounded(json, "max_position_embeddings", 2048, 1, int64_t{1} << 32));
  NBL_ASSIGN_OR_RETURN(c.tie_word_embeddings, in_config(json_bool(json, "tie_word_embeddings", false)));
  if (c.num_attention_heads % c.num_key_value_heads != 0) {
    return error(Code::kFormat, "config.json: %lld attention heads cannot share %lld key/value heads evenly",
                 static_cast<long long>(c.num_attention_heads), static_cast<long long>(c.num_key_value_heads))
        .with("key", "num_key_value_heads");
  }
  if (c.head_dim % 2 != 0)
    return error(Code::kFormat, "config.json: the head size %lld is odd", static_cast<long long>(c.head_dim)).with("key", "head_dim");
  return {};
}

}  // namespace

Status read_epsilon(const Json& json, const char* key, double absent, ModelConfig& config) {
  NBL_ASSIGN_OR_RETURN(const double epsilon, in_config(json_f64(json, key, absent)));
  if (!(epsilon >= 0 && epsilon < 1)) return error(Code::kFormat, "config.json: \"%s\" is %g", key, epsilon).with("key", key);
  config.norm_epsilon = static_cast<float>(epsilon);
  return {};
}

Result<int64_t> read_sliding_window(const Json& json, int64_t absent) {
  if (json.contains("sliding_window") && json["sliding_window"].is_null()) return 0;
  return bounded(json, "sliding_window", absent, 0, int64_t{1} << 32);
}

Result<bool> read_layer_types(const Json& json, int64_t window, ModelConfig& config) {
  if (!json.contains("layer_types") || !json["layer_types"].is_array()) return false;
  const Json& types = json["layer_types"];
  if (types.size() != config.sliding_window.size()) {
    return error(Code::kFormat, "config.json: \"layer_types\" has %zu entries, expected %zu", types.size(), config.sliding_window.size());
  }
  for (size_t i = 0; i < types.size(); ++i) {
    if (types[i] == "sliding_attention") {
      config.sliding_window[i] = window;
    } else if (types[i] != "full_attention") {
      return error(Code::kUnsupported, "config.json: layer %zu is a \"%s\" layer, which is not known here", i, to_text(types[i]).c_str());
    }
  }
  return true;
}

Result<ModelConfig> read_model_config(const Json& json) {
  NBL_ASSIGN_OR_RETURN(const Architecture* architecture, find_architecture(json));
  ModelConfig config;
  config.decoder.architecture = architecture->name;
  config.decoder.model_type = architecture->model_type;
  NBL_RETURN_IF_ERROR(read_shape(json, config.decoder));
  NBL_ASSIGN_OR_RETURN(config.activation, activation_of(json));
  NBL_RETURN_IF_ERROR(read_epsilon(json, "rms_norm_eps", 1e-6, config));
  config.sliding_window.assign(config.decoder.num_hidden_layers, 0);
  config.rotary.assign(config.decoder.num_hidden_layers, true);
  NBL_RETURN_IF_ERROR(architecture->configure(json, config));
  NBL_ASSIGN_OR_RETURN(config.rope, read_rope(json, config.decoder, config.partial_rotary_factor));
  return config;
}

}  // namespace nbl

#include "quant/quant_config.h"

#include <algorithm>

namespace nbl {
namespace {

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

// The first of several spellings that is there; the tools agree on meanings, not on names.
const Json* first_of(const Json& object, std::initializer_list<const char*> keys) {
  for (const char* key : keys) {
    const auto found = object.find(key);
    if (found != object.end() && !found->is_null()) return &*found;
  }
  return nullptr;
}

// What the first spelling that is there says, by one of the typed look-ups; one of another type is an error that names the file.
template <typename T, typename Lookup>
Result<T> value_of(const Checkpoint& checkpoint, std::initializer_list<const char*> keys, T fallback, const Lookup& lookup) {
  const Json& object = checkpoint.quantization_config();
  for (const char* key : keys) {
    if (!first_of(object, {key})) continue;
    Result<T> value = lookup(object, key, fallback);
    if (!value.ok()) return value.status().in(checkpoint.quantization_source());
    return value;
  }
  return fallback;
}
Result<int64_t> number_of(const Checkpoint& checkpoint, std::initializer_list<const char*> keys, int64_t fallback) {
  return value_of<int64_t>(checkpoint, keys, fallback, json_i64);
}
Result<bool> flag_of(const Checkpoint& checkpoint, const char* key) { return value_of<bool>(checkpoint, {key}, false, json_bool); }
Result<std::string> word_of(const Checkpoint& checkpoint, std::initializer_list<const char*> keys) {
  Result<std::string> word = value_of<std::string>(checkpoint, keys, "", json_str);
  return word.ok() ? lower(std::move(word).value()) : word;
}

// Where a transform of compressed-tensors is applied, if not in the weights already (SpinQuant, QuIP: "input", "k_cache", ...); else empty.
std::string place_of_transform(const Json& transforms) {
  std::string place;
  if (transforms.is_object()) {
    const auto location = transforms.find("location");
    if (location != transforms.end() && location->is_string()) {
      std::string name = location->get<std::string>();
      if (name.compare(0, 7, "weight_") != 0) return name;
    }
  }
  if (!transforms.is_object() && !transforms.is_array()) return place;
  for (auto part = transforms.begin(); part != transforms.end() && place.empty(); ++part) place = place_of_transform(*part);
  return place;
}

// config_groups of compressed-tensors: each names what its modules have, or is a preset whose shapes tell.
Status read_schemes(const Checkpoint& checkpoint, QuantConfig& config) {
  if (const auto transforms = config.raw.find("transform_config"); transforms != config.raw.end()) {
    if (const std::string place = place_of_transform(*transforms); !place.empty()) {
      return error(Code::kUnsupported,
                   "%s: \"transform_config\" rotates activations (\"%s\") while the model runs, which is not known here; a checkpoint whose "
                   "transforms are all in the weights can be read",
                   checkpoint.quantization_source().c_str(), place.c_str())
          .with("key", "transform_config");
    }
  }
  const auto groups = config.raw.find("config_groups");
  if (groups == config.raw.end() || !groups->is_object()) return {};
  for (auto group = groups->begin(); group != groups->end(); ++group) {
    if (!group->is_object()) continue;
    const auto activations = group->find("input_activations");
    config.quantized_activations = config.quantized_activations || (activations != group->end() && activations->is_object());
    const auto weights = group->find("weights");
    if (weights == group->end() || !weights->is_object()) continue;
    const auto number = [&](const char* key) -> Result<int64_t> {
      Result<int64_t> value = json_i64(*weights, key, 0);
      return value.ok() ? value : value.status().in(checkpoint.quantization_source());
    };
    QuantScheme scheme;
    NBL_ASSIGN_OR_RETURN(scheme.bits, number("num_bits"));
    NBL_ASSIGN_OR_RETURN(scheme.group_size, number("group_size"));
    if (scheme.bits > 0) config.schemes.push_back(scheme);
    const auto symmetric = weights->find("symmetric");
    if (symmetric == weights->end() || !symmetric->is_boolean()) continue;
    config.symmetric = (config.symmetric || !config.symmetric_known) && symmetric->get<bool>();
    config.symmetric_known = true;
  }
  if (!config.schemes.empty()) config.bits = config.schemes[0].bits, config.group_size = config.schemes[0].group_size;
  return {};
}

}  // namespace

Result<QuantConfig> QuantConfig::read(const Checkpoint& checkpoint) {
  QuantConfig config;
  config.raw = checkpoint.quantization_config();
  if (!config.raw.is_object()) return config;
  const Json& raw = config.raw;
  NBL_ASSIGN_OR_RETURN(config.method, word_of(checkpoint, {"quant_method", "method"}));
  // bitsandbytes says so by its own keys, whatever quant_method says.
  for (const char* key : {"load_in_4bit", "load_in_8bit", "_load_in_4bit", "_load_in_8bit"}) {
    NBL_ASSIGN_OR_RETURN(const bool asked, flag_of(checkpoint, key));
    if (asked) config.method = "bitsandbytes";
  }
  NBL_ASSIGN_OR_RETURN(config.format, word_of(checkpoint, {"checkpoint_format", "format", "version"}));
  NBL_ASSIGN_OR_RETURN(config.bits, number_of(checkpoint, {"bits", "w_bit", "wbits"}, 0));
  NBL_ASSIGN_OR_RETURN(config.group_size, number_of(checkpoint, {"group_size", "q_group_size", "groupsize"}, 0));
  NBL_ASSIGN_OR_RETURN(const bool symmetric, flag_of(checkpoint, "sym"));
  NBL_ASSIGN_OR_RETURN(const bool zero_point, flag_of(checkpoint, "zero_point"));
  config.symmetric_known = first_of(raw, {"sym", "zero_point"}) != nullptr;
  config.symmetric = first_of(raw, {"sym"}) ? symmetric : config.symmetric_known && !zero_point;
  NBL_ASSIGN_OR_RETURN(const bool marlin, flag_of(checkpoint, "is_marlin_format"));
  if (marlin) config.format = "marlin";
  if (config.method == "marlin") {
    config.method = "gptq";
    config.format = "marlin";
  }
  if (config.method.empty()) {
    const bool awq_format =
        config.format == "gemm" || config.format == "gemv" || config.format == "gemv_fast" || config.format == "llm-awq";
    config.method = awq_format ? "awq" : "gptq";  // stand-alone files of old GPTQ tools name no method
  }
  if (config.method == "compressed-tensors") NBL_RETURN_IF_ERROR(read_schemes(checkpoint, config));
  if (const Json* meta = first_of(raw, {"meta"}); meta && meta->is_object()) {
    if (const Json* quantizer = first_of(*meta, {"quantizer"})) {
      config.written_by_gptqmodel = lower(to_text(*quantizer)).find("gptqmodel") != std::string::npos;
    }
  }
  return config;
}

}  // namespace nbl

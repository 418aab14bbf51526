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

bool truthy(const Json& object, const char* key) {
  const Json* value = first_of(object, {key});
  return value && value->is_boolean() && value->get<bool>();
}

Result<int64_t> number_of(const Checkpoint& checkpoint, std::initializer_list<const char*> keys, int64_t fallback) {
  const Json& object = checkpoint.quantization_config();
  for (const char* key : keys) {
    if (!first_of(object, {key})) continue;
    Result<int64_t> value = json_i64(object, key, fallback);
    if (!value.ok()) return value.status().in(checkpoint.quantization_source());
    return value;
  }
  return fallback;
}

}  // namespace

Result<QuantConfig> QuantConfig::read(const Checkpoint& checkpoint) {
  QuantConfig config;
  config.raw = checkpoint.quantization_config();
  if (!config.raw.is_object()) return config;
  const Json& raw = config.raw;
  if (const Json* method = first_of(raw, {"quant_method", "method"}); method && method->is_string()) {
    config.method = lower(method->get<std::string>());
  }
  // bitsandbytes says so by its own keys, whatever quant_method says.
  if (truthy(raw, "load_in_4bit") || truthy(raw, "load_in_8bit") || truthy(raw, "_load_in_4bit") || truthy(raw, "_load_in_8bit")) {
    config.method = "bitsandbytes";
  }
  if (const Json* format = first_of(raw, {"checkpoint_format", "format", "version"}); format && format->is_string()) {
    config.format = lower(format->get<std::string>());
  }
  NBL_ASSIGN_OR_RETURN(config.bits, number_of(checkpoint, {"bits", "w_bit", "wbits"}, 0));
  NBL_ASSIGN_OR_RETURN(config.group_size, number_of(checkpoint, {"group_size", "q_group_size", "groupsize"}, 0));
  if (const Json* sym = first_of(raw, {"sym"}); sym && sym->is_boolean()) {
    config.symmetric = sym->get<bool>();
    config.symmetric_known = true;
  } else if (const Json* zero_point = first_of(raw, {"zero_point"}); zero_point && zero_point->is_boolean()) {
    config.symmetric = !zero_point->get<bool>();
    config.symmetric_known = true;
  }
  if (truthy(raw, "is_marlin_format")) config.format = "marlin";
  if (config.method == "marlin") {
    config.method = "gptq";
    config.format = "marlin";
  }
  if (config.method.empty()) {
    const bool awq_format =
        config.format == "gemm" || config.format == "gemv" || config.format == "gemv_fast" || config.format == "llm-awq";
    config.method = awq_format ? "awq" : "gptq";  // stand-alone files of old GPTQ tools name no method
  }
  if (const Json* meta = first_of(raw, {"meta"}); meta && meta->is_object()) {
    if (const Json* quantizer = first_of(*meta, {"quantizer"})) {
      config.written_by_gptqmodel = lower(to_text(*quantizer)).find("gptqmodel") != std::string::npos;
    }
  }
  return config;
}

}  // namespace nbl

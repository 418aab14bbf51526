// The architectures that can be run: one row each in architectures.cc.
#pragma once

#include <string>

#include "base/json.h"
#include "base/status.h"
#include "model/config.h"

namespace nbl {

struct Architecture {
  const char* name;         // in config.json's `architectures`
  const char* model_type;
  // What differs from the plain Llama layout: reads the rest of config.json into `config`.
  Status (*configure)(const Json& json, ModelConfig& config);
};

// By `architectures`, then by model_type.
Result<const Architecture*> find_architecture(const Json& config);

// One file each.
Status configure_llama(const Json& json, ModelConfig& config);
Status configure_mistral(const Json& json, ModelConfig& config);
Status configure_qwen2(const Json& json, ModelConfig& config);
Status configure_qwen3(const Json& json, ModelConfig& config);
Status configure_phi3(const Json& json, ModelConfig& config);
Status configure_smollm3(const Json& json, ModelConfig& config);
Status configure_stablelm(const Json& json, ModelConfig& config);

}  // namespace nbl

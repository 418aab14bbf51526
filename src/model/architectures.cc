#include "model/architectures.h"

#include <strings.h>

namespace nbl {
namespace {

constexpr Architecture kArchitectures[] = {
    {"LlamaForCausalLM", "llama", configure_llama},
    {"MistralForCausalLM", "mistral", configure_mistral},
    {"MinistralForCausalLM", "ministral", configure_mistral},
    {"Qwen2ForCausalLM", "qwen2", configure_qwen2},
    {"Qwen3ForCausalLM", "qwen3", configure_qwen3},
    {"Phi3ForCausalLM", "phi3", configure_phi3},
    {"SmolLM3ForCausalLM", "smollm3", configure_smollm3},
    {"StableLmForCausalLM", "stablelm", configure_stablelm},
};

std::string known_names() {
  std::string names;
  for (const Architecture& architecture : kArchitectures) names += (names.empty() ? "" : ", ") + std::string(architecture.name);
  return names;
}

}  // namespace

Result<const Architecture*> find_architecture(const Json& config) {
  std::string wanted;
  if (config.contains("architectures") && config["architectures"].is_array() && !config["architectures"].empty() &&
      config["architectures"][0].is_string()) {
    wanted = config["architectures"][0].get<std::string>();
    // The first conversions wrote LLaMAForCausalLM.
    for (const Architecture& architecture : kArchitectures) {
      if (strcasecmp(wanted.c_str(), architecture.name) == 0) return &architecture;
    }
  }
  NBL_ASSIGN_OR_RETURN(const std::string type, json_str(config, "model_type", ""));
  for (const Architecture& architecture : kArchitectures) {
    if (wanted.empty() && type == architecture.model_type) return &architecture;
  }
  const std::string found = wanted.empty() ? (type.empty() ? "none" : type) : wanted;
  return error(Code::kUnsupported, "config.json: the architecture %s is not known here; known are %s", found.c_str(), known_names().c_str())
      .with("architecture", found)
      .with("known", known_names());
}

}  // namespace nbl

#include "facts.h"

#include <map>

#include "terminal.h"

namespace facts {
namespace {

using Json = nlohmann::ordered_json;

double per_second(int64_t tokens, int64_t ns) {
  return ns > 0 ? static_cast<double>(tokens) * 1e9 / static_cast<double>(ns) : 0;
}

const char* stop_reason_name(int64_t reason) {
  switch (reason) {
    case NBL_STOP_EOS: return "end of text";
    case NBL_STOP_ID: return "stop id";
    case NBL_STOP_STRING: return "stop string";
    case NBL_STOP_MAX_TOKENS: return "max tokens";
    case NBL_STOP_CONTEXT: return "context full";
    case NBL_STOP_CANCELLED: return "cancelled";
    default: return "";
  }
}

}  // namespace

std::string format_of(const Json& description) {
  std::map<std::string, int64_t> bytes_of;
  for (const Json& module : description["modules"]) {
    std::string name = module.value("source", "");
    if (module.contains("bits")) {
      name += (name.empty() ? "" : ", ") + std::to_string(module["bits"].get<int>()) + " bits";
      name += " in groups of " + std::to_string(module.value("group_size", 0));
    } else if (name.empty()) {
      name = module.value("dtype", "");
    }
    bytes_of[name] += module.value("bytes", int64_t{0});
  }
  // A quantized model's format is that of its quantized layers, even where a float head outweighs them.
  std::string best;
  for (const auto& [name, bytes] : bytes_of) {
    const bool quantized = name.find("bits") != std::string::npos;
    const bool best_quantized = best.find("bits") != std::string::npos;
    if (best.empty() || quantized > best_quantized || (quantized == best_quantized && bytes > bytes_of[best])) best = name;
  }
  return best;
}

Speed speed_of(nbl_session* session) {
  const auto get = [session](nbl_prop prop) { return client::number_of(nbl_session_i64, session, prop); };
  Speed speed;
  speed.prompt_tokens = get(NBL_PROP_PREFILL_TOKENS);
  speed.generated_tokens = get(NBL_PROP_GENERATED_TOKENS);
  speed.prefill_tokens_per_second = per_second(speed.prompt_tokens, get(NBL_PROP_PREFILL_NS));
  speed.decode_tokens_per_second = per_second(get(NBL_PROP_DECODE_TOKENS), get(NBL_PROP_DECODE_NS));
  speed.stop_reason = stop_reason_name(get(NBL_PROP_STOP_REASON));
  return speed;
}

std::string line(const Json& description, const Speed& speed) {
  return format_of(description) + " | " + terminal::bytes(description.value("footprint_bytes", int64_t{0})) + " of weights | " +
         description.value("backend_description", "") + " | prompt " + std::to_string(speed.prompt_tokens) + " tokens, " +
         terminal::rate(speed.prefill_tokens_per_second) + " tokens/s | answer " + std::to_string(speed.generated_tokens) + " tokens, " +
         terminal::rate(speed.decode_tokens_per_second) + " tokens/s";
}

Json object(const Json& description, const Speed& speed) {
  return {{"format", format_of(description)},
          {"weight_bytes", description.value("footprint_bytes", int64_t{0})},
          {"backend", description.value("backend_description", "")},
          {"prompt_tokens", speed.prompt_tokens},
          {"prefill_tokens_per_second", speed.prefill_tokens_per_second},
          {"generated_tokens", speed.generated_tokens},
          {"decode_tokens_per_second", speed.decode_tokens_per_second},
          {"stop_reason", speed.stop_reason}};
}

}  // namespace facts

#include "text/tokenizer_config.h"

namespace nbl {
namespace {

// "<s>", {"content": "<s>", ...} or null.
std::optional<std::string> token_text(const Json& document, const char* key) {
  if (!document.is_object()) return {};
  const auto found = document.find(key);
  if (found == document.end()) return {};
  if (found->is_string()) return found->get<std::string>();
  if (!found->is_object()) return {};
  const auto content = found->find("content");
  if (content == found->end() || !content->is_string()) return {};
  return content->get<std::string>();
}

std::optional<bool> flag(const Json& document, const char* key) {
  if (!document.is_object()) return {};
  const auto found = document.find(key);
  if (found == document.end() || !found->is_boolean()) return {};
  return found->get<bool>();
}

Result<Json> read_optional(const std::string& path) {
  Result<Json> document = read_json_file(path);
  if (!document.ok() && document.status().code() == Code::kNotFound) return Json();
  return document;
}

}  // namespace

Result<TokenizerConfig> TokenizerConfig::read(const std::string& directory) {
  TokenizerConfig config;
  NBL_ASSIGN_OR_RETURN(config.document, read_optional(directory + "/tokenizer_config.json"));
  NBL_ASSIGN_OR_RETURN(const Json map, read_optional(directory + "/special_tokens_map.json"));
  const auto token = [&](const char* key) {
    std::optional<std::string> text = token_text(config.document, key);
    return text ? text : token_text(map, key);
  };
  config.bos_token = token("bos_token");
  config.eos_token = token("eos_token");
  config.pad_token = token("pad_token");
  config.unk_token = token("unk_token");
  config.add_bos_token = flag(config.document, "add_bos_token");
  config.add_eos_token = flag(config.document, "add_eos_token");
  NBL_ASSIGN_OR_RETURN(config.tokenizer_class, json_str(config.document, "tokenizer_class", ""));
  constexpr std::string_view kFast = "Fast";
  std::string& name = config.tokenizer_class;
  if (name.size() > kFast.size() && name.compare(name.size() - kFast.size(), kFast.size(), kFast) == 0) {
    name.resize(name.size() - kFast.size());
  }
  return config;
}

}  // namespace nbl

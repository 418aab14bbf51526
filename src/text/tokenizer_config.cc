#include "text/tokenizer_config.h"

#include <algorithm>
#include <charconv>
#include <unordered_set>

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

// {"content", "lstrip", ...}; flags that are not said are false.
Result<AddedToken> added_token(const Json& object) {
  AddedToken token;
  NBL_ASSIGN_OR_RETURN(token.content, json_str(object, "content", ""));
  NBL_ASSIGN_OR_RETURN(token.single_word, json_bool(object, "single_word", false));
  NBL_ASSIGN_OR_RETURN(token.lstrip, json_bool(object, "lstrip", false));
  NBL_ASSIGN_OR_RETURN(token.rstrip, json_bool(object, "rstrip", false));
  NBL_ASSIGN_OR_RETURN(token.normalized, json_bool(object, "normalized", false));
  NBL_ASSIGN_OR_RETURN(token.special, json_bool(object, "special", false));
  return token;
}

Status read_added_tokens(const Json& file, TokenizerConfig& config) {
  const auto decoder = config.document.is_object() ? config.document.find("added_tokens_decoder") : config.document.end();
  if (decoder != config.document.end() && decoder->is_object()) {
    for (const auto& item : decoder->items()) {
      NBL_ASSIGN_OR_RETURN(AddedToken token, added_token(item.value()));
      const std::string& key = item.key();
      int64_t id = 0;
      const auto [end, problem] = std::from_chars(key.data(), key.data() + key.size(), id);
      if (problem != std::errc() || end != key.data() + key.size()) {
        return error(Code::kFormat, "tokenizer_config.json: added_tokens_decoder has the id \"%s\", expected a whole number", key.c_str());
      }
      config.added_tokens.push_back({id, std::move(token)});
    }
  }
  std::unordered_set<std::string> known;
  for (const ConfigToken& token : config.added_tokens) known.insert(token.token.content);
  const Json none = Json::object();
  for (const auto& item : (file.is_object() ? file : none).items()) {
    if (!item.value().is_number_integer() || known.count(item.key()) > 0) continue;
    AddedToken token;
    token.content = item.key();
    token.special = token.content == config.bos_token || token.content == config.eos_token ||
                    token.content == config.pad_token || token.content == config.unk_token;
    token.normalized = !token.special;
    config.added_tokens.push_back({item.value().get<int64_t>(), std::move(token)});
  }
  config.has_added_tokens_file = file.is_object();
  std::stable_sort(config.added_tokens.begin(), config.added_tokens.end(),
                   [](const ConfigToken& a, const ConfigToken& b) { return a.id < b.id; });
  return {};
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
  NBL_ASSIGN_OR_RETURN(const Json added, read_optional(directory + "/added_tokens.json"));
  NBL_RETURN_IF_ERROR(read_added_tokens(added, config));
  return config;
}

}  // namespace nbl

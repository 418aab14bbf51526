// tokenizer_config.json, special_tokens_map.json and added_tokens.json: which tokens play a part, which are added, and
// whether bos and eos are put around a text.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/status.h"
#include "text/added_tokens.h"

namespace nbl {

// A token that the configuration adds, with the id that it says.
struct ConfigToken {
  int64_t id;
  AddedToken token;
};

struct TokenizerConfig {
  Json document;  // tokenizer_config.json; null if there is none
  std::optional<std::string> bos_token, eos_token, pad_token, unk_token;
  std::optional<bool> add_bos_token, add_eos_token;
  std::string tokenizer_class;  // without "Fast"; empty if not said
  // added_tokens_decoder of tokenizer_config.json and what added_tokens.json has beyond it, in the order of their ids.
  std::vector<ConfigToken> added_tokens;
  bool has_added_tokens_file = false;

  // Any of the files may be missing.
  static Result<TokenizerConfig> read(const std::string& directory);
};

}  // namespace nbl

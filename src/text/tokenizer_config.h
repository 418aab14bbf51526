// tokenizer_config.json and special_tokens_map.json: which tokens play a part, and whether bos and eos are added.
#pragma once

#include <optional>
#include <string>

#include "base/json.h"
#include "base/status.h"

namespace nbl {

struct TokenizerConfig {
  Json document;  // tokenizer_config.json; null if there is none
  std::optional<std::string> bos_token, eos_token, pad_token, unk_token;
  std::optional<bool> add_bos_token, add_eos_token;
  std::string tokenizer_class;  // without "Fast"; empty if not said

  // Both files may be missing.
  static Result<TokenizerConfig> read(const std::string& directory);
};

}  // namespace nbl

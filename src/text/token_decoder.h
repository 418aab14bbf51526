// The decoders of tokenizer.json: the spellings of tokens back to text.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/status.h"

namespace nbl {

class TokenDecoder {
 public:
  // How single tokens spell bytes, for token_bytes().
  enum class Spelling { kPlain, kByteLetters, kMetaspace, kWordPiece, kSuffix };

  // Null gives null: then tokens are joined by spaces. CTC and unknown types are kUnsupported and named.
  static Result<std::unique_ptr<TokenDecoder>> parse(const Json& step);

  virtual ~TokenDecoder() = default;
  // Rewrites the list; the text is what remains, joined.
  virtual void apply(std::vector<std::string>& tokens) const = 0;
  virtual Spelling spelling() const = 0;
  // What to take off or replace for that spelling: "##", "</w>".
  virtual std::string mark() const { return {}; }
};

// The byte that a token like <0x0A> stands for, or -1.
int byte_of_fallback_token(const std::string& token);

}  // namespace nbl

// Lexer: a template's text as tokens, with the whitespace control that transformers sets: trim_blocks (the line end
// behind a block goes), lstrip_blocks (the white space before a block on its line goes), and `-` and `+` at the tags.
#pragma once

#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "text/jinja/value.h"

namespace nbl::jinja {

enum class TokenKind : uint8_t {
  kData,           // text between tags
  kVariableBegin,  // {{
  kVariableEnd,
  kBlockBegin,  // {%
  kBlockEnd,
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,
  kEnd,
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  int line = 1;
  std::string_view text;  // the decoded value of a string; else as it stands in the source
  Value number;
};

// What tokens borrow from: lives as long as they and what is made of them.
struct SourceText {
  std::string text;                // line ends are LF, the last one dropped
  std::deque<std::string> strings;  // literals that had escapes
};

SourceText normalize_source(std::string_view source);
// An error carries its line in the detail "line".
Result<std::vector<Token>> tokenize(SourceText& source);

// "line N: what", with the line also in the detail: how every failure of a template leaves.
Status at_line(Status status, int line);

}  // namespace nbl::jinja

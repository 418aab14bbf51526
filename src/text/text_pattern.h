// What Split and Replace look for: a literal text or a regex. Not empty matches only, as the pipeline's steps want.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "base/json.h"
#include "base/status.h"
#include "text/regex.h"

namespace nbl {

class TextPattern {
 public:
  // {"String": "..."} or {"Regex": "..."}; `step` names the owner in messages.
  static Result<TextPattern> parse(const Json& step, const std::string& step_name);
  static TextPattern literal(std::string text);
  static Result<TextPattern> regex(std::string_view pattern);

  // visit(begin, end) for each match from left to right.
  template <typename Visit>
  Status each(std::string_view text, Regex::Scratch& scratch, Visit visit) const {
    if (regex_) return regex_->each(text, scratch, visit);
    if (literal_.empty()) {  // matches between any two characters
      for (size_t at = 0; at <= text.size(); ++at) {
        if (at == text.size() || (static_cast<unsigned char>(text[at]) & 0xC0) != 0x80) visit(at, at);
      }
      return {};
    }
    for (size_t at = text.find(literal_); at != std::string_view::npos; at = text.find(literal_, at + literal_.size())) {
      visit(at, at + literal_.size());
    }
    return {};
  }
  bool is_regex() const { return regex_ != nullptr; }
  const std::string& text() const { return literal_; }  // the literal, or the regex as it was given

 private:
  std::string literal_;
  std::shared_ptr<const Regex> regex_;
};

}  // namespace nbl

#include "text/text_pattern.h"

namespace nbl {

TextPattern TextPattern::literal(std::string text) {
  TextPattern pattern;
  pattern.literal_ = std::move(text);
  return pattern;
}

Result<TextPattern> TextPattern::regex(std::string_view text) {
  TextPattern pattern;
  NBL_ASSIGN_OR_RETURN(pattern.regex_, Regex::compile(text));
  pattern.literal_ = std::string(text);
  return pattern;
}

Result<TextPattern> TextPattern::parse(const Json& step, const std::string& step_name) {
  const auto found = step.find("pattern");
  if (found != step.end() && found->is_object() && found->size() == 1) {
    const Json& value = found->front();
    const std::string kind = found->begin().key();
    if (value.is_string() && kind == "String") return literal(value.get<std::string>());
    if (value.is_string() && kind == "Regex") {
      Result<TextPattern> pattern = regex(value.get<std::string>());
      if (!pattern.ok()) pattern.status().in(step_name);
      return pattern;
    }
  }
  return error(Code::kFormat, R"(%s has no "pattern" of the form {"String": ...} or {"Regex": ...})", step_name.c_str());
}

}  // namespace nbl

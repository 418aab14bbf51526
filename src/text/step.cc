#include "text/step.h"

#include "base/utf8.h"

namespace nbl {
namespace {

const Json* member(const Json& step, const char* key) {
  const auto found = step.find(key);
  return found == step.end() ? nullptr : &*found;
}

Status missing(const char* key, const std::string& owner, const char* expected) {
  return error(Code::kFormat, "%s needs \"%s\", %s", owner.c_str(), key, expected);
}

}  // namespace

Result<std::string> step_type(const Json& step, const char* family) {
  const Json* type = step.is_object() ? member(step, "type") : nullptr;
  if (!type || !type->is_string()) {
    return error(Code::kFormat, "the %s is not an object with a \"type\"", family);
  }
  return type->get<std::string>();
}

Status unknown_step(const char* family, const std::string& type) {
  return error(Code::kUnsupported, "the %s \"%s\" is not one that nibble knows", family, type.c_str()).with("step", type);
}

Result<bool> required_bool(const Json& step, const char* key, const std::string& owner) {
  const Json* value = member(step, key);
  if (!value || !value->is_boolean()) return missing(key, owner, "true or false");
  return value->get<bool>();
}

Result<std::string> required_str(const Json& step, const char* key, const std::string& owner) {
  const Json* value = member(step, key);
  if (!value || !value->is_string()) return missing(key, owner, "a text");
  return value->get<std::string>();
}

Result<const Json*> required_list(const Json& step, const char* key, const std::string& owner) {
  const Json* value = member(step, key);
  if (!value || !value->is_array()) return missing(key, owner, "a list");
  return value;
}

Result<uint32_t> required_character(const Json& step, const char* key, const std::string& owner) {
  NBL_ASSIGN_OR_RETURN(const std::string text, required_str(step, key, owner));
  size_t at = 0;
  const uint32_t code_point = text.empty() ? 0 : utf8_next(text, at);
  if (text.empty() || at != text.size()) return missing(key, owner, "a text of one character");
  return code_point;
}

}  // namespace nbl

#include "base/status.h"

#include <cstdarg>
#include <cstdio>

#include "base/json_string.h"

namespace nbl {
namespace {

void append_key(std::string& out, std::string_view key) {
  if (!out.empty()) out += ',';
  append_json_string(out, key);
  out += ':';
}

}  // namespace

const std::string& Status::empty() {
  static const std::string nothing;
  return nothing;
}

Status& Status::with(std::string_view key, std::string_view value) {
  if (state_) {
    append_key(state_->detail, key);
    append_json_string(state_->detail, value);
  }
  return *this;
}

Status& Status::with(std::string_view key, int64_t value) {
  if (state_) {
    append_key(state_->detail, key);
    state_->detail += std::to_string(value);
  }
  return *this;
}

Status& Status::in(std::string_view context) {
  if (state_) state_->message = std::string(context) + ": " + state_->message;
  return *this;
}

Status error(Code code, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  va_list again;
  va_copy(again, arguments);
  const int length = std::vsnprintf(nullptr, 0, format, arguments);
  va_end(arguments);
  std::string message(length > 0 ? length : 0, '\0');
  if (length > 0) std::vsnprintf(message.data(), message.size() + 1, format, again);
  va_end(again);
  return Status(code, std::move(message));
}

}  // namespace nbl

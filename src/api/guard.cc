#include "api/guard.h"

#include <cstdlib>
#include <cstring>

#include "base/utf8.h"

namespace nbl::api {
namespace {

// There when nothing else can be had. Never freed, never changed.
nbl_error& no_memory_error() {
  static nbl_error& only = *[] {
    auto* made = new nbl_error();
    made->status = NBL_E_NO_MEMORY;
    made->message = "out of memory; free other models and sessions, or ask for less (nbl_model_estimate tells how much a model takes)";
    made->detail = "{}";
    return made;
  }();
  return only;
}

// Made when the library is loaded, while there is memory.
[[maybe_unused]] const bool made_early = (no_memory_error(), true);

}  // namespace

nbl_status report_no_memory(nbl_error** err) noexcept {
  if (err) *err = &no_memory_error();
  return NBL_E_NO_MEMORY;
}

nbl_status report(const Status& status, nbl_error** err) noexcept {
  const nbl_status code = static_cast<nbl_status>(status.code());
  if (code >= 0 || !err) return code;
  try {
    auto made = std::make_unique<nbl_error>();
    made->status = code;
    made->message = lossy_utf8(status.message());  // what a file or a cut-off name brought along
    made->detail = "{" + status.detail() + "}";
    *err = made.release();
  } catch (const std::bad_alloc&) {
    *err = &no_memory_error();
  }
  return code;
}

nbl_status report_exception(const char* what, nbl_error** err) noexcept {
  try {
    return report(Status(Code::kInternal, what), err);
  } catch (...) {
    return report_no_memory(err);
  }
}

void release_error(nbl_error* error) noexcept {
  if (error != &no_memory_error()) delete error;
}

Status null_argument(const char* name) { return error(Code::kArgument, "the argument \"%s\" is NULL", name).with("argument", name); }

Status busy(const char* name) {
  return error(Code::kBusy, "another thread is using \"%s\": one call at a time", name).with("argument", name);
}

Status check_text(const char* text, size_t length, const char* name) {
  if (!text && length != 0) return null_argument(name);
  const size_t bad = utf8_first_invalid(view(text, length));
  if (bad == std::string_view::npos) return {};
  return error(Code::kArgument, "the text \"%s\" is not UTF-8: the byte at offset %zu begins no character", name, bad)
      .with("argument", name)
      .with("offset", static_cast<int64_t>(bad));
}

Status check_flags(uint32_t flags, uint32_t known) {
  if ((flags & ~known) == 0) return {};
  return error(Code::kArgument, "the argument \"flags\" is 0x%x, of which 0x%x is not known here; known are 0x%x", flags, flags & ~known, known)
      .with("argument", "flags");
}

EncodeOptions encode_options(uint32_t flags) {
  EncodeOptions options;
  options.add_special = (flags & NBL_TOKENIZE_ADD_SPECIAL) != 0;
  options.parse_special = (flags & NBL_TOKENIZE_SPELL_SPECIAL) == 0;
  return options;
}

Status give_text(const std::string& text, char** out, size_t* out_length) {
  char* copy = static_cast<char*>(std::malloc(text.size() + 1));
  if (!copy) return Status(Code::kNoMemory, "out of memory");
  std::memcpy(copy, text.data(), text.size());
  copy[text.size()] = '\0';
  *out = copy;
  if (out_length) *out_length = text.size();
  return {};
}

Status fill_buffer(std::string_view text, char* buffer, size_t capacity, size_t* length) {
  *length = text.size();
  if (text.size() > capacity) {
    return error(Code::kBuffer, "%zu bytes do not fit a buffer of %zu", text.size(), capacity)
        .with("needed", static_cast<int64_t>(text.size()));
  }
  if (!text.empty()) std::memcpy(buffer, text.data(), text.size());
  return {};
}

}  // namespace nbl::api

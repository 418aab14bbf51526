// What every exported function goes through: argument checks, and a net for exceptions.
#pragma once

#include <cstddef>
#include <new>
#include <string>
#include <string_view>
#include <system_error>

#include "api/handles.h"
#include "base/status.h"
#include "text/tokenizer.h"

namespace nbl::api {

// The code of a Status, with a new error object where it is a failure and somebody wants one. Out of memory uses an
// object that is always there.
nbl_status report(const Status& status, nbl_error** err) noexcept;
nbl_status report_no_memory(nbl_error** err) noexcept;
nbl_status report_exception(const char* what, nbl_error** err) noexcept;
// Frees an error unless it is the one that is always there.
void release_error(nbl_error* error) noexcept;

template <typename Body>
nbl_status guard(nbl_error** err, const Body& body) noexcept {
  try {
    const Status status = body();
    return status.ok() ? NBL_OK : report(status, err);
  } catch (const std::bad_alloc&) {
    return report_no_memory(err);
  } catch (const std::exception& problem) {
    return report_exception(problem.what(), err);
  } catch (...) {
    return report_exception("an exception of an unknown type", err);
  }
}

inline std::string_view view(const char* text, size_t length) {
  return text ? std::string_view(text, length == NBL_NTS ? std::char_traits<char>::length(text) : length) : std::string_view();
}

Status null_argument(const char* name);
Status check_text(const char* text, size_t length, const char* name);

template <typename H>
Status check_handle(const H* handle, const char* name, bool nullable) {
  if (!handle) return nullable ? Status() : null_argument(name);
  if (handle->magic != H::magic_of_type) {
    return error(Code::kArgument, "the handle \"%s\" is not what it should be: released already, or of another type", name);
  }
  return {};
}

inline Status check_out(const void* pointer, const char* name) { return pointer ? Status() : null_argument(name); }
inline Status check_array(const void* pointer, size_t count, const char* name) {
  return pointer || count == 0 ? Status() : null_argument(name);
}

Status busy(const char* name);

// One call at a time for a handle: holds it, or is false. Sessions are also held by the batch that steps them.
class Exclusive {
 public:
  template <typename H>
  explicit Exclusive(const H* handle) : flag_(&handle->busy), held_(!flag_->exchange(true, std::memory_order_acquire)) {}
  explicit Exclusive(const nbl_session* handle) : session_(handle->session.get()), held_(session_->try_acquire()) {}
  Exclusive(const Exclusive&) = delete;
  Exclusive& operator=(const Exclusive&) = delete;
  ~Exclusive() {
    if (!held_) return;
    if (session_) session_->release();
    if (flag_) flag_->store(false, std::memory_order_release);
  }
  explicit operator bool() const { return held_; }

 private:
  std::atomic<bool>* flag_ = nullptr;
  Session* session_ = nullptr;
  bool held_;
};

// Refuses flags that say nothing yet: a later version may give them a meaning, and a program built against it a wrong answer here.
Status check_flags(uint32_t flags, uint32_t known);
constexpr uint32_t kTokenizeFlags = NBL_TOKENIZE_ADD_SPECIAL | NBL_TOKENIZE_SPELL_SPECIAL;
// NBL_TOKENIZE_* flags that have been checked.
EncodeOptions encode_options(uint32_t flags);

// Copies into memory that nbl_free frees, with a NUL behind it.
Status give_text(const std::string& text, char** out, size_t* out_length);
// Copies into the caller's buffer; kBuffer with the size needed where it is too small.
Status fill_buffer(std::string_view text, char* buffer, size_t capacity, size_t* length);

template <typename T>
Status fill_array(const T* values, size_t count, T* out, size_t capacity, size_t* out_count) {
  *out_count = count;
  if (count > capacity) {
    return error(Code::kBuffer, "%zu values do not fit an array of %zu", count, capacity).with("needed", static_cast<int64_t>(count));
  }
  for (size_t i = 0; i < count; ++i) out[i] = values[i];
  return {};
}

}  // namespace nbl::api

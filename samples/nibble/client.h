// The C API as C++ programs like to hold it: handles that release themselves, errors as exceptions, text as strings.
//
// Everything here is a line or two over include/nibble.h, and nothing else of nibble is used. Copy it into a program of
// your own if it suits you.
#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "nibble.h"

namespace client {

// A call that failed: its status, the library's message, and the details as a JSON object.
class Error : public std::runtime_error {
 public:
  Error(nbl_status status, const std::string& message, std::string detail)
      : std::runtime_error(message), status_(status), detail_(std::move(detail)) {}
  nbl_status status() const { return status_; }
  const std::string& detail() const { return detail_; }

 private:
  nbl_status status_;
  std::string detail_;
};

// Gives back a status that is no failure; else throws, and releases the error.
inline nbl_status checked(nbl_status status, nbl_error* error) {
  if (status >= 0) return status;
  size_t size = 0;
  const char* text = nbl_error_message(error, &size);
  std::string message = text ? std::string(text, size) : nbl_status_name(status);
  text = nbl_error_detail(error, &size);
  std::string detail = text ? std::string(text, size) : std::string();
  nbl_error_release(error);
  throw Error(status, message, std::move(detail));
}

// call(nbl_session_begin, session, 100): the C function with its error argument taken care of.
template <class Function, class... Arguments>
nbl_status call(Function function, Arguments... arguments) {
  nbl_error* error = nullptr;
  const nbl_status status = function(arguments..., &error);
  return checked(status, error);
}

// text_of(nbl_model_describe, model): for functions that end in `char **out, size_t *len, nbl_error **err`.
template <class Function, class... Arguments>
std::string text_of(Function function, Arguments... arguments) {
  char* out = nullptr;
  size_t size = 0;
  call(function, arguments..., &out, &size);
  std::string text(out, size);
  nbl_free(out);
  return text;
}

template <class Function, class... Arguments>
int64_t number_of(Function function, Arguments... arguments) {
  int64_t value = 0;
  call(function, arguments..., &value);
  return value;
}

struct Release {
  void operator()(nbl_config* handle) const { nbl_config_release(handle); }
  void operator()(nbl_model* handle) const { nbl_model_release(handle); }
  void operator()(nbl_session* handle) const { nbl_session_release(handle); }
  void operator()(nbl_job* handle) const { nbl_job_release(handle); }
};
using Config = std::unique_ptr<nbl_config, Release>;
using Model = std::unique_ptr<nbl_model, Release>;
using Session = std::unique_ptr<nbl_session, Release>;
using Job = std::unique_ptr<nbl_job, Release>;

// make<Session>(nbl_session_create, model, config): for functions that end in `HANDLE **out, nbl_error **err`.
template <class Handle, class Function, class... Arguments>
Handle make(Function function, Arguments... arguments) {
  typename Handle::pointer handle = nullptr;
  call(function, arguments..., &handle);
  return Handle(handle);
}

inline Config make_config() { return make<Config>(nbl_config_create); }

inline void set(const Config& config, nbl_option option, int64_t value) { call(nbl_config_set_i64, config.get(), option, value); }
inline void set(const Config& config, nbl_option option, double value) { call(nbl_config_set_f64, config.get(), option, value); }
inline void set(const Config& config, nbl_option option, const std::string& value) {
  call(nbl_config_set_str, config.get(), option, value.data(), value.size());
}
inline void add(const Config& config, nbl_option option, const std::string& value) {
  call(nbl_config_add_str, config.get(), option, value.data(), value.size());
}

// Ids of a text. `flags` as nbl_tokenize takes them.
inline std::vector<nbl_token> tokenize(const nbl_model* model, const std::string& text, uint32_t flags) {
  std::vector<nbl_token> ids(text.size() + 16);
  for (;;) {
    size_t count = 0;
    nbl_error* error = nullptr;
    const nbl_status status = nbl_tokenize(model, text.data(), text.size(), flags, ids.data(), ids.size(), &count, &error);
    if (status == NBL_E_BUFFER) {
      nbl_error_release(error);
      ids.resize(count);
      continue;
    }
    checked(status, error);
    ids.resize(count);
    return ids;
  }
}

// The next piece of a running generation; false when it has ended.
inline bool next(nbl_session* session, nbl_token* id, std::string* text) {
  text->resize(text->capacity() < 64 ? 64 : text->capacity());
  for (;;) {
    size_t size = 0;
    nbl_error* error = nullptr;
    const nbl_status status = nbl_session_next(session, id, &(*text)[0], text->size(), &size, &error);
    if (status == NBL_E_BUFFER) {  // nothing is lost: the token comes again
      nbl_error_release(error);
      text->resize(size);
      continue;
    }
    checked(status, error);
    text->resize(size);
    return status == NBL_OK;
  }
}

}  // namespace client

// Status and Result<T>: how nibble says that the world did something wrong.
//
// Every fallible function below the C API returns one of the two. A Status carries the code that the C API returns,
// a sentence for a person (what was found, what was expected, the way out) and a small JSON object for programs.
// Exceptions are not used for control flow; bad_alloc and whatever a library throws are caught at the C API's guard.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace nbl {

// The values are those of nbl_status in include/nibble.h; src/api asserts that they are equal.
enum class Code : int32_t {
  kOk = 0,
  kDone = 1,
  kPending = 2,
  kInternal = -1,
  kArgument = -2,
  kBuffer = -3,
  kState = -4,
  kBusy = -5,
  kCancelled = -6,
  kNoMemory = -7,
  kNoDeviceMemory = -8,
  kDevice = -9,
  kDeviceLost = -10,
  kIo = -11,
  kNotFound = -12,
  kFormat = -13,
  kUnsupported = -14,
  kUnknownOption = -15,
  kOptionValue = -16,
  kContextFull = -17,
  kTemplate = -18,
  kGrammar = -19,
  kAbi = -20,
  kNotFinite = -21,
};

class [[nodiscard]] Status {
 public:
  Status() = default;  // success
  Status(Code code, std::string message) : state_(new State{code, std::move(message), {}}) {}

  bool ok() const { return state_ == nullptr; }
  Code code() const { return state_ ? state_->code : Code::kOk; }
  const std::string& message() const { return state_ ? state_->message : empty(); }
  // Members of a JSON object without its braces: `"file":"x","line":3`; empty when there is nothing to add.
  const std::string& detail() const { return state_ ? state_->detail : empty(); }

  // Adds one member to the detail object. A no-op on success.
  Status& with(std::string_view key, std::string_view value);
  Status& with(std::string_view key, int64_t value);
  // Puts "context: " in front of the message: the caller knows the file or the tensor that the callee did not.
  Status& in(std::string_view context);

 private:
  struct State {
    Code code;
    std::string message;
    std::string detail;
  };
  static const std::string& empty();
  std::shared_ptr<State> state_;  // null on success; shared so that a Status is cheap to copy
};

// Status made like printf: `return error(Code::kFormat, "%s is %lld bytes, expected %lld", ...)`.
Status error(Code code, const char* format, ...) __attribute__((format(printf, 2, 3)));

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}          // NOLINT: implicit by design
  Result(Status status) : status_(std::move(status)) {}  // NOLINT: implicit by design; must not be ok

  bool ok() const { return value_.has_value(); }
  const Status& status() const { return status_; }
  Status& status() { return status_; }
  T& value() & { return *value_; }
  const T& value() const& { return *value_; }
  T&& value() && { return std::move(*value_); }
  T& operator*() & { return *value_; }
  const T& operator*() const& { return *value_; }
  T* operator->() { return &*value_; }
  const T* operator->() const { return &*value_; }

 private:
  Status status_;
  std::optional<T> value_;
};

}  // namespace nbl

#define NBL_CONCAT_(a, b) a##b
#define NBL_CONCAT(a, b) NBL_CONCAT_(a, b)

#define NBL_RETURN_IF_ERROR(expression)                        \
  do {                                                         \
    if (::nbl::Status nbl_status_ = (expression); !nbl_status_.ok()) return nbl_status_; \
  } while (0)

// NBL_ASSIGN_OR_RETURN(auto file, MappedFile::open(path));
#define NBL_ASSIGN_OR_RETURN(declaration, expression) \
  NBL_ASSIGN_OR_RETURN_(NBL_CONCAT(nbl_result_, __LINE__), declaration, expression)
#define NBL_ASSIGN_OR_RETURN_(result, declaration, expression) \
  auto result = (expression);                                  \
  if (!result.ok()) return result.status();                    \
  declaration = std::move(result).value()

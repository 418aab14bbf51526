// Runtime: one rendering's heap and its allowance. Whatever a template does, it ends when one of the three is spent:
// work (about 50 ns a unit), bytes (all that was ever allocated: nothing is freed before the end), depth of recursion.
//
// Ordinary operations account for what they did and the interpreter looks before its next node; an operation whose
// cost is not a small multiple of what already exists asks first (`afford`).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "text/jinja/strftime.h"
#include "text/jinja/value.h"

namespace nbl::jinja {

struct Limits {
  uint64_t work = 1000000;
  uint64_t bytes = 64ull << 20;
  int depth = 1000;
};

class Runtime {
 public:
  explicit Runtime(const Limits& limits, std::optional<CivilTime> now = {}) : limits_(limits), now_(now) {}
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  template <typename T>
  T* make() {
    T* object = new T();
    object->next_on_heap = objects_;
    objects_ = object;
    bytes_ += sizeof(T) + 16;
    return object;
  }
  Value text(std::string text, bool markup = false);
  Value list(std::vector<Value> items) { return sequence(Kind::kList, std::move(items)); }
  Value tuple(std::vector<Value> items) { return sequence(Kind::kTuple, std::move(items)); }
  Value iterator(std::vector<Value> items, const char* type_name = "generator");
  Value dict(Dict** made);  // an empty one, to be filled through `made` at once

  void work(uint64_t units) { work_ += units; }
  void work_on_bytes(uint64_t bytes) { work_ += bytes / 128; }
  void work_on_items(uint64_t items) { work_ += items / 4; }
  void took_bytes(uint64_t bytes) { bytes_ += bytes; }
  bool spent() const { return work_ > limits_.work || bytes_ > limits_.bytes; }
  Status check() const { return spent() ? exhausted() : Status(); }
  // Before making something of that size.
  Status afford(uint64_t bytes) const;
  Status afford_items(uint64_t items) const { return afford(items > limits_.bytes ? items : items * sizeof(Value)); }
  Status exhausted() const;

  CivilTime now() const { return now_ ? *now_ : local_time_now(); }

  bool autoescape = false;

 private:
  friend class Deeper;
  Value sequence(Kind kind, std::vector<Value> items);

  const Limits limits_;
  const std::optional<CivilTime> now_;
  uint64_t work_ = 0;
  uint64_t bytes_ = 0;
  int depth_ = 0;
  Object* objects_ = nullptr;
};

// One level of recursion, of the interpreter or of a function that walks nested values.
class Deeper {
 public:
  explicit Deeper(Runtime& runtime) : runtime_(runtime) { ++runtime_.depth_; }
  ~Deeper() { --runtime_.depth_; }
  Deeper(const Deeper&) = delete;
  Deeper& operator=(const Deeper&) = delete;
  Status check() const;

 private:
  Runtime& runtime_;
};

// A failure inside a template; the interpreter adds the line.
Status failure(const char* format, ...) __attribute__((format(printf, 1, 2)));
Status undefined_failure(const Value& value);

}  // namespace nbl::jinja

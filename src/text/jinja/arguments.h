// The arguments of a call, and how a function takes them: by place or by name, as Python binds them.
#pragma once

#include <array>
#include <initializer_list>
#include <string_view>
#include <utility>
#include <vector>

#include "text/jinja/runtime.h"

namespace nbl::jinja {

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string_view, Value>> named;

  const Value* find(std::string_view name) const;
};

// Arguments put in the places of a signature.
class Bound {
 public:
  // `names` are the parameters in order, at most 8; the first `required` must be given.
  static Result<Bound> bind(const char* function, const Arguments& arguments, std::initializer_list<const char*> names,
                            size_t required = 0);

  bool has(size_t i) const { return given_[i]; }
  const Value& operator[](size_t i) const { return values_[i]; }
  // None counts as not given where Python's default is None.
  bool has_some(size_t i) const { return given_[i] && !values_[i].is_none(); }
  bool flag(size_t i, bool fallback) const { return given_[i] ? truth(values_[i]) : fallback; }
  Result<Int> integer(size_t i, Int fallback) const;
  Result<std::string_view> text(size_t i, std::string_view fallback) const;

 private:
  std::array<Value, 8> values_;
  std::array<bool, 8> given_ = {};
};

// An entry of the tables of functions, methods, filters and tests. `self` is the object, the filtered or the tested
// value; undefined for a global function.
using Native = Result<Value> (*)(Runtime& rt, const Value& self, const Arguments& arguments);

struct NativeEntry {
  std::string_view name;
  Native call;  // null: known, and unsafe in a template because it would change the object
};

template <size_t N>
const NativeEntry* find_entry(const NativeEntry (&table)[N], std::string_view name) {
  for (const NativeEntry& entry : table) {
    if (entry.name == name) return &entry;
  }
  return nullptr;
}

// A number that an argument gives as int or bool; anything else is an error that says so.
Result<Int> as_integer(const Value& value);

}  // namespace nbl::jinja

// x.name, x[key] and x[start:stop:step], as Jinja's sandbox resolves them.
#pragma once

#include "text/jinja/arguments.h"

namespace nbl::jinja {

struct Method : Object {
  Value self;
  const NativeEntry* entry = nullptr;
};

// x.name finds the attribute (a method) before the item; x[key] the item before the attribute. What is not there is
// undefined; something of an undefined value is an error.
Result<Value> get_attribute(Runtime& rt, const Value& object, std::string_view name);
Result<Value> get_item(Runtime& rt, const Value& object, const Value& key);
// Bounds that are none are left out.
Result<Value> get_slice(Runtime& rt, const Value& object, const Value& start, const Value& stop, const Value& step);

// Only real attributes: what the `attr` filter sees.
Result<Value> get_own_attribute(Runtime& rt, const Value& object, std::string_view name);

// The first and the end of a slice of `length` items, as slice.indices() says.
struct SliceBounds {
  Int start, stop, step;
};
Result<SliceBounds> slice_bounds(int64_t length, const Value& start, const Value& stop, const Value& step);

// Tables of methods by kind: string_methods.cc and container_methods.cc.
const NativeEntry* find_string_method(std::string_view name);
const NativeEntry* find_container_method(const Value& object, std::string_view name);

}  // namespace nbl::jinja

// Python's operators: arithmetic, comparison, membership, length and iteration.
#pragma once

#include <vector>

#include "text/jinja/runtime.h"

namespace nbl::jinja {

enum class Operator : uint8_t {
  kAdd, kSubtract, kMultiply, kDivide, kFloorDivide, kModulo, kPower,
  kEqual, kNotEqual, kLess, kLessEqual, kGreater, kGreaterEqual, kIn, kNotIn,
};

Result<Value> arithmetic(Runtime& rt, Operator op, const Value& left, const Value& right);
Result<Value> negated(const Value& value);
Result<Value> plus_signed(const Value& value);

Result<bool> equal(Runtime& rt, const Value& left, const Value& right);
// op is one of kLess ... kGreaterEqual.
Result<bool> ordered(Runtime& rt, Operator op, const Value& left, const Value& right);
Result<bool> contains(Runtime& rt, const Value& container, const Value& item);
Result<bool> compare(Runtime& rt, Operator op, const Value& left, const Value& right);

// The error of an operator that does not take these: it names what is missing when one of them is undefined. `form`
// has places for the operator's symbol and the two types.
Status refuse(Operator op, const Value& left, const Value& right, const char* form);

Result<int64_t> length(const Value& value);
// The items that a `for` would see. Consumes a generator.
Result<std::vector<Value>> items_of(Runtime& rt, const Value& value);
bool is_iterable(const Value& value);
// (key, value) as a tuple.
Value pair_of(Runtime& rt, const Value& first, const Value& second);
// keys[i] says where values[i] belongs: sorts `values` stably.
Status sort_by(Runtime& rt, const std::vector<Value>& keys, bool reverse, std::vector<Value>& values);

}  // namespace nbl::jinja

#include "text/jinja/access.h"

#include "text/jinja/characters.h"
#include "text/jinja/interpreter.h"
#include "text/jinja/number.h"
#include "text/jinja/operators.h"

namespace nbl::jinja {
namespace {

std::optional<Value> loop_attribute(const Loop& loop, std::string_view name) {
  const int64_t length = static_cast<int64_t>(loop.items.size()), index0 = loop.index0;
  if (name == "index") return Value::integer(index0 + 1);
  if (name == "index0") return Value::integer(index0);
  if (name == "revindex") return Value::integer(length - index0);
  if (name == "revindex0") return Value::integer(length - index0 - 1);
  if (name == "first") return Value::boolean(index0 == 0);
  if (name == "last") return Value::boolean(index0 + 1 == length);
  if (name == "length") return Value::integer(length);
  if (name == "depth") return Value::integer(loop.depth0 + 1);
  if (name == "depth0") return Value::integer(loop.depth0);
  if (name == "previtem") {
    return index0 > 0 ? loop.items[static_cast<size_t>(index0 - 1)] : Value::undefined(Absence::kSentence, "there is no previous item");
  }
  if (name == "nextitem") {
    return index0 + 1 < length ? loop.items[static_cast<size_t>(index0 + 1)]
                               : Value::undefined(Absence::kSentence, "there is no next item");
  }
  return std::nullopt;
}

std::optional<Value> number_attribute(const Value& number, std::string_view name) {
  if (name == "real" || (name == "numerator" && number.is_integral())) {
    return number.is_integral() ? Value::integer(number.as_int()) : number;
  }
  if (name == "imag") return number.is_integral() ? Value::integer(0) : Value::real(0);
  if (name == "denominator" && number.is_integral()) return Value::integer(1);
  return std::nullopt;
}

std::optional<Value> macro_attribute(Runtime& rt, const Macro& macro, std::string_view name) {
  if (name == "name") return Value::borrowed(macro.name);
  if (name == "arguments") return rt.tuple(macro.argument_names());
  if (name == "catch_kwargs") return Value::boolean(macro.catches_named());
  if (name == "catch_varargs") return Value::boolean(macro.catches_positional());
  if (name == "caller") return Value::boolean(macro.takes_caller());
  return std::nullopt;
}

std::optional<Value> range_attribute(const Range& range, std::string_view name) {
  if (name == "start") return Value::integer(range.start);
  if (name == "stop") return Value::integer(range.stop);
  if (name == "step") return Value::integer(range.step);
  return std::nullopt;
}

// Attributes that are values, not methods.
std::optional<Value> property(Runtime& rt, const Value& object, std::string_view name) {
  switch (object.kind()) {
    case Kind::kBool:
    case Kind::kInt:
    case Kind::kFloat: return number_attribute(object, name);
    case Kind::kLoop: return loop_attribute(object.loop(), name);
    case Kind::kMacro: return macro_attribute(rt, object.macro(), name);
    case Kind::kRange: return range_attribute(object.range(), name);
    case Kind::kNamespace: {
      const Value* found = object.name_space().attributes.find(name);
      return found ? std::optional<Value>(*found) : std::nullopt;
    }
    case Kind::kTuple:
      if (object.list().group && name == "grouper") return object.list().items[0];
      if (object.list().group && name == "list") return object.list().items[1];
      return std::nullopt;
    case Kind::kCycler:
      if (name == "current") return object.cycler().items[object.cycler().position];
      return std::nullopt;
    default: return std::nullopt;
  }
}

std::optional<Value> own_attribute(Runtime& rt, const Value& object, std::string_view name) {
  if (std::optional<Value> value = property(rt, object, name)) return value;
  const NativeEntry* entry = object.is_string() ? find_string_method(name) : find_container_method(object, name);
  if (!entry) return std::nullopt;
  if (!entry->call) return Value::undefined(Absence::kUnsafe, name, object.kind());
  Method* method = rt.make<Method>();
  method->self = object;
  method->entry = entry;
  return Value::object(Kind::kMethod, method);
}

Value missing_attribute(const Value& object, std::string_view name) {
  const bool internal = name.size() > 2 && name.substr(0, 2) == "__";
  return Value::undefined(internal ? Absence::kUnsafe : Absence::kAttribute, name, object.kind());
}

std::optional<Value> item_at(const Value& object, Int index) {
  const Result<int64_t> size = length(object);
  const int64_t count = *size;
  if (index < 0) index += count;
  if (index < 0 || index >= count) return std::nullopt;
  const size_t i = static_cast<size_t>(index);
  if (object.is(Kind::kRange)) return Value::integer(object.range().at(static_cast<int64_t>(index)));
  if (object.is(Kind::kBytes)) return Value::integer(static_cast<unsigned char>(object.text()[i]));
  return object.list().items[i];
}

// Text is indexed by code point, without counting all of it when the place is near an end.
std::optional<Value> character_at(Runtime& rt, std::string_view text, Int index) {
  if (index >= static_cast<Int>(text.size()) || -index > static_cast<Int>(text.size()) || text.empty()) return std::nullopt;
  size_t start, end;
  if (index >= 0) {
    start = offset_of(text, static_cast<size_t>(index));
    if (start >= text.size()) return std::nullopt;
    end = start + offset_of(text.substr(start), 1);
    rt.work_on_bytes(start);
  } else {
    end = start = text.size();
    for (Int i = index; i < 0; ++i) {
      if (start == 0) return std::nullopt;
      end = start;
      previous_code_point(text, start);
    }
    rt.work_on_bytes(text.size() - start);
  }
  return Value::borrowed(text.substr(start, end - start));
}

std::optional<Value> own_item(Runtime& rt, const Value& object, const Value& key) {
  switch (object.kind()) {
    case Kind::kDict: {
      const Value* found = hashable(key) ? object.dict().find(key) : nullptr;
      return found ? std::optional<Value>(*found) : std::nullopt;
    }
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kRange:
    case Kind::kBytes: return key.is_integral() ? item_at(object, key.as_int()) : std::nullopt;
    case Kind::kString: return key.is_integral() ? character_at(rt, object.text(), key.as_int()) : std::nullopt;
    default: return std::nullopt;
  }
}

Value sliced_text(Runtime& rt, const Value& text, const SliceBounds& bounds) {
  const std::string_view all = text.text();
  if (bounds.step == 1) {
    if (bounds.start >= bounds.stop) return Value::borrowed("", text.markup());
    const size_t from = offset_of(all, static_cast<size_t>(bounds.start));
    const size_t size = offset_of(all.substr(from), static_cast<size_t>(bounds.stop - bounds.start));
    return Value::borrowed(all.substr(from, size), text.markup());
  }
  std::vector<size_t> starts;
  for (size_t at = 0; at < all.size(); at += offset_of(all.substr(at), 1)) starts.push_back(at);
  starts.push_back(all.size());
  std::string out;
  for (Int i = bounds.start; bounds.step > 0 ? i < bounds.stop : i > bounds.stop; i += bounds.step) {
    const size_t at = static_cast<size_t>(i);
    out += all.substr(starts[at], starts[at + 1] - starts[at]);
  }
  return rt.text(std::move(out), text.markup());
}

Value sliced_items(Runtime& rt, const Value& list, const SliceBounds& bounds) {
  std::vector<Value> items;
  for (Int i = bounds.start; bounds.step > 0 ? i < bounds.stop : i > bounds.stop; i += bounds.step) {
    items.push_back(list.list().items[static_cast<size_t>(i)]);
  }
  return list.is(Kind::kList) ? rt.list(std::move(items)) : rt.tuple(std::move(items));
}

Value sliced_range(Runtime& rt, const Range& range, const SliceBounds& bounds) {
  Range* slice = rt.make<Range>();
  slice->start = range.start + bounds.start * range.step;
  slice->stop = range.start + bounds.stop * range.step;
  slice->step = range.step * bounds.step;
  return Value::object(Kind::kRange, slice);
}

// One bound of a slice, moved into [low, high].
Result<Int> bound(const Value& value, Int fallback, int64_t length, Int low, Int high) {
  if (value.is_none()) return fallback;
  if (!value.is_integral()) return failure("slice indices must be integers or None");
  Int at = value.as_int();
  if (at < 0) at = at < -(Int{1} << 64) ? low : at + length;
  return at < low ? low : at > high ? high : at;
}

}  // namespace

Result<SliceBounds> slice_bounds(int64_t length, const Value& start, const Value& stop, const Value& step) {
  SliceBounds bounds{0, length, 1};
  if (!step.is_none()) {
    if (!step.is_integral()) return failure("slice indices must be integers or None");
    bounds.step = step.as_int();
    if (bounds.step == 0) return failure("slice step cannot be zero");
    // A step beyond the length means the same as one of the length.
    const Int most = static_cast<Int>(length) + 1;
    bounds.step = bounds.step > most ? most : bounds.step < -most ? -most : bounds.step;
  }
  const bool forward = bounds.step > 0;
  const Int low = forward ? 0 : -1, high = forward ? length : length - 1;
  NBL_ASSIGN_OR_RETURN(bounds.start, bound(start, forward ? low : high, length, low, high));
  NBL_ASSIGN_OR_RETURN(bounds.stop, bound(stop, forward ? high : low, length, low, high));
  return bounds;
}

Result<Value> get_own_attribute(Runtime& rt, const Value& object, std::string_view name) {
  if (object.is_undefined()) return undefined_failure(object);
  const std::optional<Value> value = own_attribute(rt, object, name);
  return value ? *value : missing_attribute(object, name);
}

Result<Value> get_attribute(Runtime& rt, const Value& object, std::string_view name) {
  if (object.is_undefined()) return undefined_failure(object);
  if (const std::optional<Value> value = own_attribute(rt, object, name)) return *value;
  if (const std::optional<Value> item = own_item(rt, object, Value::borrowed(name))) return *item;
  return missing_attribute(object, name);
}

Result<Value> get_item(Runtime& rt, const Value& object, const Value& key) {
  if (object.is_undefined()) return undefined_failure(object);
  if (const std::optional<Value> item = own_item(rt, object, key)) return *item;
  if (!key.is_string()) {
    const Value name = key.is_integral() ? rt.text(int_text(key.as_int())) : Value::borrowed(type_name(key));
    return Value::undefined(Absence::kElement, name.text(), object.kind());
  }
  if (const std::optional<Value> value = own_attribute(rt, object, key.text())) return *value;
  return missing_attribute(object, key.text());
}

Result<Value> get_slice(Runtime& rt, const Value& object, const Value& start, const Value& stop, const Value& step) {
  if (object.is_undefined()) return undefined_failure(object);
  if (!object.is_string() && !object.is_sequence() && !object.is(Kind::kRange)) {
    return failure("'%s' object cannot be sliced", type_name(object));
  }
  NBL_ASSIGN_OR_RETURN(const int64_t count, length(object));
  if (object.is_string()) rt.work_on_bytes(object.text().size());
  NBL_ASSIGN_OR_RETURN(const SliceBounds bounds, slice_bounds(count, start, stop, step));
  if (object.is_string()) return sliced_text(rt, object, bounds);
  if (object.is(Kind::kRange)) return sliced_range(rt, object.range(), bounds);
  return sliced_items(rt, object, bounds);
}

}  // namespace nbl::jinja

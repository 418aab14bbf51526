// The methods of list, tuple, dict, range, bytes, numbers, and of what templates make: cycler, loop.
#include <cmath>

#include "base/utf8.h"
#include "text/jinja/access.h"
#include "text/jinja/globals.h"
#include "text/jinja/interpreter.h"
#include "text/jinja/number.h"
#include "text/jinja/operators.h"

namespace nbl::jinja {
namespace {

// ---- sequences ----

Result<Value> index_of(Runtime& rt, const Value& self, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind("index()", arguments, {"value", "start", "stop"}, 1));
  NBL_ASSIGN_OR_RETURN(const std::vector<Value> items, items_of(rt, self));
  const Value none = Value::none();
  NBL_ASSIGN_OR_RETURN(const SliceBounds bounds, slice_bounds(static_cast<int64_t>(items.size()), bound.has(1) ? bound[1] : none,
                                                              bound.has(2) ? bound[2] : none, none));
  for (Int i = bounds.start; i < bounds.stop; ++i) {
    NBL_ASSIGN_OR_RETURN(const bool same, equal(rt, items[static_cast<size_t>(i)], bound[0]));
    if (same) return Value::integer(i);
  }
  return failure("the value is not in the %s", type_name(self));
}

Result<Value> count(Runtime& rt, const Value& self, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind("count()", arguments, {"value"}, 1));
  NBL_ASSIGN_OR_RETURN(const std::vector<Value> items, items_of(rt, self));
  Int found = 0;
  for (const Value& item : items) {
    NBL_ASSIGN_OR_RETURN(const bool same, equal(rt, item, bound[0]));
    found += same;
  }
  return Value::integer(found);
}

Result<Value> copy_list(Runtime& rt, const Value& self, const Arguments&) { return rt.list(self.list().items); }

// ---- dict ----

Result<Value> get(Runtime&, const Value& self, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind("get()", arguments, {"key", "default"}, 1));
  if (!hashable(bound[0])) return failure("unhashable type: '%s'", type_name(bound[0]));
  const Value* found = self.dict().find(bound[0]);
  return found ? *found : bound.has(1) ? bound[1] : Value::none();
}

template <View::Part kPart>
Result<Value> view(Runtime& rt, const Value& self, const Arguments& arguments) {
  NBL_RETURN_IF_ERROR(Bound::bind("the method", arguments, {}).status());
  View* view = rt.make<View>();
  view->dict = &self.dict();
  view->part = kPart;
  return Value::object(Kind::kView, view);
}

Result<Value> copy_dict(Runtime& rt, const Value& self, const Arguments&) {
  Dict* copy;
  const Value value = rt.dict(&copy);
  for (const auto& [key, item] : self.dict().entries) copy->set(key, item);
  rt.took_bytes(copy->entries.size() * 2 * sizeof(Value));
  rt.work_on_items(copy->entries.size() * 8);
  return value;
}

// ---- numbers and bytes ----

Result<Value> bit_length(Runtime&, const Value& self, const Arguments&) {
  Int magnitude = self.as_int() < 0 ? -self.as_int() : self.as_int();
  int bits = 0;
  for (; magnitude > 0; magnitude >>= 1) ++bits;
  return Value::integer(bits);
}

Result<Value> is_integer(Runtime&, const Value& self, const Arguments&) {
  return Value::boolean(std::isfinite(self.as_number()) && self.as_number() == std::floor(self.as_number()));
}

Result<Value> conjugate(Runtime&, const Value& self, const Arguments&) { return plus_signed(self); }

Result<Value> decode(Runtime&, const Value& self, const Arguments&) {
  if (utf8_first_invalid(self.text()) != std::string_view::npos) return failure("'utf-8' codec can't decode the bytes");
  return Value::borrowed(self.text());
}

// ---- cycler and loop ----

Result<Value> cycler_next(Runtime&, const Value& self, const Arguments&) {
  Cycler& cycler = self.cycler();
  const Value item = cycler.items[cycler.position];
  cycler.position = (cycler.position + 1) % cycler.items.size();
  return item;
}

Result<Value> cycler_reset(Runtime&, const Value& self, const Arguments&) {
  self.cycler().position = 0;
  return Value::none();
}

Result<Value> loop_cycle(Runtime&, const Value& self, const Arguments& arguments) {
  if (arguments.positional.empty()) return failure("no items for cycling given");
  return arguments.positional[static_cast<size_t>(self.loop().index0) % arguments.positional.size()];
}

Result<Value> loop_changed(Runtime& rt, const Value& self, const Arguments& arguments) {
  const Value now = rt.tuple(arguments.positional);
  Loop& loop = self.loop();
  NBL_ASSIGN_OR_RETURN(const bool same, equal(rt, loop.last_changed, now));
  loop.last_changed = now;
  return Value::boolean(!same);
}

// The null entries change the object: the sandbox is an immutable one.
const NativeEntry kListMethods[] = {
    {"append", nullptr}, {"clear", nullptr},  {"copy", copy_list}, {"count", count},    {"extend", nullptr}, {"index", index_of},
    {"insert", nullptr}, {"pop", nullptr},    {"remove", nullptr}, {"reverse", nullptr}, {"sort", nullptr},
};
const NativeEntry kTupleMethods[] = {{"count", count}, {"index", index_of}};
const NativeEntry kDictMethods[] = {
    {"clear", nullptr},   {"copy", copy_dict},     {"get", get},       {"items", view<View::kItems>},
    {"keys", view<View::kKeys>}, {"pop", nullptr}, {"popitem", nullptr}, {"setdefault", nullptr},
    {"update", nullptr},  {"values", view<View::kValues>},
};
const NativeEntry kIntMethods[] = {{"bit_length", bit_length}, {"conjugate", conjugate}, {"is_integer", is_integer}};
const NativeEntry kFloatMethods[] = {{"conjugate", conjugate}, {"is_integer", is_integer}};
const NativeEntry kBytesMethods[] = {{"decode", decode}};
const NativeEntry kCyclerMethods[] = {{"next", cycler_next}, {"reset", cycler_reset}};
const NativeEntry kLoopMethods[] = {{"changed", loop_changed}, {"cycle", loop_cycle}};

}  // namespace

const NativeEntry* find_container_method(const Value& object, std::string_view name) {
  switch (object.kind()) {
    case Kind::kList: return find_entry(kListMethods, name);
    case Kind::kTuple:
    case Kind::kRange: return find_entry(kTupleMethods, name);
    case Kind::kDict: return find_entry(kDictMethods, name);
    case Kind::kBool:
    case Kind::kInt: return find_entry(kIntMethods, name);
    case Kind::kFloat: return find_entry(kFloatMethods, name);
    case Kind::kBytes: return find_entry(kBytesMethods, name);
    case Kind::kCycler: return find_entry(kCyclerMethods, name);
    case Kind::kLoop: return find_entry(kLoopMethods, name);
    case Kind::kFunction: return find_function_method(object.function(), name);
    default: return nullptr;
  }
}

}  // namespace nbl::jinja

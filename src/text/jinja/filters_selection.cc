// map, select and reject: a filter, a test or an attribute for each item. What they give is a generator: consumed once,
// always true, without a length.
#include "text/jinja/filters.h"
#include "text/jinja/item_path.h"
#include "text/jinja/operators.h"
#include "text/jinja/tests.h"

namespace nbl::jinja {
namespace {

Result<Value> map_attribute(Runtime& rt, std::vector<Value> items, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind("map", arguments, {"attribute", "default"}, 1));
  const ItemPath path = ItemPath::parse(bound[0]);
  const Value* fallback = bound.has_some(1) ? &bound[1] : nullptr;
  for (Value& item : items) {
    NBL_ASSIGN_OR_RETURN(item, path.follow(rt, item, fallback));
  }
  return rt.iterator(std::move(items));
}

// The name in front of the arguments, and the arguments behind it.
Result<std::string_view> take_name(const Arguments& arguments, size_t at, Arguments& rest) {
  if (!arguments.positional[at].is_string())
    return failure("the name of a filter or test must be str, not %s", type_name(arguments.positional[at]));
  rest.positional.assign(arguments.positional.begin() + static_cast<int64_t>(at) + 1, arguments.positional.end());
  rest.named = arguments.named;
  return arguments.positional[at].text();
}

Result<Value> map(Runtime& rt, const Value& self, const Arguments& arguments) {
  if (!truth(self)) return rt.iterator({});
  NBL_ASSIGN_OR_RETURN(std::vector<Value> items, items_of(rt, self));
  if (arguments.positional.empty() && arguments.find("attribute")) return map_attribute(rt, std::move(items), arguments);
  if (arguments.positional.empty()) return failure("map requires a filter argument");
  Arguments rest;
  NBL_ASSIGN_OR_RETURN(const std::string_view name, take_name(arguments, 0, rest));
  Deeper deeper(rt);  // map('map', 'map', ...)
  NBL_RETURN_IF_ERROR(deeper.check());
  for (Value& item : items) {
    NBL_ASSIGN_OR_RETURN(item, call_filter(rt, name, item, rest));
  }
  return rt.iterator(std::move(items));
}

template <bool kKeep, bool kOfAttribute>
Result<Value> select(Runtime& rt, const Value& self, const Arguments& arguments) {
  if (!truth(self)) return rt.iterator({});
  constexpr size_t kNamePlace = kOfAttribute ? 1 : 0;
  if (arguments.positional.size() < kNamePlace) return failure("Missing parameter for attribute name");
  const ItemPath path = ItemPath::parse(kOfAttribute ? arguments.positional[0] : Value::none());
  Arguments rest;
  std::string_view test;
  const bool tested = arguments.positional.size() > kNamePlace;
  if (tested) {
    NBL_ASSIGN_OR_RETURN(test, take_name(arguments, kNamePlace, rest));
  }
  NBL_ASSIGN_OR_RETURN(const std::vector<Value> items, items_of(rt, self));
  std::vector<Value> kept;
  for (const Value& item : items) {
    NBL_ASSIGN_OR_RETURN(const Value subject, path.follow(rt, item));
    bool passed = truth(subject);
    if (tested) {
      NBL_ASSIGN_OR_RETURN(passed, call_test(rt, test, subject, rest));
    }
    if (passed == kKeep) kept.push_back(item);
  }
  return rt.iterator(std::move(kept));
}

const NativeEntry kFilters[] = {
    {"map", map},
    {"reject", select<false, false>},
    {"rejectattr", select<false, true>},
    {"select", select<true, false>},
    {"selectattr", select<true, true>},
};

}  // namespace

const NativeEntry* find_selection_filter(std::string_view name) { return find_entry(kFilters, name); }

}  // namespace nbl::jinja

// The filters that fit no other file, and the look-up over all of them.
#include "text/jinja/filters.h"

#include "text/jinja/access.h"
#include "text/jinja/json_text.h"
#include "text/jinja/operators.h"
#include "text/jinja/text_of.h"

namespace nbl::jinja {
namespace {

constexpr size_t kPrettyWidth = 80;

Result<Value> default_to(Runtime&, const Value& self, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind("default", arguments, {"default_value", "boolean"}));
  const bool replace = self.is_undefined() || (bound.flag(1, false) && !truth(self));
  return !replace ? self : bound.has(0) ? bound[0] : Value::borrowed("");
}

Result<Value> attribute_of(Runtime& rt, const Value& self, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind("attr", arguments, {"name"}, 1));
  NBL_ASSIGN_OR_RETURN(const std::string_view name, bound.text(0, ""));
  return get_own_attribute(rt, self, name);
}

Result<Value> length_of(Runtime&, const Value& self, const Arguments& arguments) {
  NBL_RETURN_IF_ERROR(Bound::bind("length", arguments, {}).status());
  NBL_ASSIGN_OR_RETURN(const int64_t count, length(self));
  return Value::integer(count);
}

Result<Value> pretty(Runtime& rt, const Value& self, const Arguments&) {
  NBL_ASSIGN_OR_RETURN(std::string text, repr(rt, self));
  if (text.size() > kPrettyWidth) return failure("pprint is not supported for what does not fit one line of %zu characters", kPrettyWidth);
  return rt.text(std::move(text));
}

Result<Value> unsupported(Runtime&, const Value&, const Arguments&) {
  return failure("the filters random and urlize are not supported: a prompt must not depend on chance or on guesses about links");
}

const NativeEntry kFilters[] = {
    {"attr", attribute_of}, {"count", length_of}, {"d", default_to},       {"default", default_to},  {"length", length_of},
    {"pprint", pretty},     {"tojson", to_json},  {"random", unsupported}, {"urlize", unsupported},
};

}  // namespace

const NativeEntry* find_filter(std::string_view name) {
  if (const NativeEntry* entry = find_entry(kFilters, name)) return entry;
  if (const NativeEntry* entry = find_text_filter(name)) return entry;
  if (const NativeEntry* entry = find_selection_filter(name)) return entry;
  if (const NativeEntry* entry = find_sequence_filter(name)) return entry;
  return find_number_filter(name);
}

Result<Value> call_filter(Runtime& rt, std::string_view name, const Value& self, const Arguments& arguments) {
  const NativeEntry* entry = find_filter(name);
  if (!entry) return failure("No filter named '%.*s' found.", static_cast<int>(name.size()), name.data());
  rt.work(1);
  if (rt.spent()) return rt.exhausted();
  return entry->call(rt, self, arguments);
}

}  // namespace nbl::jinja

#include "text/jinja/globals.h"

#include "text/jinja/operators.h"
#include "text/jinja/text_of.h"

namespace nbl::jinja {
namespace {

constexpr int64_t kLongestRange = 100000;   // the sandbox's own limit
constexpr size_t kLongestTimeFormat = 4096;

Result<Value> range(Runtime& rt, const Value&, const Arguments& arguments) {
  const std::vector<Value>& given = arguments.positional;
  if (given.empty() || given.size() > 3 || !arguments.named.empty()) return failure("range takes 1 to 3 arguments");
  Int numbers[3] = {0, 0, 1};
  for (size_t i = 0; i < given.size(); ++i) {
    NBL_ASSIGN_OR_RETURN(numbers[given.size() == 1 ? 1 : i], as_integer(given[i]));
  }
  if (numbers[2] == 0) return failure("range() arg 3 must not be zero");
  constexpr Int kFar = Int{1} << 62;
  for (const Int number : numbers) {
    if (number > kFar || number < -kFar) return failure("Range too big");
  }
  Range* made = rt.make<Range>();
  made->start = numbers[0];
  made->stop = numbers[1];
  made->step = numbers[2];
  if (made->length() > kLongestRange) {
    return failure("Range too big. The sandbox blocks ranges larger than MAX_RANGE (%lld).", static_cast<long long>(kLongestRange));
  }
  return Value::object(Kind::kRange, made);
}

Status add_pair(Runtime& rt, Dict& dict, const Value& key, const Value& value) {
  if (!hashable(key)) return failure("unhashable type: '%s'", type_name(key));
  dict.set(key, value);
  rt.took_bytes(2 * sizeof(Value) + 16);
  rt.work(1);
  return rt.check();
}

// What dict(...) makes of a mapping, of pairs and of named arguments.
Status fill_dict(Runtime& rt, Dict& dict, const Arguments& arguments) {
  if (arguments.positional.size() > 1) return failure("dict expected at most 1 argument, got %zu", arguments.positional.size());
  for (const Value& source : arguments.positional) {
    if (source.is(Kind::kDict)) {
      for (const auto& [key, value] : source.dict().entries) NBL_RETURN_IF_ERROR(add_pair(rt, dict, key, value));
      continue;
    }
    NBL_ASSIGN_OR_RETURN(const std::vector<Value> pairs, items_of(rt, source));
    for (const Value& pair : pairs) {
      NBL_ASSIGN_OR_RETURN(const std::vector<Value> parts, items_of(rt, pair));
      if (parts.size() != 2) return failure("dictionary update sequence element has length %zu; 2 is required", parts.size());
      NBL_RETURN_IF_ERROR(add_pair(rt, dict, parts[0], parts[1]));
    }
  }
  for (const auto& [name, value] : arguments.named) NBL_RETURN_IF_ERROR(add_pair(rt, dict, Value::borrowed(name), value));
  return Status();
}

Result<Value> dict(Runtime& rt, const Value&, const Arguments& arguments) {
  Dict* made;
  const Value value = rt.dict(&made);
  NBL_RETURN_IF_ERROR(fill_dict(rt, *made, arguments));
  return value;
}

Result<Value> fromkeys(Runtime& rt, const Value&, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind("fromkeys()", arguments, {"iterable", "value"}, 1));
  NBL_ASSIGN_OR_RETURN(const std::vector<Value> keys, items_of(rt, bound[0]));
  Dict* made;
  const Value value = rt.dict(&made);
  for (const Value& key : keys) NBL_RETURN_IF_ERROR(add_pair(rt, *made, key, bound.has(1) ? bound[1] : Value::none()));
  return value;
}

Result<Value> name_space(Runtime& rt, const Value&, const Arguments& arguments) {
  Dict values;
  NBL_RETURN_IF_ERROR(fill_dict(rt, values, arguments));
  Namespace* made = rt.make<Namespace>();
  for (const auto& [key, value] : values.entries) {
    if (!key.is_string()) return failure("a namespace's names must be str, not %s", type_name(key));
    NBL_RETURN_IF_ERROR(set_in_namespace(rt, *made, key.text(), value));
  }
  return Value::object(Kind::kNamespace, made);
}

Result<Value> cycler(Runtime& rt, const Value&, const Arguments& arguments) {
  if (arguments.positional.empty()) return failure("at least one item has to be provided");
  Cycler* made = rt.make<Cycler>();
  made->items = arguments.positional;
  rt.took_bytes(made->items.size() * sizeof(Value));
  return Value::object(Kind::kCycler, made);
}

Result<Value> joiner(Runtime& rt, const Value&, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind("joiner", arguments, {"sep"}));
  Joiner* made = rt.make<Joiner>();
  made->separator = bound.has(0) ? bound[0] : Value::borrowed(", ");
  return Value::object(Kind::kJoiner, made);
}

Result<Value> lipsum(Runtime&, const Value&, const Arguments&) {
  return failure("lipsum() is not supported: a prompt must not depend on chance");
}

Result<Value> raise_exception(Runtime& rt, const Value&, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind("raise_exception", arguments, {"message"}, 1));
  NBL_ASSIGN_OR_RETURN(std::string message, str(rt, bound[0]));
  return Status(Code::kTemplate, std::move(message));
}

Result<Value> strftime_now(Runtime& rt, const Value&, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind("strftime_now", arguments, {"format"}, 1));
  NBL_ASSIGN_OR_RETURN(const std::string_view format, bound.text(0, ""));
  if (format.size() > kLongestTimeFormat) return failure("the format of strftime_now is longer than %zu bytes", kLongestTimeFormat);
  return rt.text(format_time(format, rt.now()));
}

const NativeEntry kGlobals[] = {
    {"cycler", cycler},         {"dict", dict},   {"joiner", joiner},
    {"lipsum", lipsum},         {"namespace", name_space}, {"raise_exception", raise_exception},
    {"range", range},           {"strftime_now", strftime_now},
};

const NativeEntry kDictFunctionMethods[] = {{"fromkeys", fromkeys}};

}  // namespace

const NativeEntry* find_global(std::string_view name) { return find_entry(kGlobals, name); }

const NativeEntry* find_function_method(const NativeEntry& function, std::string_view name) {
  return function.name == "dict" ? find_entry(kDictFunctionMethods, name) : nullptr;
}

Result<Value> call_joiner(Joiner& joiner) {
  if (joiner.used) return joiner.separator;
  joiner.used = true;
  return Value::borrowed("");
}

Status set_in_namespace(Runtime& rt, Namespace& space, std::string_view name, const Value& value) {
  if (!name.empty() && name[0] == '_') {
    return failure("a template cannot store names with a leading underscore on a namespace, but got '%.*s'",
                   static_cast<int>(name.size()), name.data());
  }
  space.attributes.set(Value::borrowed(name), value);
  rt.took_bytes(16);
  return Status();
}

}  // namespace nbl::jinja

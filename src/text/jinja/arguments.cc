#include "text/jinja/arguments.h"

namespace nbl::jinja {

const Value* Arguments::find(std::string_view name) const {
  for (const auto& [given, value] : named) {
    if (given == name) return &value;
  }
  return nullptr;
}

Result<Bound> Bound::bind(const char* function, const Arguments& arguments, std::initializer_list<const char*> names,
                          size_t required) {
  Bound bound;
  if (arguments.positional.size() > names.size()) {
    return failure("%s takes at most %zu arguments (%zu given)", function, names.size(), arguments.positional.size());
  }
  for (size_t i = 0; i < arguments.positional.size(); ++i) {
    bound.values_[i] = arguments.positional[i];
    bound.given_[i] = true;
  }
  for (const auto& [name, value] : arguments.named) {
    size_t i = 0;
    while (i < names.size() && name != names.begin()[i]) ++i;
    if (i == names.size() || bound.given_[i]) {
      return failure(i == names.size() ? "%s got an unexpected keyword argument '%.*s'" : "%s got multiple values for argument '%.*s'",
                     function, static_cast<int>(name.size()), name.data());
    }
    bound.values_[i] = value;
    bound.given_[i] = true;
  }
  for (size_t i = 0; i < required; ++i) {
    if (!bound.given_[i]) return failure("%s is missing its argument '%s'", function, names.begin()[i]);
  }
  return bound;
}

Result<Int> as_integer(const Value& value) {
  if (value.is_integral()) return value.as_int();
  if (value.is_undefined()) return undefined_failure(value);
  return failure("'%s' object cannot be interpreted as an integer", type_name(value));
}

Result<Int> Bound::integer(size_t i, Int fallback) const {
  if (!given_[i]) return fallback;
  return as_integer(values_[i]);
}

Result<std::string_view> Bound::text(size_t i, std::string_view fallback) const {
  if (!given_[i]) return fallback;
  if (values_[i].is_string()) return values_[i].text();
  if (values_[i].is_undefined()) return undefined_failure(values_[i]);
  return failure("argument %zu must be str, not %s", i + 1, type_name(values_[i]));
}

}  // namespace nbl::jinja

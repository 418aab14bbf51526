#include "text/jinja/item_path.h"

#include "text/jinja/characters.h"
#include "text/jinja/number.h"
#include "text/jinja/strings.h"

namespace nbl::jinja {

ItemPath ItemPath::parse(const Value& path) {
  ItemPath parsed;
  if (path.is_none()) return parsed;
  if (!path.is_string()) {
    parsed.steps_.push_back(path);
    return parsed;
  }
  for (const Value& part : split_at(path.text(), ".", UINT64_MAX)) {
    bool overflow = false;
    const bool digits = !part.text().empty() && part.text().find_first_not_of("0123456789") == std::string_view::npos;
    const std::optional<Int> index = digits ? parse_int(part.text(), 10, &overflow) : std::nullopt;
    parsed.steps_.push_back(index ? Value::integer(*index) : part);
  }
  return parsed;
}

Result<Value> ItemPath::follow(Runtime& rt, Value item, const Value* fallback) const {
  for (const Value& step : steps_) {
    NBL_ASSIGN_OR_RETURN(item, get_item(rt, item, step));
    if (fallback && item.is_undefined()) item = *fallback;
  }
  return item;
}

Value sort_key(Runtime& rt, const Value& value, bool case_sensitive) {
  return case_sensitive || !value.is_string() ? value : rt.text(to_lower(value.text()));
}

}  // namespace nbl::jinja

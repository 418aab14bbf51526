// The filters on sequences and mappings: their ends, order, sums and parts.
#include <algorithm>

#include "base/utf8.h"
#include "text/jinja/characters.h"
#include "text/jinja/filters.h"
#include "text/jinja/item_path.h"
#include "text/jinja/operators.h"
#include "text/jinja/strings.h"
#include "text/jinja/text_of.h"

namespace nbl::jinja {
namespace {

Result<Value> list(Runtime& rt, const Value& self, const Arguments& arguments) {
  NBL_RETURN_IF_ERROR(Bound::bind("list", arguments, {}).status());
  NBL_ASSIGN_OR_RETURN(std::vector<Value> items, items_of(rt, self));
  return rt.list(std::move(items));
}

Result<Value> first(Runtime& rt, const Value& self, const Arguments&) {
  if (self.is(Kind::kIterator) && self.iterator().position < self.iterator().items.size()) {
    return self.iterator().items[self.iterator().position++];
  }
  if (self.is_sequence() && !self.list().items.empty()) return self.list().items.front();
  NBL_ASSIGN_OR_RETURN(const std::vector<Value> items, items_of(rt, self));
  return items.empty() ? Value::undefined(Absence::kSentence, "No first item, sequence was empty.") : items.front();
}

Result<Value> last(Runtime& rt, const Value& self, const Arguments&) {
  if (self.is(Kind::kIterator)) return failure("'%s' object is not reversible", type_name(self));
  if (self.is_sequence() && !self.list().items.empty()) return self.list().items.back();
  NBL_ASSIGN_OR_RETURN(const std::vector<Value> items, items_of(rt, self));
  return items.empty() ? Value::undefined(Absence::kSentence, "No last item, sequence was empty.") : items.back();
}

Value reversed_text(Runtime& rt, const Value& text) {
  std::string out;
  out.reserve(text.text().size());
  for (size_t end = text.text().size(); end > 0;) {
    size_t start = end;
    previous_code_point(text.text(), start);
    out += text.text().substr(start, end - start);
    end = start;
  }
  return rt.text(std::move(out), text.markup());
}

Result<Value> reverse(Runtime& rt, const Value& self, const Arguments&) {
  if (self.is_string()) return reversed_text(rt, self);
  const bool generated = self.is(Kind::kIterator);
  NBL_ASSIGN_OR_RETURN(std::vector<Value> items, items_of(rt, self));
  std::reverse(items.begin(), items.end());
  return generated ? rt.list(std::move(items)) : rt.iterator(std::move(items), "list_reverseiterator");
}

Result<Value> join(Runtime& rt, const Value& self, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind("join", arguments, {"d", "attribute"}));
  NBL_ASSIGN_OR_RETURN(std::vector<Value> items, items_of(rt, self));
  NBL_ASSIGN_OR_RETURN(Value separator, to_text(rt, bound.has(0) ? bound[0] : Value::borrowed("")));
  bool markup = rt.autoescape && separator.markup();
  const ItemPath path = ItemPath::parse(bound.has(1) ? bound[1] : Value::none());
  for (Value& item : items) {
    NBL_ASSIGN_OR_RETURN(item, path.follow(rt, item));
    markup |= rt.autoescape && item.is_string() && item.markup();
  }
  if (markup) {
    NBL_ASSIGN_OR_RETURN(separator, escaped(rt, separator));
  }
  std::string out;
  for (size_t i = 0; i < items.size(); ++i) {
    NBL_RETURN_IF_ERROR(rt.afford(out.size() + separator.text().size()));
    if (i) out += separator.text();
    if (markup) {
      NBL_ASSIGN_OR_RETURN(items[i], escaped(rt, items[i]));
    }
    NBL_RETURN_IF_ERROR(append_str(rt, out, items[i]));
  }
  return rt.text(std::move(out), markup);
}

// ---- order ----

// Where several attributes are given ("a,b") they decide one after the other. A key is a list also of one part, as in Jinja:
// lists ask whether their parts are equal first, so that values without an order, such as a missing attribute, stand as they stood.
Result<std::vector<Value>> sort_keys(Runtime& rt, const std::vector<Value>& items, const Value& attribute, bool case_sensitive) {
  std::vector<ItemPath> paths;
  if (attribute.is_string()) {
    for (const Value& part : split_at(attribute.text(), ",", UINT64_MAX)) paths.push_back(ItemPath::parse(part));
  } else {
    paths.push_back(ItemPath::parse(attribute));
  }
  std::vector<Value> keys;
  keys.reserve(items.size());
  for (const Value& item : items) {
    std::vector<Value> parts;
    for (const ItemPath& path : paths) {
      NBL_ASSIGN_OR_RETURN(const Value part, path.follow(rt, item));
      parts.push_back(sort_key(rt, part, case_sensitive));
    }
    keys.push_back(rt.list(std::move(parts)));
  }
  return keys;
}

Result<Value> sort(Runtime& rt, const Value& self, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind("sort", arguments, {"reverse", "case_sensitive", "attribute"}));
  NBL_ASSIGN_OR_RETURN(std::vector<Value> items, items_of(rt, self));
  NBL_ASSIGN_OR_RETURN(const std::vector<Value> keys, sort_keys(rt, items, bound.has(2) ? bound[2] : Value::none(), bound.flag(1, false)));
  NBL_RETURN_IF_ERROR(sort_by(rt, keys, bound.flag(0, false), items));
  return rt.list(std::move(items));
}

Result<Value> dictsort(Runtime& rt, const Value& self, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind("dictsort", arguments, {"case_sensitive", "by", "reverse"}));
  NBL_ASSIGN_OR_RETURN(const std::string_view by, bound.text(1, "key"));
  if (by != "key" && by != "value") return failure("You can only sort by either \"key\" or \"value\"");
  if (self.is_undefined()) return undefined_failure(self);
  if (!self.is(Kind::kDict)) return failure("'%s' object has no attribute 'items'", type_name(self));
  std::vector<Value> keys, items;
  for (const auto& [key, value] : self.dict().entries) {
    keys.push_back(sort_key(rt, by == "key" ? key : value, bound.flag(0, false)));
    items.push_back(pair_of(rt, key, value));
  }
  NBL_RETURN_IF_ERROR(sort_by(rt, keys, bound.flag(2, false), items));
  return rt.list(std::move(items));
}

template <Operator kBetter>
Result<Value> extreme(Runtime& rt, const Value& self, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind("min or max", arguments, {"case_sensitive", "attribute"}));
  NBL_ASSIGN_OR_RETURN(const std::vector<Value> items, items_of(rt, self));
  if (items.empty()) return Value::undefined(Absence::kSentence, "No aggregated item, sequence was empty.");
  const ItemPath path = ItemPath::parse(bound.has(1) ? bound[1] : Value::none());
  Value best, best_key;
  for (size_t i = 0; i < items.size(); ++i) {
    NBL_ASSIGN_OR_RETURN(const Value found, path.follow(rt, items[i]));
    const Value key = sort_key(rt, found, bound.flag(0, false));
    if (i > 0) {
      NBL_ASSIGN_OR_RETURN(const bool better, ordered(rt, kBetter, key, best_key));
      if (!better) continue;
    }
    best = items[i];
    best_key = key;
  }
  return best;
}

Result<Value> unique(Runtime& rt, const Value& self, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind("unique", arguments, {"case_sensitive", "attribute"}));
  NBL_ASSIGN_OR_RETURN(const std::vector<Value> items, items_of(rt, self));
  const ItemPath path = ItemPath::parse(bound.has(1) ? bound[1] : Value::none());
  Dict seen;
  std::vector<Value> kept;
  for (const Value& item : items) {
    NBL_ASSIGN_OR_RETURN(const Value found, path.follow(rt, item));
    const Value key = sort_key(rt, found, bound.flag(0, false));
    if (!hashable(key)) return failure("unhashable type: '%s'", type_name(key));
    rt.work(1);
    if (rt.spent()) return rt.exhausted();
    if (seen.find(key)) continue;
    seen.set(key, Value::none());
    kept.push_back(item);
  }
  return rt.iterator(std::move(kept));
}

Value group(Runtime& rt, const Value& grouper, std::vector<Value> members) {
  List* tuple = rt.make<List>();
  tuple->items = {grouper, rt.list(std::move(members))};
  tuple->group = true;
  return Value::object(Kind::kTuple, tuple);
}

Result<Value> groupby(Runtime& rt, const Value& self, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind("groupby", arguments, {"attribute", "default", "case_sensitive"}, 1));
  NBL_ASSIGN_OR_RETURN(std::vector<Value> items, items_of(rt, self));
  const ItemPath path = ItemPath::parse(bound[0]);
  const Value* fallback = bound.has_some(1) ? &bound[1] : nullptr;
  std::vector<Value> keys;
  for (const Value& item : items) {
    NBL_ASSIGN_OR_RETURN(const Value found, path.follow(rt, item, fallback));
    keys.push_back(sort_key(rt, found, bound.flag(2, false)));
  }
  std::vector<Value> sorted_keys = keys;
  NBL_RETURN_IF_ERROR(sort_by(rt, keys, false, sorted_keys));
  NBL_RETURN_IF_ERROR(sort_by(rt, keys, false, items));
  std::vector<Value> groups;
  for (size_t i = 0; i < items.size();) {
    std::vector<Value> members;
    const size_t begin = i;
    for (bool same = true; same; same = i < items.size()) {
      members.push_back(items[i++]);
      if (i == items.size()) break;
      NBL_ASSIGN_OR_RETURN(same, equal(rt, sorted_keys[begin], sorted_keys[i]));
      if (!same) break;
    }
    NBL_ASSIGN_OR_RETURN(const Value grouper, path.follow(rt, items[begin], fallback));
    groups.push_back(group(rt, grouper, std::move(members)));
  }
  return rt.list(std::move(groups));
}

// ---- parts ----

Result<Value> batch(Runtime& rt, const Value& self, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind("batch", arguments, {"linecount", "fill_with"}, 1));
  NBL_ASSIGN_OR_RETURN(const Int count, bound.integer(0, 0));
  NBL_ASSIGN_OR_RETURN(const std::vector<Value> items, items_of(rt, self));
  std::vector<Value> batches, current;
  for (const Value& item : items) {
    if (static_cast<Int>(current.size()) == count) {
      batches.push_back(rt.list(std::move(current)));
      current.clear();
    }
    current.push_back(item);
  }
  if (!current.empty()) {
    const Int missing = count - static_cast<Int>(current.size());
    if (bound.has_some(1) && missing > 0) {
      NBL_RETURN_IF_ERROR(rt.afford_items(missing > INT32_MAX ? UINT64_MAX : static_cast<uint64_t>(missing)));
      current.insert(current.end(), static_cast<size_t>(missing), bound[1]);
    }
    batches.push_back(rt.list(std::move(current)));
  }
  return rt.iterator(std::move(batches));
}

Result<Value> slice(Runtime& rt, const Value& self, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind("slice", arguments, {"slices", "fill_with"}, 1));
  NBL_ASSIGN_OR_RETURN(const Int asked, bound.integer(0, 0));
  NBL_ASSIGN_OR_RETURN(const std::vector<Value> items, items_of(rt, self));
  if (asked == 0) return failure("integer division or modulo by zero");
  if (asked < 0) return rt.iterator({});
  NBL_RETURN_IF_ERROR(rt.afford_items(asked > INT32_MAX ? UINT64_MAX : static_cast<uint64_t>(asked) * 4));
  const size_t slices = static_cast<size_t>(asked), each = items.size() / slices, extra = items.size() % slices;
  std::vector<Value> parts;
  size_t start = 0;
  for (size_t i = 0; i < slices; ++i) {
    const size_t end = start + each + (i < extra);
    std::vector<Value> part(items.begin() + static_cast<int64_t>(start), items.begin() + static_cast<int64_t>(end));
    if (bound.has_some(1) && i >= extra) part.push_back(bound[1]);
    parts.push_back(rt.list(std::move(part)));
    start = end;
  }
  return rt.iterator(std::move(parts));
}

Result<Value> sum(Runtime& rt, const Value& self, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind("sum", arguments, {"attribute", "start"}));
  NBL_ASSIGN_OR_RETURN(const std::vector<Value> items, items_of(rt, self));
  Value total = bound.has(1) ? bound[1] : Value::integer(0);
  if (total.is_string()) return failure("sum() can't sum strings [use ''.join(seq) instead]");
  const ItemPath path = ItemPath::parse(bound.has(0) ? bound[0] : Value::none());
  for (const Value& item : items) {
    NBL_ASSIGN_OR_RETURN(const Value part, path.follow(rt, item));
    NBL_ASSIGN_OR_RETURN(total, arithmetic(rt, Operator::kAdd, total, part));
    if (rt.spent()) return rt.exhausted();
  }
  return total;
}

Result<Value> items(Runtime& rt, const Value& self, const Arguments&) {
  if (self.is_undefined()) return rt.iterator({});
  if (!self.is(Kind::kDict)) return failure("Can only get item pairs from a mapping.");
  std::vector<Value> pairs;
  for (const auto& [key, value] : self.dict().entries) pairs.push_back(pair_of(rt, key, value));
  return rt.iterator(std::move(pairs));
}

const NativeEntry kFilters[] = {
    {"batch", batch},
    {"dictsort", dictsort},
    {"first", first},
    {"groupby", groupby},
    {"items", items},
    {"join", join},
    {"last", last},
    {"list", list},
    {"max", extreme<Operator::kGreater>},
    {"min", extreme<Operator::kLess>},
    {"reverse", reverse},
    {"slice", slice},
    {"sort", sort},
    {"sum", sum},
    {"unique", unique},
};

}  // namespace

const NativeEntry* find_sequence_filter(std::string_view name) { return find_entry(kFilters, name); }

}  // namespace nbl::jinja

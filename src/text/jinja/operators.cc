#include "text/jinja/operators.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <numeric>

#include "base/utf8.h"
#include "text/jinja/characters.h"
#include "text/jinja/interpreter.h"

namespace nbl::jinja {
namespace {

const char* symbol(Operator op) {
  static const char* const kSymbols[] = {"+",  "-",  "*", "/",  "//", "%",  "** or pow()",
                                         "==", "!=", "<", "<=", ">",  ">=", "in", "not in"};
  return kSymbols[static_cast<int>(op)];
}

const Value* first_undefined(const Value& left, const Value& right) {
  return left.is_undefined() ? &left : right.is_undefined() ? &right : nullptr;
}

bool same_text(Runtime& rt, std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  if (a.data() == b.data()) return true;
  rt.work_on_bytes(a.size());
  return a == b;
}

Result<bool> equal_items(Runtime& rt, const std::vector<Value>& a, const std::vector<Value>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    NBL_ASSIGN_OR_RETURN(const bool same, equal(rt, a[i], b[i]));
    if (!same) return false;
  }
  return true;
}

Result<bool> equal_dicts(Runtime& rt, const Dict& a, const Dict& b) {
  if (a.entries.size() != b.entries.size()) return false;
  for (const auto& [key, value] : a.entries) {
    const Value* other = b.find(key);
    if (!other) return false;
    NBL_ASSIGN_OR_RETURN(const bool same, equal(rt, value, *other));
    if (!same) return false;
  }
  return true;
}

bool equal_ranges(const Range& a, const Range& b) {
  const int64_t length = a.length();
  if (length != b.length()) return false;
  return length == 0 || (a.start == b.start && (length == 1 || a.step == b.step));
}

Result<bool> equal_nested(Runtime& rt, const Value& left, const Value& right) {
  Deeper deeper(rt);
  NBL_RETURN_IF_ERROR(deeper.check());
  switch (left.kind()) {
    case Kind::kList:
    case Kind::kTuple: return equal_items(rt, left.list().items, right.list().items);
    case Kind::kDict: return equal_dicts(rt, left.dict(), right.dict());
    case Kind::kRange: return equal_ranges(left.range(), right.range());
    default: return left.identity() == right.identity();
  }
}

bool number_order(Operator op, const Value& left, const Value& right) {
  if (left.is_integral() && right.is_integral()) {
    const Int a = left.as_int(), b = right.as_int();
    return op == Operator::kLess ? a < b : op == Operator::kLessEqual ? a <= b : op == Operator::kGreater ? a > b : a >= b;
  }
  const double a = left.as_number(), b = right.as_number();
  return op == Operator::kLess ? a < b : op == Operator::kLessEqual ? a <= b : op == Operator::kGreater ? a > b : a >= b;
}

bool order_of_sign(Operator op, int sign) {
  return op == Operator::kLess ? sign < 0 : op == Operator::kLessEqual ? sign <= 0 : op == Operator::kGreater ? sign > 0 : sign >= 0;
}

// The first items that differ decide; a list that is the other's beginning is the lesser one.
Result<bool> sequence_order(Runtime& rt, Operator op, const std::vector<Value>& a, const std::vector<Value>& b) {
  Deeper deeper(rt);
  NBL_RETURN_IF_ERROR(deeper.check());
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    NBL_ASSIGN_OR_RETURN(const bool same, equal(rt, a[i], b[i]));
    if (!same) return ordered(rt, op, a[i], b[i]);
  }
  return order_of_sign(op, a.size() < b.size() ? -1 : a.size() > b.size());
}

Result<bool> contains_item(Runtime& rt, const std::vector<Value>& items, const Value& item) {
  for (const Value& candidate : items) {
    NBL_ASSIGN_OR_RETURN(const bool same, equal(rt, candidate, item));
    if (same) return true;
  }
  return false;
}

Result<bool> contains_view(Runtime& rt, const Value& container, const Value& item) {
  if (container.view().part == View::kKeys) return hashable(item) && container.view().dict->find(item) != nullptr;
  NBL_ASSIGN_OR_RETURN(const std::vector<Value> items, items_of(rt, container));
  return contains_item(rt, items, item);
}

Result<bool> contains_generated(Runtime& rt, Iterator& iterator, const Value& item) {
  while (iterator.position < iterator.items.size()) {
    NBL_ASSIGN_OR_RETURN(const bool same, equal(rt, iterator.items[iterator.position++], item));
    if (same) return true;
  }
  return false;
}

bool contains_number(const Range& range, const Value& item) {
  if (!item.is_number() || item.as_number() != std::floor(item.as_number())) return false;
  const Int offset = (item.is(Kind::kFloat) ? static_cast<Int>(item.as_float()) : item.as_int()) - range.start;
  return offset % range.step == 0 && offset / range.step >= 0 && offset / range.step < range.length();
}

std::vector<Value> characters_of(Runtime& rt, std::string_view text) {
  std::vector<Value> items;
  items.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const size_t start = at;
    utf8_next(text, at);
    items.push_back(Value::borrowed(text.substr(start, at - start)));
  }
  rt.took_bytes(items.size() * sizeof(Value));
  return items;
}

std::vector<Value> items_of_view(Runtime& rt, const View& view) {
  std::vector<Value> items;
  items.reserve(view.dict->entries.size());
  for (const auto& [key, value] : view.dict->entries) {
    items.push_back(view.part == View::kKeys ? key : view.part == View::kValues ? value : pair_of(rt, key, value));
  }
  return items;
}

}  // namespace

Status refuse(Operator op, const Value& left, const Value& right, const char* form) {
  if (const Value* missing = first_undefined(left, right)) return undefined_failure(*missing);
  char text[160];
  std::snprintf(text, sizeof(text), form, symbol(op), type_name(left), type_name(right));
  return Status(Code::kTemplate, text);
}

Result<bool> equal(Runtime& rt, const Value& left, const Value& right) {
  rt.work(1);
  if (rt.spent()) return rt.exhausted();
  if (left.is_string() && right.is_string()) return same_text(rt, left.text(), right.text());
  if (left.is_number() && right.is_number()) return same_key(left, right);
  if (left.kind() != right.kind()) return false;
  if (left.is_undefined() || left.is_none()) return true;
  if (left.is(Kind::kBytes)) return same_text(rt, left.text(), right.text());
  return equal_nested(rt, left, right);
}

Result<bool> ordered(Runtime& rt, Operator op, const Value& left, const Value& right) {
  rt.work(1);
  if (rt.spent()) return rt.exhausted();
  if (left.is_number() && right.is_number()) return number_order(op, left, right);
  if (left.is_string() && right.is_string()) {
    rt.work_on_bytes(std::min(left.text().size(), right.text().size()));
    // UTF-8 keeps the order of code points.
    return order_of_sign(op, left.text().compare(right.text()));
  }
  if (left.is_sequence() && left.kind() == right.kind()) return sequence_order(rt, op, left.list().items, right.list().items);
  return refuse(op, left, right, "'%s' not supported between instances of '%s' and '%s'");
}

Result<bool> contains(Runtime& rt, const Value& container, const Value& item) {
  switch (container.kind()) {
    case Kind::kUndefined: return false;
    case Kind::kString:
      if (item.is_undefined()) return undefined_failure(item);
      if (!item.is_string()) return failure("'in <string>' requires string as left operand, not %s", type_name(item));
      rt.work_on_bytes(container.text().size());
      return memmem(container.text().data(), container.text().size(), item.text().data(), item.text().size()) != nullptr ||
             item.text().empty();
    case Kind::kList:
    case Kind::kTuple: return contains_item(rt, container.list().items, item);
    case Kind::kDict:
    case Kind::kNamespace:
      if (container.is(Kind::kNamespace)) return failure("argument of type 'Namespace' is not iterable");
      if (!hashable(item)) return failure("unhashable type: '%s'", type_name(item));
      return container.dict().find(item) != nullptr;
    case Kind::kView: return contains_view(rt, container, item);
    case Kind::kRange: return contains_number(container.range(), item);
    case Kind::kIterator: return contains_generated(rt, container.iterator(), item);
    default: return failure("argument of type '%s' is not iterable", type_name(container));
  }
}

Result<bool> compare(Runtime& rt, Operator op, const Value& left, const Value& right) {
  switch (op) {
    case Operator::kEqual: return equal(rt, left, right);
    case Operator::kIn: return contains(rt, right, left);
    case Operator::kNotEqual: {
      NBL_ASSIGN_OR_RETURN(const bool same, equal(rt, left, right));
      return !same;
    }
    case Operator::kNotIn: {
      NBL_ASSIGN_OR_RETURN(const bool found, contains(rt, right, left));
      return !found;
    }
    default: return ordered(rt, op, left, right);
  }
}

Result<int64_t> length(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined: return int64_t{0};
    case Kind::kString: return static_cast<int64_t>(count_code_points(value.text()));
    case Kind::kBytes: return static_cast<int64_t>(value.text().size());
    case Kind::kList:
    case Kind::kTuple: return static_cast<int64_t>(value.list().items.size());
    case Kind::kDict: return static_cast<int64_t>(value.dict().entries.size());
    case Kind::kView: return static_cast<int64_t>(value.view().dict->entries.size());
    case Kind::kRange: return value.range().length();
    case Kind::kLoop: return static_cast<int64_t>(value.loop().items.size());
    default: return failure("object of type '%s' has no len()", type_name(value));
  }
}

Result<std::vector<Value>> items_of(Runtime& rt, const Value& value) {
  std::vector<Value> items;
  switch (value.kind()) {
    case Kind::kUndefined: return items;
    case Kind::kString:
      NBL_RETURN_IF_ERROR(rt.afford_items(value.text().size()));
      items = characters_of(rt, value.text());
      break;
    case Kind::kList:
    case Kind::kTuple: items = value.list().items; break;
    case Kind::kDict:
      for (const auto& entry : value.dict().entries) items.push_back(entry.first);
      break;
    case Kind::kView: items = items_of_view(rt, value.view()); break;
    case Kind::kRange:
      items.reserve(static_cast<size_t>(value.range().length()));
      for (int64_t i = 0; i < value.range().length(); ++i) items.push_back(Value::integer(value.range().at(i)));
      break;
    case Kind::kIterator: {
      Iterator& iterator = value.iterator();
      items.assign(iterator.items.begin() + static_cast<int64_t>(iterator.position), iterator.items.end());
      iterator.position = iterator.items.size();
      break;
    }
    default: return failure("'%s' object is not iterable", type_name(value));
  }
  rt.work_on_items(items.size());
  return items;
}

bool is_iterable(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
    case Kind::kString:
    case Kind::kBytes:
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kDict:
    case Kind::kView:
    case Kind::kRange:
    case Kind::kIterator:
    case Kind::kLoop: return true;
    default: return false;
  }
}

Value pair_of(Runtime& rt, const Value& first, const Value& second) { return rt.tuple({first, second}); }

Status sort_by(Runtime& rt, const std::vector<Value>& keys, bool reverse, std::vector<Value>& values) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  Status failed;
  const auto before = [&](size_t a, size_t b) {
    if (!failed.ok()) return false;
    // Reversed order still keeps equal items as they stood.
    const Result<bool> less = reverse ? ordered(rt, Operator::kLess, keys[b], keys[a]) : ordered(rt, Operator::kLess, keys[a], keys[b]);
    if (!less.ok()) failed = less.status();
    return less.ok() && *less;
  };
  std::stable_sort(order.begin(), order.end(), before);
  NBL_RETURN_IF_ERROR(failed);
  std::vector<Value> sorted;
  sorted.reserve(values.size());
  for (const size_t i : order) sorted.push_back(values[i]);
  values = std::move(sorted);
  return Status();
}

}  // namespace nbl::jinja

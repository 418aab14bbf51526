#include "text/jinja/json_text.h"

#include <cmath>

#include "base/json_string.h"
#include "text/jinja/number.h"
#include "text/jinja/operators.h"

namespace nbl::jinja {
namespace {

struct Style {
  bool ascii = false;
  bool sorted = false;
  bool lines = false;  // an indent was given
  std::string indent;
  std::string_view item_separator = ", ", key_separator = ": ";
};

class Writer {
 public:
  Writer(Runtime& rt, const Style& style) : rt_(rt), style_(style) {}

  Status write(const Value& value) {
    rt_.work(1);
    if (rt_.spent()) return rt_.exhausted();
    NBL_RETURN_IF_ERROR(rt_.afford(out.size()));
    switch (value.kind()) {
      case Kind::kString: append_json_string(out, value.text(), style_.ascii); return Status();
      case Kind::kNone: out += "null"; return Status();
      case Kind::kBool: out += value.as_bool() ? "true" : "false"; return Status();
      case Kind::kInt: out += int_text(value.as_int()); return Status();
      case Kind::kFloat: out += number_text(value.as_float()); return Status();
      case Kind::kList:
      case Kind::kTuple: return write_list(value.list().items);
      case Kind::kDict: return write_dict(value.dict());
      default: return failure("Object of type %s is not JSON serializable", type_name(value));
    }
  }

  std::string out;

 private:
  static std::string number_text(double number) {
    if (std::isnan(number)) return "NaN";
    if (std::isinf(number)) return number < 0 ? "-Infinity" : "Infinity";
    return float_text(number);
  }

  void new_line() {
    out += '\n';
    for (int i = 0; i < depth_; ++i) out += style_.indent;
  }

  // Calls write_one(i) for each of `count` items between the brackets.
  template <typename WriteOne>
  Status bracketed(char open, char close, size_t count, WriteOne write_one) {
    out += open;
    Deeper deeper(rt_);
    NBL_RETURN_IF_ERROR(deeper.check());
    NBL_RETURN_IF_ERROR(rt_.afford(out.size() + static_cast<uint64_t>(depth_) * style_.indent.size()));
    ++depth_;
    for (size_t i = 0; i < count; ++i) {
      if (i) out += style_.item_separator;
      if (style_.lines) new_line();
      NBL_RETURN_IF_ERROR(write_one(i));
    }
    --depth_;
    if (style_.lines && count) new_line();
    out += close;
    return Status();
  }

  Status write_list(const std::vector<Value>& items) {
    return bracketed('[', ']', items.size(), [&](size_t i) { return write(items[i]); });
  }

  Status write_dict(const Dict& dict) {
    std::vector<Value> keys, values;
    for (const auto& [key, value] : dict.entries) {
      keys.push_back(key);
      values.push_back(value);
    }
    if (style_.sorted) {
      std::vector<Value> sorted = keys;
      NBL_RETURN_IF_ERROR(sort_by(rt_, keys, false, values));
      NBL_RETURN_IF_ERROR(sort_by(rt_, keys, false, sorted));
      keys = std::move(sorted);
    }
    return bracketed('{', '}', keys.size(), [&](size_t i) -> Status {
      NBL_RETURN_IF_ERROR(write_key(keys[i]));
      out += style_.key_separator;
      return write(values[i]);
    });
  }

  Status write_key(const Value& key) {
    switch (key.kind()) {
      case Kind::kString: append_json_string(out, key.text(), style_.ascii); return Status();
      case Kind::kNone: out += "\"null\""; return Status();
      case Kind::kBool: out += key.as_bool() ? "\"true\"" : "\"false\""; return Status();
      case Kind::kInt: out += '"' + int_text(key.as_int()) + '"'; return Status();
      case Kind::kFloat: out += '"' + number_text(key.as_float()) + '"'; return Status();
      default: return failure("keys must be str, int, float, bool or None, not %s", type_name(key));
    }
  }

  Runtime& rt_;
  const Style& style_;
  int depth_ = 0;
};

Status read_indent(Runtime& rt, const Value& indent, Style& style) {
  style.lines = true;
  style.item_separator = ",";
  if (indent.is_string()) {
    style.indent = indent.text();
    return Status();
  }
  NBL_ASSIGN_OR_RETURN(const Int width, as_integer(indent));
  if (width > INT32_MAX) return rt.afford(UINT64_MAX);
  NBL_RETURN_IF_ERROR(rt.afford(width > 0 ? static_cast<uint64_t>(width) : 0));
  style.indent.assign(width > 0 ? static_cast<size_t>(width) : 0, ' ');
  return Status();
}

Status read_separators(Runtime& rt, const Value& separators, Style& style) {
  NBL_ASSIGN_OR_RETURN(const std::vector<Value> pair, items_of(rt, separators));
  if (pair.size() != 2 || !pair[0].is_string() || !pair[1].is_string()) return failure("separators must be a pair of str");
  style.item_separator = pair[0].text();
  style.key_separator = pair[1].text();
  return Status();
}

}  // namespace

Result<Value> to_json(Runtime& rt, const Value& self, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind("tojson", arguments, {"ensure_ascii", "indent", "separators", "sort_keys"}));
  Style style;
  style.ascii = bound.flag(0, false);
  style.sorted = bound.flag(3, false);
  if (bound.has_some(1)) NBL_RETURN_IF_ERROR(read_indent(rt, bound[1], style));
  if (bound.has_some(2)) NBL_RETURN_IF_ERROR(read_separators(rt, bound[2], style));
  Writer writer(rt, style);
  NBL_RETURN_IF_ERROR(writer.write(self));
  return rt.text(std::move(writer.out));
}

Result<Value> from_json(Runtime& rt, const Json& json) {
  Deeper deeper(rt);
  NBL_RETURN_IF_ERROR(deeper.check());
  switch (json.type()) {
    case Json::Type::kBoolean: return Value::boolean(json.get<bool>());
    case Json::Type::kInteger: return Value::integer(json.get<int64_t>());
    case Json::Type::kUnsigned: return Value::integer(json.get<uint64_t>());
    case Json::Type::kFloat: return Value::real(json.get<double>());
    case Json::Type::kString: return Value::borrowed(json.string());
    case Json::Type::kArray: {
      std::vector<Value> items;
      items.reserve(json.size());
      for (const Json& item : json) {
        NBL_ASSIGN_OR_RETURN(const Value value, from_json(rt, item));
        items.push_back(value);
      }
      return rt.list(std::move(items));
    }
    case Json::Type::kObject: {
      Dict* dict;
      const Value made = rt.dict(&dict);
      for (const auto& member : json.items()) {
        NBL_ASSIGN_OR_RETURN(const Value value, from_json(rt, member.value()));
        dict->set(Value::borrowed(member.key()), value);
      }
      return made;
    }
    default: return Value::none();
  }
}

}  // namespace nbl::jinja

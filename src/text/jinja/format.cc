#include "text/jinja/format.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "base/utf8.h"
#include "text/jinja/access.h"
#include "text/jinja/characters.h"
#include "text/jinja/number.h"
#include "text/jinja/text_of.h"

namespace nbl::jinja {
namespace {

constexpr int kMostDigits = 500;  // after the point; more is never honest

// [[fill]align][sign][#][0][width][,][.precision][type]
struct Spec {
  std::string fill = " ";
  char align = 0;
  char number_align = '>';  // where a number has no align
  char sign = '-';
  bool alternate = false;
  Int width = 0;
  char group = 0;
  int precision = -1;
  char type = 0;
};

bool is_align(char c) { return c == '<' || c == '>' || c == '^' || c == '='; }

Int take_number(std::string_view text, size_t& at) {
  Int value = 0;
  for (; at < text.size() && text[at] >= '0' && text[at] <= '9'; ++at) {
    if (value < (Int{1} << 60)) value = value * 10 + (text[at] - '0');
  }
  return value;
}

Result<Spec> parse_spec(std::string_view text) {
  Spec spec;
  size_t at = 0;
  bool has_fill = false;
  const int first = text.empty() ? 0 : std::max(1, utf8_length_at(text, 0));
  if (first > 0 && static_cast<size_t>(first) < text.size() && is_align(text[static_cast<size_t>(first)])) {
    spec.fill = text.substr(0, static_cast<size_t>(first));
    spec.align = text[static_cast<size_t>(first)];
    at = static_cast<size_t>(first) + 1;
    has_fill = true;
  } else if (!text.empty() && is_align(text[0])) {
    spec.align = text[at++];
  }
  const auto next_is = [&](const char* set) { return at < text.size() && std::string_view(set).find(text[at]) != std::string_view::npos; };
  if (next_is("+- ")) spec.sign = text[at++];
  if (next_is("#")) spec.alternate = text[at++] != 0;
  if (!has_fill && next_is("0")) {
    ++at;
    spec.fill = "0";
    spec.number_align = '=';
  }
  spec.width = take_number(text, at);
  if (next_is(",_")) spec.group = text[at++];
  if (next_is(".")) {
    const size_t start = ++at;
    const Int precision = take_number(text, at);
    if (at == start) return failure("Format specifier missing precision");
    if (precision > kMostDigits) return failure("a precision of more than %d is refused", kMostDigits);
    spec.precision = static_cast<int>(precision);
  }
  if (at < text.size()) spec.type = text[at++];
  if (at != text.size()) return failure("Invalid format specifier '%.*s'", static_cast<int>(text.size()), text.data());
  return spec;
}

void group_digits(std::string& digits, char separator, int every) {
  const size_t point = std::min(digits.find_first_not_of("0123456789abcdefABCDEF"), digits.size());
  for (int64_t at = static_cast<int64_t>(point) - every; at > 0; at -= every) {
    digits.insert(static_cast<size_t>(at), 1, separator);
  }
}

void upper_ascii(std::string& text) {
  for (char& c : text) {
    if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 32);
  }
}

// The digits of a number without its sign, and what stands between sign and digits.
Result<std::string> integer_digits(const Spec& spec, Int value, std::string* prefix) {
  const int base = spec.type == 'x' || spec.type == 'X' ? 16 : spec.type == 'o' ? 8 : spec.type == 'b' ? 2 : 10;
  std::string digits = int_text(value, base);
  if (digits[0] == '-') digits.erase(0, 1);
  if (spec.alternate && base != 10) *prefix = std::string("0") + spec.type;
  if (spec.type == 'X') upper_ascii(digits);
  if (spec.group) group_digits(digits, spec.group, base == 10 ? 3 : 4);
  return digits;
}

std::string float_digits(const Spec& spec, double magnitude) {
  if (!std::isfinite(magnitude)) return std::isnan(magnitude) ? "nan" : "inf";
  if (spec.type == 0 && spec.precision < 0) return float_text(magnitude);
  char form[16];
  const char letter = spec.type == 0 || spec.type == 'n' ? 'g' : spec.type == '%' ? 'f' : spec.type;
  std::snprintf(form, sizeof(form), spec.alternate ? "%%#.*%c" : "%%.*%c", letter);
  char buffer[1024];
  std::snprintf(buffer, sizeof(buffer), form, spec.precision < 0 ? 6 : spec.precision, magnitude);
  std::string digits = buffer;
  if (spec.type == 0 && digits.find_first_of(".e") == std::string::npos) digits += ".0";
  return digits;
}

// sign, prefix, digits, with the zeros or other filling of '=' between.
Result<std::string> put_number(Runtime& rt, const Spec& spec, bool negative, const std::string& prefix, const std::string& digits) {
  std::string head = negative ? "-" : spec.sign == '-' ? "" : std::string(1, spec.sign);
  head += prefix;
  const char align = spec.align ? spec.align : spec.number_align;
  if (align != '=') return padded(rt, head + digits, spec.width, spec.fill, align);
  const Int rest = spec.width - static_cast<Int>(head.size());
  NBL_ASSIGN_OR_RETURN(const std::string filled, padded(rt, digits, rest, spec.fill, '>'));
  return head + filled;
}

Result<std::string> format_number(Runtime& rt, const Spec& spec, const Value& value) {
  const bool whole = value.is_integral() && std::string_view("eEfFgG%").find(spec.type ? spec.type : 'd') == std::string_view::npos;
  std::string prefix;
  if (whole) {
    if (spec.type == 'c') {
      if (value.as_int() < 0 || value.as_int() > 0x10FFFF) return failure("%%c arg not in range(0x110000)");
      std::string one;
      utf8_append(one, static_cast<uint32_t>(value.as_int()));
      return padded(rt, one, spec.width, spec.fill, spec.align ? spec.align : '<');
    }
    if (spec.precision >= 0) return failure("Precision not allowed in integer format specifier");
    NBL_ASSIGN_OR_RETURN(const std::string digits, integer_digits(spec, value.as_int(), &prefix));
    return put_number(rt, spec, value.as_int() < 0, prefix, digits);
  }
  const double number = value.as_number() * (spec.type == '%' ? 100 : 1);
  std::string digits = float_digits(spec, std::fabs(number));
  if (spec.type == '%') digits += '%';
  if (spec.group) group_digits(digits, spec.group, 3);
  return put_number(rt, spec, std::signbit(number) && !std::isnan(number), prefix, digits);
}

Result<std::string> format_text(Runtime& rt, const Spec& spec, std::string_view text) {
  if (spec.sign != '-' || spec.alternate || spec.group || spec.align == '=') {
    return failure("this format specifier is not allowed for 'str'");
  }
  if (spec.precision >= 0) text = text.substr(0, offset_of(text, static_cast<size_t>(spec.precision)));
  return padded(rt, text, spec.width, spec.fill, spec.align ? spec.align : '<');
}

// format(value, spec)
Result<std::string> format_value(Runtime& rt, const Value& value, std::string_view spec_text) {
  if (spec_text.empty()) return str(rt, value);
  NBL_ASSIGN_OR_RETURN(const Spec spec, parse_spec(spec_text));
  const std::string_view types = value.is_string() ? "s" : value.is_integral() ? "bcdeEfFgGnoxX%" : "eEfFgGn%";
  if (!value.is_string() && !value.is_number()) {
    return failure("unsupported format string passed to %s.__format__", type_name(value));
  }
  if (spec.type && types.find(spec.type) == std::string_view::npos) {
    return failure("Unknown format code '%c' for object of type '%s'", spec.type, type_name(value));
  }
  if (value.is_string()) return format_text(rt, spec, value.text());
  return format_number(rt, spec, value);
}

// ---- str.format ----

class BraceFormat {
 public:
  BraceFormat(Runtime& rt, const Arguments& arguments) : rt_(rt), arguments_(arguments) {}

  Result<std::string> run(std::string_view format, int depth) {
    std::string out;
    for (size_t at = 0; at < format.size();) {
      const char c = format[at];
      if (c != '{' && c != '}') {
        out += c;
        ++at;
      } else if (at + 1 < format.size() && format[at + 1] == c) {
        out += c;
        at += 2;
      } else if (c == '}') {
        return failure("Single '}' encountered in format string");
      } else {
        NBL_RETURN_IF_ERROR(put_field(out, format, at, depth));
      }
    }
    return out;
  }

 private:
  // `at` is at the brace that opens the field, and afterwards behind the one that closes it.
  Status put_field(std::string& out, std::string_view format, size_t& at, int depth) {
    if (depth == 0) return failure("Max string recursion exceeded");
    const size_t start = ++at;
    int open = 1;
    for (; at < format.size(); ++at) {
      open += format[at] == '{' ? 1 : format[at] == '}' ? -1 : 0;
      if (open == 0) break;
    }
    if (open != 0) return failure("expected '}' before end of string");
    const std::string_view field = format.substr(start, at++ - start);
    size_t name_end = 0;
    for (bool inside = false; name_end < field.size(); ++name_end) {
      if (field[name_end] == '[') inside = true;
      else if (field[name_end] == ']') inside = false;
      else if (!inside && (field[name_end] == ':' || field[name_end] == '!')) break;
    }
    NBL_ASSIGN_OR_RETURN(Value value, look_up(field.substr(0, name_end)));
    std::string_view rest = field.substr(name_end);
    if (!rest.empty() && rest[0] == '!') {
      NBL_ASSIGN_OR_RETURN(value, converted(value, rest));
      rest.remove_prefix(2);
    }
    if (!rest.empty() && rest[0] != ':') return failure("expected ':' after conversion specifier");
    NBL_ASSIGN_OR_RETURN(const std::string spec, run(rest.substr(rest.empty() ? 0 : 1), depth - 1));
    NBL_ASSIGN_OR_RETURN(const std::string text, format_value(rt_, value, spec));
    NBL_RETURN_IF_ERROR(rt_.afford(out.size() + text.size()));
    out += text;
    return Status();
  }

  Result<Value> converted(const Value& value, std::string_view conversion) {
    const char letter = conversion.size() > 1 ? conversion[1] : 0;
    if (letter != 'r' && letter != 's' && letter != 'a') return failure("Unknown conversion specifier");
    NBL_ASSIGN_OR_RETURN(std::string text, letter == 's' ? str(rt_, value) : repr(rt_, value));
    return rt_.text(std::move(text));
  }

  // "0", "", "name", followed by any number of ".attribute" and "[key]".
  Result<Value> look_up(std::string_view path) {
    size_t at = std::min(path.find_first_of(".["), path.size());
    NBL_ASSIGN_OR_RETURN(Value value, first(path.substr(0, at)));
    while (at < path.size()) {
      if (path[at] == '.') {
        const size_t end = std::min(path.find_first_of(".[", at + 1), path.size());
        NBL_ASSIGN_OR_RETURN(value, get_attribute(rt_, value, path.substr(at + 1, end - at - 1)));
        at = end;
        continue;
      }
      const size_t end = path.find(']', at);
      if (path[at] != '[' || end == std::string_view::npos) return failure("Missing ']' in format string");
      const std::string_view key = path.substr(at + 1, end - at - 1);
      bool overflow = false;
      const bool number = !key.empty() && key.find_first_not_of("0123456789") == std::string_view::npos;
      const std::optional<Int> index = number ? parse_int(key, 10, &overflow) : std::nullopt;
      NBL_ASSIGN_OR_RETURN(value, get_item(rt_, value, index ? Value::integer(*index) : Value::borrowed(key)));
      at = end + 1;
    }
    return value;
  }

  Result<Value> first(std::string_view name) {
    const bool number = name.find_first_not_of("0123456789") == std::string_view::npos;
    if (!number) {
      if (const Value* named = arguments_.find(name)) return *named;
      return failure("format has no argument named '%.*s'", static_cast<int>(name.size()), name.data());
    }
    size_t at = 0;
    const Int index = name.empty() ? static_cast<Int>(automatic_++) : take_number(name, at);
    if (index >= static_cast<Int>(arguments_.positional.size())) {
      return failure("Replacement index out of range for positional args tuple");
    }
    return arguments_.positional[static_cast<size_t>(index)];
  }

  Runtime& rt_;
  const Arguments& arguments_;
  size_t automatic_ = 0;
};

// ---- '%' ----

class PercentFormat {
 public:
  PercentFormat(Runtime& rt, const Value& values) : rt_(rt), values_(values) {}

  Result<std::string> run(std::string_view format) {
    std::string out;
    for (size_t at = 0; at < format.size(); ++at) {
      if (format[at] != '%') {
        out += format[at];
        continue;
      }
      NBL_RETURN_IF_ERROR(put_conversion(out, format, ++at));
    }
    // What has items counts as a mapping, of which nothing need be used.
    const bool has_items = values_.is(Kind::kDict) || values_.is(Kind::kList) || values_.is(Kind::kRange) || values_.is_undefined();
    if (values_.is(Kind::kTuple) ? next_ < values_.list().items.size() : !used_ && !has_items) {
      return failure("not all arguments converted during string formatting");
    }
    return out;
  }

 private:
  Status put_conversion(std::string& out, std::string_view format, size_t& at) {
    Value named;
    bool has_name = false;
    if (at < format.size() && format[at] == '(') {
      NBL_ASSIGN_OR_RETURN(named, named_value(format, at));
      has_name = true;
    }
    Spec spec;
    bool left = false, zeros = false;
    for (; at < format.size() && std::string_view("-+ #0").find(format[at]) != std::string_view::npos; ++at) {
      left |= format[at] == '-';
      zeros |= format[at] == '0';
      spec.alternate |= format[at] == '#';
      if (format[at] == '+' || (format[at] == ' ' && spec.sign != '+')) spec.sign = format[at];
    }
    NBL_ASSIGN_OR_RETURN(spec.width, field_number(format, at));
    if (spec.width < 0) {
      left = true;
      spec.width = -spec.width;
    }
    if (at < format.size() && format[at] == '.') {
      ++at;
      NBL_ASSIGN_OR_RETURN(const Int precision, field_number(format, at));
      if (precision > kMostDigits) return failure("a precision of more than %d is refused", kMostDigits);
      spec.precision = static_cast<int>(std::max<Int>(precision, 0));
    }
    while (at < format.size() && (format[at] == 'l' || format[at] == 'h' || format[at] == 'L')) ++at;
    if (at == format.size()) return failure("incomplete format");
    spec.type = format[at];
    if (spec.type == '%') {
      out += '%';
      return Status();
    }
    spec.align = left ? '<' : '>';
    if (!has_name) {
      NBL_ASSIGN_OR_RETURN(named, next_value());
    }
    NBL_ASSIGN_OR_RETURN(const std::string text, convert(spec, zeros && !left, named));
    NBL_RETURN_IF_ERROR(rt_.afford(out.size() + text.size()));
    out += text;
    return Status();
  }

  Result<std::string> convert(Spec& spec, bool zeros, const Value& value) {
    switch (spec.type) {
      case 's':
      case 'r':
      case 'a': {
        NBL_ASSIGN_OR_RETURN(std::string text, spec.type == 's' ? str(rt_, value) : repr(rt_, value));
        if (spec.precision >= 0) text.resize(offset_of(text, static_cast<size_t>(spec.precision)));
        return padded(rt_, text, spec.width, " ", spec.align);
      }
      case 'c':
        if (value.is_string() && count_code_points(value.text()) == 1) return padded(rt_, value.text(), spec.width, " ", spec.align);
        if (!value.is_integral()) return failure("%%c requires int or char");
        return format_number(rt_, spec, value);
      case 'd':
      case 'i':
      case 'u':
      case 'x':
      case 'X':
      case 'o': return convert_integer(spec, zeros, value);
      case 'e':
      case 'E':
      case 'f':
      case 'F':
      case 'g':
      case 'G':
        if (!value.is_number()) return failure("must be real number, not %s", type_name(value));
        fill_with_zeros(spec, zeros);
        return format_number(rt_, spec, value);
      default: return failure("unsupported format character '%c'", spec.type);
    }
  }

  Result<std::string> convert_integer(Spec& spec, bool zeros, const Value& value) {
    if (!value.is_number() || (value.is(Kind::kFloat) && spec.type != 'd' && spec.type != 'i' && spec.type != 'u')) {
      return failure("%%%c format: a real number is required, not %s", spec.type, type_name(value));
    }
    const std::optional<Int> whole = value.is(Kind::kFloat) ? int_of(value.as_float()) : value.as_int();
    if (!whole) return failure("cannot convert float %s to integer", float_text(value.as_float()).c_str());
    if (spec.type == 'i' || spec.type == 'u') spec.type = 'd';
    std::string prefix;
    NBL_ASSIGN_OR_RETURN(std::string digits, integer_digits(spec, *whole, &prefix));
    if (spec.precision > static_cast<int>(digits.size())) digits.insert(0, static_cast<size_t>(spec.precision) - digits.size(), '0');
    fill_with_zeros(spec, zeros);
    return put_number(rt_, spec, *whole < 0, prefix, digits);
  }

  static void fill_with_zeros(Spec& spec, bool zeros) {
    if (!zeros) return;
    spec.fill = "0";
    spec.align = '=';
  }

  // Digits, or '*' for the next value.
  Result<Int> field_number(std::string_view format, size_t& at) {
    if (at >= format.size() || format[at] != '*') return take_number(format, at);
    ++at;
    NBL_ASSIGN_OR_RETURN(const Value value, next_value());
    if (!value.is_integral() || value.as_int() > INT32_MAX || value.as_int() < -INT32_MAX) return failure("* wants int");
    return value.as_int();
  }

  Result<Value> named_value(std::string_view format, size_t& at) {
    const size_t start = ++at;
    int open = 1;
    for (; at < format.size(); ++at) {
      open += format[at] == '(' ? 1 : format[at] == ')' ? -1 : 0;
      if (open == 0) break;
    }
    if (open != 0) return failure("incomplete format key");
    const std::string_view name = format.substr(start, at++ - start);
    if (!values_.is(Kind::kDict)) return failure("format requires a mapping");
    const Value* found = values_.dict().find(name);
    if (!found) return failure("the mapping has no key '%.*s'", static_cast<int>(name.size()), name.data());
    used_ = true;
    return *found;
  }

  Result<Value> next_value() {
    if (values_.is(Kind::kTuple)) {
      if (next_ < values_.list().items.size()) return values_.list().items[next_++];
    } else if (!used_) {
      used_ = true;
      return values_;
    }
    return failure("not enough arguments for format string");
  }

  Runtime& rt_;
  const Value& values_;
  size_t next_ = 0;
  bool used_ = false;
};

}  // namespace

Result<std::string> padded(Runtime& rt, std::string_view text, Int width, std::string_view fill, char align, bool as_center) {
  const Int length = static_cast<Int>(count_code_points(text));
  if (width <= length) return std::string(text);
  if (width > INT64_MAX / 8) return rt.afford(UINT64_MAX);
  const uint64_t missing = static_cast<uint64_t>(width - length);
  NBL_RETURN_IF_ERROR(rt.afford(missing * fill.size() + text.size()));
  uint64_t left = align == '>' ? missing : align == '^' ? missing / 2 : 0;
  // str.center puts the odd one to the left when the width is odd; format() always to the right.
  if (as_center) left = missing / 2 + (missing & static_cast<uint64_t>(width) & 1);
  std::string out;
  out.reserve(text.size() + missing * fill.size());
  for (uint64_t i = 0; i < left; ++i) out += fill;
  out += text;
  for (uint64_t i = left; i < missing; ++i) out += fill;
  return out;
}

Result<Value> percent_format(Runtime& rt, const Value& format, const Value& values) {
  NBL_ASSIGN_OR_RETURN(std::string out, PercentFormat(rt, values).run(format.text()));
  return rt.text(std::move(out), format.markup());
}

Result<Value> brace_format(Runtime& rt, const Value& format, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(std::string out, BraceFormat(rt, arguments).run(format.text(), 2));
  return rt.text(std::move(out), format.markup());
}

}  // namespace nbl::jinja

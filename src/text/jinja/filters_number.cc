// The filters on numbers.
#include <cmath>
#include <cstdio>

#include "text/jinja/filters.h"
#include "text/jinja/number.h"
#include "text/jinja/operators.h"

namespace nbl::jinja {
namespace {

Result<Value> absolute(Runtime&, const Value& self, const Arguments&) {
  if (self.is(Kind::kFloat)) return Value::real(std::fabs(self.as_float()));
  if (self.is_integral()) return self.as_int() < 0 ? negated(self) : Result<Value>(Value::integer(self.as_int()));
  if (self.is_undefined()) return undefined_failure(self);
  return failure("bad operand type for abs(): '%s'", type_name(self));
}

// nullopt where Python raises an error that the filters int and float catch.
std::optional<double> as_float(const Value& value) {
  if (value.is_number()) return value.as_number();
  return value.is_string() ? parse_float(value.text()) : std::nullopt;
}

Result<Value> to_int(Runtime&, const Value& self, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind("int", arguments, {"default", "base"}));
  NBL_ASSIGN_OR_RETURN(const Int base, bound.integer(1, 10));
  if (self.is_undefined()) return undefined_failure(self);
  if (self.is_integral()) return Value::integer(self.as_int());
  bool overflow = false;
  std::optional<Int> whole;
  if (self.is_string() && (base == 0 || (base >= 2 && base <= 36))) whole = parse_int(self.text(), static_cast<int>(base), &overflow);
  if (overflow) return failure("the integer does not fit 128 bits");
  if (whole) return Value::integer(*whole);
  const std::optional<double> number = as_float(self);
  if (number && std::isfinite(*number)) {
    if (const std::optional<Int> truncated = int_of(*number)) return Value::integer(*truncated);
    return failure("the integer does not fit 128 bits");
  }
  return bound.has(0) ? bound[0] : Value::integer(0);
}

Result<Value> to_float(Runtime&, const Value& self, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind("float", arguments, {"default"}));
  if (const std::optional<double> number = as_float(self)) return Value::real(*number);
  if (self.is_undefined()) return undefined_failure(self);
  return bound.has(0) ? bound[0] : Value::real(0);
}

Result<Value> round_integer(const Value& self, Int precision) {
  if (precision >= 0 || precision < -38) return Value::integer(precision >= 0 ? self.as_int() : 0);
  Int unit = 1;
  for (Int i = precision; i < 0; ++i) unit *= 10;
  const Int value = self.as_int();
  Int rest = value % unit;
  if (rest < 0) rest += unit;
  const Int below = value - rest;
  const bool up = rest * 2 > unit || (rest * 2 == unit && (below / unit) % 2 != 0);
  return Value::integer(up ? below + unit : below);
}

Result<Value> round(Runtime&, const Value& self, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind("round", arguments, {"precision", "method"}));
  NBL_ASSIGN_OR_RETURN(const Int precision, bound.integer(0, 0));
  NBL_ASSIGN_OR_RETURN(const std::string_view method, bound.text(1, "common"));
  if (self.is_undefined()) return undefined_failure(self);
  if (!self.is_number()) return failure("type %s doesn't define __round__ method", type_name(self));
  const int digits = precision > 400 ? 400 : precision < -400 ? -400 : static_cast<int>(precision);
  if (method == "common") {
    return self.is_integral() ? round_integer(self, precision) : Result<Value>(Value::real(round_to(self.as_float(), digits)));
  }
  if (method != "ceil" && method != "floor") return failure("method must be common, ceil or floor");
  const double scale = std::pow(10.0, digits);
  const double scaled = self.as_number() * scale;
  if (!std::isfinite(scaled)) return failure("cannot convert float %s to integer", float_text(scaled).c_str());
  return Value::real((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale);
}

Result<Value> filesizeformat(Runtime& rt, const Value& self, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind("filesizeformat", arguments, {"binary"}));
  const std::optional<double> bytes = as_float(self);
  if (!bytes) return failure("could not convert %s to float", type_name(self));
  const bool binary = bound.flag(0, false);
  const double base = binary ? 1024 : 1000;
  if (*bytes == 1) return Value::borrowed("1 Byte");
  if (*bytes < base) return rt.text(int_text(int_of(*bytes).value_or(0)) + " Bytes");
  const char* prefix = "kMGTPEZY";
  double unit = base * base;
  while (prefix[1] && *bytes >= unit) {
    unit *= base;
    ++prefix;
  }
  char text[400];
  std::snprintf(text, sizeof(text), "%.1f %c%sB", base * *bytes / unit, binary && *prefix == 'k' ? 'K' : *prefix, binary ? "i" : "");
  return rt.text(text);
}

const NativeEntry kFilters[] = {
    {"abs", absolute}, {"filesizeformat", filesizeformat}, {"float", to_float}, {"int", to_int}, {"round", round},
};

}  // namespace

const NativeEntry* find_number_filter(std::string_view name) { return find_entry(kFilters, name); }

}  // namespace nbl::jinja

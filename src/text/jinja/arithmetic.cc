// + - * / // % ** on numbers, text and sequences.
#include <cmath>

#include "text/jinja/format.h"
#include "text/jinja/operators.h"
#include "text/jinja/text_of.h"

namespace nbl::jinja {
namespace {

Status too_large() { return failure("integer result does not fit 128 bits"); }

Result<Value> floor_divide(Operator op, Int a, Int b) {
  if (b == 0) return failure("integer division or modulo by zero");
  if (b == -1) {  // the one quotient that can overflow
    Int negative;
    if (op == Operator::kModulo) return Value::integer(0);
    return __builtin_sub_overflow(static_cast<Int>(0), a, &negative) ? Result<Value>(too_large()) : Value::integer(negative);
  }
  Int quotient = a / b, rest = a % b;
  if (rest != 0 && (rest < 0) != (b < 0)) {
    quotient -= 1;
    rest += b;
  }
  return Value::integer(op == Operator::kModulo ? rest : quotient);
}

Result<Value> integer_power(Int base, Int exponent) {
  if (exponent < 0) {
    if (base == 0) return failure("0.0 cannot be raised to a negative power");
    return Value::real(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  }
  if (base == 0 || base == 1) return Value::integer(exponent == 0 ? 1 : base);
  if (base == -1) return Value::integer(exponent % 2 == 0 ? 1 : -1);
  if (exponent > 127) return too_large();
  Int value = 1;
  for (Int i = 0; i < exponent; ++i) {
    if (__builtin_mul_overflow(value, base, &value)) return too_large();
  }
  return Value::integer(value);
}

Result<Value> on_integers(Operator op, Int a, Int b) {
  Int value = 0;
  bool overflow = false;
  switch (op) {
    case Operator::kAdd: overflow = __builtin_add_overflow(a, b, &value); break;
    case Operator::kSubtract: overflow = __builtin_sub_overflow(a, b, &value); break;
    case Operator::kMultiply: overflow = __builtin_mul_overflow(a, b, &value); break;
    case Operator::kDivide:
      if (b == 0) return failure("division by zero");
      return Value::real(static_cast<double>(a) / static_cast<double>(b));
    case Operator::kPower: return integer_power(a, b);
    default: return floor_divide(op, a, b);
  }
  return overflow ? Result<Value>(too_large()) : Value::integer(value);
}

// Python's: the remainder has the sign of the divisor.
double float_modulo(double a, double b) {
  const double rest = std::fmod(a, b);
  if (rest == 0) return std::copysign(0.0, b);
  return (rest < 0) != (b < 0) ? rest + b : rest;
}

double float_floor_divide(double a, double b) {
  const double quotient = (a - float_modulo(a, b)) / b;
  const double floored = std::floor(quotient);
  return quotient - floored > 0.5 ? floored + 1 : floored;
}

Result<Value> float_power(double a, double b) {
  if (a == 0 && b < 0) return failure("0.0 cannot be raised to a negative power");
  if (a < 0 && std::isfinite(b) && b != std::floor(b)) return failure("a negative number has no real power %g", b);
  const double value = std::pow(a, b);
  if (std::isinf(value) && std::isfinite(a) && std::isfinite(b)) return failure("(34, 'Numerical result out of range')");
  return Value::real(value);
}

Result<Value> on_floats(Operator op, double a, double b) {
  const bool divides = op == Operator::kDivide || op == Operator::kFloorDivide || op == Operator::kModulo;
  if (divides && b == 0) return failure("float division by zero");
  switch (op) {
    case Operator::kAdd: return Value::real(a + b);
    case Operator::kSubtract: return Value::real(a - b);
    case Operator::kMultiply: return Value::real(a * b);
    case Operator::kDivide: return Value::real(a / b);
    case Operator::kFloorDivide: return Value::real(float_floor_divide(a, b));
    case Operator::kModulo: return Value::real(float_modulo(a, b));
    default: return float_power(a, b);
  }
}

Result<Value> joined_text(Runtime& rt, const Value& left, const Value& right) {
  NBL_RETURN_IF_ERROR(rt.afford(left.text().size() + right.text().size()));
  Value a = left, b = right;
  const bool markup = a.markup() || b.markup();
  if (markup) {  // what is not markup is escaped when it joins markup
    NBL_ASSIGN_OR_RETURN(a, escaped(rt, left));
    NBL_ASSIGN_OR_RETURN(b, escaped(rt, right));
  }
  std::string out;
  out.reserve(a.text().size() + b.text().size());
  out += a.text();
  out += b.text();
  return rt.text(std::move(out), markup);
}

Result<Value> joined_items(Runtime& rt, const Value& left, const Value& right) {
  std::vector<Value> items = left.list().items;
  items.insert(items.end(), right.list().items.begin(), right.list().items.end());
  return left.is(Kind::kList) ? rt.list(std::move(items)) : rt.tuple(std::move(items));
}

Result<Value> repeated_text(Runtime& rt, const Value& text, uint64_t count) {
  const std::string_view once = text.text();
  if (once.empty() || count == 0) return Value::borrowed("", text.markup());
  if (count > UINT64_MAX / once.size()) return rt.afford(UINT64_MAX);
  NBL_RETURN_IF_ERROR(rt.afford(once.size() * count));
  std::string out;
  out.reserve(once.size() * count);
  for (uint64_t i = 0; i < count; ++i) out += once;
  return rt.text(std::move(out), text.markup());
}

Result<Value> repeated_items(Runtime& rt, const Value& list, uint64_t count) {
  const std::vector<Value>& once = list.list().items;
  std::vector<Value> items;
  if (!once.empty()) {
    if (count > UINT64_MAX / once.size()) return rt.afford(UINT64_MAX);
    NBL_RETURN_IF_ERROR(rt.afford_items(once.size() * count));
    for (uint64_t i = 0; i < count; ++i) items.insert(items.end(), once.begin(), once.end());
  }
  return list.is(Kind::kList) ? rt.list(std::move(items)) : rt.tuple(std::move(items));
}

bool repeats(const Value& value, const Value& count) {
  return (value.is_string() || value.is_sequence()) && count.is_integral();
}

Result<Value> repeated(Runtime& rt, const Value& value, Int count) {
  const uint64_t times = count <= 0 ? 0 : count > INT64_MAX ? UINT64_MAX : static_cast<uint64_t>(count);
  return value.is_string() ? repeated_text(rt, value, times) : repeated_items(rt, value, times);
}

}  // namespace

Result<Value> arithmetic(Runtime& rt, Operator op, const Value& left, const Value& right) {
  if (left.is_integral() && right.is_integral()) return on_integers(op, left.as_int(), right.as_int());
  if (left.is_number() && right.is_number()) return on_floats(op, left.as_number(), right.as_number());
  if (op == Operator::kAdd && left.is_string() && right.is_string()) return joined_text(rt, left, right);
  if (op == Operator::kAdd && left.is_sequence() && left.kind() == right.kind()) return joined_items(rt, left, right);
  if (op == Operator::kMultiply && repeats(left, right)) return repeated(rt, left, right.as_int());
  if (op == Operator::kMultiply && repeats(right, left)) return repeated(rt, right, left.as_int());
  if (op == Operator::kModulo && left.is_string()) return percent_format(rt, left, right);
  if (op == Operator::kAdd && left.is_string() && !right.is_undefined()) {
    return failure("can only concatenate str (not \"%s\") to str", type_name(right));
  }
  return refuse(op, left, right, "unsupported operand type(s) for %s: '%s' and '%s'");
}

Result<Value> negated(const Value& value) {
  if (value.is(Kind::kFloat)) return Value::real(-value.as_float());
  if (value.is_integral()) return on_integers(Operator::kSubtract, 0, value.as_int());
  if (value.is_undefined()) return undefined_failure(value);
  return failure("bad operand type for unary -: '%s'", type_name(value));
}

Result<Value> plus_signed(const Value& value) {
  if (value.is(Kind::kFloat)) return value;
  if (value.is_integral()) return Value::integer(value.as_int());
  if (value.is_undefined()) return undefined_failure(value);
  return failure("bad operand type for unary +: '%s'", type_name(value));
}

}  // namespace nbl::jinja

#include "text/jinja/number.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <limits>

#include "text/jinja/characters.h"

namespace nbl::jinja {
namespace {

__extension__ using Unsigned = unsigned __int128;

int digit_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'z') return c - 'a' + 10;
  if (c >= 'A' && c <= 'Z') return c - 'A' + 10;
  return 99;
}

// "0x", "0o" or "0b" where `base` takes it: the base it says, and how many characters it has.
int prefix_base(std::string_view text) {
  if (text.size() < 2 || text[0] != '0') return 0;
  switch (text[1] | 0x20) {
    case 'x': return 16;
    case 'o': return 8;
    case 'b': return 2;
    default: return 0;
  }
}

// Drops underscores that stand between digits; nullopt when one stands elsewhere.
std::optional<std::string> without_underscores(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') {
      out += text[i];
      continue;
    }
    const bool between = i > 0 && i + 1 < text.size() && digit_value(text[i - 1]) < 36 && digit_value(text[i + 1]) < 36;
    if (!between) return std::nullopt;
  }
  return out;
}

bool equals_ignoring_case(std::string_view a, std::string_view b) {
  return a.size() == b.size() &&
         std::equal(a.begin(), a.end(), b.begin(), [](char x, char y) { return (x | 0x20) == (y | 0x20); });
}

}  // namespace

std::string int_text(Int value, int base) {
  char buffer[130];
  char* at = buffer + sizeof(buffer);
  Unsigned magnitude = value < 0 ? ~static_cast<Unsigned>(value) + 1 : static_cast<Unsigned>(value);
  do {
    *--at = "0123456789abcdef"[static_cast<int>(magnitude % static_cast<unsigned>(base))];
    magnitude /= static_cast<unsigned>(base);
  } while (magnitude != 0);
  if (value < 0) *--at = '-';
  return std::string(at, buffer + sizeof(buffer));
}

std::string int_text(Int value) {
  if (value >= INT64_MIN && value <= INT64_MAX) return std::to_string(static_cast<int64_t>(value));
  return int_text(value, 10);
}

std::string float_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[40];
  const double magnitude = std::fabs(value);
  // Python turns to exponents below 1e-4 and from 1e16 on.
  const bool plain = magnitude == 0 || (magnitude >= 1e-4 && magnitude < 1e16);
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), value,
                                 plain ? std::chars_format::fixed : std::chars_format::scientific);
  std::string text(buffer, end.ptr);
  if (plain && text.find('.') == std::string::npos) text += ".0";
  return text;
}

std::optional<Int> parse_int(std::string_view text, int base, bool* overflow) {
  text = strip(text);
  bool negative = false;
  if (!text.empty() && (text[0] == '-' || text[0] == '+')) {
    negative = text[0] == '-';
    text.remove_prefix(1);
  }
  const int prefixed = prefix_base(text);
  if (prefixed != 0 && (base == 0 || base == prefixed)) {
    base = prefixed;
    text.remove_prefix(text.size() > 2 && text[2] == '_' ? 3 : 2);
  }
  const bool any_base = base == 0;
  if (any_base) base = 10;
  const std::optional<std::string> digits = without_underscores(text);
  if (!digits || digits->empty()) return std::nullopt;
  Int value = 0;
  for (const char c : *digits) {
    const int digit = digit_value(c);
    if (digit >= base) return std::nullopt;
    if (__builtin_mul_overflow(value, static_cast<Int>(base), &value) ||
        __builtin_add_overflow(value, static_cast<Int>(digit), &value)) {
      *overflow = true;
      return std::nullopt;
    }
  }
  // int("010", 0) is refused as Python refuses the literal.
  if (any_base && value != 0 && digits->front() == '0') return std::nullopt;
  return negative ? -value : value;
}

std::optional<double> parse_float(std::string_view text) {
  text = strip(text);
  const bool negative = !text.empty() && text[0] == '-';
  if (!text.empty() && (text[0] == '-' || text[0] == '+')) text.remove_prefix(1);
  const double sign = negative ? -1.0 : 1.0;
  if (equals_ignoring_case(text, "inf") || equals_ignoring_case(text, "infinity")) {
    return sign * std::numeric_limits<double>::infinity();
  }
  if (equals_ignoring_case(text, "nan")) return std::numeric_limits<double>::quiet_NaN();
  const std::optional<std::string> digits = without_underscores(text);
  if (!digits || digits->empty() || !(digit_value(digits->front()) < 10 || digits->front() == '.')) return std::nullopt;
  double value = 0;
  const char* end = digits->data() + digits->size();
  const auto result = std::from_chars(digits->data(), end, value);
  if (result.ptr != end) return std::nullopt;
  // from_chars leaves `value` alone when it is out of range: either end of it.
  if (result.ec == std::errc::result_out_of_range) {
    const size_t exponent = digits->find_first_of("eE");
    const bool tiny = exponent != std::string::npos && (*digits)[exponent + 1] == '-';
    value = tiny ? 0.0 : std::numeric_limits<double>::infinity();
  } else if (result.ec != std::errc()) {
    return std::nullopt;
  }
  return sign * value;
}

std::optional<Int> int_of(double value) {
  if (!(std::fabs(value) < 1.7e38)) return std::nullopt;
  return static_cast<Int>(value);
}

double round_to(double value, int digits) {
  if (!std::isfinite(value) || digits > 323) return value;
  if (digits < -308) return std::copysign(0.0, value);
  if (digits <= 0) {
    const double scale = std::pow(10.0, -digits);
    return std::nearbyint(value / scale) * scale;
  }
  // printf rounds the exact decimal expansion, half to even where it is exactly half.
  char buffer[700];
  std::snprintf(buffer, sizeof(buffer), "%.*f", digits, value);
  double rounded = value;
  std::from_chars(buffer, buffer + std::char_traits<char>::length(buffer), rounded);
  return rounded;
}

}  // namespace nbl::jinja

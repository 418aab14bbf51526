// Numbers as Python spells and reads them.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "text/jinja/value.h"

namespace nbl::jinja {

std::string int_text(Int value);
std::string int_text(Int value, int base);  // lower-case digits, "-" in front, no prefix
// The shortest text that reads back as the same double: 1.0, 1e+20, 0.1, nan, -inf.
std::string float_text(double value);

// int(text, base): white space around, sign, underscores between digits, 0x/0o/0b where the base (or 0) allows.
// nullopt when it is no number; `overflow` is set when it is one that 128 bits do not hold.
std::optional<Int> parse_int(std::string_view text, int base, bool* overflow);
// float(text), with inf and nan.
std::optional<double> parse_float(std::string_view text);

// Truncates towards zero; nullopt for nan, infinities and what 128 bits do not hold.
std::optional<Int> int_of(double value);

// Rounds half to even at `digits` after the point, correctly for the decimal value of the double, as round() does.
double round_to(double value, int digits);

}  // namespace nbl::jinja

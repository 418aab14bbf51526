// Unicode as Python's str sees it: classes of characters, case, and places counted in code points.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace nbl::jinja {

// The white space of str.strip, str.split and of the template's own whitespace control.
bool is_space(uint32_t c);
bool is_line_end(uint32_t c);  // of str.splitlines
bool is_alpha(uint32_t c);
bool is_decimal(uint32_t c);
bool is_digit(uint32_t c);
bool is_numeric(uint32_t c);
bool is_word(uint32_t c);  // \w
bool is_upper(uint32_t c);
bool is_lower(uint32_t c);
bool is_title(uint32_t c);
bool is_printable(uint32_t c);
bool is_identifier(std::string_view text);

std::string to_upper(std::string_view text);
std::string to_lower(std::string_view text);
std::string to_title(std::string_view text);
std::string to_capital(std::string_view text);
std::string swap_case(std::string_view text);
std::string fold_case(std::string_view text);

std::string_view strip_left(std::string_view text);
std::string_view strip_right(std::string_view text);
inline std::string_view strip(std::string_view text) { return strip_left(strip_right(text)); }

size_t count_code_points(std::string_view text);
// Byte offset of the code point number `index`, or the text's size when it has fewer.
size_t offset_of(std::string_view text, size_t index);
// The character before `end` (a boundary): moves `end` to its start.
uint32_t previous_code_point(std::string_view text, size_t& end);
bool is_ascii(std::string_view text);

// Tables in character_tables.cc.
struct CodeRange {
  uint32_t first, last;
};
struct SpecialCasing {
  uint32_t code_point;
  uint32_t upper[3];
  uint32_t title[3];
};
extern const CodeRange kDigitsThatAreNotDecimal[], kNumericIdeographs[], kOtherLowercase[], kOtherUppercase[];
extern const size_t kDigitsThatAreNotDecimalCount, kNumericIdeographsCount, kOtherLowercaseCount, kOtherUppercaseCount;
extern const SpecialCasing kSpecialCasings[];
extern const size_t kSpecialCasingCount;

}  // namespace nbl::jinja

#include "text/jinja/characters.h"

#include <utf8proc.h>

#include <algorithm>

#include "base/utf8.h"

namespace nbl::jinja {
namespace {

constexpr uint32_t kCapitalSigma = 0x3A3, kSmallSigma = 0x3C3, kFinalSigma = 0x3C2;
constexpr uint32_t kCapitalIWithDot = 0x130;

utf8proc_category_t category(uint32_t c) { return utf8proc_category(static_cast<utf8proc_int32_t>(c)); }

bool in_ranges(const CodeRange* ranges, size_t count, uint32_t c) {
  const CodeRange* end = ranges + count;
  const CodeRange* found = std::lower_bound(ranges, end, c, [](const CodeRange& r, uint32_t v) { return r.last < v; });
  return found != end && found->first <= c;
}

const SpecialCasing* special_casing(uint32_t c) {
  if (c < 0xDF) return nullptr;
  const SpecialCasing* end = kSpecialCasings + kSpecialCasingCount;
  const SpecialCasing* found = std::lower_bound(kSpecialCasings, end, c,
                                                [](const SpecialCasing& s, uint32_t v) { return s.code_point < v; });
  return found != end && found->code_point == c ? found : nullptr;
}

void append_all(std::string& out, const uint32_t (&characters)[3]) {
  for (const uint32_t c : characters) {
    if (c) utf8_append(out, c);
  }
}

void append_upper(std::string& out, uint32_t c) {
  if (const SpecialCasing* special = special_casing(c)) return append_all(out, special->upper);
  utf8_append(out, static_cast<uint32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c))));
}

void append_title(std::string& out, uint32_t c) {
  if (const SpecialCasing* special = special_casing(c)) return append_all(out, special->title);
  utf8_append(out, static_cast<uint32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(c))));
}

bool is_cased(uint32_t c) { return is_upper(c) || is_lower(c) || is_title(c); }

bool is_case_ignorable(uint32_t c) {
  switch (c) {
    case '\'': case '.': case ':': case '^': case '`': case 0xA8: case 0xAD: case 0xAF: case 0xB4: case 0xB7: case 0xB8:
    case 0x387: case 0x55F: case 0x5F4: case 0x2018: case 0x2019: case 0x2024: case 0x2027: case 0xFE13: case 0xFE52:
    case 0xFE55: case 0xFF07: case 0xFF0E: case 0xFF1A:
      return true;
  }
  const utf8proc_category_t kind = category(c);
  return kind == UTF8PROC_CATEGORY_MN || kind == UTF8PROC_CATEGORY_ME || kind == UTF8PROC_CATEGORY_CF ||
         kind == UTF8PROC_CATEGORY_LM || kind == UTF8PROC_CATEGORY_SK;
}

// Whether the capital sigma that stands in text[at, after) ends a word.
bool is_final_sigma(std::string_view text, size_t at, size_t after) {
  uint32_t c = 0;
  while (at > 0 && is_case_ignorable(c = previous_code_point(text, at))) c = 0;
  if (c == 0 || !is_cased(c)) return false;
  c = 0;
  while (after < text.size() && is_case_ignorable(c = utf8_next(text, after))) c = 0;
  return c == 0 || !is_cased(c);
}

// Lowers the character at text[at], which ends before `after`.
void append_lower(std::string& out, std::string_view text, size_t at, size_t after, uint32_t c) {
  if (c == kCapitalIWithDot) {
    out += "i\xCC\x87";
  } else if (c == kCapitalSigma) {
    utf8_append(out, is_final_sigma(text, at, after) ? kFinalSigma : kSmallSigma);
  } else {
    utf8_append(out, static_cast<uint32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
  }
}

// Calls visit(character, start, after) for each character.
template <typename Visit>
void for_each(std::string_view text, Visit visit) {
  for (size_t at = 0; at < text.size();) {
    const size_t start = at;
    const uint32_t c = utf8_next(text, at);
    visit(c, start, at);
  }
}

}  // namespace

bool is_space(uint32_t c) {
  if (c < 0x80) return c == ' ' || (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x1F);
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
         c == 0x202F || c == 0x205F || c == 0x3000;
}

bool is_line_end(uint32_t c) {
  return (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

bool is_alpha(uint32_t c) {
  const utf8proc_category_t kind = category(c);
  return kind >= UTF8PROC_CATEGORY_LU && kind <= UTF8PROC_CATEGORY_LO;
}

bool is_decimal(uint32_t c) { return category(c) == UTF8PROC_CATEGORY_ND; }

bool is_digit(uint32_t c) {
  return is_decimal(c) || in_ranges(kDigitsThatAreNotDecimal, kDigitsThatAreNotDecimalCount, c);
}

bool is_numeric(uint32_t c) {
  const utf8proc_category_t kind = category(c);
  return (kind >= UTF8PROC_CATEGORY_ND && kind <= UTF8PROC_CATEGORY_NO) ||
         in_ranges(kNumericIdeographs, kNumericIdeographsCount, c);
}

bool is_word(uint32_t c) { return c == '_' || is_alpha(c) || is_numeric(c); }

bool is_upper(uint32_t c) {
  return category(c) == UTF8PROC_CATEGORY_LU || in_ranges(kOtherUppercase, kOtherUppercaseCount, c);
}

bool is_lower(uint32_t c) {
  return category(c) == UTF8PROC_CATEGORY_LL || in_ranges(kOtherLowercase, kOtherLowercaseCount, c);
}

bool is_title(uint32_t c) { return category(c) == UTF8PROC_CATEGORY_LT; }

bool is_printable(uint32_t c) {
  if (c == ' ') return true;
  const utf8proc_category_t kind = category(c);
  return kind != UTF8PROC_CATEGORY_CN && kind < UTF8PROC_CATEGORY_ZS;
}

bool is_identifier(std::string_view text) {
  bool first = true;
  for (size_t at = 0; at < text.size(); first = false) {
    const uint32_t c = utf8_next(text, at);
    if (c == '_' || is_alpha(c) || category(c) == UTF8PROC_CATEGORY_NL) continue;
    const utf8proc_category_t kind = category(c);
    const bool continues = kind == UTF8PROC_CATEGORY_ND || kind == UTF8PROC_CATEGORY_MN || kind == UTF8PROC_CATEGORY_MC ||
                           kind == UTF8PROC_CATEGORY_PC || c == 0xB7;
    if (first || !continues) return false;
  }
  return !text.empty();
}

std::string to_upper(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for_each(text, [&](uint32_t c, size_t, size_t) { append_upper(out, c); });
  return out;
}

std::string to_lower(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for_each(text, [&](uint32_t c, size_t at, size_t after) { append_lower(out, text, at, after, c); });
  return out;
}

std::string to_title(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  bool inside_word = false;
  for_each(text, [&](uint32_t c, size_t at, size_t after) {
    if (inside_word) append_lower(out, text, at, after, c);
    else append_title(out, c);
    inside_word = is_cased(c);
  });
  return out;
}

std::string to_capital(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for_each(text, [&](uint32_t c, size_t at, size_t after) {
    if (at == 0) append_title(out, c);
    else append_lower(out, text, at, after, c);
  });
  return out;
}

std::string swap_case(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for_each(text, [&](uint32_t c, size_t at, size_t after) {
    if (is_upper(c)) append_lower(out, text, at, after, c);
    else if (is_lower(c)) append_upper(out, c);
    else utf8_append(out, c);
  });
  return out;
}

std::string fold_case(std::string_view text) {
  std::string out;
  for_each(text, [&](uint32_t c, size_t, size_t) {
    utf8proc_int32_t folded[8];
    int last_class = 0;
    const utf8proc_ssize_t count = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), folded, 8, UTF8PROC_CASEFOLD, &last_class);
    for (utf8proc_ssize_t i = 0; i < count; ++i) utf8_append(out, static_cast<uint32_t>(folded[i]));
  });
  return out;
}

std::string_view strip_left(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    size_t next = at;
    if (!is_space(utf8_next(text, next))) break;
    at = next;
  }
  return text.substr(at);
}

std::string_view strip_right(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    size_t before = end;
    if (!is_space(previous_code_point(text, before))) break;
    end = before;
  }
  return text.substr(0, end);
}

size_t count_code_points(std::string_view text) {
  size_t count = 0;
  for (const char c : text) count += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  return count;
}

size_t offset_of(std::string_view text, size_t index) {
  size_t at = 0;
  for (; at < text.size(); ++at) {
    if ((static_cast<unsigned char>(text[at]) & 0xC0) != 0x80 && index-- == 0) break;
  }
  return at;
}

uint32_t previous_code_point(std::string_view text, size_t& end) {
  --end;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  size_t at = end;
  return utf8_next(text, at);
}

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<signed char>(c) >= 0; });
}

}  // namespace nbl::jinja

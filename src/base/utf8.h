// UTF-8: checking, decoding one code point, encoding one.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace nbl {

constexpr uint32_t kReplacementCharacter = 0xFFFD;

// Length in bytes of the well-formed character at text[at], or 0 if there is none (Unicode 15, table 3-7:
// overlong forms, surrogates and values above U+10FFFF are ill-formed).
int utf8_length_at(std::string_view text, size_t at);

// Decodes the well-formed character at text[at] and advances `at`; ill-formed bytes give U+FFFD and advance past
// the maximal subpart (Unicode 15, section 3.9, "U+FFFD substitution of maximal subparts").
uint32_t utf8_next(std::string_view text, size_t& at);

// Bytes at text[at] that could still grow into a character if more bytes came: 1 to 3 at the end of the text, else 0.
int utf8_incomplete_at(std::string_view text, size_t at);

// Offset of the first ill-formed byte, or npos.
size_t utf8_first_invalid(std::string_view text);

void utf8_append(std::string& out, uint32_t code_point);

// The text of any bytes: one U+FFFD for each maximal part that is no character.
std::string lossy_utf8(std::string_view bytes);

}  // namespace nbl

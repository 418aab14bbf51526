// The byte letters of GPT-2: each byte spelled as one printable character, so that a vocabulary of text can hold bytes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace nbl {

// The letter of a byte, as UTF-8 of one or two bytes.
std::string_view byte_letter(uint8_t byte);
// The byte of a letter, or -1.
int byte_of_letter(uint32_t code_point);
// The bytes that a text of byte letters spells; false if it holds any other character.
bool letters_to_bytes(std::string_view letters, std::string& bytes);

}  // namespace nbl

#include "text/byte_level.h"

#include <array>

#include "base/utf8.h"

namespace nbl {
namespace {

constexpr bool prints(uint32_t byte) {
  return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || (byte >= 174 && byte <= 255);
}

struct Letters {
  std::array<std::string, 256> of_byte;
  std::array<int16_t, 512> of_letter;
};

const Letters& letters() {
  static const Letters table = [] {
    Letters built;
    built.of_letter.fill(-1);
    uint32_t next = 256;  // bytes that do not print get the letters from U+0100 on, in order
    for (uint32_t byte = 0; byte < 256; ++byte) {
      const uint32_t letter = prints(byte) ? byte : next++;
      utf8_append(built.of_byte[byte], letter);
      built.of_letter[letter] = static_cast<int16_t>(byte);
    }
    return built;
  }();
  return table;
}

}  // namespace

std::string_view byte_letter(uint8_t byte) { return letters().of_byte[byte]; }

int byte_of_letter(uint32_t code_point) { return code_point < 512 ? letters().of_letter[code_point] : -1; }

bool letters_to_bytes(std::string_view text, std::string& bytes) {
  bytes.clear();
  for (size_t at = 0; at < text.size();) {
    const int byte = byte_of_letter(utf8_next(text, at));
    if (byte < 0) return false;
    bytes += static_cast<char>(byte);
  }
  return true;
}

}  // namespace nbl

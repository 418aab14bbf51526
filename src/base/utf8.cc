#include "base/utf8.h"

namespace nbl {
namespace {

// The range that the second byte must lie in, by the first byte.
struct Lead {
  int length;  // 0: not a first byte
  uint8_t second_low, second_high;
};

Lead lead_of(uint8_t byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xC2) return {0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

// How many bytes at text[at] fit the start of a well-formed character.
int fitting_bytes(std::string_view text, size_t at, int& wanted) {
  const Lead lead = lead_of(static_cast<uint8_t>(text[at]));
  wanted = lead.length;
  if (lead.length == 0) return 0;
  int count = 1;
  while (count < lead.length && at + count < text.size()) {
    const uint8_t byte = static_cast<uint8_t>(text[at + count]);
    const uint8_t low = count == 1 ? lead.second_low : 0x80;
    const uint8_t high = count == 1 ? lead.second_high : 0xBF;
    if (byte < low || byte > high) break;
    ++count;
  }
  return count;
}

}  // namespace

int utf8_length_at(std::string_view text, size_t at) {
  if (at >= text.size()) return 0;
  int wanted;
  const int count = fitting_bytes(text, at, wanted);
  return count == wanted ? wanted : 0;
}

uint32_t utf8_next(std::string_view text, size_t& at) {
  int wanted;
  const int count = fitting_bytes(text, at, wanted);
  if (wanted == 0 || count < wanted) {
    at += count > 0 ? count : 1;
    return kReplacementCharacter;
  }
  uint32_t value = static_cast<uint8_t>(text[at]);
  if (wanted > 1) value &= 0x7Fu >> wanted;
  for (int i = 1; i < wanted; ++i) value = value << 6 | (static_cast<uint8_t>(text[at + i]) & 0x3Fu);
  at += wanted;
  return value;
}

int utf8_incomplete_at(std::string_view text, size_t at) {
  if (at >= text.size()) return 0;
  int wanted;
  const int count = fitting_bytes(text, at, wanted);
  return wanted > count && at + count == text.size() ? count : 0;
}

size_t utf8_first_invalid(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    if (static_cast<uint8_t>(text[at]) < 0x80) {
      ++at;
      continue;
    }
    const int length = utf8_length_at(text, at);
    if (length == 0) return at;
    at += length;
  }
  return std::string_view::npos;
}

void utf8_append(std::string& out, uint32_t code_point) {
  if (code_point < 0x80) {
    out += static_cast<char>(code_point);
  } else if (code_point < 0x800) {
    out += static_cast<char>(0xC0 | code_point >> 6);
    out += static_cast<char>(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    out += static_cast<char>(0xE0 | code_point >> 12);
    out += static_cast<char>(0x80 | (code_point >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (code_point & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | code_point >> 18);
    out += static_cast<char>(0x80 | (code_point >> 12 & 0x3F));
    out += static_cast<char>(0x80 | (code_point >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (code_point & 0x3F));
  }
}

std::string lossy_utf8(std::string_view bytes) {
  if (utf8_first_invalid(bytes) == std::string_view::npos) return std::string(bytes);
  std::string text;
  for (size_t at = 0; at < bytes.size();) utf8_append(text, utf8_next(bytes, at));
  return text;
}

}  // namespace nbl

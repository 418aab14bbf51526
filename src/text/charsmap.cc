#include "text/charsmap.h"

namespace nbl {
namespace {

// Fields of a Darts unit.
bool has_leaf(uint32_t unit) { return (unit >> 8 & 1) == 1; }
uint32_t value_of(uint32_t unit) { return unit & 0x7FFFFFFF; }
uint32_t label_of(uint32_t unit) { return unit & (0x80000000u | 0xFF); }
uint32_t offset_of(uint32_t unit) { return unit >> 10 << ((unit & 0x200) >> 6); }

int base64_value(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  return c == '+' ? 62 : c == '/' ? 63 : -1;
}

}  // namespace

Result<Charsmap> Charsmap::decode(std::string_view base64) {
  std::string bytes;
  bytes.reserve(base64.size() / 4 * 3);
  while (!base64.empty() && base64.back() == '=') base64.remove_suffix(1);
  uint32_t bits = 0;
  int count = 0;
  for (size_t i = 0; i < base64.size(); ++i) {
    const int value = base64_value(base64[i]);
    if (value < 0) return error(Code::kFormat, "precompiled_charsmap is not base64 at character %zu", i);
    bits = bits << 6 | static_cast<uint32_t>(value);
    count += 6;
    if (count >= 8) {
      count -= 8;
      bytes += static_cast<char>(bits >> count & 0xFF);
    }
  }
  return from_bytes(bytes);
}

Result<Charsmap> Charsmap::from_bytes(std::string_view bytes) {
  const auto word = [&](size_t at) {
    uint32_t value = 0;
    for (int i = 3; i >= 0; --i) value = value << 8 | static_cast<uint8_t>(bytes[at + static_cast<size_t>(i)]);
    return value;
  };
  if (bytes.size() < 4) return error(Code::kFormat, "precompiled_charsmap has %zu bytes, too few for a trie", bytes.size());
  const uint32_t size = word(0);
  if (size % 4 != 0 || size == 0 || size > bytes.size() - 4) {
    return error(Code::kFormat, "precompiled_charsmap says that its trie has %u bytes, of %zu", size, bytes.size() - 4);
  }
  Charsmap map;
  map.units_.resize(size / 4);
  for (size_t i = 0; i < map.units_.size(); ++i) map.units_[i] = word(4 + 4 * i);
  map.replacements_ = std::string(bytes.substr(4 + size));
  map.replacements_ += '\0';  // a last replacement without its end must not run on
  return map;
}

template <typename Found>
void Charsmap::each_key(std::string_view text, Found found) const {
  size_t node = offset_of(units_[0]);
  for (size_t i = 0; i < text.size(); ++i) {
    const uint8_t byte = static_cast<uint8_t>(text[i]);
    if (byte == 0) return;
    node ^= byte;
    if (node >= units_.size() || label_of(units_[node]) != byte) return;
    const bool leaf = has_leaf(units_[node]);
    node ^= offset_of(units_[node]);
    if (!leaf) continue;
    if (node >= units_.size()) return;
    const uint32_t at = value_of(units_[node]);
    if (!found(at < replacements_.size() ? replacements_.c_str() + at : nullptr, i + 1)) return;
  }
}

const char* Charsmap::replacement(std::string_view text) const {
  const char* first = nullptr;
  each_key(text, [&](const char* found, size_t) {
    first = found;
    return false;
  });
  return first;
}

const char* Charsmap::longest(std::string_view text, size_t& length) const {
  const char* last = nullptr;
  each_key(text, [&](const char* found, size_t bytes) {
    if (found) {
      last = found;
      length = bytes;
    }
    return true;
  });
  return last;
}

bool Charsmap::is_sound() const {
  std::vector<bool> seen(units_.size());
  std::vector<size_t> open = {0};
  seen[0] = true;
  while (!open.empty()) {
    const size_t node = open.back();
    open.pop_back();
    const size_t base = node ^ offset_of(units_[node]);
    if ((base | 0xFF) >= units_.size()) return false;
    if (has_leaf(units_[node]) && value_of(units_[base]) >= replacements_.size() - 1) return false;
    for (size_t byte = 1; byte < 256; ++byte) {
      const size_t child = base ^ byte;
      if (label_of(units_[child]) != byte || seen[child]) continue;
      seen[child] = true;
      open.push_back(child);
    }
  }
  return true;
}

}  // namespace nbl

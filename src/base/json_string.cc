#include "base/json_string.h"

#include <cstdint>
#include <cstdio>

#include "base/utf8.h"

namespace nbl {
namespace {

void append_unit(std::string& out, uint16_t unit) {
  char escape[8];
  std::snprintf(escape, sizeof escape, "\\u%04x", unit);
  out += escape;
}

void append_character(std::string& out, uint32_t c, bool ascii) {
  switch (c) {
    case '"': out += "\\\""; return;
    case '\\': out += "\\\\"; return;
    case '\b': out += "\\b"; return;
    case '\t': out += "\\t"; return;
    case '\n': out += "\\n"; return;
    case '\f': out += "\\f"; return;
    case '\r': out += "\\r"; return;
    default: break;
  }
  if (c >= 0x20 && (!ascii || c < 0x7F)) {
    utf8_append(out, c);
  } else if (c < 0x10000) {
    append_unit(out, static_cast<uint16_t>(c));
  } else {
    append_unit(out, static_cast<uint16_t>(0xD800 + ((c - 0x10000) >> 10)));
    append_unit(out, static_cast<uint16_t>(0xDC00 + ((c - 0x10000) & 0x3FF)));
  }
}

}  // namespace

void append_json_string(std::string& out, std::string_view text, bool ascii) {
  out += '"';
  size_t plain = 0;  // where what stays as it is begins
  for (size_t at = 0; at < text.size();) {
    const unsigned char byte = static_cast<unsigned char>(text[at]);
    if (byte >= 0x20 && byte < 0x7F && byte != '"' && byte != '\\') {
      ++at;
      continue;
    }
    out += text.substr(plain, at - plain);
    append_character(out, utf8_next(text, at), ascii);
    plain = at;
  }
  out += text.substr(plain);
  out += '"';
}

}  // namespace nbl

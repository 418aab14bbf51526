// A text as JSON writes it, for everything that puts JSON together: values, errors, templates.
#pragma once

#include <string>
#include <string_view>

namespace nbl {

// Appends `text` in quotes. Bytes that are not UTF-8 become U+FFFD; with `ascii` every other character beyond ASCII is escaped.
void append_json_string(std::string& out, std::string_view text, bool ascii = false);

}  // namespace nbl

// JSON through nlohmann's library, as a Result. Objects keep their order: GPTQModel's `dynamic` depends on it.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/status.h"

namespace nbl {

using Json = nlohmann::ordered_json;

// `where` names the text in messages ("config.json"). Nesting deeper than 256 is refused: it is never honest input.
Result<Json> parse_json(std::string_view text, std::string_view where);

// Reads a whole file; a missing one is kNotFound. Files over 256 MiB are refused.
Result<std::string> read_text_file(const std::string& path);
Result<Json> read_json_file(const std::string& path);

// Typed look-ups: `fallback` when the key is absent or null, an error naming `key` when the type is another.
Result<int64_t> json_i64(const Json& object, const char* key, int64_t fallback);
Result<double> json_f64(const Json& object, const char* key, double fallback);
Result<bool> json_bool(const Json& object, const char* key, bool fallback);
Result<std::string> json_str(const Json& object, const char* key, std::string_view fallback);

// One line; bytes that are not UTF-8 become U+FFFD instead of an exception.
std::string to_text(const Json& value, int indent = -1);

}  // namespace nbl

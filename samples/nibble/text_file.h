// Text files, whole or their beginning.
#pragma once

#include <cstdint>
#include <string>

namespace text_file {

// Throws std::runtime_error with the path.
std::string read(const std::string& path);

// Throws std::runtime_error where `text` is not UTF-8, which JSON cannot hold; `what` is its subject.
void check_utf8(const std::string& text, const std::string& what);

// The first `count` characters (not bytes) of UTF-8 text.
std::string first_characters(const std::string& text, int64_t count);

}  // namespace text_file

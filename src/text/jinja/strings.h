// Splitting, stripping, searching and replacing text: what str's methods and the filters share.
#pragma once

#include "text/jinja/runtime.h"

namespace nbl::jinja {

constexpr int kLeft = 1, kRight = 2;

std::string_view strip_sides(std::string_view text, int sides);
std::string_view strip_characters(std::string_view text, std::string_view characters, int sides);

// At most `most` splits. The pieces borrow `text`.
std::vector<Value> split_at(std::string_view text, std::string_view separator, uint64_t most);
std::vector<Value> split_at_last(std::string_view text, std::string_view separator, uint64_t most);
std::vector<Value> split_at_space(std::string_view text, uint64_t most);
std::vector<Value> split_at_last_spaces(std::string_view text, uint64_t most);
std::vector<Value> lines_of(std::string_view text, bool keep_ends);

// Linear in the text, whatever is looked for.
size_t find_text(std::string_view text, std::string_view wanted, size_t from);
size_t find_last_text(std::string_view text, std::string_view wanted);
// At most `most` replacements; all when it is negative.
Result<Value> replaced(Runtime& rt, const Value& text, std::string_view from, std::string_view to, Int most);

bool is_all_lower(std::string_view text);
bool is_all_upper(std::string_view text);

}  // namespace nbl::jinja

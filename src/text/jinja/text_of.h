// str() and repr() of a value, as Python writes them.
#pragma once

#include <string>

#include "text/jinja/runtime.h"

namespace nbl::jinja {

// Appends; None, True, 1.0, ['a', 1], {'k': None}. Undefined is "".
Status append_str(Runtime& rt, std::string& out, const Value& value);
Status append_repr(Runtime& rt, std::string& out, const Value& value);
void append_repr_of_text(std::string& out, std::string_view text);

Result<std::string> str(Runtime& rt, const Value& value);
Result<std::string> repr(Runtime& rt, const Value& value);
// The value itself when it is text already: copies nothing.
Result<Value> to_text(Runtime& rt, const Value& value);

// Escaped for HTML unless it is markup already.
void append_escaped(std::string& out, std::string_view text);
Result<Value> escaped(Runtime& rt, const Value& value);

}  // namespace nbl::jinja

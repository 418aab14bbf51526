// The tests: `value is name(arguments)`.
#pragma once

#include "text/jinja/arguments.h"

namespace nbl::jinja {

bool is_test(std::string_view name);
Result<bool> call_test(Runtime& rt, std::string_view name, const Value& self, const Arguments& arguments);

}  // namespace nbl::jinja

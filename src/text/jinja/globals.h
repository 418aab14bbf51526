// The functions that every template may call: range, dict, namespace, cycler, joiner, raise_exception, strftime_now.
#pragma once

#include "text/jinja/arguments.h"

namespace nbl::jinja {

const NativeEntry* find_global(std::string_view name);
// dict.fromkeys
const NativeEntry* find_function_method(const NativeEntry& function, std::string_view name);
Result<Value> call_joiner(Joiner& joiner);
// Names that begin with an underscore are refused.
Status set_in_namespace(Runtime& rt, Namespace& space, std::string_view name, const Value& value);

}  // namespace nbl::jinja

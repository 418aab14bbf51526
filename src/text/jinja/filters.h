// The filters: `value | name(arguments)`.
#pragma once

#include "text/jinja/arguments.h"

namespace nbl::jinja {

const NativeEntry* find_filter(std::string_view name);
Result<Value> call_filter(Runtime& rt, std::string_view name, const Value& self, const Arguments& arguments);

// The parts of the table: filters_text.cc, filters_number.cc, filters_sequence.cc.
const NativeEntry* find_text_filter(std::string_view name);
const NativeEntry* find_number_filter(std::string_view name);
const NativeEntry* find_sequence_filter(std::string_view name);
const NativeEntry* find_selection_filter(std::string_view name);

}  // namespace nbl::jinja

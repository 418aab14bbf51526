// JSON in and out of templates: the request's values, and the tojson filter as transformers defines it.
#pragma once

#include "base/json.h"
#include "text/jinja/arguments.h"

namespace nbl::jinja {

// Borrows the strings of `json`.
Result<Value> from_json(Runtime& rt, const Json& json);

// tojson(ensure_ascii=false, indent=none, separators=none, sort_keys=false): Python's json.dumps.
Result<Value> to_json(Runtime& rt, const Value& self, const Arguments& arguments);

}  // namespace nbl::jinja

#include "text/jinja/ast.h"

namespace nbl::jinja {

Names::Names() {
  for (const char* name : {"loop", "caller", "varargs", "kwargs"}) number(name);  // in the order of Known
}

int Names::number(std::string_view name) {
  if (const Value* found = numbers_.find(name)) return static_cast<int>(found->as_int());
  const int next = static_cast<int>(names_.size());
  names_.push_back(name);
  numbers_.set(Value::borrowed(name), Value::integer(next));
  return next;
}

}  // namespace nbl::jinja

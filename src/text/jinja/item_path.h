// "a.b.0": the path of attributes that map(attribute=...), sort(attribute=...) and their like follow.
#pragma once

#include <vector>

#include "text/jinja/access.h"

namespace nbl::jinja {

class ItemPath {
 public:
  // `path` is text with dots, a number, or none for the item itself.
  static ItemPath parse(const Value& path);

  // `fallback`, where not null, stands for what is undefined on the way.
  Result<Value> follow(Runtime& rt, Value item, const Value* fallback = nullptr) const;

 private:
  std::vector<Value> steps_;
};

// The value as sorting sees it: text without its case, unless case counts.
Value sort_key(Runtime& rt, const Value& value, bool case_sensitive);

}  // namespace nbl::jinja

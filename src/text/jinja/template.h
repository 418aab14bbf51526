// Template: a chat template, parsed once and rendered any number of times, from any number of threads at once.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/json.h"
#include "base/status.h"
#include "text/jinja/ast.h"
#include "text/jinja/lexer.h"
#include "text/jinja/runtime.h"

namespace nbl::jinja {

class Template {
 public:
  static Result<std::unique_ptr<Template>> parse(std::string_view text);
  // `variables` is an object. `now` holds the clock that strftime_now reads; the system's when there is none.
  Result<std::string> render(const Json& variables, std::optional<CivilTime> now = {}) const;

 private:
  Template() = default;
  SourceText source_;  // what names_ and block_ borrow from
  Names names_;
  Block block_;
};

}  // namespace nbl::jinja

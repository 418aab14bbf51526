#include "text/jinja/template.h"

#include "text/jinja/interpreter.h"
#include "text/jinja/json_text.h"
#include "text/jinja/parser.h"

namespace nbl::jinja {

Result<std::unique_ptr<Template>> Template::parse(std::string_view text) {
  std::unique_ptr<Template> made(new Template());
  made->source_ = normalize_source(text);
  NBL_ASSIGN_OR_RETURN(const std::vector<Token> tokens, tokenize(made->source_));
  NBL_ASSIGN_OR_RETURN(made->block_, parse_tokens(tokens, made->names_));
  return made;
}

Result<std::string> Template::render(const Json& variables, std::optional<CivilTime> now) const {
  Runtime rt(Limits(), now);
  NBL_ASSIGN_OR_RETURN(const Value values, from_json(rt, variables));
  if (!values.is(Kind::kDict)) return error(Code::kArgument, "the template's variables are not a JSON object");
  std::string out;
  NBL_RETURN_IF_ERROR(Interpreter(rt, names_).render(block_, values.dict(), out));
  return out;
}

}  // namespace nbl::jinja

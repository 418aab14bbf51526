#include "text/jinja/template.h"

#include "text/jinja/interpreter.h"
#include "text/jinja/json_text.h"
#include "text/jinja/parser.h"

namespace nbl::jinja {

namespace {

// Bytes of text and number of values in a request, about.
uint64_t size_of(const Json& value) {
  if (value.is_string()) return 32 + value.string().size();
  uint64_t size = 32;
  for (const Json& item : value) size += size_of(item);
  return size;
}

}  // namespace

Result<std::unique_ptr<Template>> Template::parse(std::string_view text) {
  std::unique_ptr<Template> made(new Template());
  made->source_ = normalize_source(text);
  NBL_ASSIGN_OR_RETURN(const std::vector<Token> tokens, tokenize(made->source_));
  NBL_ASSIGN_OR_RETURN(made->block_, parse_tokens(tokens, made->names_));
  return made;
}

Result<std::string> Template::render(const Json& variables, std::optional<CivilTime> now) const {
  // A long conversation may take more: the allowance grows with what there is to render.
  const uint64_t size = size_of(variables);
  Limits limits;
  limits.work += size / 4;
  limits.bytes += 32 * size;
  Runtime rt(limits, now);
  NBL_ASSIGN_OR_RETURN(const Value values, from_json(rt, variables));
  if (!values.is(Kind::kDict)) return error(Code::kArgument, "the template's variables are not a JSON object");
  std::string out;
  NBL_RETURN_IF_ERROR(Interpreter(rt, names_).render(block_, values.dict(), out));
  return out;
}

}  // namespace nbl::jinja

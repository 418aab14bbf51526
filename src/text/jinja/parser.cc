#include "text/jinja/parser.h"

#include <initializer_list>
#include <string>

#include "text/jinja/expression_parser.h"

namespace nbl::jinja {
namespace {

using StatementPtr = std::unique_ptr<Statement>;

class StatementParser : private ExpressionParser {
 public:
  StatementParser(const std::vector<Token>& tokens, Names& names) : ExpressionParser(tokens, names) {}

  Result<Block> parse_all() {
    Block block;
    NBL_RETURN_IF_ERROR(parse_until({}, block));
    return block;
  }

 private:
  using Words = std::initializer_list<std::string_view>;

  Status parse_until(Words ends, Block& block);
  Result<StatementPtr> parse_output();
  Result<StatementPtr> parse_statement();
  Result<StatementPtr> parse_if();
  Result<StatementPtr> parse_for();
  Result<StatementPtr> parse_set();
  Result<StatementPtr> parse_with();
  Result<StatementPtr> parse_macro();
  Result<StatementPtr> parse_call();
  Result<StatementPtr> parse_filter_block();
  Result<StatementPtr> parse_scope(StatementKind kind, std::string_view end);
  Result<StatementPtr> parse_block();
  Result<StatementPtr> parse_loop_control(StatementKind kind, const char* word);
  Result<StatementPtr> parse_unavailable();
  Status parse_signature(Signature& signature);
  Status parse_body(std::string_view end, Block& body);

  StatementPtr make_statement(StatementKind kind) const {
    auto statement = std::make_unique<Statement>();
    statement->kind = kind;
    statement->line = current().line;
    return statement;
  }

  int loops_ = 0;  // that a break here would leave
};

// Statements up to a tag that begins with one of `ends`; its name stays current. Without ends: up to the end.
Status StatementParser::parse_until(Words ends, Block& block) {
  Nested nested(*this);
  NBL_RETURN_IF_ERROR(nested.check());
  while (!at(TokenKind::kEnd)) {
    if (at(TokenKind::kData)) {
      StatementPtr text = make_statement(StatementKind::kText);
      text->text = take().text;
      block.push_back(std::move(text));
    } else if (at(TokenKind::kVariableBegin)) {
      NBL_ASSIGN_OR_RETURN(StatementPtr output, parse_output());
      block.push_back(std::move(output));
    } else {
      take();  // {%
      for (const std::string_view end : ends) {
        if (at_name(end)) return Status();
      }
      NBL_ASSIGN_OR_RETURN(StatementPtr statement, parse_statement());
      NBL_RETURN_IF_ERROR(expect(TokenKind::kBlockEnd));
      block.push_back(std::move(statement));
    }
  }
  if (ends.size() == 0) return Status();
  std::string wanted;
  for (const std::string_view end : ends) wanted += (wanted.empty() ? "'" : " or '") + std::string(end) + "'";
  return fail("Unexpected end of template. Jinja was looking for the following tags: " + wanted);
}

// The body behind a tag that has been read up to its end, and the tag that closes it up to its own.
Status StatementParser::parse_body(std::string_view end, Block& body) {
  NBL_RETURN_IF_ERROR(expect(TokenKind::kBlockEnd));
  NBL_RETURN_IF_ERROR(parse_until({end}, body));
  take();
  return Status();
}

Result<StatementPtr> StatementParser::parse_output() {
  StatementPtr output = make_statement(StatementKind::kOutput);
  take();
  NBL_ASSIGN_OR_RETURN(ExprPtr value, parse_tuple(true, {}, false));
  output->expressions.push_back(std::move(value));
  NBL_RETURN_IF_ERROR(expect(TokenKind::kVariableEnd));
  return output;
}

Result<StatementPtr> StatementParser::parse_statement() {
  if (!at(TokenKind::kName)) return fail("tag name expected");
  const std::string_view word = current().text;
  if (word == "if") return parse_if();
  if (word == "for") return parse_for();
  if (word == "set") return parse_set();
  if (word == "with") return parse_with();
  if (word == "macro") return parse_macro();
  if (word == "call") return parse_call();
  if (word == "filter") return parse_filter_block();
  if (word == "generation") return parse_scope(StatementKind::kScope, "endgeneration");
  if (word == "autoescape") return parse_scope(StatementKind::kAutoescape, "endautoescape");
  if (word == "block") return parse_block();
  if (word == "break") return parse_loop_control(StatementKind::kBreak, "break");
  if (word == "continue") return parse_loop_control(StatementKind::kContinue, "continue");
  if (word == "include" || word == "import" || word == "from" || word == "extends") return parse_unavailable();
  return fail("Encountered unknown tag '" + std::string(word.substr(0, 80)) + "'.");
}

Result<StatementPtr> StatementParser::parse_if() {
  StatementPtr statement = make_statement(StatementKind::kIf);
  const bool lenient = lenient_;
  lenient_ = true;
  for (bool more = true; more;) {
    const bool otherwise = at_name("else");
    take();  // if, elif or else
    Branch branch;
    if (!otherwise) {
      NBL_ASSIGN_OR_RETURN(branch.condition, parse_tuple(false, {}, false));
    }
    NBL_RETURN_IF_ERROR(expect(TokenKind::kBlockEnd));
    if (otherwise) {
      NBL_RETURN_IF_ERROR(parse_until({"endif"}, branch.body));
    } else {
      NBL_RETURN_IF_ERROR(parse_until({"elif", "else", "endif"}, branch.body));
    }
    statement->branches.push_back(std::move(branch));
    more = !at_name("endif");
  }
  take();
  lenient_ = lenient;
  return statement;
}

Result<StatementPtr> StatementParser::parse_for() {
  StatementPtr statement = make_statement(StatementKind::kFor);
  take();
  NBL_ASSIGN_OR_RETURN(statement->target, parse_target(false, "in"));
  NBL_RETURN_IF_ERROR(expect_name("in"));
  NBL_ASSIGN_OR_RETURN(ExprPtr iterable, parse_tuple(false, "recursive", false));
  ExprPtr condition;
  if (skip_name("if")) {
    NBL_ASSIGN_OR_RETURN(condition, parse_expression());
  }
  statement->recursive = skip_name("recursive");
  statement->expressions.push_back(std::move(iterable));
  statement->expressions.push_back(std::move(condition));
  NBL_RETURN_IF_ERROR(expect(TokenKind::kBlockEnd));
  ++loops_;
  const Status body = parse_until({"endfor", "else"}, statement->body);
  --loops_;
  NBL_RETURN_IF_ERROR(body);
  if (skip_name("else")) {
    NBL_RETURN_IF_ERROR(expect(TokenKind::kBlockEnd));
    NBL_RETURN_IF_ERROR(parse_until({"endfor"}, statement->otherwise));
  }
  take();
  return statement;
}

Result<StatementPtr> StatementParser::parse_set() {
  StatementPtr statement = make_statement(StatementKind::kSet);
  take();
  NBL_ASSIGN_OR_RETURN(statement->target, parse_target(true, {}));
  ExprPtr value;
  if (skip_operator("=")) {
    NBL_ASSIGN_OR_RETURN(value, parse_tuple(true, {}, false));
    statement->expressions.push_back(std::move(value));
    return statement;
  }
  statement->kind = StatementKind::kSetBlock;
  if (at_operator("|")) {
    NBL_ASSIGN_OR_RETURN(value, parse_filters(nullptr, false));
  }
  statement->expressions.push_back(std::move(value));
  NBL_RETURN_IF_ERROR(parse_body("endset", statement->body));
  return statement;
}

Result<StatementPtr> StatementParser::parse_with() {
  StatementPtr statement = make_statement(StatementKind::kWith);
  take();
  while (!at(TokenKind::kBlockEnd)) {
    if (!statement->targets.empty()) NBL_RETURN_IF_ERROR(expect_operator(","));
    NBL_ASSIGN_OR_RETURN(ExprPtr target, parse_target(false, {}));
    NBL_RETURN_IF_ERROR(expect_operator("="));
    NBL_ASSIGN_OR_RETURN(ExprPtr value, parse_expression());
    statement->targets.push_back(std::move(target));
    statement->expressions.push_back(std::move(value));
  }
  NBL_RETURN_IF_ERROR(parse_body("endwith", statement->body));
  return statement;
}

// (a, b, c=1)
Status StatementParser::parse_signature(Signature& signature) {
  NBL_RETURN_IF_ERROR(expect_operator("("));
  while (!at_operator(")")) {
    if (!signature.parameters.empty()) NBL_RETURN_IF_ERROR(expect_operator(","));
    NBL_ASSIGN_OR_RETURN(const ExprPtr parameter, parse_name_target());
    signature.parameters.push_back(parameter->name);
    signature.parameter_names.push_back(parameter->text);
    if (skip_operator("=")) {
      NBL_ASSIGN_OR_RETURN(ExprPtr fallback, parse_expression());
      signature.defaults.push_back(std::move(fallback));
    } else if (!signature.defaults.empty()) {
      return fail("non-default argument follows default argument");
    }
  }
  return expect_operator(")");
}

Result<StatementPtr> StatementParser::parse_macro() {
  StatementPtr statement = make_statement(StatementKind::kMacro);
  take();
  statement->signature = std::make_unique<Signature>();
  Signature& signature = *statement->signature;
  NBL_ASSIGN_OR_RETURN(const ExprPtr target, parse_name_target());
  signature.macro_name = target->text;
  signature.name = target->name;
  signatures_.push_back(&signature);
  const int loops = loops_;
  loops_ = 0;
  Status status = parse_signature(signature);
  if (status.ok()) status = parse_body("endmacro", signature.body);
  loops_ = loops;
  signatures_.pop_back();
  NBL_RETURN_IF_ERROR(status);
  return statement;
}

Result<StatementPtr> StatementParser::parse_call() {
  StatementPtr statement = make_statement(StatementKind::kCall);
  take();
  statement->signature = std::make_unique<Signature>();
  Signature& signature = *statement->signature;
  signature.macro_name = "caller";
  if (at_operator("(")) NBL_RETURN_IF_ERROR(parse_signature(signature));
  NBL_ASSIGN_OR_RETURN(ExprPtr call, parse_expression());
  if (call->kind != ExprKind::kCall) return fail("expected call");
  statement->expressions.push_back(std::move(call));
  signatures_.push_back(&signature);
  const int loops = loops_;
  loops_ = 0;
  const Status status = parse_body("endcall", signature.body);
  loops_ = loops;
  signatures_.pop_back();
  NBL_RETURN_IF_ERROR(status);
  return statement;
}

Result<StatementPtr> StatementParser::parse_filter_block() {
  StatementPtr statement = make_statement(StatementKind::kFilterBlock);
  take();
  NBL_ASSIGN_OR_RETURN(ExprPtr filter, parse_filters(nullptr, true));
  statement->expressions.push_back(std::move(filter));
  NBL_RETURN_IF_ERROR(parse_body("endfilter", statement->body));
  return statement;
}

Result<StatementPtr> StatementParser::parse_scope(StatementKind kind, std::string_view end) {
  StatementPtr statement = make_statement(kind);
  take();
  if (kind == StatementKind::kAutoescape) {
    NBL_ASSIGN_OR_RETURN(ExprPtr on, parse_expression());
    statement->expressions.push_back(std::move(on));
  }
  NBL_RETURN_IF_ERROR(parse_body(end, statement->body));
  return statement;
}

Result<StatementPtr> StatementParser::parse_block() {
  StatementPtr statement = make_statement(StatementKind::kBlock);
  take();
  NBL_ASSIGN_OR_RETURN(const std::string_view name, expect_any_name());
  skip_name("scoped");
  skip_name("required");
  NBL_RETURN_IF_ERROR(parse_body("endblock", statement->body));
  skip_name(name);
  return statement;
}

Result<StatementPtr> StatementParser::parse_loop_control(StatementKind kind, const char* word) {
  StatementPtr statement = make_statement(kind);
  if (loops_ == 0) return fail(std::string("'") + word + "' outside loop");
  take();
  return statement;
}

Result<StatementPtr> StatementParser::parse_unavailable() {
  StatementPtr statement = make_statement(StatementKind::kUnavailable);
  statement->text = take().text;
  while (!at(TokenKind::kBlockEnd) && !at(TokenKind::kEnd)) take();
  return statement;
}

}  // namespace

Result<Block> parse_tokens(const std::vector<Token>& tokens, Names& names) { return StatementParser(tokens, names).parse_all(); }

}  // namespace nbl::jinja

// The half of the parser that reads expressions; StatementParser builds on it.
#pragma once

#include "text/jinja/ast.h"
#include "text/jinja/lexer.h"

namespace nbl::jinja {

class ExpressionParser {
 protected:
  ExpressionParser(const std::vector<Token>& tokens, Names& names) : tokens_(tokens), names_(names) {}

  // ---- tokens ----
  const Token& current() const { return tokens_[at_]; }
  const Token& look() const { return tokens_[at_ + 1 < tokens_.size() ? at_ + 1 : at_]; }
  const Token& take() { return at_ + 1 < tokens_.size() ? tokens_[at_++] : tokens_[at_]; }
  bool at(TokenKind kind) const { return current().kind == kind; }
  bool at_operator(std::string_view text) const { return at(TokenKind::kOperator) && current().text == text; }
  bool at_name(std::string_view text) const { return at(TokenKind::kName) && current().text == text; }
  bool skip_operator(std::string_view text);
  bool skip_name(std::string_view text);
  Status expect_operator(std::string_view text);
  Status expect_name(std::string_view text);
  Result<std::string_view> expect_any_name();
  Status expect(TokenKind kind);
  Status fail(const std::string& what) const;
  Status unexpected(const std::string& expected) const;

  // ---- expressions ----
  Result<ExprPtr> parse_expression(bool with_conditional = true);
  // a, b, c; `end_name` is a keyword that ends it ("in", "recursive"). Empty only where `may_be_empty`.
  Result<ExprPtr> parse_tuple(bool with_conditional, std::string_view end_name, bool may_be_empty);
  // What may stand left of `=`, or between for and in.
  Result<ExprPtr> parse_target(bool with_namespace, std::string_view end_name);
  Result<ExprPtr> parse_name_target();
  // `name(arguments) | name | ...`; `inner` may be null. Without a leading `|` when `start_inline`.
  Result<ExprPtr> parse_filters(ExprPtr inner, bool start_inline);

  // Whether an unknown filter here is an error only when it runs: Jinja looks it up early, but not inside an if.
  bool lenient_ = false;
  // The macros that the parser is inside of; each learns which special names its body uses.
  std::vector<Signature*> signatures_;

  // One level of nesting; the parser recurses as deep as the template nests.
  class Nested {
   public:
    explicit Nested(ExpressionParser& parser) : parser_(parser) { ++parser_.nesting_; }
    ~Nested() { --parser_.nesting_; }
    Status check() const;

   private:
    ExpressionParser& parser_;
  };

  Names& names() { return names_; }

 private:
  Result<ExprPtr> parse_conditional();
  Result<ExprPtr> parse_or();
  Result<ExprPtr> parse_and();
  Result<ExprPtr> parse_not();
  Result<ExprPtr> parse_compare();
  Result<ExprPtr> parse_sum();
  Result<ExprPtr> parse_concat();
  Result<ExprPtr> parse_product();
  Result<ExprPtr> parse_power();
  Result<ExprPtr> parse_unary(bool with_filter);
  Result<ExprPtr> parse_primary(bool with_namespace);
  Result<ExprPtr> parse_name(bool with_namespace);
  Result<ExprPtr> parse_list();
  Result<ExprPtr> parse_dict();
  Result<ExprPtr> parse_postfix(ExprPtr inner);
  Result<ExprPtr> parse_filter_chain(ExprPtr inner);
  Result<ExprPtr> parse_attribute(ExprPtr inner);
  Result<ExprPtr> parse_subscript(ExprPtr inner);
  Result<ExprPtr> parse_call(ExprPtr inner);
  Result<ExprPtr> parse_test(ExprPtr inner);
  Result<std::unique_ptr<CallArguments>> parse_arguments();
  Status parse_argument(CallArguments& arguments);
  Result<std::string_view> parse_dotted_name();

  ExprPtr make(ExprKind kind, int line) const;
  // Puts the parts below the node; an error when the tree becomes too deep.
  template <typename... Parts>
  Result<ExprPtr> built(ExprPtr node, Parts... parts);
  Result<ExprPtr> checked(ExprPtr node);
  Result<ExprPtr> binary(ExprKind kind, Operator op, ExprPtr left, ExprPtr right, int line);

  const std::vector<Token>& tokens_;
  Names& names_;
  size_t at_ = 0;
  int nesting_ = 0;
};

}  // namespace nbl::jinja

#include "text/jinja/expression_parser.h"

#include <algorithm>

#include "text/jinja/filters.h"
#include "text/jinja/tests.h"

namespace nbl::jinja {
namespace {

constexpr int kDeepestNesting = 150;
constexpr int kDeepestTree = 400;

std::string describe(const Token& token) {
  switch (token.kind) {
    case TokenKind::kData: return "template data";
    case TokenKind::kVariableBegin: return "begin of print statement";
    case TokenKind::kVariableEnd: return "end of print statement";
    case TokenKind::kBlockBegin: return "begin of statement block";
    case TokenKind::kBlockEnd: return "end of statement block";
    case TokenKind::kEnd: return "end of template";
    case TokenKind::kString: return "a string";
    default: return std::string(token.text.substr(0, 80));
  }
}

const char* name_of(TokenKind kind) {
  switch (kind) {
    case TokenKind::kVariableEnd: return "end of print statement";
    case TokenKind::kBlockEnd: return "end of statement block";
    default: return "name";
  }
}

}  // namespace

// ---- tokens ----

bool ExpressionParser::skip_operator(std::string_view text) {
  if (!at_operator(text)) return false;
  take();
  return true;
}

bool ExpressionParser::skip_name(std::string_view text) {
  if (!at_name(text)) return false;
  take();
  return true;
}

Status ExpressionParser::fail(const std::string& what) const { return at_line(failure("%s", what.c_str()), current().line); }

Status ExpressionParser::unexpected(const std::string& expected) const {
  return fail("expected " + expected + ", got '" + describe(current()) + "'");
}

Status ExpressionParser::expect_operator(std::string_view text) {
  return skip_operator(text) ? Status() : unexpected("'" + std::string(text) + "'");
}

Status ExpressionParser::expect_name(std::string_view text) {
  return skip_name(text) ? Status() : unexpected("'" + std::string(text) + "'");
}

Status ExpressionParser::expect(TokenKind kind) {
  if (!at(kind)) return unexpected(name_of(kind));
  take();
  return Status();
}

Result<std::string_view> ExpressionParser::expect_any_name() {
  if (!at(TokenKind::kName)) return unexpected("a name");
  return take().text;
}

Status ExpressionParser::Nested::check() const {
  if (parser_.nesting_ <= kDeepestNesting) return Status();
  return parser_.fail("the template nests deeper than " + std::to_string(kDeepestNesting) + " levels");
}

// ---- nodes ----

ExprPtr ExpressionParser::make(ExprKind kind, int line) const {
  ExprPtr node = std::make_unique<Expr>();
  node->kind = kind;
  node->line = line;
  return node;
}

Result<ExprPtr> ExpressionParser::checked(ExprPtr node) {
  int deepest = 0;
  for (const ExprPtr& item : node->items) deepest = std::max(deepest, item ? item->depth : 0);
  node->depth = deepest + 1;
  if (node->depth > kDeepestTree) return fail("an expression has more than " + std::to_string(kDeepestTree) + " levels");
  return node;
}

template <typename... Parts>
Result<ExprPtr> ExpressionParser::built(ExprPtr node, Parts... parts) {
  (node->items.push_back(std::move(parts)), ...);
  return checked(std::move(node));
}

Result<ExprPtr> ExpressionParser::binary(ExprKind kind, Operator op, ExprPtr left, ExprPtr right, int line) {
  ExprPtr node = make(kind, line);
  node->operators.push_back(op);
  return built(std::move(node), std::move(left), std::move(right));
}

// ---- from the loosest operator to the tightest ----

Result<ExprPtr> ExpressionParser::parse_expression(bool with_conditional) {
  Nested nested(*this);
  NBL_RETURN_IF_ERROR(nested.check());
  return with_conditional ? parse_conditional() : parse_or();
}

Result<ExprPtr> ExpressionParser::parse_conditional() {
  const int line = current().line;
  const bool lenient = lenient_;
  NBL_ASSIGN_OR_RETURN(ExprPtr left, parse_or());
  while (skip_name("if")) {
    lenient_ = true;
    NBL_ASSIGN_OR_RETURN(ExprPtr condition, parse_or());
    ExprPtr otherwise;
    if (skip_name("else")) {
      Nested nested(*this);
      NBL_RETURN_IF_ERROR(nested.check());
      NBL_ASSIGN_OR_RETURN(otherwise, parse_conditional());
    }
    lenient_ = lenient;
    NBL_ASSIGN_OR_RETURN(left, built(make(ExprKind::kConditional, line), std::move(left), std::move(condition), std::move(otherwise)));
  }
  return left;
}

Result<ExprPtr> ExpressionParser::parse_or() {
  NBL_ASSIGN_OR_RETURN(ExprPtr left, parse_and());
  while (at_name("or")) {
    const int line = take().line;
    NBL_ASSIGN_OR_RETURN(ExprPtr right, parse_and());
    NBL_ASSIGN_OR_RETURN(left, built(make(ExprKind::kOr, line), std::move(left), std::move(right)));
  }
  return left;
}

Result<ExprPtr> ExpressionParser::parse_and() {
  NBL_ASSIGN_OR_RETURN(ExprPtr left, parse_not());
  while (at_name("and")) {
    const int line = take().line;
    NBL_ASSIGN_OR_RETURN(ExprPtr right, parse_not());
    NBL_ASSIGN_OR_RETURN(left, built(make(ExprKind::kAnd, line), std::move(left), std::move(right)));
  }
  return left;
}

Result<ExprPtr> ExpressionParser::parse_not() {
  if (!at_name("not")) return parse_compare();
  Nested nested(*this);
  NBL_RETURN_IF_ERROR(nested.check());
  const int line = take().line;
  NBL_ASSIGN_OR_RETURN(ExprPtr inner, parse_not());
  return built(make(ExprKind::kNot, line), std::move(inner));
}

Result<ExprPtr> ExpressionParser::parse_compare() {
  static const std::pair<std::string_view, Operator> kOperators[] = {
      {"==", Operator::kEqual},   {"!=", Operator::kNotEqual},   {"<", Operator::kLess},
      {"<=", Operator::kLessEqual}, {">", Operator::kGreater}, {">=", Operator::kGreaterEqual}};
  ExprPtr node = make(ExprKind::kCompare, current().line);
  NBL_ASSIGN_OR_RETURN(ExprPtr part, parse_sum());
  node->items.push_back(std::move(part));
  while (true) {
    const size_t before = node->operators.size();
    for (const auto& [text, op] : kOperators) {
      if (!at_operator(text)) continue;
      node->operators.push_back(op);
      break;
    }
    if (node->operators.size() > before) {
      take();
    } else if (skip_name("in")) {
      node->operators.push_back(Operator::kIn);
    } else if (at_name("not") && look().kind == TokenKind::kName && look().text == "in") {
      take();
      take();
      node->operators.push_back(Operator::kNotIn);
    } else {
      break;
    }
    NBL_ASSIGN_OR_RETURN(part, parse_sum());
    node->items.push_back(std::move(part));
  }
  if (node->operators.empty()) return std::move(node->items[0]);
  return checked(std::move(node));
}

Result<ExprPtr> ExpressionParser::parse_sum() {
  NBL_ASSIGN_OR_RETURN(ExprPtr left, parse_concat());
  while (at_operator("+") || at_operator("-")) {
    const Operator op = current().text == "+" ? Operator::kAdd : Operator::kSubtract;
    const int line = take().line;
    NBL_ASSIGN_OR_RETURN(ExprPtr right, parse_concat());
    NBL_ASSIGN_OR_RETURN(left, binary(ExprKind::kBinary, op, std::move(left), std::move(right), line));
  }
  return left;
}

Result<ExprPtr> ExpressionParser::parse_concat() {
  ExprPtr node = make(ExprKind::kConcat, current().line);
  do {
    NBL_ASSIGN_OR_RETURN(ExprPtr part, parse_product());
    node->items.push_back(std::move(part));
  } while (skip_operator("~"));
  if (node->items.size() == 1) return std::move(node->items[0]);
  return checked(std::move(node));
}

Result<ExprPtr> ExpressionParser::parse_product() {
  static const std::pair<std::string_view, Operator> kOperators[] = {
      {"*", Operator::kMultiply}, {"/", Operator::kDivide}, {"//", Operator::kFloorDivide}, {"%", Operator::kModulo}};
  NBL_ASSIGN_OR_RETURN(ExprPtr left, parse_power());
  while (true) {
    const auto found =
        std::find_if(std::begin(kOperators), std::end(kOperators), [&](const auto& entry) { return at_operator(entry.first); });
    if (found == std::end(kOperators)) return left;
    const int line = take().line;
    NBL_ASSIGN_OR_RETURN(ExprPtr right, parse_power());
    NBL_ASSIGN_OR_RETURN(left, binary(ExprKind::kBinary, found->second, std::move(left), std::move(right), line));
  }
}

Result<ExprPtr> ExpressionParser::parse_power() {
  NBL_ASSIGN_OR_RETURN(ExprPtr left, parse_unary(true));
  while (at_operator("**")) {
    const int line = take().line;
    NBL_ASSIGN_OR_RETURN(ExprPtr right, parse_unary(true));
    NBL_ASSIGN_OR_RETURN(left, binary(ExprKind::kBinary, Operator::kPower, std::move(left), std::move(right), line));
  }
  return left;
}

Result<ExprPtr> ExpressionParser::parse_unary(bool with_filter) {
  ExprPtr node;
  if (at_operator("-") || at_operator("+")) {
    Nested nested(*this);
    NBL_RETURN_IF_ERROR(nested.check());
    const Token& sign = take();
    NBL_ASSIGN_OR_RETURN(ExprPtr inner, parse_unary(false));
    NBL_ASSIGN_OR_RETURN(node, built(make(sign.text == "-" ? ExprKind::kNegate : ExprKind::kPlus, sign.line), std::move(inner)));
  } else {
    NBL_ASSIGN_OR_RETURN(node, parse_primary(false));
  }
  NBL_ASSIGN_OR_RETURN(node, parse_postfix(std::move(node)));
  return with_filter ? parse_filter_chain(std::move(node)) : std::move(node);
}

// ---- the smallest parts ----

Result<ExprPtr> ExpressionParser::parse_primary(bool with_namespace) {
  const Token& token = current();
  ExprPtr node = make(ExprKind::kConstant, token.line);
  switch (token.kind) {
    case TokenKind::kName: return parse_name(with_namespace);
    case TokenKind::kInteger:
    case TokenKind::kFloat: node->constant = take().number; return node;
    case TokenKind::kString: {
      node->constant = Value::borrowed(take().text);
      if (!at(TokenKind::kString)) return node;
      // Strings side by side are one.
      node->kind = ExprKind::kConcat;
      ExprPtr part = make(ExprKind::kConstant, token.line);
      part->constant = node->constant;
      node->items.push_back(std::move(part));
      while (at(TokenKind::kString)) {
        part = make(ExprKind::kConstant, current().line);
        part->constant = Value::borrowed(take().text);
        node->items.push_back(std::move(part));
      }
      return checked(std::move(node));
    }
    default: break;
  }
  if (skip_operator("(")) {
    NBL_ASSIGN_OR_RETURN(ExprPtr inner, parse_tuple(true, "", true));
    NBL_RETURN_IF_ERROR(expect_operator(")"));
    return inner;
  }
  if (at_operator("[")) return parse_list();
  if (at_operator("{")) return parse_dict();
  return fail("unexpected '" + describe(token) + "'");
}

Result<ExprPtr> ExpressionParser::parse_name(bool with_namespace) {
  const Token& token = take();
  ExprPtr node = make(ExprKind::kConstant, token.line);
  if (token.text == "true" || token.text == "True") {
    node->constant = Value::boolean(true);
  } else if (token.text == "false" || token.text == "False") {
    node->constant = Value::boolean(false);
  } else if (token.text == "none" || token.text == "None") {
    node->constant = Value::none();
  } else {
    node->kind = ExprKind::kName;
    node->name = names_.number(token.text);
    node->text = token.text;
    for (Signature* signature : signatures_) {
      signature->uses_varargs |= node->name == Names::kVarargs;
      signature->uses_kwargs |= node->name == Names::kKwargs;
      signature->uses_caller |= node->name == Names::kCaller;
    }
    if (with_namespace && skip_operator(".")) {
      node->kind = ExprKind::kNamespaceRef;
      NBL_ASSIGN_OR_RETURN(node->text, expect_any_name());
    }
  }
  return node;
}

Result<ExprPtr> ExpressionParser::parse_tuple(bool with_conditional, std::string_view end_name, bool may_be_empty) {
  Nested nested(*this);
  NBL_RETURN_IF_ERROR(nested.check());
  ExprPtr tuple = make(ExprKind::kTuple, current().line);
  bool comma = false;
  while (true) {
    const bool ends = at(TokenKind::kVariableEnd) || at(TokenKind::kBlockEnd) || at_operator(")") ||
                      (!end_name.empty() && at_name(end_name));
    if (ends) break;
    NBL_ASSIGN_OR_RETURN(ExprPtr item, parse_expression(with_conditional));
    tuple->items.push_back(std::move(item));
    if (!skip_operator(",")) break;
    comma = true;
  }
  if (!comma && tuple->items.size() == 1) return std::move(tuple->items[0]);
  if (!comma && !may_be_empty) return fail("Expected an expression, got '" + describe(current()) + "'");
  return checked(std::move(tuple));
}

Result<ExprPtr> ExpressionParser::parse_list() {
  ExprPtr list = make(ExprKind::kList, current().line);
  NBL_RETURN_IF_ERROR(expect_operator("["));
  while (!at_operator("]")) {
    if (!list->items.empty()) NBL_RETURN_IF_ERROR(expect_operator(","));
    if (at_operator("]")) break;
    NBL_ASSIGN_OR_RETURN(ExprPtr item, parse_expression());
    list->items.push_back(std::move(item));
  }
  NBL_RETURN_IF_ERROR(expect_operator("]"));
  return checked(std::move(list));
}

Result<ExprPtr> ExpressionParser::parse_dict() {
  ExprPtr dict = make(ExprKind::kDict, current().line);
  NBL_RETURN_IF_ERROR(expect_operator("{"));
  while (!at_operator("}")) {
    if (!dict->items.empty()) NBL_RETURN_IF_ERROR(expect_operator(","));
    if (at_operator("}")) break;
    NBL_ASSIGN_OR_RETURN(ExprPtr key, parse_expression());
    NBL_RETURN_IF_ERROR(expect_operator(":"));
    NBL_ASSIGN_OR_RETURN(ExprPtr value, parse_expression());
    dict->items.push_back(std::move(key));
    dict->items.push_back(std::move(value));
  }
  NBL_RETURN_IF_ERROR(expect_operator("}"));
  return checked(std::move(dict));
}

// ---- what follows a part ----

Result<ExprPtr> ExpressionParser::parse_postfix(ExprPtr node) {
  while (true) {
    if (at_operator(".")) {
      NBL_ASSIGN_OR_RETURN(node, parse_attribute(std::move(node)));
    } else if (at_operator("[")) {
      NBL_ASSIGN_OR_RETURN(node, parse_subscript(std::move(node)));
    } else if (at_operator("(")) {
      NBL_ASSIGN_OR_RETURN(node, parse_call(std::move(node)));
    } else {
      return node;
    }
  }
}

Result<ExprPtr> ExpressionParser::parse_filter_chain(ExprPtr node) {
  while (true) {
    if (at_operator("|")) {
      NBL_ASSIGN_OR_RETURN(node, parse_filters(std::move(node), false));
    } else if (at_name("is")) {
      NBL_ASSIGN_OR_RETURN(node, parse_test(std::move(node)));
    } else if (at_operator("(")) {
      NBL_ASSIGN_OR_RETURN(node, parse_call(std::move(node)));
    } else {
      return node;
    }
  }
}

Result<ExprPtr> ExpressionParser::parse_attribute(ExprPtr inner) {
  const int line = take().line;
  if (at(TokenKind::kName)) {
    ExprPtr node = make(ExprKind::kAttribute, line);
    node->text = take().text;
    return built(std::move(node), std::move(inner));
  }
  if (!at(TokenKind::kInteger)) return fail("expected name or number");
  ExprPtr index = make(ExprKind::kConstant, line);
  index->constant = take().number;
  return built(make(ExprKind::kItem, line), std::move(inner), std::move(index));
}

Result<ExprPtr> ExpressionParser::parse_subscript(ExprPtr inner) {
  const int line = take().line;
  ExprPtr bounds[3];
  int colons = 0;
  ExprPtr tuple = make(ExprKind::kTuple, line);
  while (!at_operator("]")) {
    if (skip_operator(":")) {
      if (++colons > 2) return unexpected("']'");
    } else if (colons == 0 && bounds[0] && skip_operator(",")) {
      tuple->items.push_back(std::move(bounds[0]));
    } else if (bounds[colons]) {
      return unexpected("']'");
    } else {
      NBL_ASSIGN_OR_RETURN(bounds[colons], parse_expression());
    }
  }
  take();
  if (!tuple->items.empty()) {
    if (colons) return fail("a slice cannot be one of several subscripts");
    if (bounds[0]) tuple->items.push_back(std::move(bounds[0]));
    NBL_ASSIGN_OR_RETURN(bounds[0], checked(std::move(tuple)));
  }
  if (colons)
    return built(make(ExprKind::kSlice, line), std::move(inner), std::move(bounds[0]), std::move(bounds[1]), std::move(bounds[2]));
  if (!bounds[0]) return fail("expected a subscript");
  return built(make(ExprKind::kItem, line), std::move(inner), std::move(bounds[0]));
}

Result<ExprPtr> ExpressionParser::parse_call(ExprPtr inner) {
  ExprPtr node = make(ExprKind::kCall, current().line);
  NBL_ASSIGN_OR_RETURN(node->arguments, parse_arguments());
  return built(std::move(node), std::move(inner));
}

Result<std::unique_ptr<CallArguments>> ExpressionParser::parse_arguments() {
  auto arguments = std::make_unique<CallArguments>();
  NBL_RETURN_IF_ERROR(expect_operator("("));
  for (bool first = true; !at_operator(")"); first = false) {
    if (!first) NBL_RETURN_IF_ERROR(expect_operator(","));
    if (at_operator(")")) break;
    NBL_RETURN_IF_ERROR(parse_argument(*arguments));
  }
  NBL_RETURN_IF_ERROR(expect_operator(")"));
  return arguments;
}

Status ExpressionParser::parse_argument(CallArguments& arguments) {
  const bool named = at(TokenKind::kName) && look().kind == TokenKind::kOperator && look().text == "=";
  const bool spread = at_operator("*"), spread_named = at_operator("**");
  const bool in_order = !arguments.spread_named && (named || spread_named || !arguments.spread) &&
                        (named || spread || spread_named || arguments.named.empty());
  if (!in_order) return fail("invalid syntax for function call expression");
  std::string_view name;
  if (named) {
    name = take().text;
    for (const auto& other : arguments.named) {
      if (other.first == name) return fail("keyword argument repeated: " + std::string(name));
    }
  }
  if (named || spread || spread_named) take();
  NBL_ASSIGN_OR_RETURN(ExprPtr value, parse_expression());
  if (named) arguments.named.emplace_back(name, std::move(value));
  else if (spread) arguments.spread = std::move(value);
  else if (spread_named) arguments.spread_named = std::move(value);
  else arguments.positional.push_back(std::move(value));
  return Status();
}

Result<std::string_view> ExpressionParser::parse_dotted_name() {
  NBL_ASSIGN_OR_RETURN(std::string_view name, expect_any_name());
  while (skip_operator(".")) {
    NBL_ASSIGN_OR_RETURN(const std::string_view part, expect_any_name());
    // No filter or test has a dot in its name: what counts is that it is not found, by its last part at the latest.
    name = std::string_view(name.data(), static_cast<size_t>(part.data() + part.size() - name.data()));
  }
  return name;
}

Result<ExprPtr> ExpressionParser::parse_filters(ExprPtr inner, bool start_inline) {
  while (start_inline || at_operator("|")) {
    if (!start_inline) take();
    start_inline = false;
    ExprPtr node = make(ExprKind::kFilter, current().line);
    NBL_ASSIGN_OR_RETURN(node->text, parse_dotted_name());
    if (!lenient_ && !find_filter(node->text)) return fail("No filter named '" + std::string(node->text) + "'.");
    if (at_operator("(")) {
      NBL_ASSIGN_OR_RETURN(node->arguments, parse_arguments());
    }
    NBL_ASSIGN_OR_RETURN(inner, built(std::move(node), std::move(inner)));
  }
  return inner;
}

Result<ExprPtr> ExpressionParser::parse_test(ExprPtr inner) {
  const int line = take().line;
  const bool negated = skip_name("not");
  ExprPtr node = make(ExprKind::kTest, line);
  NBL_ASSIGN_OR_RETURN(node->text, parse_dotted_name());
  if (!lenient_ && !is_test(node->text)) return fail("No test named '" + std::string(node->text) + "'.");
  const TokenKind next = current().kind;
  const bool operand = (next == TokenKind::kName && !at_name("else") && !at_name("or") && !at_name("and")) ||
                       next == TokenKind::kString || next == TokenKind::kInteger || next == TokenKind::kFloat ||
                       at_operator("[") || at_operator("{");
  if (at_operator("(")) {
    NBL_ASSIGN_OR_RETURN(node->arguments, parse_arguments());
  } else if (operand) {
    if (at_name("is")) return fail("You cannot chain multiple tests with is");
    NBL_ASSIGN_OR_RETURN(ExprPtr argument, parse_primary(false));
    NBL_ASSIGN_OR_RETURN(argument, parse_postfix(std::move(argument)));
    node->arguments = std::make_unique<CallArguments>();
    node->arguments->positional.push_back(std::move(argument));
  }
  NBL_ASSIGN_OR_RETURN(node, built(std::move(node), std::move(inner)));
  return negated ? built(make(ExprKind::kNot, line), std::move(node)) : std::move(node);
}

// ---- targets ----

Result<ExprPtr> ExpressionParser::parse_name_target() {
  ExprPtr node = make(ExprKind::kName, current().line);
  NBL_ASSIGN_OR_RETURN(node->text, expect_any_name());
  for (const char* constant : {"true", "True", "false", "False", "none", "None"}) {
    if (node->text == constant) return fail("can't assign to '" + std::string(node->text) + "'");
  }
  node->name = names_.number(node->text);
  return node;
}

namespace {

bool assignable(const Expr& target) {
  if (target.kind == ExprKind::kName || target.kind == ExprKind::kNamespaceRef) return true;
  if (target.kind != ExprKind::kTuple) return false;
  return std::all_of(target.items.begin(), target.items.end(), [](const ExprPtr& item) { return assignable(*item); });
}

}  // namespace

Result<ExprPtr> ExpressionParser::parse_target(bool with_namespace, std::string_view end_name) {
  ExprPtr tuple = make(ExprKind::kTuple, current().line);
  bool comma = false;
  while (!at(TokenKind::kVariableEnd) && !at(TokenKind::kBlockEnd) && !at_operator(")") && !(comma && at_operator("=")) &&
         (end_name.empty() || !at_name(end_name))) {
    NBL_ASSIGN_OR_RETURN(ExprPtr item, parse_primary(with_namespace));
    tuple->items.push_back(std::move(item));
    if (!skip_operator(",")) break;
    comma = true;
  }
  if (tuple->items.empty()) return fail("Expected an expression, got '" + describe(current()) + "'");
  ExprPtr target = std::move(comma ? tuple : tuple->items[0]);
  if (!assignable(*target)) return fail("this can't be assigned to");
  return target;
}

}  // namespace nbl::jinja

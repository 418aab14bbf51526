#include "text/jinja/interpreter.h"

#include <algorithm>

#include "text/jinja/access.h"
#include "text/jinja/filters.h"
#include "text/jinja/globals.h"
#include "text/jinja/lexer.h"
#include "text/jinja/tests.h"
#include "text/jinja/text_of.h"

namespace nbl::jinja {
namespace {

// Adds the line where the failure happened, unless one nearer to it is there already.
Status located(const Status& status, int line) {
  return status.detail().find("\"line\"") == std::string::npos ? at_line(status, line) : status;
}

}  // namespace

const Value* Scope::find_here(int name) const {
  for (const auto& [known, value] : variables) {
    if (known == name) return &value;
  }
  return nullptr;
}

void Scope::set(int name, const Value& value) {
  for (auto& [known, held] : variables) {
    if (known == name) {
      held = value;
      return;
    }
  }
  variables.emplace_back(name, value);
}

std::vector<Value> Macro::argument_names() const {
  std::vector<Value> names;
  for (const std::string_view parameter : signature->parameter_names) names.push_back(Value::borrowed(parameter));
  return names;
}

Status Interpreter::render(const Block& block, const Dict& variables, std::string& out) {
  variables_ = &variables;
  root_ = new_scope(nullptr);
  NBL_ASSIGN_OR_RETURN(const Flow flow, run(block, *root_, out));
  (void)flow;  // the parser lets break and continue stand in loops only
  return rt_.check();
}

Scope* Interpreter::new_scope(Scope* parent) {
  Scope* scope = rt_.make<Scope>();
  scope->parent = parent;
  return scope;
}

// ---- statements

Result<Interpreter::Flow> Interpreter::run(const Block& block, Scope& scope, std::string& out) {
  for (const auto& statement : block) {
    rt_.work(1);
    NBL_RETURN_IF_ERROR(rt_.check());
    Result<Flow> flow = run(*statement, scope, out);
    if (!flow.ok()) return located(flow.status(), statement->line);
    if (*flow != Flow::kOn) return flow;
  }
  return Flow::kOn;
}

Result<Interpreter::Flow> Interpreter::run_in_own_scope(const Block& block, Scope& scope, std::string& out) {
  Deeper deeper(rt_);
  NBL_RETURN_IF_ERROR(deeper.check());
  return run(block, *new_scope(&scope), out);
}

Result<Interpreter::Flow> Interpreter::run(const Statement& statement, Scope& scope, std::string& out) {
  switch (statement.kind) {
    case StatementKind::kText:
      NBL_RETURN_IF_ERROR(rt_.afford(statement.text.size()));
      rt_.took_bytes(statement.text.size());
      out += statement.text;
      return Flow::kOn;
    case StatementKind::kOutput: {
      NBL_ASSIGN_OR_RETURN(const Value value, evaluate(*statement.expressions[0], scope));
      NBL_RETURN_IF_ERROR(output(value, out));
      return Flow::kOn;
    }
    case StatementKind::kIf: return run_if(statement, scope, out);
    case StatementKind::kFor: return run_for(statement, scope, out);
    case StatementKind::kSet: {
      NBL_ASSIGN_OR_RETURN(const Value value, evaluate(*statement.expressions[0], scope));
      NBL_RETURN_IF_ERROR(assign(*statement.target, value, scope));
      return Flow::kOn;
    }
    case StatementKind::kSetBlock: return run_set_block(statement, scope);
    case StatementKind::kWith: return run_with(statement, scope, out);
    case StatementKind::kMacro: {
      Macro* macro = rt_.make<Macro>();
      macro->name = statement.signature->macro_name;
      macro->signature = statement.signature.get();
      macro->scope = &scope;
      scope.set(statement.signature->name, Value::object(Kind::kMacro, macro));
      return Flow::kOn;
    }
    case StatementKind::kCall: NBL_RETURN_IF_ERROR(run_call(statement, scope, out)); return Flow::kOn;
    case StatementKind::kFilterBlock: return run_filter_block(statement, scope, out);
    case StatementKind::kScope: return run_in_own_scope(statement.body, scope, out);
    case StatementKind::kAutoescape: return run_autoescape(statement, scope, out);
    case StatementKind::kBlock: return run_in_own_scope(statement.body, *root_, out);
    case StatementKind::kBreak: return Flow::kBreak;
    case StatementKind::kContinue: return Flow::kContinue;
    case StatementKind::kUnavailable: break;
  }
  return failure("{%% %.*s %%} needs other templates, and there are none here", static_cast<int>(statement.text.size()),
                 statement.text.data());
}

Status Interpreter::output(const Value& value, std::string& out) {
  const size_t before = out.size();
  if (rt_.autoescape && !(value.is_string() && value.markup())) {
    NBL_ASSIGN_OR_RETURN(const Value safe, escaped(rt_, value));
    out += safe.text();
  } else {
    NBL_RETURN_IF_ERROR(append_str(rt_, out, value));
  }
  rt_.took_bytes(out.size() - before);
  rt_.work_on_bytes(out.size() - before);
  return rt_.check();
}

Result<Interpreter::Flow> Interpreter::run_if(const Statement& statement, Scope& scope, std::string& out) {
  for (const Branch& branch : statement.branches) {
    if (branch.condition) {
      NBL_ASSIGN_OR_RETURN(const Value condition, evaluate(*branch.condition, scope));
      if (!truth(condition)) continue;
    }
    Deeper deeper(rt_);
    NBL_RETURN_IF_ERROR(deeper.check());
    return run(branch.body, scope, out);  // an if has no scope of its own
  }
  return Flow::kOn;
}

Result<Interpreter::Flow> Interpreter::run_with(const Statement& statement, Scope& scope, std::string& out) {
  Deeper deeper(rt_);
  NBL_RETURN_IF_ERROR(deeper.check());
  Scope* inner = new_scope(&scope);
  for (size_t i = 0; i < statement.targets.size(); ++i) {
    // The values see what is outside, not each other.
    NBL_ASSIGN_OR_RETURN(const Value value, evaluate(*statement.expressions[i], scope));
    NBL_RETURN_IF_ERROR(assign(*statement.targets[i], value, *inner));
  }
  return run(statement.body, *inner, out);
}

// A `break` or `continue` within leaves the block for the loop around: nothing is set then.
Result<Interpreter::Flow> Interpreter::run_set_block(const Statement& statement, Scope& scope) {
  std::string text;
  NBL_ASSIGN_OR_RETURN(const Flow flow, run_in_own_scope(statement.body, scope, text));
  if (flow != Flow::kOn) return flow;
  Value value = captured(std::move(text));
  if (statement.expressions[0]) {
    NBL_ASSIGN_OR_RETURN(value, evaluate_filter(*statement.expressions[0], scope, &value));
  }
  NBL_RETURN_IF_ERROR(assign(*statement.target, value, scope));
  return Flow::kOn;
}

Status Interpreter::run_call(const Statement& statement, Scope& scope, std::string& out) {
  Macro* caller = rt_.make<Macro>();
  caller->name = statement.signature->macro_name;
  caller->signature = statement.signature.get();
  caller->scope = &scope;
  const Value value = Value::object(Kind::kMacro, caller);
  NBL_ASSIGN_OR_RETURN(const Value text, evaluate_call(*statement.expressions[0], scope, &value));
  return output(text, out);
}

Result<Interpreter::Flow> Interpreter::run_filter_block(const Statement& statement, Scope& scope, std::string& out) {
  std::string text;
  NBL_ASSIGN_OR_RETURN(const Flow flow, run_in_own_scope(statement.body, scope, text));
  if (flow != Flow::kOn) return flow;
  const Value value = captured(std::move(text));
  NBL_ASSIGN_OR_RETURN(const Value filtered, evaluate_filter(*statement.expressions[0], scope, &value));
  NBL_RETURN_IF_ERROR(output(filtered, out));
  return Flow::kOn;
}

Result<Interpreter::Flow> Interpreter::run_autoescape(const Statement& statement, Scope& scope, std::string& out) {
  NBL_ASSIGN_OR_RETURN(const Value on, evaluate(*statement.expressions[0], scope));
  const bool before = rt_.autoescape;
  rt_.autoescape = truth(on);
  Result<Flow> flow = run_in_own_scope(statement.body, scope, out);
  rt_.autoescape = before;
  return flow;
}

// ---- loops

Result<Interpreter::Flow> Interpreter::run_for(const Statement& statement, Scope& scope, std::string& out) {
  NBL_ASSIGN_OR_RETURN(const Value iterable, evaluate(*statement.expressions[0], scope));
  return run_loop(statement, iterable, 0, scope, out);
}

// What the loop runs over: the items for which its condition holds.
Result<std::vector<Value>> Interpreter::loop_items(const Statement& statement, const Value& iterable, Scope& scope) {
  NBL_ASSIGN_OR_RETURN(std::vector<Value> items, items_of(rt_, iterable));
  if (!statement.expressions[1]) return items;
  std::vector<Value> kept;
  for (const Value& item : items) {
    Scope* inner = new_scope(&scope);
    NBL_RETURN_IF_ERROR(assign(*statement.target, item, *inner));
    NBL_ASSIGN_OR_RETURN(const Value condition, evaluate(*statement.expressions[1], *inner));
    if (truth(condition)) kept.push_back(item);
  }
  return kept;
}

// The else part runs unless a turn came to the end of the body: also where `break` or `continue` cut every turn short, as in
// Jinja. It stands outside of its own loop, so a `break` in it is for the loop around.
Result<Interpreter::Flow> Interpreter::run_loop(const Statement& statement, const Value& iterable, int64_t depth0, Scope& scope,
                                                std::string& out) {
  Deeper deeper(rt_);
  NBL_RETURN_IF_ERROR(deeper.check());
  Loop* loop = rt_.make<Loop>();
  NBL_ASSIGN_OR_RETURN(loop->items, loop_items(statement, iterable, scope));
  rt_.took_bytes(loop->items.capacity() * sizeof(Value));
  loop->depth0 = depth0;
  loop->statement = statement.recursive ? &statement : nullptr;
  loop->scope = &scope;
  bool completed = false;
  for (; loop->index0 < static_cast<int64_t>(loop->items.size()); ++loop->index0) {
    Scope* inner = new_scope(&scope);  // what one turn sets, the next does not see
    inner->set(Names::kLoop, Value::object(Kind::kLoop, loop));
    NBL_RETURN_IF_ERROR(assign(*statement.target, loop->items[static_cast<size_t>(loop->index0)], *inner));
    NBL_ASSIGN_OR_RETURN(const Flow flow, run(statement.body, *inner, out));
    if (flow == Flow::kBreak) break;
    completed = completed || flow == Flow::kOn;
  }
  if (completed) return Flow::kOn;
  return run(statement.otherwise, *new_scope(&scope), out);
}

// ---- expressions

Result<Value> Interpreter::evaluate(const Expr& expr, Scope& scope) {
  rt_.work(1);
  Result<Value> value = evaluate_here(expr, scope);
  if (!value.ok()) return located(value.status(), expr.line);
  if (rt_.spent()) return located(rt_.exhausted(), expr.line);
  return value;
}

Result<Value> Interpreter::evaluate_here(const Expr& expr, Scope& scope) {
  const auto operand = [&](size_t i) { return evaluate(*expr.items[i], scope); };
  switch (expr.kind) {
    case ExprKind::kConstant: return expr.constant;
    case ExprKind::kName: return look_up(expr.name, scope);
    case ExprKind::kNamespaceRef: return failure("a namespace attribute can only be set");
    case ExprKind::kList:
    case ExprKind::kTuple: return evaluate_items(expr, scope);
    case ExprKind::kDict: return evaluate_dict(expr, scope);
    case ExprKind::kAttribute: {
      NBL_ASSIGN_OR_RETURN(const Value object, operand(0));
      return get_attribute(rt_, object, expr.text);
    }
    case ExprKind::kItem: {
      NBL_ASSIGN_OR_RETURN(const Value object, operand(0));
      NBL_ASSIGN_OR_RETURN(const Value key, operand(1));
      return get_item(rt_, object, key);
    }
    case ExprKind::kSlice: return evaluate_slice(expr, scope);
    case ExprKind::kCall: return evaluate_call(expr, scope, nullptr);
    case ExprKind::kFilter: return evaluate_filter(expr, scope, nullptr);
    case ExprKind::kTest: return evaluate_test(expr, scope);
    case ExprKind::kNot: {
      NBL_ASSIGN_OR_RETURN(const Value value, operand(0));
      return Value::boolean(!truth(value));
    }
    case ExprKind::kNegate: {
      NBL_ASSIGN_OR_RETURN(const Value value, operand(0));
      return negated(value);
    }
    case ExprKind::kPlus: {
      NBL_ASSIGN_OR_RETURN(const Value value, operand(0));
      return plus_signed(value);
    }
    case ExprKind::kBinary: {
      NBL_ASSIGN_OR_RETURN(const Value left, operand(0));
      NBL_ASSIGN_OR_RETURN(const Value right, operand(1));
      return arithmetic(rt_, expr.operators[0], left, right);
    }
    case ExprKind::kConcat: return evaluate_concat(expr, scope);
    case ExprKind::kCompare: return evaluate_compare(expr, scope);
    case ExprKind::kAnd:
    case ExprKind::kOr: {
      NBL_ASSIGN_OR_RETURN(const Value left, operand(0));
      if (truth(left) == (expr.kind == ExprKind::kOr)) return left;
      return operand(1);
    }
    case ExprKind::kConditional: return evaluate_conditional(expr, scope);
  }
  return failure("an expression of an unknown kind");
}

Value Interpreter::look_up(int name, const Scope& scope) {
  for (const Scope* s = &scope; s; s = s->parent) {
    if (const Value* found = s->find_here(name)) return *found;
  }
  const std::string_view text = names_.all()[static_cast<size_t>(name)];
  if (const Value* found = variables_->find(text)) return *found;
  if (const NativeEntry* entry = find_global(text)) return Value::object(Kind::kFunction, entry);
  // The template itself: its blocks would be attributes, but nothing of it can be reached from a chat template.
  if (text == "self") return Value::object(Kind::kNamespace, rt_.make<Namespace>());
  return Value::undefined(Absence::kName, text);
}

Result<Value> Interpreter::evaluate_items(const Expr& expr, Scope& scope) {
  std::vector<Value> items;
  items.reserve(expr.items.size());
  for (const ExprPtr& item : expr.items) {
    NBL_ASSIGN_OR_RETURN(Value value, evaluate(*item, scope));
    items.push_back(value);
  }
  return expr.kind == ExprKind::kList ? rt_.list(std::move(items)) : rt_.tuple(std::move(items));
}

Result<Value> Interpreter::evaluate_dict(const Expr& expr, Scope& scope) {
  Dict* made = nullptr;
  const Value dict = rt_.dict(&made);
  for (size_t i = 0; i + 1 < expr.items.size(); i += 2) {
    NBL_ASSIGN_OR_RETURN(const Value key, evaluate(*expr.items[i], scope));
    NBL_ASSIGN_OR_RETURN(const Value value, evaluate(*expr.items[i + 1], scope));
    if (!hashable(key)) return failure("unhashable type: '%s'", type_name(key));
    made->set(key, value);
    rt_.took_bytes(2 * sizeof(Value));
  }
  return dict;
}

Result<Value> Interpreter::evaluate_slice(const Expr& expr, Scope& scope) {
  NBL_ASSIGN_OR_RETURN(const Value object, evaluate(*expr.items[0], scope));
  Value bounds[3] = {Value::none(), Value::none(), Value::none()};
  for (size_t i = 0; i < 3; ++i) {
    if (expr.items[i + 1]) {
      NBL_ASSIGN_OR_RETURN(bounds[i], evaluate(*expr.items[i + 1], scope));
    }
  }
  return get_slice(rt_, object, bounds[0], bounds[1], bounds[2]);
}

Result<Value> Interpreter::evaluate_concat(const Expr& expr, Scope& scope) {
  std::string text;
  for (const ExprPtr& item : expr.items) {
    NBL_ASSIGN_OR_RETURN(const Value value, evaluate(*item, scope));
    NBL_RETURN_IF_ERROR(append_str(rt_, text, value));
    NBL_RETURN_IF_ERROR(rt_.afford(text.size()));
  }
  return rt_.text(std::move(text));
}

Result<Value> Interpreter::evaluate_compare(const Expr& expr, Scope& scope) {
  NBL_ASSIGN_OR_RETURN(Value left, evaluate(*expr.items[0], scope));
  for (size_t i = 0; i < expr.operators.size(); ++i) {
    NBL_ASSIGN_OR_RETURN(const Value right, evaluate(*expr.items[i + 1], scope));
    NBL_ASSIGN_OR_RETURN(const bool holds, compare(rt_, expr.operators[i], left, right));
    if (!holds) return Value::boolean(false);
    left = right;
  }
  return Value::boolean(true);
}

Result<Value> Interpreter::evaluate_conditional(const Expr& expr, Scope& scope) {
  NBL_ASSIGN_OR_RETURN(const Value condition, evaluate(*expr.items[1], scope));
  if (truth(condition)) return evaluate(*expr.items[0], scope);
  if (expr.items[2]) return evaluate(*expr.items[2], scope);
  return Value::undefined(Absence::kSentence, "the inline if-expression evaluated to false and no else section was defined.");
}

// ---- calls

Result<Arguments> Interpreter::arguments_of(const CallArguments* given, Scope& scope) {
  Arguments arguments;
  if (!given) return arguments;
  for (const ExprPtr& argument : given->positional) {
    NBL_ASSIGN_OR_RETURN(Value value, evaluate(*argument, scope));
    arguments.positional.push_back(value);
  }
  if (given->spread) {
    NBL_ASSIGN_OR_RETURN(const Value spread, evaluate(*given->spread, scope));
    NBL_ASSIGN_OR_RETURN(const std::vector<Value> items, items_of(rt_, spread));
    arguments.positional.insert(arguments.positional.end(), items.begin(), items.end());
  }
  for (const auto& [name, argument] : given->named) {
    NBL_ASSIGN_OR_RETURN(const Value value, evaluate(*argument, scope));
    if (arguments.find(name)) return failure("got multiple values for keyword argument '%.*s'", static_cast<int>(name.size()), name.data());
    arguments.named.emplace_back(name, value);
  }
  if (given->spread_named) {
    NBL_ASSIGN_OR_RETURN(const Value spread, evaluate(*given->spread_named, scope));
    if (!spread.is(Kind::kDict)) return failure("argument after ** must be a mapping, not %s", type_name(spread));
    for (const auto& [key, value] : spread.dict().entries) {
      if (!key.is_string()) return failure("keywords must be strings");
      if (arguments.find(key.text())) return failure("got multiple values for keyword argument '%s'", std::string(key.text()).c_str());
      arguments.named.emplace_back(key.text(), value);
    }
  }
  return arguments;
}

Result<Value> Interpreter::evaluate_call(const Expr& expr, Scope& scope, const Value* caller) {
  NBL_ASSIGN_OR_RETURN(const Value callee, evaluate(*expr.items[0], scope));
  NBL_ASSIGN_OR_RETURN(Arguments arguments, arguments_of(expr.arguments.get(), scope));
  if (caller) arguments.named.emplace_back("caller", *caller);
  return call(callee, arguments);
}

Result<Value> Interpreter::evaluate_filter(const Expr& expr, Scope& scope, const Value* block_text) {
  // The innermost filter of a filter block takes the block's text.
  Value self;
  if (!expr.items[0]) {
    self = *block_text;
  } else if (expr.items[0]->kind == ExprKind::kFilter && block_text) {
    NBL_ASSIGN_OR_RETURN(self, evaluate_filter(*expr.items[0], scope, block_text));
  } else {
    NBL_ASSIGN_OR_RETURN(self, evaluate(*expr.items[0], scope));
  }
  NBL_ASSIGN_OR_RETURN(const Arguments arguments, arguments_of(expr.arguments.get(), scope));
  return call_filter(rt_, expr.text, self, arguments);
}

Result<Value> Interpreter::evaluate_test(const Expr& expr, Scope& scope) {
  NBL_ASSIGN_OR_RETURN(const Value self, evaluate(*expr.items[0], scope));
  NBL_ASSIGN_OR_RETURN(const Arguments arguments, arguments_of(expr.arguments.get(), scope));
  NBL_ASSIGN_OR_RETURN(const bool holds, call_test(rt_, expr.text, self, arguments));
  return Value::boolean(holds);
}

Result<Value> Interpreter::call(const Value& callee, const Arguments& arguments) {
  Deeper deeper(rt_);
  NBL_RETURN_IF_ERROR(deeper.check());
  switch (callee.kind()) {
    case Kind::kFunction: return callee.function().call(rt_, Value(), arguments);
    case Kind::kMethod: return callee.method().entry->call(rt_, callee.method().self, arguments);
    case Kind::kMacro: return call_macro(callee.macro(), arguments);
    case Kind::kJoiner: return call_joiner(callee.joiner());
    case Kind::kLoop: return call_loop(callee.loop(), arguments);
    case Kind::kUndefined: return undefined_failure(callee);
    default: return failure("'%s' object is not callable", type_name(callee));
  }
}

Result<Value> Interpreter::call_loop(const Loop& loop, const Arguments& arguments) {
  if (!loop.statement) return failure("The loop must have the 'recursive' marker to be called recursively.");
  if (arguments.positional.size() != 1 || !arguments.named.empty()) return failure("loop() takes the items of the inner loop");
  std::string text;
  NBL_RETURN_IF_ERROR(run_loop(*loop.statement, arguments.positional[0], loop.depth0 + 1, *loop.scope, text).status());
  return captured(std::move(text));
}

Result<Value> Interpreter::call_macro(const Macro& macro, const Arguments& arguments) {
  Scope* scope = new_scope(macro.scope);
  NBL_RETURN_IF_ERROR(bind_macro(macro, arguments, *scope));
  std::string text;
  NBL_ASSIGN_OR_RETURN(const Flow flow, run(macro.signature->body, *scope, text));
  (void)flow;
  return captured(std::move(text));
}

// Puts the arguments in the places of the parameters; what is left over goes to varargs and kwargs if the macro's body
// names them.
Status Interpreter::bind_macro(const Macro& macro, const Arguments& arguments, Scope& scope) {
  const Signature& signature = *macro.signature;
  const size_t count = signature.parameters.size();
  const size_t given = std::min(count, arguments.positional.size());
  const std::string name(macro.name);
  std::vector<bool> used(arguments.named.size(), false);
  for (size_t i = 0; i < count; ++i) {
    const Value* named = nullptr;
    for (size_t j = 0; j < arguments.named.size(); ++j) {
      if (arguments.named[j].first != signature.parameter_names[i]) continue;
      named = &arguments.named[j].second;
      used[j] = true;
    }
    if (i < given && named)
      return failure("macro '%s' got multiple values for argument '%s'", name.c_str(), std::string(signature.parameter_names[i]).c_str());
    const size_t first_default = count - signature.defaults.size();
    if (i < given) {
      scope.set(signature.parameters[i], arguments.positional[i]);
    } else if (named) {
      scope.set(signature.parameters[i], *named);
    } else if (i >= first_default) {
      NBL_ASSIGN_OR_RETURN(const Value fallback, evaluate(*signature.defaults[i - first_default], scope));
      scope.set(signature.parameters[i], fallback);
    } else {
      scope.set(signature.parameters[i], Value::undefined(Absence::kParameter, signature.parameter_names[i]));
    }
  }
  Dict* kwargs = nullptr;
  const Value kwargs_value = rt_.dict(&kwargs);
  Value caller = Value::undefined(Absence::kSentence, "No caller defined");
  for (size_t j = 0; j < arguments.named.size(); ++j) {
    if (used[j]) continue;
    const auto& [key, value] = arguments.named[j];
    if (key == "caller" && signature.uses_caller) {
      caller = value;
    } else if (signature.uses_kwargs) {
      kwargs->set(Value::borrowed(key), value);
    } else if (key == "caller") {
      return failure("macro '%s' was invoked with two values for the special caller argument or takes no caller", name.c_str());
    } else {
      return failure("macro '%s' takes no keyword argument '%s'", name.c_str(), std::string(key).c_str());
    }
  }
  const bool own_caller =
      std::find(signature.parameters.begin(), signature.parameters.end(), static_cast<int>(Names::kCaller)) != signature.parameters.end();
  if (signature.uses_caller && !own_caller) scope.set(Names::kCaller, caller);
  if (signature.uses_kwargs) scope.set(Names::kKwargs, kwargs_value);
  if (signature.uses_varargs) {
    scope.set(Names::kVarargs, rt_.tuple({arguments.positional.begin() + static_cast<int64_t>(given), arguments.positional.end()}));
  } else if (arguments.positional.size() > count) {
    return failure("macro '%s' takes not more than %zu argument(s)", name.c_str(), count);
  }
  return Status();
}

// ---- assignment

Status Interpreter::assign(const Expr& target, const Value& value, Scope& scope) {
  if (target.kind == ExprKind::kName) {
    scope.set(target.name, value);
    rt_.took_bytes(sizeof(Value));
    return Status();
  }
  if (target.kind == ExprKind::kNamespaceRef) {
    const Value space = look_up(target.name, scope);
    if (!space.is(Kind::kNamespace)) return failure("cannot assign attribute on non-namespace object");
    return set_in_namespace(rt_, space.name_space(), target.text, value);
  }
  return assign_items(target, value, scope);
}

Status Interpreter::assign_items(const Expr& target, const Value& value, Scope& scope) {
  if (value.is_undefined()) return undefined_failure(value);
  if (!is_iterable(value)) return failure("cannot unpack non-iterable %s object", type_name(value));
  NBL_ASSIGN_OR_RETURN(const std::vector<Value> items, items_of(rt_, value));
  if (items.size() > target.items.size()) return failure("too many values to unpack (expected %zu)", target.items.size());
  if (items.size() < target.items.size())
    return failure("not enough values to unpack (expected %zu, got %zu)", target.items.size(), items.size());
  for (size_t i = 0; i < items.size(); ++i) NBL_RETURN_IF_ERROR(assign(*target.items[i], items[i], scope));
  return Status();
}

}  // namespace nbl::jinja

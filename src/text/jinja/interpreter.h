// Interpreter: runs a parsed template. Also what a template can hold of it: macros, and the loop variable.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/jinja/arguments.h"
#include "text/jinja/ast.h"

namespace nbl::jinja {

// Variables of one block. On the heap of the rendering, for macros remember where they were made.
struct Scope : Object {
  Scope* parent = nullptr;
  std::vector<std::pair<int, Value>> variables;

  const Value* find_here(int name) const;
  void set(int name, const Value& value);
};

struct Macro : Object {
  std::string_view name;
  const Signature* signature = nullptr;
  Scope* scope = nullptr;  // that it was made in

  std::vector<Value> argument_names() const;
  bool catches_named() const { return signature->uses_kwargs; }
  bool catches_positional() const { return signature->uses_varargs; }
  bool takes_caller() const { return signature->uses_caller; }
};

class Loop : public Object {
 public:
  std::vector<Value> items;
  int64_t index0 = 0;
  int64_t depth0 = 0;
  Value last_changed;
  const Statement* statement = nullptr;  // of a recursive loop; null: it cannot be called
  Scope* scope = nullptr;
};

class Interpreter {
 public:
  Interpreter(Runtime& rt, const Names& names) : rt_(rt), names_(names) {}

  // Appends to `out`. `variables` are what the template sees.
  Status render(const Block& block, const Dict& variables, std::string& out);

 private:
  enum class Flow : uint8_t { kOn, kBreak, kContinue };

  Result<Flow> run(const Block& block, Scope& scope, std::string& out);
  Result<Flow> run(const Statement& statement, Scope& scope, std::string& out);
  Result<Flow> run_in_own_scope(const Block& block, Scope& scope, std::string& out);
  Result<Flow> run_if(const Statement& statement, Scope& scope, std::string& out);
  Result<Flow> run_with(const Statement& statement, Scope& scope, std::string& out);
  Result<Flow> run_for(const Statement& statement, Scope& scope, std::string& out);
  Result<Flow> run_loop(const Statement& statement, const Value& iterable, int64_t depth0, Scope& scope, std::string& out);
  Result<std::vector<Value>> loop_items(const Statement& statement, const Value& iterable, Scope& scope);
  Result<Flow> run_set_block(const Statement& statement, Scope& scope);
  Status run_call(const Statement& statement, Scope& scope, std::string& out);
  Result<Flow> run_filter_block(const Statement& statement, Scope& scope, std::string& out);
  Result<Flow> run_autoescape(const Statement& statement, Scope& scope, std::string& out);
  Status output(const Value& value, std::string& out);
  Value captured(std::string text) { return rt_.text(std::move(text), rt_.autoescape); }

  Result<Value> evaluate(const Expr& expr, Scope& scope);
  Result<Value> evaluate_here(const Expr& expr, Scope& scope);
  Result<Value> evaluate_items(const Expr& expr, Scope& scope);
  Result<Value> evaluate_dict(const Expr& expr, Scope& scope);
  Result<Value> evaluate_slice(const Expr& expr, Scope& scope);
  Result<Value> evaluate_call(const Expr& expr, Scope& scope, const Value* caller);
  Result<Value> evaluate_filter(const Expr& expr, Scope& scope, const Value* block_text);
  Result<Value> evaluate_test(const Expr& expr, Scope& scope);
  Result<Value> evaluate_concat(const Expr& expr, Scope& scope);
  Result<Value> evaluate_compare(const Expr& expr, Scope& scope);
  Result<Value> evaluate_conditional(const Expr& expr, Scope& scope);
  Result<Arguments> arguments_of(const CallArguments* given, Scope& scope);

  Value look_up(int name, const Scope& scope);
  Status assign(const Expr& target, const Value& value, Scope& scope);
  Status assign_items(const Expr& target, const Value& value, Scope& scope);
  Scope* new_scope(Scope* parent);

  Result<Value> call(const Value& callee, const Arguments& arguments);
  Result<Value> call_macro(const Macro& macro, const Arguments& arguments);
  Status bind_macro(const Macro& macro, const Arguments& arguments, Scope& scope);
  Result<Value> call_loop(const Loop& loop, const Arguments& arguments);

  Runtime& rt_;
  const Names& names_;
  Scope* root_ = nullptr;  // the top level of the template
  const Dict* variables_ = nullptr;
};

}  // namespace nbl::jinja

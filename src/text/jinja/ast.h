// The tree of a parsed template. Plain data; what each kind of node holds stands beside it.
//
// Text is borrowed from the template's source. Names are numbers (see Names), so that looking one up compares integers.
#pragma once

#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "text/jinja/operators.h"

namespace nbl::jinja {

enum class ExprKind : uint8_t {
  kConstant,      // constant
  kName,          // name
  kNamespaceRef,  // name . text, only as a target of set
  kList,          // items
  kTuple,         // items
  kDict,          // items: key, value, key, value ...
  kAttribute,     // items[0] . text
  kItem,          // items[0] [ items[1] ]
  kSlice,         // items[0] [ items[1] : items[2] : items[3] ], null where left out
  kCall,          // items[0] ( arguments )
  kFilter,        // items[0] | text ( arguments ); items[0] is null in filter blocks
  kTest,          // items[0] is text ( arguments )
  kNot,           // items[0]
  kNegate,        // items[0]
  kPlus,          // items[0]
  kBinary,        // items[0] operators[0] items[1]
  kConcat,        // items joined by ~
  kCompare,       // items[0] operators[0] items[1] operators[1] items[2] ...
  kAnd,           // items[0], items[1]
  kOr,            // items[0], items[1]
  kConditional,   // items[0] if items[1] else items[2] (null where left out)
};

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

struct CallArguments {
  std::vector<ExprPtr> positional;
  std::vector<std::pair<std::string_view, ExprPtr>> named;
  ExprPtr spread;        // *expression
  ExprPtr spread_named;  // **expression
};

struct Expr {
  ExprKind kind = ExprKind::kConstant;
  int line = 0;
  int depth = 1;  // of the tree below, bounded by the parser: evaluation recurses as deep
  int name = -1;
  std::string_view text;
  Value constant;
  std::vector<ExprPtr> items;
  std::vector<Operator> operators;
  std::unique_ptr<CallArguments> arguments;  // null where there are none
};

enum class StatementKind : uint8_t {
  kText,         // text
  kOutput,       // expressions[0]
  kIf,           // branches
  kFor,          // target, expressions[0]: iterable, expressions[1]: filter or null, body, otherwise, recursive
  kSet,          // target, expressions[0]
  kSetBlock,     // target, expressions[0]: filter or null, body
  kWith,         // targets and expressions, body
  kMacro,        // signature (its body)
  kCall,         // signature of the caller (its body), expressions[0]: the call
  kFilterBlock,  // expressions[0]: filter, body
  kScope,        // body: {% generation %}
  kAutoescape,   // expressions[0], body
  kBlock,        // body: sees only what the top level knows
  kBreak,
  kContinue,
  kUnavailable,  // text: include, import, from, extends
};

struct Statement;
using Block = std::vector<std::unique_ptr<Statement>>;

struct Branch {
  ExprPtr condition;  // null for else
  Block body;
};

// Of a macro, or of the caller that a call block passes.
struct Signature {
  std::string_view macro_name;
  int name = -1;
  std::vector<int> parameters;
  std::vector<std::string_view> parameter_names;
  std::vector<ExprPtr> defaults;  // of the last parameters
  bool uses_varargs = false, uses_kwargs = false, uses_caller = false;
  Block body;
};

struct Statement {
  StatementKind kind = StatementKind::kText;
  int line = 0;
  bool recursive = false;
  std::string_view text;
  ExprPtr target;
  std::vector<ExprPtr> targets;
  std::vector<ExprPtr> expressions;
  std::vector<Branch> branches;
  std::unique_ptr<Signature> signature;
  Block body, otherwise;
};

// Variables as numbers.
class Names {
 public:
  // The first ones, known to the interpreter.
  enum Known { kLoop, kCaller, kVarargs, kKwargs };
  Names();
  int number(std::string_view name);
  const std::vector<std::string_view>& all() const { return names_; }

 private:
  std::vector<std::string_view> names_;
  Dict numbers_;
};

}  // namespace nbl::jinja

#include "text/jinja/tests.h"

#include "text/jinja/filters.h"
#include "text/jinja/operators.h"
#include "text/jinja/strings.h"
#include "text/jinja/text_of.h"

namespace nbl::jinja {
namespace {

using Answer = Result<bool>;

// ---- of the kind ----

template <Kind kKind>
Answer is_kind(Runtime&, const Value& self, const Arguments&) { return self.is(kKind); }

template <bool kWanted>
Answer is_the_boolean(Runtime&, const Value& self, const Arguments&) { return self.is(Kind::kBool) && self.as_bool() == kWanted; }

Answer is_defined(Runtime&, const Value& self, const Arguments&) { return !self.is_undefined(); }
Answer is_number(Runtime&, const Value& self, const Arguments&) { return self.is_number(); }
Answer is_iterable_test(Runtime&, const Value& self, const Arguments&) { return is_iterable(self); }
Answer is_callable(Runtime&, const Value& self, const Arguments&) { return self.is_callable(); }
Answer is_escaped(Runtime&, const Value& self, const Arguments&) { return self.is_string() && self.markup(); }

Answer is_sequence(Runtime&, const Value& self, const Arguments&) {
  return self.is_sequence() || self.is_string() || self.is(Kind::kDict) || self.is(Kind::kRange) || self.is(Kind::kBytes) ||
         self.is_undefined();
}

Answer is_filter(Runtime&, const Value& self, const Arguments&) { return self.is_string() && find_filter(self.text()) != nullptr; }
Answer is_test_name(Runtime&, const Value& self, const Arguments&) { return self.is_string() && is_test(self.text()); }

// ---- of the value ----

Answer remainder_is(Runtime& rt, const Value& self, const Value& divisor, Int wanted) {
  NBL_ASSIGN_OR_RETURN(const Value rest, arithmetic(rt, Operator::kModulo, self, divisor));
  return equal(rt, rest, Value::integer(wanted));
}

Answer is_odd(Runtime& rt, const Value& self, const Arguments&) { return remainder_is(rt, self, Value::integer(2), 1); }
Answer is_even(Runtime& rt, const Value& self, const Arguments&) { return remainder_is(rt, self, Value::integer(2), 0); }

Answer is_divisible(Runtime& rt, const Value& self, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind("divisibleby", arguments, {"num"}, 1));
  return remainder_is(rt, self, bound[0], 0);
}

Answer is_lower(Runtime& rt, const Value& self, const Arguments&) {
  NBL_ASSIGN_OR_RETURN(const Value text, to_text(rt, self));
  return is_all_lower(text.text());
}

Answer is_upper(Runtime& rt, const Value& self, const Arguments&) {
  NBL_ASSIGN_OR_RETURN(const Value text, to_text(rt, self));
  return is_all_upper(text.text());
}

// Identity: of what is one object in Python (none, true, false, small integers, the same list).
Answer is_same(Runtime&, const Value& self, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind("sameas", arguments, {"other"}, 1));
  const Value& other = bound[0];
  if (self.kind() != other.kind()) return false;
  if (self.is_none()) return true;
  if (self.is_integral()) return self.as_int() == other.as_int();
  if (self.is_string()) return self.text() == other.text();
  if (self.is(Kind::kFloat) || self.is_undefined()) return false;
  return self.identity() == other.identity();
}

template <Operator kOperator>
Answer compares(Runtime& rt, const Value& self, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind("the test", arguments, {"other"}, 1));
  return compare(rt, kOperator, self, bound[0]);
}

struct Test {
  std::string_view name;
  Answer (*ask)(Runtime& rt, const Value& self, const Arguments& arguments);
};

const Test kTests[] = {
    {"!=", compares<Operator::kNotEqual>},
    {"<", compares<Operator::kLess>},
    {"<=", compares<Operator::kLessEqual>},
    {"==", compares<Operator::kEqual>},
    {">", compares<Operator::kGreater>},
    {">=", compares<Operator::kGreaterEqual>},
    {"boolean", is_kind<Kind::kBool>},
    {"callable", is_callable},
    {"defined", is_defined},
    {"divisibleby", is_divisible},
    {"eq", compares<Operator::kEqual>},
    {"equalto", compares<Operator::kEqual>},
    {"escaped", is_escaped},
    {"even", is_even},
    {"false", is_the_boolean<false>},
    {"filter", is_filter},
    {"float", is_kind<Kind::kFloat>},
    {"ge", compares<Operator::kGreaterEqual>},
    {"greaterthan", compares<Operator::kGreater>},
    {"gt", compares<Operator::kGreater>},
    {"in", compares<Operator::kIn>},
    {"integer", is_kind<Kind::kInt>},
    {"iterable", is_iterable_test},
    {"le", compares<Operator::kLessEqual>},
    {"lessthan", compares<Operator::kLess>},
    {"lower", is_lower},
    {"lt", compares<Operator::kLess>},
    {"mapping", is_kind<Kind::kDict>},
    {"ne", compares<Operator::kNotEqual>},
    {"none", is_kind<Kind::kNone>},
    {"number", is_number},
    {"odd", is_odd},
    {"sameas", is_same},
    {"sequence", is_sequence},
    {"string", is_kind<Kind::kString>},
    {"test", is_test_name},
    {"true", is_the_boolean<true>},
    {"undefined", is_kind<Kind::kUndefined>},
    {"upper", is_upper},
};

const Test* find_test(std::string_view name) {
  for (const Test& test : kTests) {
    if (test.name == name) return &test;
  }
  return nullptr;
}

}  // namespace

bool is_test(std::string_view name) { return find_test(name) != nullptr; }

Result<bool> call_test(Runtime& rt, std::string_view name, const Value& self, const Arguments& arguments) {
  const Test* test = find_test(name);
  if (!test) return failure("No test named '%.*s' found.", static_cast<int>(name.size()), name.data());
  rt.work(1);
  if (rt.spent()) return rt.exhausted();
  return test->ask(rt, self, arguments);
}

}  // namespace nbl::jinja

// The template language on its own: rules of Jinja's documentation, and bounds that no template passes.
#include <gtest/gtest.h>

#include "base/json.h"
#include "text/chat_template.h"

namespace nbl {
namespace {

std::string render(const std::string& source, const std::string& context = "{}") {
  const auto rendered = render_template(source, *parse_json(context, "test"));
  return rendered.ok() ? *rendered : "ERROR " + rendered.status().message();
}

TEST(Jinja, LoopsHaveScopesAndIfsHaveNone) {
  EXPECT_EQ(render("{% set x = 1 %}{% for i in [1, 2] %}{% set x = i %}{{ x }}{% endfor %}{{ x }}"), "121");
  EXPECT_EQ(render("{% set x = 1 %}{% if true %}{% set x = 2 %}{% endif %}{{ x }}"), "2");
  EXPECT_EQ(render("{% set ns = namespace(x=1) %}{% for i in [5] %}{% set ns.x = i %}{% endfor %}{{ ns.x }}"), "5");
}

TEST(Jinja, LoopVariablesAndControl) {
  EXPECT_EQ(render("{% for c in 'abc' %}{{ loop.index }}{{ c }}{{ ',' if not loop.last }}{% endfor %}"), "1a,2b,3c");
  EXPECT_EQ(render("{% for i in range(6) if i % 2 %}{% if i == 5 %}{% break %}{% endif %}{{ i }}{% endfor %}"), "13");
  EXPECT_EQ(render("{% for i in [] %}x{% else %}none{% endfor %}"), "none");
  EXPECT_EQ(render("{% for n in t recursive %}{{ n.v }}{{ loop(n.c) if n.c }}{% endfor %}",
                   R"({"t":[{"v":1,"c":[{"v":2,"c":[]}]},{"v":3,"c":[]}]})"),
            "123");
}

// Expected values are Jinja 3.1's. The else part asks whether a turn came to its end, not whether there was one.
TEST(Jinja, ALoopThatNoTurnEndsRunsItsElsePart) {
  EXPECT_EQ(render("{% for i in [1, 2] %}{% if i == 1 %}{% break %}{% endif %}{{ i }}{% else %}none{% endfor %}"), "none");
  EXPECT_EQ(render("{% for i in [1, 2] %}{{ i }}{% if i == 2 %}{% break %}{% endif %}{% else %}none{% endfor %}"), "12");
  EXPECT_EQ(render("{% for i in [1, 2] %}{{ i }}{% continue %}{% else %}none{% endfor %}"), "12none");
  EXPECT_EQ(render("{% for i in [1, 2] %}{% for j in [] %}{% else %}{% break %}{% endfor %}{{ i }}{% else %}none{% endfor %}"), "none");
}

TEST(Jinja, LoopControlLeavesTheBlocksThatItStandsIn) {
  EXPECT_EQ(render("{% for i in [1, 2] %}{% set v %}{{ i }}{% break %}{% endset %}{{ v }}x{% endfor %}{{ i }}"), "");
  EXPECT_EQ(render("{% for i in [1, 2, 3] %}{% filter upper %}a{% if i == 2 %}{% continue %}{% endif %}b{% endfilter %}{{ i }}{% endfor %}"),
            "AB1AB3");
}

TEST(Jinja, SortingKeepsTheOrderOfWhatHasNone) {
  EXPECT_EQ(render("{{ [{'a': 2}, {'a': 1}] | sort(attribute='nope') }} {{ [none, none] | sort }}"), "[{'a': 2}, {'a': 1}] [None, None]");
  EXPECT_EQ(render("{{ ['b', none] | sort }}").substr(0, 6), "ERROR ");
}

TEST(Jinja, NothingReversedIsNothing) {
  EXPECT_EQ(render("{% for m in nope | reverse %}x{% else %}none{% endfor %}{{ d.x | reverse | list }}", R"({"d":{}})"), "none[]");
}

TEST(Jinja, ZerosOfAFormatFillWhereverTheTextStands) {
  EXPECT_EQ(render("{{ '{:05}|{:>05}|{:<05}|{:^05d}|{:*>05}'.format(-12, 12, 12, 12, 12) }}"), "-0012|00012|12000|01200|***12");
  EXPECT_EQ(render("{{ '{:05}|{:>05}'.format('ab', 'ab') }}"), "ab000|000ab");
  EXPECT_EQ(render("{{ 'a' % nope }}{{ 'b' % range(2) }}"), "ab");
}

// The text must be long enough to lie on the heap.
TEST(Jinja, TagsAreStrippedOfTextsAndOfOtherValues) {
  EXPECT_EQ(render("{{ s | striptags }}", R"({"s":"a  <b>very</b> long text &amp; <i>more</i><!-- x -->"})"), "a very long text & more");
  EXPECT_EQ(render("{{ d | striptags }}", R"({"d":{"name":"<f>","arguments":{"x":[1, 2]}}})"), "{'name': '', 'arguments': {'x': [1, 2]}}");
}

TEST(Jinja, MacrosBindByPlaceNameAndDefault) {
  EXPECT_EQ(render("{% macro m(a, b=2) %}{{ a }}{{ b }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1) }} {{ m(1, 3, 4, k=5) }}"),
            "12(){} 13(4,){'k': 5}");
  EXPECT_EQ(render("{% macro m() %}<{{ caller('x') }}>{% endmacro %}{% call(v) m() %}{{ v }}!{% endcall %}"), "<x!>");
  EXPECT_NE(render("{% macro m() %}{% endmacro %}{{ m(1) }}").find("takes not more than 0"), std::string::npos);
}

TEST(Jinja, WhitespaceControlAsTransformersSetsIt) {
  EXPECT_EQ(render("a\n  {% if true %}\nb\n  {%- endif %}\nc\n"), "a\nbc");
}

// Four megabytes of conversation in a thousand turns are no attack.
TEST(Jinja, LongConversationsAreRendered) {
  Json context;
  for (int i = 0; i < 1000; ++i) context["messages"].push_back({{"role", "user"}, {"content", std::string(4000, 'x')}});
  const auto rendered =
      render_template("{% for m in messages %}{{ '<' + m.role + '>' + (m.content | trim) + '</>' }}{% endfor %}", context);
  ASSERT_TRUE(rendered.ok()) << rendered.status().message();
  EXPECT_EQ(rendered->size(), 1000u * (4000 + 9));
}

// Each would run, grow or recurse for ever.
TEST(Jinja, HostileTemplatesEnd) {
  for (const char* hostile : {"{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}",
                              "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{{ 'x' * 10000000000 }}", "{{ [[]] * 1000000000 }}",
                              "{% set ns = namespace(s='x') %}{% for i in range(100) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
                              "{{ 9 ** 9 ** 9 ** 9 }}", "{{ 'x'.ljust(99999999999) }}"}) {
    EXPECT_EQ(render(hostile).substr(0, 6), "ERROR ") << hostile;
  }
  EXPECT_EQ(render("{{ " + std::string(100000, '(')).substr(0, 6), "ERROR ");
  std::string nested;
  for (int i = 0; i < 20000; ++i) nested += "{% if true %}";
  EXPECT_EQ(render(nested).substr(0, 6), "ERROR ");
}

}  // namespace
}  // namespace nbl

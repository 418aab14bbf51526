#include "base/json.h"

#include <gtest/gtest.h>

#include <limits>
#include <stdexcept>

#include "base/json_string.h"

namespace nbl {
namespace {

TEST(Json, KeepsTheOrderOfKeys) {
  const Result<Json> value = parse_json(R"({"b":1,"a":2})", "test");
  ASSERT_TRUE(value.ok());
  EXPECT_EQ(to_text(*value), R"({"b":1,"a":2})");
}

TEST(Json, AKeyGivenTwiceKeepsItsLastValueInItsFirstPlace) {
  EXPECT_EQ(to_text(*parse_json(R"({"a":1,"b":2,"a":3,"c":[{"x":0,"x":null}],"b":4})", "test")), R"({"a":3,"b":4,"c":[{"x":null}]})");
}

// An object of so many keys would take minutes if every key were looked for among all.
TEST(Json, ReadsAnObjectOfVeryManyKeys) {
  std::string text = "{";
  for (int i = 0; i < 300000; ++i) text += "\"key " + std::to_string(i) + "\":" + std::to_string(i) + ",";
  text += "\"key 7\":-7}";
  const Result<Json> value = parse_json(text, "test");
  ASSERT_TRUE(value.ok());
  EXPECT_EQ(value->size(), 300000u);
  EXPECT_EQ((*value)["key 7"], -7);
  EXPECT_EQ((*value)["key 299999"], 299999);
}

TEST(Json, WritesWhatItReads) {
  for (const char* text : {R"({"a":[1,-2,0.5,1e+300,18446744073709551615,-9223372036854775808],"b":{},"c":[],"d":[true,false,null]})",
                           R"(["\"\\\b\t\n\f\r\u0001\u001f/","\u007f\u00e9\u20ac\ud83d\ude00",2.0,-0.0,"\u000b\u0007"])"}) {
    const Result<Json> value = parse_json(text, "test");
    ASSERT_TRUE(value.ok()) << value.status().message();
    const Result<Json> again = parse_json(to_text(*value), "test");
    ASSERT_TRUE(again.ok()) << to_text(*value);
    EXPECT_EQ(*value, *again);
    EXPECT_EQ(to_text(*value), to_text(*again));
  }
  EXPECT_EQ(to_text(Json{{"n", 2.0}, {"s", "\xE2\x82\xAC\n\x01"}}), "{\"n\":2.0,\"s\":\"\xE2\x82\xAC\\n\\u0001\"}");
  EXPECT_EQ(to_text(std::string("a\xFF" "b")), "\"a\xEF\xBF\xBD" "b\"");
  std::string ascii;
  append_json_string(ascii, "\xC3\xA9 \x7F \xF0\x9F\xA6\x99 \xF0\x9F \"\\\b\f", true);
  EXPECT_EQ(ascii, R"("\u00e9 \u007f \ud83e\udd99 \ufffd \"\\\b\f")");
  EXPECT_EQ(to_text(std::numeric_limits<double>::infinity()), "null");
}

TEST(Json, BracesMakeObjectsOfPairsAndArraysOfTheRest) {
  EXPECT_EQ(to_text(Json{{"a", 1}, {"b", {"x", "y"}}}), R"({"a":1,"b":["x","y"]})");
  EXPECT_EQ(to_text(Json{1, "x", nullptr, {{"k", true}}}), R"([1,"x",null,{"k":true}])");
  EXPECT_EQ(to_text(Json::array({{"a", 1}})), R"([["a",1]])");
  EXPECT_EQ(to_text(std::vector<std::string>{"a", "b"}), R"(["a","b"])");
}

TEST(Json, ValuesAreEqualWhateverTheOrderOfKeysAndTheKindOfNumber) {
  EXPECT_EQ(*parse_json(R"({"a":1,"b":[2.0]})", "test"), *parse_json(R"({"b":[2],"a":1.0})", "test"));
  EXPECT_NE(*parse_json("[1]", "test"), *parse_json("[1,1]", "test"));
  EXPECT_NE(Json(UINT64_MAX), Json(-1));
  EXPECT_NE(Json(false), Json(0));
}

TEST(Json, WhatIsMissingIsNullAndWhatIsOfAnotherTypeIsToldSo) {
  const Json value = {{"a", {1, 2}}, {"s", "x"}};
  EXPECT_TRUE(value["none"]["deeper"][7].is_null());
  EXPECT_EQ(value.value("none", "fallback"), "fallback");
  EXPECT_EQ(value.value("s", "fallback"), "x");
  EXPECT_EQ(value["a"].get<std::vector<int32_t>>(), (std::vector<int32_t>{1, 2}));
  EXPECT_THROW(value["s"].get<int64_t>(), std::logic_error);
  Json text = "x";
  EXPECT_THROW(text["key"] = 1, std::logic_error);
  EXPECT_THROW(text.push_back(1), std::logic_error);
  EXPECT_EQ(text, "x");
}

TEST(Json, SaysWhereItBroke) {
  const Result<Json> value = parse_json("{\"a\": tru}", "config.json");
  ASSERT_FALSE(value.ok());
  EXPECT_EQ(value.status().code(), Code::kFormat);
  EXPECT_NE(value.status().message().find("config.json"), std::string::npos);
  EXPECT_NE(value.status().message().find("column"), std::string::npos);
}

TEST(Json, RefusesDeepNesting) {
  const std::string deep = std::string(100000, '[') + std::string(100000, ']');
  const Result<Json> value = parse_json(deep, "test");
  ASSERT_FALSE(value.ok());
  EXPECT_NE(value.status().message().find("nests deeper"), std::string::npos);
}

TEST(Json, TypedLookupsNameTheKey) {
  const Json object = *parse_json(R"({"n":4096.0,"s":"x","z":null,"big":18446744073709551615})", "test");
  EXPECT_EQ(json_i64(object, "n", 0).value(), 4096);
  EXPECT_EQ(json_i64(object, "z", 7).value(), 7);
  EXPECT_EQ(json_i64(object, "absent", 9).value(), 9);
  const Result<int64_t> wrong = json_i64(object, "s", 0);
  ASSERT_FALSE(wrong.ok());
  EXPECT_NE(wrong.status().message().find("\"s\""), std::string::npos);
  EXPECT_FALSE(json_i64(object, "big", 0).ok());
}

TEST(Json, AMissingFileIsNotFound) {
  EXPECT_EQ(read_json_file("/nonexistent/config.json").status().code(), Code::kNotFound);
}

}  // namespace
}  // namespace nbl

#include "base/json.h"

#include <gtest/gtest.h>

namespace nbl {
namespace {

TEST(Json, KeepsTheOrderOfKeys) {
  const Result<Json> value = parse_json(R"({"b":1,"a":2})", "test");
  ASSERT_TRUE(value.ok());
  EXPECT_EQ(to_text(*value), R"({"b":1,"a":2})");
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

#include "base/status.h"

#include <gtest/gtest.h>

#include "base/json.h"

namespace nbl {
namespace {

Result<int> half_of(int number) {
  if (number % 2) return error(Code::kArgument, "%d is odd", number);
  return number / 2;
}

Result<int> quarter_of(int number) {
  NBL_ASSIGN_OR_RETURN(const int half, half_of(number));
  return half_of(half);
}

TEST(Status, CarriesMessageAndDetail) {
  Status status = error(Code::kFormat, "%s is %d bytes", "x", 3);
  status.with("file", "a\"b\n").with("line", 7).in("model.safetensors");
  EXPECT_EQ(status.message(), "model.safetensors: x is 3 bytes");
  EXPECT_EQ(status.detail(), R"("file":"a\"b\n","line":7)");
}

// Programs parse the detail, whatever a hostile file was called or held.
TEST(Status, DetailIsJsonWhateverItHolds) {
  Status status = error(Code::kFormat, "no");
  std::string controls;
  for (char c = 0; c < 0x20; ++c) controls += c;
  status.with("controls", controls).with("broken", "a\xFF" "b\xE2\x82").with("a \"key\"\n", "\\ \"quoted\" \x7F");
  EXPECT_EQ(status.detail(),
            "\"controls\":\"\\u0000\\u0001\\u0002\\u0003\\u0004\\u0005\\u0006\\u0007\\b\\t\\n\\u000b\\f\\r\\u000e\\u000f\\u0010"
            "\\u0011\\u0012\\u0013\\u0014\\u0015\\u0016\\u0017\\u0018\\u0019\\u001a\\u001b\\u001c\\u001d\\u001e\\u001f\","
            "\"broken\":\"a\xEF\xBF\xBD" "b\xEF\xBF\xBD\",\"a \\\"key\\\"\\n\":\"\\\\ \\\"quoted\\\" \x7F\"");
  const Result<Json> read = parse_json("{" + status.detail() + "}", "the detail");
  ASSERT_TRUE(read.ok()) << read.status().message();
  EXPECT_EQ((*read)["controls"].string(), controls);
}

TEST(Status, SuccessIgnoresDetail) {
  Status status;
  status.with("file", "x").in("y");
  EXPECT_TRUE(status.ok());
  EXPECT_EQ(status.message(), "");
}

TEST(Result, TheFirstErrorWins) {
  EXPECT_EQ(quarter_of(12).value(), 3);
  EXPECT_EQ(quarter_of(6).status().message(), "3 is odd");
  EXPECT_EQ(quarter_of(5).status().message(), "5 is odd");
}

}  // namespace
}  // namespace nbl

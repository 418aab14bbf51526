#include "base/status.h"

#include <gtest/gtest.h>

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
  EXPECT_EQ(status.detail(), R"("file":"a\"b\u000a","line":7)");
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

#include "base/utf8.h"

#include <gtest/gtest.h>

namespace nbl {
namespace {

TEST(Utf8, EveryCodePointComesBack) {
  for (uint32_t code_point = 0; code_point <= 0x10FFFF; ++code_point) {
    if (code_point >= 0xD800 && code_point <= 0xDFFF) continue;
    std::string text;
    utf8_append(text, code_point);
    ASSERT_EQ(utf8_length_at(text, 0), static_cast<int>(text.size()));
    size_t at = 0;
    ASSERT_EQ(utf8_next(text, at), code_point);
    ASSERT_EQ(at, text.size());
  }
}

TEST(Utf8, RefusesWhatTable37Refuses) {
  for (const char* bad : {"\x80", "\xC0\x80", "\xC1\xBF", "\xE0\x80\x80", "\xED\xA0\x80", "\xF0\x80\x80\x80",
                          "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF", "\xE2\x82"}) {
    EXPECT_EQ(utf8_length_at(bad, 0), 0) << bad;
    EXPECT_EQ(utf8_first_invalid(std::string("ab") + bad), 2u);
  }
  EXPECT_EQ(utf8_first_invalid("h\xC3\xA9llo"), std::string_view::npos);
}

// The example of Unicode 15, table 3-8.
TEST(Utf8, ReplacesMaximalSubparts) {
  const std::string_view text = "\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41";
  EXPECT_EQ(lossy_utf8(text), "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\x41");
}

TEST(Utf8, KnowsWhatMayStillGrow) {
  EXPECT_EQ(utf8_incomplete_at("\xF0\x9F\xA6", 0), 3);
  EXPECT_EQ(utf8_incomplete_at("\xF0\x9F\xA6\x99", 0), 0);
  EXPECT_EQ(utf8_incomplete_at("\xE0\x80", 0), 0);  // overlong: can never become good
  EXPECT_EQ(utf8_incomplete_at("a", 0), 0);
}

}  // namespace
}  // namespace nbl

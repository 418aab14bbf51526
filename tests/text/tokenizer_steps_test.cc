// Each step of tokenizer.json alone, the Unicode classes behind them, and the files that must be refused.
#include <cmath>
#include <set>

#include "base/utf8.h"
#include "text/normalizer.h"
#include "text/pipeline.h"
#include "text/post_processor.h"
#include "text/pre_tokenizer.h"
#include "text/regex.h"
#include "text/token_decoder.h"
#include "text/tokenizer_golden.h"
#include "text/unicode.h"

namespace nbl {
namespace {

using testing::each_line;
using testing::golden;

std::string normalize(const Json& step, const std::string& text) {
  Result<std::unique_ptr<Normalizer>> normalizer = Normalizer::parse(step);
  EXPECT_TRUE(normalizer.ok()) << normalizer.status().message();
  AlignedText aligned;
  aligned.text = text;
  Regex::Scratch scratch;
  EXPECT_TRUE((*normalizer)->apply(aligned, scratch).ok());
  return aligned.text;
}

size_t code_points_before(const std::string& text, size_t byte) {
  size_t count = 0;
  for (size_t i = 0; i < byte; ++i) count += (static_cast<unsigned char>(text[i]) & 0xC0) != 0x80;
  return count;
}

// [[piece, [begin, end]], ...] with offsets in code points.
Json pre_tokenize(const Json& step, const std::string& text) {
  auto steps = PreTokenizer::parse(step);
  EXPECT_TRUE(steps.ok()) << steps.status().message();
  PreTokenized state;
  state.text.text = text;
  state.text.tracked = true;
  if (!text.empty()) state.pieces = {{0, static_cast<uint32_t>(text.size())}};
  Regex::Scratch scratch;
  for (const auto& one : *steps) EXPECT_TRUE(one->apply(state, scratch).ok());
  Json out = Json::array();
  for (const Piece piece : state.pieces) {
    const TokenSpan span = state.text.span(piece.begin, piece.end);
    out.push_back({state.text.text.substr(piece.begin, piece.end - piece.begin),
                   {code_points_before(text, span.begin), code_points_before(text, span.end)}});
  }
  return out;
}

std::string decode(const Json& step, std::vector<std::string> tokens) {
  Result<std::unique_ptr<TokenDecoder>> decoder = TokenDecoder::parse(step);
  EXPECT_TRUE(decoder.ok()) << decoder.status().message();
  std::string text;
  if (*decoder) {
    (*decoder)->apply(tokens);
    for (const std::string& token : tokens) text += token;
  } else {
    for (size_t i = 0; i < tokens.size(); ++i) text += (i ? " " : "") + tokens[i];
  }
  return text;
}

TEST(TokenizerSteps, DoWhatTheLibraryDoes) {
  NBL_SKIP_WITHOUT(golden("steps.jsonl"));
  int failures = 0;
  each_line(golden("steps.jsonl"), [&](const Json& line, int number) {
    if (failures > 10) return;
    const std::string kind = line["kind"].get<std::string>();
    const Json& step = line["step"];
    SCOPED_TRACE("steps.jsonl:" + std::to_string(number) + " " + to_text(step));
    if (kind == "normalizer") {
      EXPECT_EQ(normalize(step, line["in"].string()), line["out"].get<std::string>());
    } else if (kind == "pre_tokenizer") {
      EXPECT_EQ(to_text(pre_tokenize(step, line["in"].string())), to_text(line["out"]));
    } else if (kind == "decoder" && step.is_object() && step["type"] == "CTC") {
      EXPECT_EQ(TokenDecoder::parse(step).status().code(), Code::kUnsupported);
    } else if (kind == "decoder" && line.contains("out")) {
      EXPECT_EQ(decode(step, line["in"].get<std::vector<std::string>>()), line["out"].get<std::string>());
    } else if (kind == "decoder") {
      decode(step, line["in"].get<std::vector<std::string>>());  // the library panics: we clamp
    } else {
      Result<PostProcessor> processor = PostProcessor::parse(step);
      ASSERT_TRUE(processor.ok()) << processor.status().message();
      std::vector<int32_t> ids = processor->before;
      for (const char c : line["in"].get<std::string>()) {
        if (c != ' ') ids.push_back(c - 'a' + 3);
      }
      ids.insert(ids.end(), processor->after.begin(), processor->after.end());
      EXPECT_EQ(ids, testing::ids_of(line["out"]));
    }
    failures += ::testing::Test::HasFailure();
  });
}

std::set<uint32_t> expand(const Json& ranges) {
  std::set<uint32_t> out;
  for (const Json& range : ranges) {
    const std::string& text = range.string();
    const auto first = static_cast<uint32_t>(std::stoul(text, nullptr, 16));
    const size_t dash = text.find('-');
    const auto last = dash == std::string::npos ? first : static_cast<uint32_t>(std::stoul(text.substr(dash + 1), nullptr, 16));
    for (uint32_t c = first; c <= last; ++c) out.insert(c);
  }
  return out;
}

// Every code point that the test takes must be in the set, and no other.
template <typename Test>
void expect_class(const std::string& name, const Json& ranges, Test test) {
  const std::set<uint32_t> expected = expand(ranges);
  int shown = 0;
  for (uint32_t c = 0; c < 0x110000 && shown < 5; ++c) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    if (test(c) != (expected.count(c) > 0)) {
      ADD_FAILURE() << name << " differs at " << std::hex << c;
      ++shown;
    }
  }
}

std::string utf8(uint32_t c) {
  std::string text;
  utf8_append(text, c);
  return text;
}

class Classes : public ::testing::Test {
 protected:
  void SetUp() override {
    NBL_SKIP_WITHOUT(golden("classes.json"));
    Result<Json> json = read_json_file(golden("classes.json"));
    ASSERT_TRUE(json.ok());
    classes_ = *json;
  }
  void expect_regex(const std::string& pattern, const Json& ranges) {
    auto regex = Regex::compile(pattern);
    ASSERT_TRUE(regex.ok()) << regex.status().message();
    Regex::Scratch scratch;
    expect_class(pattern, ranges, [&](uint32_t c) {
      const auto match = (*regex)->find(utf8(c), 0, scratch);
      return match.ok() && match->begin == 0;
    });
  }
  Json classes_;
};

TEST_F(Classes, RegexClassesAreUnicode16) {
  for (const auto& item : classes_["regex"].items()) expect_regex(item.key(), item.value());
}

TEST_F(Classes, CaselessLettersFoldAsOnigurumaDoes) {
  for (const auto& item : classes_["caseless"].items()) expect_regex("(?i:" + item.key() + ")", item.value());
}

TEST_F(Classes, NegatedAndNestedClassesAreTheComplement) {
  Regex::Scratch scratch;
  for (const auto& item : classes_["regex"].items()) {
    const std::string name = item.key();
    std::string opposite = name;
    opposite[1] = static_cast<char>(std::toupper(opposite[1]));
    for (const std::string& pattern :
         {opposite, "[^" + name + "]", "[" + opposite + "]", "[^[" + name + "]]", "[^" + name + "&&\\x{0}-\\x{10ffff}]"}) {
      auto regex = Regex::compile(pattern);
      ASSERT_TRUE(regex.ok()) << pattern << ": " << regex.status().message();
      const std::set<uint32_t> members = expand(item.value());
      for (uint32_t c = 0; c < 0x110000; c += c < 0x3000 ? 1 : 7) {
        if (c >= 0xD800 && c <= 0xDFFF) continue;
        const auto match = (*regex)->find(utf8(c), 0, scratch);
        ASSERT_TRUE(match.ok());
        ASSERT_EQ(match->begin == 0, members.count(c) == 0) << pattern << " at " << std::hex << c;
      }
    }
  }
}

TEST_F(Classes, StepsTestTheirOwnClasses) {
  expect_class("Punctuation", classes_["tests"]["Punctuation"], unicode::is_punctuation_step);
  expect_class("Digits", classes_["tests"]["Digits"], unicode::is_numeric);
  expect_class("WhitespaceSplit", classes_["tests"]["WhitespaceSplit"], unicode::is_space);
}

TEST_F(Classes, NormalizersRemoveAndReplaceTheirOwnSets) {
  const Json& sets = classes_["normalizers"];
  const Json accents = {{"type", "StripAccents"}}, nmt = {{"type", "Nmt"}};
  const Json strip = {{"type", "Strip"}, {"strip_left", true}, {"strip_right", true}};
  const auto bert = [](bool clean, bool chinese) {
    return Json{{"type", "BertNormalizer"},
                {"clean_text", clean},
                {"handle_chinese_chars", chinese},
                {"strip_accents", false},
                {"lowercase", false}};
  };
  const auto gives = [](const Json& step, const char* result) {
    const std::shared_ptr<const Normalizer> normalizer = Normalizer::parse(step).value();
    auto scratch = std::make_shared<Regex::Scratch>();
    return [normalizer, scratch, result](uint32_t c) {
      AlignedText text;
      text.text = utf8(c);
      EXPECT_TRUE(normalizer->apply(text, *scratch).ok());
      return text.text == (result ? std::string(result) : " " + utf8(c) + " ") && !(c == ' ' && result && *result == ' ');
    };
  };
  expect_class("StripAccents", sets["StripAccents removes"], gives(accents, ""));
  expect_class("Nmt removes", sets["Nmt removes"], gives(nmt, ""));
  expect_class("Nmt space", sets["Nmt maps to space"], gives(nmt, " "));
  expect_class("Bert removes", sets["Bert clean_text removes"], gives(bert(true, false), ""));
  expect_class("Bert space", sets["Bert clean_text maps to space"], gives(bert(true, false), " "));
  expect_class("Bert CJK", sets["Bert surrounds with spaces"], gives(bert(false, true), nullptr));
  expect_class("Strip", sets["Strip removes"], gives(strip, ""));
}

TEST_F(Classes, NormalFormsKeepTheOldTables) {
  for (const auto& item : classes_["normalizers"].items()) {
    const size_t beyond = item.key().find(" beyond Unicode");
    if (beyond == std::string::npos) continue;
    const Json step = {{"type", item.key().substr(0, beyond)}};
    for (const auto& change : item.value().items()) {
      std::string expected;
      std::istringstream codes(change.value().get<std::string>());
      for (std::string code; codes >> code;) utf8_append(expected, static_cast<uint32_t>(std::stoul(code, nullptr, 16)));
      EXPECT_EQ(normalize(step, utf8(static_cast<uint32_t>(std::stoul(change.key(), nullptr, 16)))), expected)
          << item.key() << " " << change.key();
    }
  }
}

TEST(TokenizerJson, RefusesWhatTheLibraryRefuses) {
  NBL_SKIP_WITHOUT(golden("refuse.jsonl"));
  each_line(golden("refuse.jsonl"), [](const Json& line, int) {
    SCOPED_TRACE(line["name"].get<std::string>());
    std::string text = line["json"].get<std::string>();
    if (line["name"] == "deep") text = "{\"version\":\"1.0\",\"model\":" + std::string(100000, '[');
    Result<PipelineParts> parts = read_tokenizer_json(text);
    if (!line["accepted"].get<bool>()) {
      ASSERT_FALSE(parts.ok());
      EXPECT_GT(parts.status().message().size(), 10u);
      return;
    }
    if (!parts.ok()) {  // we may be stricter, if we say why
      EXPECT_GT(parts.status().message().size(), 10u);
      RecordProperty(line["name"].get<std::string>(), parts.status().message());
      const std::set<std::string> stricter = {"vocab-huge-id", "template-unknown-special"};
      EXPECT_TRUE(stricter.count(line["name"].get<std::string>())) << parts.status().message();
      return;
    }
    const auto tokenizer = Pipeline::make(std::move(*parts), TokenizerConfig(), "tokenizer.json");
    const auto ids = tokenizer->encode("ab c", EncodeOptions());
    if (line.contains("ab c")) {
      ASSERT_TRUE(ids.ok()) << ids.status().message();
      EXPECT_EQ(*ids, testing::ids_of(line["ab c"]));
    } else {
      EXPECT_FALSE(ids.ok());
    }
  });
}

}  // namespace
}  // namespace nbl

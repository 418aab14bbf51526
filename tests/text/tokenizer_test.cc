// What holds for tokenizers on any machine: small ones that the tests write themselves, and the one of tests/data.
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <thread>

#include "base/json.h"
#include "base/utf8.h"
#include "text/byte_level.h"
#include "text/pipeline.h"
#include "text/regex.h"
#include "text/split_matcher.h"
#include "text/tokenizer.h"

namespace nbl {
namespace {

// A folder that goes away with the test.
class Folder {
 public:
  Folder() {
    path_ =
        std::filesystem::temp_directory_path() / ("nibble_tokenizer_" + std::to_string(::testing::UnitTest::GetInstance()->random_seed()) +
                                                  "_" + std::to_string(std::random_device()()));
    std::filesystem::create_directory(path_);
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder& write(const std::string& name, const std::string& text) {
    std::ofstream(path_ / name, std::ios::binary) << text;
    return *this;
  }
  std::string path() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

// Byte-level BPE over all bytes with a few merges.
Json byte_level_json() {
  Json vocab = Json::object(), merges = Json::array();
  for (int byte = 0; byte < 256; ++byte) vocab[std::string(byte_letter(static_cast<uint8_t>(byte)))] = byte;
  for (const auto& [left, right] :
       std::vector<std::pair<std::string, std::string>>{{"t", "h"}, {"th", "e"}, {"\xC4\xA0", "the"}, {"a", "b"}}) {
    vocab[left + right] = static_cast<int>(vocab.size());
    merges.push_back({left, right});
  }
  const Json step = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  const Json end = {{"id", 260},       {"content", "<end>"},  {"single_word", false}, {"lstrip", false},
                    {"rstrip", false}, {"normalized", false}, {"special", true}};
  return {{"version", "1.0"},
          {"added_tokens", {end}},
          {"normalizer", nullptr},
          {"pre_tokenizer", step},
          {"post_processor", nullptr},
          {"decoder", step},
          {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", merges}}}};
}

std::unique_ptr<Tokenizer> open_json(const Json& json) {
  Folder folder;
  folder.write("tokenizer.json", to_text(json));
  auto tokenizer = Tokenizer::open(folder.path());
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  return std::move(tokenizer).value();
}

std::vector<int32_t> encode(const Tokenizer& tokenizer, const std::string& text, std::vector<TokenSpan>* spans = nullptr) {
  const auto ids = tokenizer.encode(text, EncodeOptions(), spans);
  EXPECT_TRUE(ids.ok()) << ids.status().message();
  return ids.ok() ? *ids : std::vector<int32_t>();
}

std::string random_text(std::mt19937& random, size_t length) {
  static const std::vector<std::pair<uint32_t, uint32_t>> kRanges = {
      {0x20, 0x7E}, {0x20, 0x7E}, {0x9, 0xD}, {0x20, 0x20}, {0x27, 0x27}, {0x73, 0x74}, {0x30, 0x39}, {0x80, 0x24F}, {0x17F, 0x17F},
      {0x300, 0x36F}, {0x370, 0x5FF}, {0x600, 0x6FF}, {0x2000, 0x206F}, {0x2150, 0x218F}, {0x3000, 0x30FF}, {0x4E00, 0x4EFF},
      {0xAC00, 0xACFF}, {0xFE00, 0xFFFD}, {0x1F300, 0x1F6FF}, {0x10FFF0, 0x10FFFF}, {0x1E5D0, 0x1E5FF}, {0x11F00, 0x11F5F}};
  std::string text;
  for (size_t i = 0; i < length; ++i) {
    const auto [low, high] = kRanges[random() % kRanges.size()];
    utf8_append(text, low + static_cast<uint32_t>(random() % (high - low + 1)));
  }
  return text;
}

TEST(Tokenizer, MergesInTheOrderOfTheListNotFromTheLeft) {
  Json json = byte_level_json();
  // "aba": "ba" comes first in this list, so the left pair must wait.
  json["model"]["vocab"]["ba"] = 261;
  json["model"]["merges"] = Json::array({Json::array({"b", "a"}), Json::array({"a", "b"})});
  const auto tokenizer = open_json(json);
  EXPECT_EQ(encode(*tokenizer, "aba"), (std::vector<int32_t>{'a', 261}));
}

TEST(Tokenizer, KnowsWhereEachTokenCameFrom) {
  const auto tokenizer = open_json(byte_level_json());
  std::vector<TokenSpan> spans;
  const std::string text = "ab the<end> \xC3\xA9";
  const auto ids = encode(*tokenizer, text, &spans);
  EXPECT_EQ(ids, (std::vector<int32_t>{259, 258, 260, ' ', 0xC3, 0xA9}));
  std::vector<std::pair<size_t, size_t>> found;
  for (const TokenSpan& span : spans) found.emplace_back(span.begin, span.end);
  EXPECT_EQ(found, (std::vector<std::pair<size_t, size_t>>{{0, 2}, {2, 6}, {6, 11}, {11, 12}, {12, 13}, {13, 14}}));
}

TEST(Tokenizer, SpansPointIntoTheTextBeforeNormalization) {
  Json json = byte_level_json();
  json["normalizer"] = {{"type", "Sequence"}, {"normalizers", {{{"type", "NFC"}}, {{"type", "Lowercase"}}}}};
  const auto tokenizer = open_json(json);
  std::vector<TokenSpan> spans;
  const std::string text = "AB e\xCC\x81 the";  // e and an accent become one letter of two bytes
  encode(*tokenizer, text, &spans);
  ASSERT_EQ(spans.size(), 5u);  // ab, space, two bytes of the letter, " the"
  EXPECT_EQ(spans[0].end, 2u);
  EXPECT_EQ(spans[2].begin, 3u);
  EXPECT_EQ(spans[3].end, 6u);
  EXPECT_EQ(spans[4].begin, 6u);
  EXPECT_EQ(spans[4].end, text.size());
}

TEST(Tokenizer, SpansTileTheTextAndDoNotChangeTheIds) {
  const auto tokenizer = open_json(byte_level_json());
  std::mt19937 random(3);
  for (int i = 0; i < 200; ++i) {
    const std::string text = random_text(random, 40);
    std::vector<TokenSpan> spans;
    const auto ids = encode(*tokenizer, text, &spans);
    EXPECT_EQ(ids, encode(*tokenizer, text));
    size_t at = 0;
    for (size_t k = 0; k < ids.size(); ++k) {
      ASSERT_EQ(spans[k].begin, at);
      ASSERT_EQ(text.substr(at, spans[k].end - at), tokenizer->token_bytes(ids[k]));
      at = spans[k].end;
    }
    EXPECT_EQ(at, text.size());
  }
}

TEST(Tokenizer, AnyTextComesBack) {
  const auto tokenizer = open_json(byte_level_json());
  std::mt19937 random(1);
  for (int i = 0; i < 500; ++i) {
    const std::string text = random_text(random, i % 60);
    const auto ids = encode(*tokenizer, text);
    EXPECT_EQ(tokenizer->decode(ids.data(), ids.size(), false), text);
  }
}

TEST(Tokenizer, AStreamSaysWhatDecodingAtOnceSaysInWholeCharacters) {
  const auto tokenizer = open_json(byte_level_json());
  std::mt19937 random(2);
  for (int i = 0; i < 300; ++i) {
    std::vector<int32_t> ids;
    for (int k = 0; k < i % 40; ++k) ids.push_back(static_cast<int32_t>(random() % (i % 3 ? 261 : 256)));
    const auto stream = tokenizer->stream(false);
    std::string all;
    for (const int32_t id : ids) {
      const std::string piece = stream->push(id);
      EXPECT_EQ(utf8_first_invalid(piece), std::string::npos);
      all += piece;
    }
    all += stream->flush();
    EXPECT_EQ(all, tokenizer->decode(ids.data(), ids.size(), false));
  }
}

TEST(Tokenizer, AStreamHoldsHalfACharacterBackAndStartsAnewAfterAReset) {
  const auto tokenizer = open_json(byte_level_json());
  const auto stream = tokenizer->stream(false);
  EXPECT_EQ(stream->push('a'), "a");
  EXPECT_EQ(stream->push(0xE2), "");
  EXPECT_EQ(stream->push(0x82), "");
  EXPECT_EQ(stream->push(0xAC), "\xE2\x82\xAC");
  stream->push(0xE2);
  stream->reset();
  EXPECT_EQ(stream->push('b'), "b");
  EXPECT_EQ(stream->push(0xFF), "");
  EXPECT_EQ(stream->flush(), "\xEF\xBF\xBD");
}

TEST(Tokenizer, AStreamOfNothingButBrokenBytesIsNotHeldBackForEver) {
  const auto tokenizer = open_json(byte_level_json());
  const auto stream = tokenizer->stream(false);
  size_t given = 0;
  for (int i = 0; i < 5000; ++i) given += stream->push(0xFF).size();
  EXPECT_GT(given, 3u * 4000);
}

TEST(Tokenizer, SpellsSpecialTokensOutWhenAskedTo) {
  const auto tokenizer = open_json(byte_level_json());
  EncodeOptions options;
  options.parse_special = false;
  const auto ids = tokenizer->encode("<end>", options);
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ(*ids, (std::vector<int32_t>{'<', 'e', 'n', 'd', '>'}));
  EXPECT_EQ(encode(*tokenizer, "<end>"), std::vector<int32_t>{260});
}

TEST(Tokenizer, RefusesTextThatIsNotUtf8AndSaysWhere) {
  const auto tokenizer = open_json(byte_level_json());
  const auto ids = tokenizer->encode("ab\xC3(", EncodeOptions());
  ASSERT_FALSE(ids.ok());
  EXPECT_EQ(ids.status().code(), Code::kArgument);
  EXPECT_NE(ids.status().message().find("byte 2"), std::string::npos) << ids.status().message();
  EXPECT_NE(ids.status().detail().find("\"offset\":2"), std::string::npos) << ids.status().detail();
}

TEST(Tokenizer, AWordOfAMegabyteIsNoTrouble) {
  const auto tokenizer = open_json(byte_level_json());
  std::string word;
  while (word.size() < 1'000'000) word += "the";
  const auto ids = encode(*tokenizer, word);
  EXPECT_EQ(ids.size(), word.size() / 3);
}

TEST(Tokenizer, ManyThreadsShareOne) {
  const auto tokenizer = open_json(byte_level_json());
  std::vector<std::thread> threads;
  std::vector<int> wrong(8, 0);
  for (size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(static_cast<unsigned>(t));
      for (int i = 0; i < 100; ++i) {
        const std::string text = random_text(random, 30);
        const auto ids = tokenizer->encode(text, EncodeOptions());
        wrong[t] += !ids.ok() || tokenizer->decode(ids->data(), ids->size(), false) != text;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(8, 0));
}

TEST(Tokenizer, IgnoresIdsOutsideTheVocabulary) {
  const auto tokenizer = open_json(byte_level_json());
  const std::vector<int32_t> ids = {-1, 'a', 261, 1 << 30, 'b', INT32_MIN};
  EXPECT_EQ(tokenizer->decode(ids.data(), ids.size(), false), "ab");
  EXPECT_EQ(tokenizer->token_bytes(261), "");
  EXPECT_EQ(tokenizer->vocabulary_size(), 261);
}

TEST(Tokenizer, SaysWhatAFolderLacks) {
  Folder folder;
  const auto tokenizer = Tokenizer::open(folder.path());
  EXPECT_EQ(tokenizer.status().code(), Code::kNotFound);
  EXPECT_NE(tokenizer.status().message().find("tokenizer.json"), std::string::npos);
}

TEST(Tokenizer, NamesTheStepThatItDoesNotKnow) {
  for (const char* part : {"normalizer", "pre_tokenizer", "post_processor", "decoder", "model"}) {
    Json json = byte_level_json();
    json[part]["type"] = "Sparkle";
    Folder folder;
    folder.write("tokenizer.json", to_text(json));
    const auto tokenizer = Tokenizer::open(folder.path());
    ASSERT_FALSE(tokenizer.ok()) << part;
    EXPECT_EQ(tokenizer.status().code(), Code::kUnsupported) << part;
    EXPECT_NE(tokenizer.status().message().find("Sparkle"), std::string::npos) << tokenizer.status().message();
  }
}

TEST(Tokenizer, RefusesDropout) {
  Json json = byte_level_json();
  json["model"]["dropout"] = 0.1;
  Folder folder;
  folder.write("tokenizer.json", to_text(json));
  EXPECT_EQ(Tokenizer::open(folder.path()).status().code(), Code::kUnsupported);
}

TEST(Tokenizer, ConfigNamesTheSpecialTokensInEitherSpelling) {
  Folder folder;
  folder.write("tokenizer.json", to_text(byte_level_json()));
  folder.write("tokenizer_config.json", R"({"eos_token": {"content": "<end>"}, "bos_token": "the", "pad_token": null})");
  const auto tokenizer = Tokenizer::open(folder.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  EXPECT_EQ((*tokenizer)->eos_id(), 260);
  EXPECT_EQ((*tokenizer)->bos_id(), 257);
  EXPECT_EQ((*tokenizer)->pad_id(), -1);
}

TEST(Tokenizer, LlamaClassesPutBosAndEosAroundByTheirSettings) {
  const auto ids = [](const std::string& config) {
    Folder folder;
    folder.write("tokenizer.json", to_text(byte_level_json())).write("tokenizer_config.json", config);
    const auto tokenizer = Tokenizer::open(folder.path());
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status().message();
    return encode(**tokenizer, "a");
  };
  using Ids = std::vector<int32_t>;
  const std::string tokens = R"("bos_token": "<end>", "eos_token": "ab", "tokenizer_class": ")";
  EXPECT_EQ(ids("{" + tokens + R"(LlamaTokenizerFast", "add_bos_token": true})"), (Ids{260, 'a'}));
  EXPECT_EQ(ids("{" + tokens + R"(LlamaTokenizer", "add_bos_token": false, "add_eos_token": true})"), (Ids{'a', 259}));
  EXPECT_EQ(ids("{" + tokens + R"(LlamaTokenizer"})"), Ids{'a'});
  EXPECT_EQ(ids("{" + tokens + R"(Qwen2Tokenizer", "add_bos_token": true})"), Ids{'a'});  // follows the file
}

TEST(Tokenizer, VocabAndMergesOfAnUnknownClassAreRefusedByName) {
  Folder folder;
  folder.write("vocab.json", R"({"a": 0})").write("merges.txt", "#version: 0.2\n");
  folder.write("tokenizer_config.json", R"({"tokenizer_class": "CLIPTokenizer"})");
  const auto tokenizer = Tokenizer::open(folder.path());
  EXPECT_EQ(tokenizer.status().code(), Code::kUnsupported);
  EXPECT_NE(tokenizer.status().message().find("CLIPTokenizer"), std::string::npos);
}

// "a" and "aa" in either order cost the same but for rounding: the `tokenizers` package says b a aa. With the nearest doubles of
// these scores it would be b aa a.
TEST(Tokenizer, ScoresAreRoundedAsThePackageRoundsThem) {
  Folder folder;
  folder.write("tokenizer.json", R"({"version":"1.0","added_tokens":[],"normalizer":null,"pre_tokenizer":null,"post_processor":null,
    "decoder":null,"model":{"type":"Unigram","unk_id":0,"byte_fallback":false,"vocab":[["<unk>",0.0],["b",-5.682449531950523],
    ["a",-3.6790847351650076],["aa",-3.6380884657962396]]}})");
  const auto tokenizer = Tokenizer::open(folder.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  EXPECT_EQ(*(*tokenizer)->encode("baaa", EncodeOptions()), (std::vector<int32_t>{1, 2, 3}));
}

// SentencePiece's ModelProto, as far as these tests need one: BPE, pieces with falling scores, a character map.
class ModelProto {
 public:
  static std::string field(int number, std::string_view bytes) {
    return varint(number << 3 | 2) + varint(bytes.size()) + std::string(bytes);
  }
  static std::string number(int field, uint64_t value) { return varint(field << 3) + varint(value); }

  void add(std::string_view text, int type = 1) {
    const float score = static_cast<float>(-count_++);
    std::string bytes(sizeof(score), '\0');
    std::memcpy(bytes.data(), &score, sizeof(score));
    pieces_ += field(1, field(1, text) + varint(2 << 3 | 5) + bytes + number(3, static_cast<uint64_t>(type)));
  }
  std::string bytes(std::string_view charsmap, bool add_dummy_prefix, bool remove_extra_whitespaces) const {
    return pieces_ + field(2, number(3, 2)) +
           field(3, field(2, charsmap) + number(3, add_dummy_prefix) + number(4, remove_extra_whitespaces) + number(5, 1));
  }

 private:
  static std::string varint(uint64_t value) {
    std::string bytes;
    for (; value >= 0x80; value >>= 7) bytes += static_cast<char>(value | 0x80);
    return bytes + static_cast<char>(value);
  }

  std::string pieces_;
  int count_ = 0;
};

// A precompiled_charsmap: every node of the trie has a block of 256 units of its own.
std::string charsmap(const std::vector<std::pair<std::string, std::string>>& keys) {
  std::vector<uint32_t> units(256);
  std::string replacements;
  const auto give_block = [&](size_t node) {
    const auto base = static_cast<uint32_t>(units.size());
    units.resize(units.size() + 256);
    units[node] |= (static_cast<uint32_t>(node) ^ base) << 10;
    return base;
  };
  std::map<std::string, size_t> nodes = {{"", 0}};
  std::map<size_t, uint32_t> bases = {{0, give_block(0)}};
  for (const auto& [key, value] : keys) {
    for (size_t length = 1; length <= key.size(); ++length) {
      const auto [at, fresh] = nodes.emplace(key.substr(0, length), 0);
      if (!fresh) continue;
      const auto byte = static_cast<uint8_t>(key[length - 1]);
      at->second = bases[nodes[key.substr(0, length - 1)]] ^ byte;
      units[at->second] = byte;
      bases[at->second] = give_block(at->second);
    }
    units[nodes[key]] |= 1u << 8;
    units[bases[nodes[key]]] = 1u << 31 | static_cast<uint32_t>(replacements.size());
    replacements += value + '\0';
  }
  std::string bytes;
  const auto put = [&](uint32_t word) {
    for (int i = 0; i < 4; ++i) bytes += static_cast<char>(word >> 8 * i);
  };
  put(static_cast<uint32_t>(4 * units.size()));
  for (const uint32_t unit : units) put(unit);
  return bytes + replacements;
}

// What tokenizer_config.json makes of a tokenizer.model must be what sentencepiece reads in it: OpenLLaMA's changes
// characters and drops extra spaces.
TEST(Tokenizer, ATokenizerModelIsReadAsSentencePieceReadsIt) {
  const std::string map =
      charsmap({{"A", "a"}, {"A\xCC\x80", "\xC3\xA0"}, {"\xEF\xAC\x81", "fi"}, {"\t", " "}, {"\xC2\xAD", ""}, {"\xE3\x80\x80", "  "}});
  ModelProto model;
  model.add("<unk>", 2);
  model.add("<s>", 3);
  model.add("</s>", 3);
  for (const char* piece : {"ab", "fi",
                            "\xE2\x96\x81"
                            "a",
                            "\xE2\x96\x81"
                            "fi",
                            "aba", "\xE2\x96\x81\xE2\x96\x81", "a", "b", "f", "i", "\xC3\xA0", "\xE2\x96\x81"}) {
    model.add(piece);
  }
  const std::vector<std::string> parts = {"a", "b",  "A",  "\xCC\x80", "\xEF\xAC\x81", "\xE2\x96\x81", "\t", "\xC2\xAD", "\xE3\x80\x80",
                                          " ", "  ", "fi", "x"};
  std::mt19937 random(3);
  for (int settings = 0; settings < 8; ++settings) {
    const std::string bytes = model.bytes(settings & 1 ? map : "", settings & 2, settings & 4);
    Folder bare, converted;
    bare.write("tokenizer.model", bytes);
    converted.write("tokenizer.model", bytes).write("tokenizer_config.json", R"({"tokenizer_class": "LlamaTokenizer"})");
    const auto expected = Tokenizer::open(bare.path()), actual = Tokenizer::open(converted.path());
    if (expected.status().code() == Code::kUnsupported) GTEST_SKIP() << expected.status().message();
    ASSERT_TRUE(expected.ok()) << expected.status().message();
    ASSERT_TRUE(actual.ok()) << actual.status().message();
    for (int i = 0; i < 200; ++i) {
      std::string text;
      for (size_t count = random() % 9; count > 0; --count) text += parts[random() % parts.size()];
      std::vector<TokenSpan> spans;
      const auto ids = (*actual)->encode(text, EncodeOptions(), &spans);
      ASSERT_EQ(*ids, *(*expected)->encode(text, EncodeOptions())) << settings << " \"" << text << "\"";
      for (const TokenSpan& span : spans) EXPECT_LE(span.end, text.size());
    }
    const auto ids = *(*actual)->encode("  ab \xEF\xAC\x81  ", EncodeOptions());
    if (settings == 5 || settings == 7) {
      EXPECT_EQ((*actual)->decode(ids.data(), ids.size(), true), "ab fi") << settings;
    }
  }
}

// A stream of text that goes on says what decoding all of it would add.
TEST(Tokenizer, AStreamBehindOtherTextKeepsTheSpaceInFront) {
  ModelProto model;
  model.add("<unk>", 2);
  model.add("<s>", 3);
  model.add("</s>", 3);
  for (const char* piece : {"\xE2\x96\x81"
                            "ab",
                            "\xE2\x96\x81"
                            "fi",
                            "a", "b", "f", "i", "\xE2\x96\x81"})
    model.add(piece);
  for (int byte = 0; byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof name, "<0x%02X>", byte);
    model.add(name, 6);
  }
  const std::string bytes = model.bytes("", true, false);
  Folder folder;
  folder.write("tokenizer.model", bytes).write("tokenizer_config.json", R"({"tokenizer_class": "LlamaTokenizer"})");
  const auto tokenizer = Tokenizer::open(folder.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  constexpr int32_t kBos = 1, kAb = 3, kFi = 4, kFirstByte = 10;
  const auto stream = (*tokenizer)->stream(true);
  const auto behind = [&](std::vector<int32_t> before, const std::vector<int32_t>& ids) {
    stream->reset_behind(before.data(), before.size());
    std::string text;
    for (const int32_t id : ids) text += stream->push(id);
    return text + stream->flush();
  };
  EXPECT_EQ(behind({}, {kFi, kAb}), "fi ab");
  EXPECT_EQ(behind({kBos}, {kFi, kAb}), "fi ab");
  EXPECT_EQ(behind({kBos, kAb}, {kFi, kAb}), " fi ab");
  EXPECT_EQ(behind({kAb}, {}), "");
  const std::vector<int32_t> euro = {kFirstByte + 0xE2, kFirstByte + 0x82, kFirstByte + 0xAC};
  EXPECT_EQ(behind(euro, {kFi}), " fi");
  EXPECT_EQ(behind({kAb}, {euro[0], euro[1], euro[2], kFi}), "\xE2\x82\xAC fi");
  EXPECT_EQ(behind({kAb, euro[0], euro[1]}, {euro[2], kFi}), "\xEF\xBF\xBD fi");  // the other half stands in the prompt
  stream->reset();
  EXPECT_EQ(stream->push(kFi), "fi");
}

TEST(Tokenizer, DamagedModelsAreRefused) {
  for (const std::string& bytes :
       {std::string(), std::string("garbage"), std::string("\x0A\xFF\xFF\xFF\xFF\x0F", 6), std::string(1000, '\x0A')}) {
    for (const char* config : {"", "{}"}) {
      Folder folder;
      folder.write("tokenizer.model", bytes);
      if (*config) folder.write("tokenizer_config.json", config);
      const auto tokenizer = Tokenizer::open(folder.path());
      ASSERT_FALSE(tokenizer.ok());
      EXPECT_NE(tokenizer.status().message().find("tokenizer.model"), std::string::npos) << tokenizer.status().message();
    }
  }
}

// Every prefix of a sound file is refused or works, and nothing crashes.
TEST(Tokenizer, CutOffAndChangedFilesAreRefusedOrWork) {
  const std::string sound = to_text(byte_level_json());
  std::mt19937 random(5);
  for (int i = 0; i < 400; ++i) {
    std::string text = sound;
    if (i % 2) {
      text.resize(random() % text.size());
    } else {
      for (int k = 0; k < 3; ++k) text[random() % text.size()] = static_cast<char>(random());
    }
    auto parts = read_tokenizer_json(text);
    if (!parts.ok()) continue;
    const auto tokenizer = Pipeline::make(std::move(*parts), TokenizerConfig(), "tokenizer.json");
    const auto ids = tokenizer->encode("the ab", EncodeOptions());
    if (ids.ok()) tokenizer->decode(ids->data(), ids->size(), false);
  }
}

TEST(Tokenizer, TheStoryModelsTextComesBack) {
  const std::string folder = std::string(NIBBLE_TEST_DATA) + "/story-6m";
  if (!std::filesystem::exists(folder + "/tokenizer.json")) GTEST_SKIP() << "SKIPPED: " << folder << " is not there";
  const auto tokenizer = Tokenizer::open(folder);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  const std::string text = "Once upon a time, there was a girl.\n\nShe said: \"Hi!\" \xF0\x9F\x99\x82";
  const auto ids = encode(**tokenizer, text);
  EXPECT_EQ(ids[0], 0);  // <|endoftext|>, from the post-processor
  EXPECT_EQ((*tokenizer)->decode(ids.data(), ids.size(), true), text);
}

TEST(Regex, GivesUpInsteadOfRunningAway) {
  auto regex = Regex::compile("(a+)+$|(?:(?:a*)*)*b");
  if (!regex.ok()) return;
  Regex::Scratch scratch;
  const auto match = (*regex)->find(std::string(5000, 'a') + "c", 0, scratch);
  EXPECT_TRUE(!match.ok() || match->begin != 1);
}

TEST(Regex, RefusesWhatItCannotTranslate) {
  for (const char* pattern : {"(unclosed", "[a", "\\p{Sparkle}", "a\\", "[z-a]", "(?<=a+)b", ")", "\\x{110000}", "[[:sparkle:]]"}) {
    EXPECT_EQ(Regex::compile(pattern).status().code(), Code::kUnsupported) << pattern;
  }
}

TEST(Regex, ReadsOnigurumasSpelling) {
  const auto found = [](const char* pattern, const std::string& text) {
    auto regex = Regex::compile(pattern);
    EXPECT_TRUE(regex.ok()) << pattern << ": " << regex.status().message();
    Regex::Scratch scratch;
    const auto match = (*regex)->find(text, 0, scratch);
    EXPECT_TRUE(match.ok());
    return match->begin == std::string::npos ? std::string("none") : text.substr(match->begin, match->end - match->begin);
  };
  EXPECT_EQ(found("\\h+", "xyz09aF."), "09aF");            // hexadecimal digits
  EXPECT_EQ(found("[a-z&&[^aeiou]]+", "aebcdi"), "bcd");    // intersection
  EXPECT_EQ(found("[^[ab]c]+", "abcxyz"), "xyz");           // a nested class
  EXPECT_EQ(found("a{,2}b", "aaab"), "aab");                // no lower bound
  EXPECT_EQ(found("\\d{2}+x", "123412x"), "123412x");       // a repeated repeat, not a possessive one
  EXPECT_EQ(found("(?m:a.b)", "a\nb"), "a\nb");             // m: the dot takes newlines
  EXPECT_EQ(found("^b$", "a\nb\nc"), "b");                  // lines, always
  EXPECT_EQ(found("\\u0041", "xA"), "A");
  EXPECT_EQ(found("[[:alpha:]]+", "12\xC3\xA9t"), "\xC3\xA9t");
  EXPECT_EQ(found("[[:alpha:]]+", "fac\xCC\xA7" "ade"), "fac");  // a cedilla on its own is a mark, and not alphabetic
  EXPECT_EQ(found("[[:alnum:]]+", "-1\xE2\x92\xB6-"), "1\xE2\x92\xB6");  // a circled letter is
  EXPECT_EQ(found("[[:punct:]]+", "a-+b"), "-+");  // the bracket has symbols, the property has not
  EXPECT_EQ(found("\\p{Punct}+", "a-+b"), "-");
  EXPECT_EQ(found("[[:upper:]]+", "a\xE2\x85\xA3" "B"), "\xE2\x85\xA3" "B");  // a Roman four
  EXPECT_EQ(found("\\p{Lower}+", "A\xC2\xAA" "b"), "\xC2\xAA" "b");  // a feminine ordinal
  EXPECT_EQ(found("{x}", "a{x}"), "{x}");
}

// The hand-written matchers against PCRE2 with the very pattern.
TEST(SplitMatcher, IsTheRegex) {
  const std::string head = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N})";
  const std::string tail = R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  for (const std::string& pattern : {std::string(kGpt2Pattern), head + "{1,3}" + tail, head + tail, head + "+" + tail}) {
    const auto matcher = SplitMatcher::for_pattern(pattern);
    ASSERT_TRUE(matcher) << pattern;
    auto regex = Regex::compile(pattern);
    ASSERT_TRUE(regex.ok());
    Regex::Scratch scratch;
    std::mt19937 random(7);
    for (int i = 0; i < 4000; ++i) {
      const std::string text = random_text(random, 1 + i % 24);
      size_t at = 0;
      ASSERT_TRUE((*regex)->each(text, scratch, [&](size_t begin, size_t end) {
        ASSERT_EQ(begin, at) << pattern << " in " << text;
        at = matcher->end_of_match(text, at);
        ASSERT_EQ(end, at) << pattern << " in " << text;
      }).ok());
      ASSERT_EQ(at, text.size());
    }
  }
  EXPECT_FALSE(SplitMatcher::for_pattern(head + "{1,4}" + tail));
}

}  // namespace
}  // namespace nbl

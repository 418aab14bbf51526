#include "engine/text_stream.h"

#include <gtest/gtest.h>

namespace nbl {
namespace {

// A tokenizer whose token n is the n-th of a list of texts.
class ListTokenizer : public Tokenizer {
 public:
  explicit ListTokenizer(std::vector<std::string> texts) : texts_(std::move(texts)) {}
  Result<std::vector<int32_t>> encode(std::string_view, const EncodeOptions&, std::vector<TokenSpan>*) const override {
    return std::vector<int32_t>{};
  }
  std::string decode(const int32_t*, size_t, bool) const override { return {}; }
  std::unique_ptr<StreamDecoder> stream(bool) const override {
    class Stream : public StreamDecoder {
     public:
      explicit Stream(const std::vector<std::string>& texts) : texts_(texts) {}
      std::string push(int32_t id) override { return texts_[id]; }
      std::string flush() override { return {}; }
      void reset() override {}
      void reset_behind(const int32_t*, size_t) override {}

     private:
      const std::vector<std::string>& texts_;
    };
    return std::make_unique<Stream>(texts_);
  }
  std::string token_bytes(int32_t id) const override { return texts_[id]; }
  int32_t vocabulary_size() const override { return static_cast<int32_t>(texts_.size()); }
  int32_t id_of(std::string_view) const override { return -1; }
  bool is_special(int32_t) const override { return false; }
  std::string description() const override { return "list"; }
  int32_t bos_id() const override { return -1; }
  int32_t eos_id() const override { return -1; }
  int32_t pad_id() const override { return -1; }

 private:
  std::vector<std::string> texts_;
};

// What comes out token by token, with "|" between, and "!" where a stop string was met.
std::string run(const std::vector<std::string>& pieces, const std::vector<std::string>& stops) {
  const ListTokenizer tokenizer(pieces);
  TextStream stream(&tokenizer, true);
  stream.reset(stops, {});
  std::string all;
  for (int32_t id = 0; id < tokenizer.vocabulary_size(); ++id) {
    std::string out;
    const bool stopped = stream.push(id, out);
    all += out + (stopped ? "!" : "|");
    if (stopped) return all;
  }
  std::string out;
  stream.flush(out);
  return all + out;
}

TEST(TextStream, PassesTextThroughWithoutStopStrings) { EXPECT_EQ(run({"a", "b", ""}, {}), "a|b||"); }

TEST(TextStream, HoldsBackWhatMayBeginAStopString) {
  EXPECT_EQ(run({"one ", "EN", "D two"}, {"END"}), "one ||!");
  EXPECT_EQ(run({"one ", "EN", "TER"}, {"END"}), "one ||ENTER|");
  EXPECT_EQ(run({"one ", "EN"}, {"END"}), "one ||EN");
}

TEST(TextStream, TheEarliestOfSeveralStopsWins) { EXPECT_EQ(run({"ab cd ef"}, {"ef", "cd"}), "ab !"); }

TEST(TextStream, AStopInsideOneTokenCutsIt) { EXPECT_EQ(run({"hello\nuser:"}, {"\nuser"}), "hello!"); }

TEST(TextStream, OverlappingBeginnings) {
  EXPECT_EQ(run({"a", "a", "b"}, {"aab"}), "||!");
  EXPECT_EQ(run({"a", "a", "a", "b"}, {"aab"}), "||a|!");
}

TEST(TextStream, WithoutATokenizerThereIsNoText) {
  TextStream stream(nullptr, true);
  std::string out;
  EXPECT_FALSE(stream.push(5, out));
  EXPECT_EQ(out, "");
}

}  // namespace
}  // namespace nbl

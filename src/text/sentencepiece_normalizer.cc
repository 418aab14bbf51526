#include "text/sentencepiece_normalizer.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "base/utf8.h"
#include "text/charsmap.h"
#include "text/step.h"

namespace nbl {
namespace {

class SentencePieceNormalizer final : public Normalizer {
 public:
  SentencePieceNormalizer(std::optional<Charsmap> map, bool remove_extra_whitespaces, bool add_prefix, bool metaspaces)
      : map_(std::move(map)), remove_extra_(remove_extra_whitespaces), add_prefix_(add_prefix), space_(metaspaces ? "\xE2\x96\x81" : " ") {}

  Status apply(AlignedText& text, Regex::Scratch&) const override {
    const std::string& in = text.text;
    TextBuilder builder(text);
    bool after_space = remove_extra_;  // of the text so far, where spaces at the beginning count as one too many
    bool empty = true;
    for (size_t at = 0; at < in.size();) {
      const size_t begin = at;
      std::string_view chunk = next_chunk(in, at);
      while (after_space && !chunk.empty() && chunk.front() == ' ') chunk.remove_prefix(1);
      if (chunk.empty() && remove_extra_) continue;
      if (empty && add_prefix_) builder.put(space_, begin, begin);
      empty = false;
      if (chunk.empty()) continue;
      for (size_t done = 0; done < chunk.size();) {
        const size_t end = chunk[done] == ' ' ? done + 1 : std::min(chunk.find(' ', done), chunk.size());
        builder.put(chunk[done] == ' ' ? space_ : chunk.substr(done, end - done), begin, at);
        done = end;
      }
      after_space = remove_extra_ && chunk.back() == ' ';
      if (builder.size() > kLargestText) {
        return error(Code::kArgument, "the normalized text would be longer than %zu bytes", kLargestText);
      }
    }
    text = builder.take();
    if (remove_extra_) drop_spaces_at_end(text);
    return {};
  }

 private:
  // What stands for the characters at `at`, which moves behind them: of the map's keys the longest that fits.
  std::string_view next_chunk(const std::string& in, size_t& at) const {
    const size_t begin = at;
    if (map_) {
      size_t length = 0;
      if (const char* replacement = map_->longest(std::string_view(in).substr(begin), length)) {
        at += length;
        return replacement;
      }
    }
    utf8_next(in, at);
    return std::string_view(in).substr(begin, at - begin);
  }

  void drop_spaces_at_end(AlignedText& text) const {
    std::string& out = text.text;
    while (out.size() >= space_.size() && out.compare(out.size() - space_.size(), space_.size(), space_) == 0) {
      out.resize(out.size() - space_.size());
    }
    if (!text.source.empty()) text.source.resize(out.size());
  }

  std::optional<Charsmap> map_;
  bool remove_extra_, add_prefix_;
  std::string_view space_;
};

}  // namespace

Result<std::unique_ptr<Normalizer>> sentencepiece_normalizer(const SentencePieceModel& model, bool add_prefix, bool metaspaces) {
  std::optional<Charsmap> map;
  if (!model.precompiled_charsmap.empty()) {
    NBL_ASSIGN_OR_RETURN(map, Charsmap::from_bytes(model.precompiled_charsmap));
  }
  return std::unique_ptr<Normalizer>(
      std::make_unique<SentencePieceNormalizer>(std::move(map), model.remove_extra_whitespaces, add_prefix && metaspaces, metaspaces));
}

}  // namespace nbl

// How it works: the decoder keeps a window of the latest ids. Its older part has been given out and stays only as
// context, because decoders treat the first token of a text differently; the newer part is held back until the text of
// the whole window extends the text of the context and does not end in U+FFFD, the sign of a character that is not
// complete.
//
// With byte fallback a byte can spoil text that was right before it (a run of byte tokens is text as a whole or not at
// all). What was given out stays; from there on the stream reads bytes instead, with one U+FFFD for each part that is
// no character.
#include "text/stream_decoder.h"

#include <vector>

#include "base/utf8.h"
#include "text/token_decoder.h"

namespace nbl {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";
// Ids held back at most: a model that produces nothing but broken bytes is not waited for any longer.
constexpr size_t kMostHeld = 256;

class WindowDecoder final : public StreamDecoder {
 public:
  WindowDecoder(const Tokenizer& tokenizer, bool skip_special) : tokenizer_(tokenizer), skip_special_(skip_special) {}

  std::string push(int32_t id) override {
    if (given_.empty() && !window_.empty()) set_context();
    window_.push_back(id);
    std::string text = decode(window_);
    if (text.size() > given_.size() && !ends_broken(text) && !begins_with(text, given_)) text = read_bytes();
    const bool complete = text.size() > given_.size() && !ends_broken(text);
    if (!complete && window_.size() - context_ <= kMostHeld) return {};
    const std::string added = beyond_given(text);
    window_.erase(window_.begin(), window_.begin() + static_cast<ptrdiff_t>(context_));
    context_ = window_.size();
    given_ = decode(window_);
    return added;
  }

  std::string flush() override {
    std::string rest;
    if (window_.size() > context_) {
      const std::string text = decode(window_);
      rest = beyond_given(begins_with(text, given_) ? text : read_bytes());
    }
    reset();
    return rest;
  }

  void reset() override {
    window_.clear();
    given_.clear();
    context_ = 0;
    as_bytes_ = false;
  }

  void reset_behind(const int32_t* ids, size_t count) override {
    reset();
    window_.assign(ids, ids + count);
    set_context();
    if (context_ == 0) window_.clear();  // they end inside a character: what completes it begins the text
  }

 private:
  static bool ends_broken(const std::string& text) {
    return text.size() >= kReplacement.size() && text.compare(text.size() - kReplacement.size(), kReplacement.size(), kReplacement) == 0;
  }
  static bool begins_with(const std::string& text, const std::string& start) { return text.compare(0, start.size(), start) == 0; }

  std::string decode(const std::vector<int32_t>& ids) const {
    return as_bytes_ ? lossy_utf8(bytes_of(ids)) : tokenizer_.decode(ids.data(), ids.size(), skip_special_);
  }
  std::string bytes_of(const std::vector<int32_t>& ids) const {
    std::string bytes;
    for (const int32_t id : ids) {
      if (!skip_special_ || !tokenizer_.is_special(id)) bytes += tokenizer_.token_bytes(id);
    }
    return bytes;
  }
  // Goes on with bytes: the window's text, and what was given out of it, as the bytes say.
  std::string read_bytes() {
    as_bytes_ = true;
    given_ = decode(std::vector<int32_t>(window_.begin(), window_.begin() + static_cast<ptrdiff_t>(context_)));
    return decode(window_);
  }

  // Nothing had been given out when the window began: its first ids may turn out to be whole after all.
  void set_context() {
    const std::string text = decode(window_);
    if (ends_broken(text)) return;
    given_ = text;
    context_ = window_.size();
  }

  // What the window says beyond what was given out of it.
  std::string beyond_given(const std::string& text) const {
    return begins_with(text, given_) ? text.substr(given_.size())
                                     : decode(std::vector<int32_t>(window_.begin() + static_cast<ptrdiff_t>(context_), window_.end()));
  }

  const Tokenizer& tokenizer_;
  const bool skip_special_;
  std::vector<int32_t> window_;
  bool as_bytes_ = false;
  size_t context_ = 0;  // ids of the window that have been given out
  std::string given_;   // what decode() makes of those
};

}  // namespace

std::unique_ptr<StreamDecoder> make_stream_decoder(const Tokenizer& tokenizer, bool skip_special) {
  return std::make_unique<WindowDecoder>(tokenizer, skip_special);
}

}  // namespace nbl

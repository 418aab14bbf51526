#include "engine/text_stream.h"

#include <algorithm>

#include "base/utf8.h"

namespace nbl {

TextStream::TextStream(const Tokenizer* tokenizer, bool skip_special) {
  if (tokenizer) decoder_ = tokenizer->stream(skip_special);
}

void TextStream::reset(const std::vector<std::string>& stop_strings, std::vector<int32_t> before) {
  stop_strings_ = stop_strings;
  before_ = std::move(before);
  restart();
}

void TextStream::restart() {
  if (decoder_) decoder_->reset_behind(before_.data(), before_.size());
  held_.clear();
}

bool TextStream::push(int32_t id, std::string& out) {
  if (!decoder_) return false;
  held_ += decoder_->push(id);
  return emit(false, out);
}

bool TextStream::flush(std::string& out) {
  if (!decoder_) return false;
  held_ += decoder_->flush();
  return emit(true, out);
}

bool TextStream::emit(bool last, std::string& out) {
  size_t first = std::string::npos;
  for (const std::string& stop : stop_strings_) first = std::min(first, held_.find(stop));
  if (first != std::string::npos) {
    out.append(held_, 0, first);
    held_.clear();
    return true;
  }
  size_t keep = 0;  // the longest end of held_ that begins a stop string
  if (!last) {
    for (const std::string& stop : stop_strings_) {
      for (size_t length = std::min(stop.size() - 1, held_.size()); length > keep; --length) {
        if (held_.compare(held_.size() - length, length, stop, 0, length) == 0) {
          keep = length;
          break;
        }
      }
    }
  }
  // A stop string may begin in the middle of a character only if it is not UTF-8, which the API refuses, so the cut
  // falls between characters.
  out.append(held_, 0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return false;
}

}  // namespace nbl

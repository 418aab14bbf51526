// Text on its way through the pipeline, with the place in the original that each of its bytes came from.
//
// Alignment costs memory and time, so it is only kept when spans were asked for. While nothing has changed the text,
// `source` stays empty and byte i came from base + i.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace nbl {

struct AlignedText {
  std::string text;
  std::vector<TokenSpan> source;  // one per byte of `text` once anything changed and spans are wanted
  size_t base = 0;                // where the text began in the original
  bool tracked = false;           // spans are wanted

  TokenSpan span(size_t begin, size_t end) const {
    if (begin >= end) {  // nothing: the place between two bytes
      const size_t at = source.empty() ? base + begin : begin < source.size() ? source[begin].begin
                        : source.back().end;
      return {at, at};
    }
    if (source.empty()) return {base + begin, base + end};
    return {source[begin].begin, source[end - 1].end};
  }
};

// A run of bytes of an AlignedText.
struct Piece {
  uint32_t begin, end;
};

// Builds the text after a step from the text before it.
class TextBuilder {
 public:
  explicit TextBuilder(const AlignedText& input) : input_(input) {
    output_.base = input.base;
    output_.tracked = input.tracked;
    output_.text.reserve(input.text.size());
  }

  // Bytes [begin, end) of the input, unchanged.
  void keep(size_t begin, size_t end) {
    output_.text.append(input_.text, begin, end - begin);
    if (!output_.tracked) return;
    for (size_t i = begin; i < end; ++i) output_.source.push_back(input_.span(i, i + 1));
  }
  // `bytes` stand where the input had [begin, end); begin == end is an insertion.
  void put(std::string_view bytes, size_t begin, size_t end) {
    output_.text.append(bytes);
    if (output_.tracked) output_.source.insert(output_.source.end(), bytes.size(), input_.span(begin, end));
  }
  size_t size() const { return output_.text.size(); }
  AlignedText take() { return std::move(output_); }

 private:
  const AlignedText& input_;
  AlignedText output_;
};

}  // namespace nbl

// TextStream: generated ids to text as a reader should see it: whole characters, and nothing of a stop string.
//
// Text that may be the beginning of a stop string is held back until it is clear that it is not.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "text/tokenizer.h"

namespace nbl {

class TextStream {
 public:
  // tokenizer may be null: every piece of text is then empty.
  TextStream(const Tokenizer* tokenizer, bool skip_special);

  // `before`: the ids that the text goes on behind; none where it begins.
  void reset(const std::vector<std::string>& stop_strings, std::vector<int32_t> before);
  // To the state after reset(), with the same stop strings. After an exception of push() or flush() nothing else may follow.
  void restart();
  // Adds a token's text to `out`. True when a stop string has come: the text before it is in `out`, the rest is dropped.
  bool push(int32_t id, std::string& out);
  // What is still held back, at the end of a generation. True when it completes a stop string.
  bool flush(std::string& out);

 private:
  bool emit(bool last, std::string& out);

  std::unique_ptr<StreamDecoder> decoder_;
  std::vector<std::string> stop_strings_;
  std::vector<int32_t> before_;
  std::string held_;
};

}  // namespace nbl

// SentencePiece's precompiled_charsmap: a double-array trie from texts to replacements, as T5's normalizer carries it.
//
// Layout: uint32 size of the trie in bytes, the trie (uint32 units of Darts), then the replacements, each ending in NUL.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace nbl {

class Charsmap {
 public:
  static Result<Charsmap> decode(std::string_view base64);
  static Result<Charsmap> from_bytes(std::string_view bytes);

  // The replacement of the shortest key that `text` begins with, as the `tokenizers` package takes it; null if none.
  const char* replacement(std::string_view text) const;

  // The replacement of the longest key that `text` begins with, as sentencepiece takes it, and the key's length; null if
  // none.
  const char* longest(std::string_view text, size_t& length) const;

  // True if no text at all can lead outside the trie or the replacements: for readers that do not check.
  bool is_sound() const;

 private:
  // Calls found(replacement, length) for every key that `text` begins with, the shortest first, until it gives false.
  template <typename Found>
  void each_key(std::string_view text, Found found) const;

  std::vector<uint32_t> units_;
  std::string replacements_;
};

}  // namespace nbl

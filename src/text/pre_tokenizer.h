// The pre-tokenizers of tokenizer.json: how a normalized text is cut into the pieces that the model encodes one by one.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/status.h"
#include "text/aligned_text.h"
#include "text/regex.h"

namespace nbl {

// A text and its pieces. Pieces are in order and do not overlap; what a step removed is in none of them.
struct PreTokenized {
  AlignedText text;
  std::vector<Piece> pieces;
  bool raw_bytes = false;  // the bytes of the text stand for themselves: the byte letters were left out (see below)
};

class PreTokenizer {
 public:
  // `step` is the object of tokenizer.json. A Sequence becomes the list of its steps; null an empty list.
  static Result<std::vector<std::unique_ptr<PreTokenizer>>> parse(const Json& step);

  virtual ~PreTokenizer() = default;
  virtual Status apply(PreTokenized& state, Regex::Scratch& scratch) const = 0;

  // ByteLevel as the last step may leave the bytes as they are when the model can take them so: the same pieces
  // without spelling every byte as a letter.
  virtual bool is_byte_level() const { return false; }
  virtual void leave_bytes() {}
  // True if the step asks where in the original a piece began: then alignment is kept even if no spans are wanted.
  virtual bool needs_origin() const { return false; }
};

}  // namespace nbl

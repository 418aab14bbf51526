// Text to token ids and back, exactly as the checkpoint's own tokenizer files say.
//
// One immutable object per model, used from any number of threads at once. Which files decide, in this order:
// tokenizer.json; tokenizer.model (or spiece.model) through the sentencepiece library; vocab.json + merges.txt.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace nbl {

struct EncodeOptions {
  bool add_special = true;     // what the post-processor adds: <s>, </s>, ...
  bool parse_special = true;   // false: special tokens that stand in the text are spelled out as ordinary text
};

struct TokenSpan {
  size_t begin;  // byte offsets into the text that was encoded; begin == end for an added special token
  size_t end;
};

// Turns a stream of ids into text, whole characters only: the pieces put together are what decode() of all ids gives,
// except where a later byte would have changed text that was already given (see text/README of the fixtures).
class StreamDecoder {
 public:
  virtual ~StreamDecoder() = default;
  virtual std::string push(int32_t id) = 0;  // "" while a character is incomplete
  virtual std::string flush() = 0;           // what was held back; bytes that never became a character as U+FFFD
  virtual void reset() = 0;
  // reset(), where text goes on behind these ids and does not begin: a piece's space in front is part of it then.
  virtual void reset_behind(const int32_t* ids, size_t count) = 0;
};

class Tokenizer {
 public:
  // kNotFound when the directory holds no tokenizer file; kUnsupported naming the step that is not known.
  static Result<std::unique_ptr<Tokenizer>> open(const std::string& directory);

  virtual ~Tokenizer() = default;
  // Invalid UTF-8 is kArgument with the offset of the first bad byte. `spans`, if not null, gets one entry per id.
  virtual Result<std::vector<int32_t>> encode(std::string_view text, const EncodeOptions& options,
                                              std::vector<TokenSpan>* spans = nullptr) const = 0;
  // Always valid UTF-8. Ids outside the vocabulary are skipped.
  virtual std::string decode(const int32_t* ids, size_t count, bool skip_special) const = 0;
  virtual std::unique_ptr<StreamDecoder> stream(bool skip_special) const = 0;
  // The raw bytes that the token stands for, e.g. E2 82 for half of a euro sign; empty outside the vocabulary.
  virtual std::string token_bytes(int32_t id) const = 0;
  virtual int32_t vocabulary_size() const = 0;                     // ids are 0 .. vocabulary_size() - 1
  virtual int32_t id_of(std::string_view token) const = 0;         // -1 if there is none
  virtual bool is_special(int32_t id) const = 0;
  virtual std::string description() const = 0;                     // for `describe`: "byte-level BPE, tokenizer.json"

  // From tokenizer_config.json / special_tokens_map.json; -1 where there is none.
  virtual int32_t bos_id() const = 0;
  virtual int32_t eos_id() const = 0;
  virtual int32_t pad_id() const = 0;
};

}  // namespace nbl

// The normalizers of tokenizer.json: what is done to a text before it is cut into pieces.
#pragma once

#include <memory>
#include <string>

#include "base/json.h"
#include "base/status.h"
#include "text/aligned_text.h"
#include "text/regex.h"

namespace nbl {

class Normalizer {
 public:
  // `step` is the object of tokenizer.json; null gives null. An unknown type is kUnsupported and named.
  static Result<std::unique_ptr<Normalizer>> parse(const Json& step);

  virtual ~Normalizer() = default;
  virtual Status apply(AlignedText& text, Regex::Scratch& scratch) const = 0;
};

}  // namespace nbl

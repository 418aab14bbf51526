// The post-processors of tokenizer.json: which special tokens are put around one text.
#pragma once

#include <cstdint>
#include <vector>

#include "base/json.h"
#include "base/status.h"

namespace nbl {

// Ids put before and after the text's own. ByteLevel changes only offsets, which here are the bytes' own anyway.
struct PostProcessor {
  std::vector<int32_t> before, after;

  static Result<PostProcessor> parse(const Json& step);
};

}  // namespace nbl

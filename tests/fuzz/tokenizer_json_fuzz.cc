// tokenizer.json, then a text through the tokenizer that it makes. The input is the file, a zero byte, and the text.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/pipeline.h"
#include "text/tokenizer_json.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::string_view file = input.substr(0, std::min(input.find('\0'), size));
  const std::string_view text = file.size() < size ? input.substr(file.size() + 1) : std::string_view("ab c\xc3\xa9 12");
  auto parts = nbl::read_tokenizer_json(file);
  if (!parts.ok()) return 0;
  const auto tokenizer = nbl::Pipeline::make(std::move(parts).value(), {}, "fuzz");
  std::vector<nbl::TokenSpan> spans;
  const auto ids = tokenizer->encode(text, {}, &spans);
  if (!ids.ok()) return 0;
  if (spans.size() != ids.value().size()) std::abort();
  for (const nbl::TokenSpan& span : spans) {
    if (span.begin > span.end || span.end > text.size()) std::abort();
  }
  for (const int32_t id : ids.value()) {
    if (id < 0 || id >= tokenizer->vocabulary_size()) std::abort();
  }
  tokenizer->decode(ids.value().data(), ids.value().size(), false);
  const auto stream = tokenizer->stream(true);
  for (const int32_t id : ids.value()) stream->push(id);
  stream->flush();
  return 0;
}

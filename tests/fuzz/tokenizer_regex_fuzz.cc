// A regex of tokenizer.json and a text for it. The input is the pattern, a zero byte, and the text.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "base/utf8.h"
#include "text/regex.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::string_view pattern = input.substr(0, std::min(input.find('\0'), size));
  const std::string_view text = pattern.size() < size ? input.substr(pattern.size() + 1) : std::string_view("don't 12 \xC3\xA9\n");
  if (nbl::utf8_first_invalid(text) != std::string_view::npos) return 0;
  const auto regex = nbl::Regex::compile(pattern);
  if (!regex.ok()) return 0;
  nbl::Regex::Scratch scratch;
  size_t last = 0;
  const auto status = regex.value()->each(text, scratch, [&](size_t begin, size_t end) {
    if (begin < last || end < begin || end > text.size()) std::abort();
    last = end;
  });
  if (!status.ok() && status.message().empty()) std::abort();
  return 0;
}

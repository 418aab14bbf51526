// Any bytes as a text, and any bytes as ids, through sound tokenizers: a byte-level one and one with byte fallback.
// Invalid UTF-8 in is an error with the offset of the first bad byte; what comes out is always valid.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

#include "base/utf8.h"
#include "text/byte_level.h"
#include "text/pipeline.h"

namespace {

using nbl::Json;

std::unique_ptr<nbl::Tokenizer> make(const Json& json) {
  auto parts = nbl::read_tokenizer_json(nbl::to_text(json));
  if (!parts.ok()) std::abort();
  return nbl::Pipeline::make(std::move(parts).value(), {}, "fuzz");
}

Json with_model(Json model, Json normalizer, Json pre_tokenizer, Json decoder) {
  const Json added = {{"id", 0},        {"content", "<x>"},   {"single_word", false}, {"lstrip", true},
                      {"rstrip", true}, {"normalized", true}, {"special", true}};
  return Json{{"added_tokens", Json::array({added})},
              {"normalizer", normalizer},
              {"pre_tokenizer", pre_tokenizer},
              {"decoder", decoder},
              {"model", model}};
}

std::unique_ptr<nbl::Tokenizer> byte_level() {
  Json vocab = Json::object();
  for (int byte = 0; byte < 256; ++byte) vocab[std::string(nbl::byte_letter(static_cast<uint8_t>(byte)))] = byte;
  vocab["ab"] = 256;
  const Json step = {{"type", "ByteLevel"}, {"add_prefix_space", false}};
  return make(with_model({{"type", "BPE"}, {"vocab", vocab}, {"merges", Json::array({"a b"})}}, {{"type", "NFC"}}, step, step));
}

std::unique_ptr<nbl::Tokenizer> byte_fallback() {
  Json vocab = {{"<unk>", 0}, {"\xE2\x96\x81", 1}, {"a", 2}, {"\xC3\xA9", 3}, {"\xE2\x96\x81" "a", 4}};
  for (int byte = 0; byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof(name), "<0x%02X>", static_cast<unsigned>(byte));
    vocab[name] = 5 + byte;
  }
  const Json model = {
      {"type", "BPE"}, {"vocab", vocab}, {"merges", Json::array({"\xE2\x96\x81 a"})}, {"byte_fallback", true}, {"unk_token", "<unk>"}};
  const Json space = {{"type", "Replace"}, {"pattern", {{"String", "\xE2\x96\x81"}}}, {"content", " "}};
  const Json decoder = {{"type", "Sequence"}, {"decoders", Json::array({space, Json{{"type", "ByteFallback"}}, Json{{"type", "Fuse"}}})}};
  return make(with_model(model, {{"type", "NFKC"}}, {{"type", "Metaspace"}, {"replacement", "\xE2\x96\x81"}, {"prepend_scheme", "first"}},
                         decoder));
}

void expect_valid(const std::string& text) {
  if (nbl::utf8_first_invalid(text) != std::string_view::npos) std::abort();
}

void check(const nbl::Tokenizer& tokenizer, std::string_view bytes) {
  std::vector<nbl::TokenSpan> spans;
  const auto encoded = tokenizer.encode(bytes, {}, &spans);
  const size_t bad = nbl::utf8_first_invalid(bytes);
  if (encoded.ok() != (bad == std::string_view::npos)) std::abort();
  if (!encoded.ok()) {
    if (encoded.status().message().find("byte " + std::to_string(bad)) == std::string::npos) std::abort();
  } else {
    for (const nbl::TokenSpan& span : spans) {
      if (span.begin > span.end || span.end > bytes.size()) std::abort();
    }
    const auto without = tokenizer.encode(bytes, {});
    if (!without.ok() || without.value() != encoded.value()) std::abort();
  }
  // The same bytes as ids.
  std::vector<int32_t> ids;
  for (const char c : bytes) ids.push_back(static_cast<uint8_t>(c) + static_cast<uint8_t>(c) % 7);
  expect_valid(tokenizer.decode(ids.data(), ids.size(), true));
  const auto stream = tokenizer.stream(false);
  for (const int32_t id : ids) expect_valid(stream->push(id));
  expect_valid(stream->flush());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::unique_ptr<nbl::Tokenizer> tokenizers[] = {byte_level(), byte_fallback()};
  for (const auto& tokenizer : tokenizers) check(*tokenizer, std::string_view(reinterpret_cast<const char*>(data), size));
  return 0;
}

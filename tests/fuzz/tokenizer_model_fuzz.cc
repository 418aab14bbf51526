// tokenizer.model: the reader of SentencePiece's protobuf, the pipeline that the converters make of it, and the
// sentencepiece library with the bare model. The first byte of the input chooses the class in tokenizer_config.json.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "base/utf8.h"
#include "text/converters.h"
#include "text/pipeline.h"
#include "text/sentencepiece_model.h"
#include "text/sentencepiece_tokenizer.h"

namespace {

constexpr std::string_view kText = "Hello \xE2\x96\x81 w\xC3\xB6rld  \xF0\x9F\x98\x80 <s>\n\x01";

void use(const nbl::Tokenizer& tokenizer) {
  std::vector<nbl::TokenSpan> spans;
  const auto ids = tokenizer.encode(kText, {}, &spans);
  if (!ids.ok()) return;
  if (spans.size() != ids.value().size()) std::abort();
  const std::string text = tokenizer.decode(ids.value().data(), ids.value().size(), false);
  if (nbl::utf8_first_invalid(text) != std::string_view::npos) std::abort();
  const auto stream = tokenizer.stream(false);
  for (const int32_t id : ids.value()) {
    if (nbl::utf8_first_invalid(stream->push(id)) != std::string_view::npos) std::abort();
  }
  stream->flush();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  const auto model = nbl::SentencePieceModel::parse(bytes, "fuzz/tokenizer.model");
  if (!model.ok()) return 0;
  static constexpr const char* kClasses[] = {"LlamaTokenizer", "GemmaTokenizer", "T5Tokenizer", ""};
  nbl::TokenizerConfig config;
  config.document = nbl::Json{{"legacy", (data[0] & 4) == 0}, {"extra_ids", 2}};
  config.tokenizer_class = kClasses[data[0] & 3];
  auto parts = nbl::convert_sentencepiece(model.value(), config);
  if (parts.ok()) use(*nbl::Pipeline::make(std::move(parts).value(), config, "fuzz"));
  const auto bare = nbl::open_sentencepiece(bytes, "fuzz/tokenizer.model", "tokenizer.model");
  if (bare.ok()) use(*bare.value());
  return 0;
}

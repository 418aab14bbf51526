// Opens the tokenizer of a checkpoint: decides which of its files speak.
#include "text/tokenizer.h"

#include "text/pipeline.h"
#include "text/tokenizer_config.h"
#include "text/tokenizer_json.h"

namespace nbl {
namespace {

Result<std::unique_ptr<Tokenizer>> open_tokenizer_json(const std::string& path, const std::string& text, const TokenizerConfig& config) {
  Result<PipelineParts> parts = read_tokenizer_json(text, path);
  if (!parts.ok()) return parts.status().in(path).with("file", path);
  return Pipeline::make(std::move(parts).value(), config, "tokenizer.json");
}

}  // namespace

Result<std::unique_ptr<Tokenizer>> Tokenizer::open(const std::string& directory) {
  NBL_ASSIGN_OR_RETURN(const TokenizerConfig config, TokenizerConfig::read(directory));
  const std::string path = directory + "/tokenizer.json";
  Result<std::string> text = read_text_file(path);
  if (text.ok()) return open_tokenizer_json(path, *text, config);
  if (text.status().code() != Code::kNotFound) return text.status();
  return error(Code::kNotFound, "%s holds no tokenizer.json, tokenizer.model, spiece.model or vocab.json with merges.txt", directory.c_str());
}

}  // namespace nbl

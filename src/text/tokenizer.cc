// Opens the tokenizer of a checkpoint: decides which of its files speak.
#include "text/tokenizer.h"

#include "text/converters.h"
#include "text/pipeline.h"
#include "text/sentencepiece_tokenizer.h"
#include "text/tokenizer_config.h"
#include "text/tokenizer_json.h"

namespace nbl {
namespace {

// The classes of transformers that put bos and eos around a text themselves, by their settings, whatever the
// post-processor in the file says. All others follow the file.
void apply_class_settings(const TokenizerConfig& config, PipelineParts& parts) {
  const std::string& name = config.tokenizer_class;
  if (name != "LlamaTokenizer" && name != "CodeLlamaTokenizer" && name != "GemmaTokenizer" && name != "CohereTokenizer") return;
  if (!config.add_bos_token && !config.add_eos_token) return;
  const auto wrap = [&](bool add, const std::optional<std::string>& token, std::vector<int32_t>& side) {
    if (add && !token) return;  // nothing to add: the file stands
    side.clear();
    if (!add) return;
    const AddedToken* added = parts.added.by_content(*token);
    const int32_t id = added ? added->id : parts.model->vocabulary().find(*token);
    if (id >= 0) side.push_back(id);
  };
  wrap(config.add_bos_token.value_or(true), config.bos_token, parts.post_processor.before);
  wrap(config.add_eos_token.value_or(false), config.eos_token, parts.post_processor.after);
}

Result<std::unique_ptr<Tokenizer>> open_tokenizer_json(const std::string& path, const std::string& text, const TokenizerConfig& config) {
  Result<PipelineParts> parts = read_tokenizer_json(text);
  if (!parts.ok()) return parts.status().in(path).with("file", path);
  apply_class_settings(config, *parts);
  return Pipeline::make(std::move(parts).value(), config, "tokenizer.json");
}

// tokenizer.model or spiece.model.
Result<std::unique_ptr<Tokenizer>> open_model(const std::string& path, const std::string& name, const std::string& bytes,
                                              const TokenizerConfig& config) {
  if (config.document.is_null() && !config.has_added_tokens_file) return open_sentencepiece(bytes, path, name);
  NBL_ASSIGN_OR_RETURN(const SentencePieceModel model, SentencePieceModel::parse(bytes, path));
  Result<PipelineParts> parts = convert_sentencepiece(model, config);
  if (!parts.ok()) return parts.status().in(path).with("file", path);
  return Pipeline::make(std::move(parts).value(), config, name);
}

}  // namespace

Result<std::unique_ptr<Tokenizer>> Tokenizer::open(const std::string& directory) {
  NBL_ASSIGN_OR_RETURN(const TokenizerConfig config, TokenizerConfig::read(directory));
  for (const char* name : {"tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json"}) {
    const std::string path = directory + "/" + name;
    Result<std::string> text = read_text_file(path);
    if (!text.ok() && text.status().code() == Code::kNotFound) continue;
    if (!text.ok()) return text.status();
    if (std::string_view(name) == "tokenizer.json") return open_tokenizer_json(path, *text, config);
    if (std::string_view(name) != "vocab.json") return open_model(path, name, *text, config);
    NBL_ASSIGN_OR_RETURN(PipelineParts parts, convert_vocab_and_merges(directory, config));
    return Pipeline::make(std::move(parts), config, "vocab.json and merges.txt");
  }
  return error(Code::kNotFound, "%s holds no tokenizer.json, tokenizer.model, spiece.model or vocab.json with merges.txt: copy them from "
               "the original model, or use token ids",
               directory.c_str());
}

}  // namespace nbl

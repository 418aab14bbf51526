#include "text/tokenizer_json.h"

#include <algorithm>

#include "text/bpe.h"
#include "text/step.h"
#include "text/tokenizer_json_reader.h"
#include "text/unigram.h"
#include "text/word_models.h"

namespace nbl {
namespace {

Status check_version(const Json& document) {
  const auto version = document.find("version");
  if (version == document.end() || *version == "1.0") return {};
  return error(Code::kUnsupported, "the tokenizer's version is %s, expected \"1.0\"", to_text(*version).c_str());
}

Status check_keys(const Json& document) {
  static constexpr std::string_view kKnown[] = {"version", "truncation", "padding", "added_tokens", "normalizer",
                                                "pre_tokenizer", "post_processor", "decoder", "model"};
  for (const auto& item : document.items()) {
    if (std::find(std::begin(kKnown), std::end(kKnown), item.key()) == std::end(kKnown)) {
      return error(Code::kUnsupported, "\"%s\" is no part of a tokenizer that nibble knows", item.key().c_str());
    }
  }
  return {};
}

// Files of old versions do not say the type: it shows in the other fields.
Result<std::string> model_type(const Json& model, const ModelLists& lists) {
  const auto type = model.find("type");
  if (type != model.end()) {
    if (!type->is_string()) return error(Code::kFormat, "the model's \"type\" is no text");
    return type->get<std::string>();
  }
  if (lists.has_merges) return std::string("BPE");
  if (lists.has_scores) return std::string("Unigram");
  if (model.contains("max_input_chars_per_word") || model.contains("continuing_subword_prefix")) return std::string("WordPiece");
  if (model.contains("unk_token")) return std::string("WordLevel");
  return error(Code::kFormat, "the model has neither a \"type\" nor the fields of a known one");
}

using MadeModel = Result<std::unique_ptr<TokenModel>>;

MadeModel make_bpe(const Json& model, ModelLists& lists) {
  if (!lists.has_vocab || !lists.has_merges) return error(Code::kFormat, "the BPE model has no \"vocab\" or no \"merges\"");
  const auto dropout = model.find("dropout");
  if (dropout != model.end() && !dropout->is_null() && *dropout != 0) {
    return error(Code::kUnsupported, "the BPE model has the dropout %s: its tokens would be random; set it to null",
                 to_text(*dropout).c_str());
  }
  BpeOptions options;
  NBL_ASSIGN_OR_RETURN(options.unk_token, json_str(model, "unk_token", ""));
  const auto unk = model.find("unk_token");
  options.has_unk_token = unk != model.end() && !unk->is_null();
  NBL_ASSIGN_OR_RETURN(options.continuing_subword_prefix, json_str(model, "continuing_subword_prefix", ""));
  NBL_ASSIGN_OR_RETURN(options.end_of_word_suffix, json_str(model, "end_of_word_suffix", ""));
  NBL_ASSIGN_OR_RETURN(options.fuse_unk, json_bool(model, "fuse_unk", false));
  NBL_ASSIGN_OR_RETURN(options.byte_fallback, json_bool(model, "byte_fallback", false));
  NBL_ASSIGN_OR_RETURN(options.ignore_merges, json_bool(model, "ignore_merges", false));
  return Bpe::make(std::move(lists.vocabulary), lists.merges, std::move(options));
}

MadeModel make_unigram(const Json& model, ModelLists& lists) {
  if (!lists.has_scores) return error(Code::kFormat, "the Unigram model has no \"vocab\" of tokens and scores");
  UnigramOptions options;
  NBL_ASSIGN_OR_RETURN(options.unk_id, json_i64(model, "unk_id", -1));
  if (options.unk_id < -1) return error(Code::kFormat, "unk_id is %lld", static_cast<long long>(options.unk_id));
  NBL_ASSIGN_OR_RETURN(options.byte_fallback, json_bool(model, "byte_fallback", false));
  return Unigram::make(std::move(lists.vocabulary), std::move(lists.scores), options);
}

MadeModel make_word_piece(const Json& model, ModelLists& lists) {
  NBL_ASSIGN_OR_RETURN(std::string unk_token, json_str(model, "unk_token", "[UNK]"));
  NBL_ASSIGN_OR_RETURN(std::string prefix, json_str(model, "continuing_subword_prefix", "##"));
  NBL_ASSIGN_OR_RETURN(const int64_t most, json_i64(model, "max_input_chars_per_word", 100));
  // The work for a word grows with the square of its length.
  if (most < 0 || most > 10000) {
    return error(Code::kUnsupported, "max_input_chars_per_word is %lld, expected 0 to 10000", static_cast<long long>(most));
  }
  return std::unique_ptr<TokenModel>(
      new WordPiece(std::move(lists.vocabulary), std::move(unk_token), std::move(prefix), static_cast<size_t>(most)));
}

MadeModel make_model(const Json& model, ModelLists& lists) {
  if (!model.is_object()) return error(Code::kFormat, "the tokenizer has no \"model\"");
  NBL_ASSIGN_OR_RETURN(const std::string type, model_type(model, lists));
  if (type == "BPE") return make_bpe(model, lists);
  if (type == "Unigram") return make_unigram(model, lists);
  if (type != "WordPiece" && type != "WordLevel") return unknown_step("model", type);
  if (!lists.has_vocab) return error(Code::kFormat, "the %s model has no \"vocab\" of tokens and ids", type.c_str());
  if (type == "WordPiece") return make_word_piece(model, lists);
  NBL_ASSIGN_OR_RETURN(std::string unk_token, json_str(model, "unk_token", "<unk>"));
  return std::unique_ptr<TokenModel>(new WordLevel(std::move(lists.vocabulary), std::move(unk_token)));
}

Status add_tokens(const Json& list, PipelineParts& parts) {
  if (list.is_null()) return {};
  if (!list.is_array()) return error(Code::kFormat, "\"added_tokens\" is no list");
  for (const Json& item : list) {
    const std::string owner = "an added token";
    AddedToken token;
    NBL_ASSIGN_OR_RETURN(token.content, required_str(item, "content", owner));
    NBL_ASSIGN_OR_RETURN(token.single_word, required_bool(item, "single_word", owner));
    NBL_ASSIGN_OR_RETURN(token.lstrip, required_bool(item, "lstrip", owner));
    NBL_ASSIGN_OR_RETURN(token.rstrip, required_bool(item, "rstrip", owner));
    NBL_ASSIGN_OR_RETURN(token.normalized, required_bool(item, "normalized", owner));
    NBL_ASSIGN_OR_RETURN(token.special, required_bool(item, "special", owner));
    NBL_RETURN_IF_ERROR(add_token(parts, std::move(token)));
  }
  return {};
}

const Json& part(const Json& document, const char* key) {
  static const Json kNull;
  const auto found = document.find(key);
  return found == document.end() ? kNull : *found;
}

}  // namespace

Status add_token(PipelineParts& parts, AddedToken token) {
  if (token.content.empty()) return {};
  const AddedToken* same = parts.added.by_content(token.content);
  const int32_t known = parts.model->vocabulary().find(token.content);
  if (same) {
    token.id = same->id;
  } else if (known >= 0) {
    token.id = known;
  } else {
    // Ids go on after the vocabulary, whatever the file says.
    const int64_t next = std::max<int64_t>(static_cast<int64_t>(parts.model->vocabulary().count()), parts.added.id_bound());
    if (next > kLargestTokenId) return error(Code::kFormat, "there are too many added tokens");
    token.id = static_cast<int32_t>(next);
  }
  std::string normalized = token.content;
  if (token.normalized && parts.normalizer) {
    AlignedText text;
    text.text = token.content;
    Regex::Scratch scratch;
    NBL_RETURN_IF_ERROR(parts.normalizer->apply(text, scratch));
    normalized = std::move(text.text);
  }
  parts.added.add(std::move(token), std::move(normalized));
  return {};
}

Result<PipelineParts> read_tokenizer_json(std::string_view text) {
  ModelLists lists;
  NBL_ASSIGN_OR_RETURN(const Json document, read_document(text, lists));
  if (!document.is_object()) return error(Code::kFormat, "the tokenizer is no JSON object");
  NBL_RETURN_IF_ERROR(check_version(document));
  NBL_RETURN_IF_ERROR(check_keys(document));
  PipelineParts parts;
  NBL_ASSIGN_OR_RETURN(parts.normalizer, Normalizer::parse(part(document, "normalizer")));
  NBL_ASSIGN_OR_RETURN(parts.pre_tokenizers, PreTokenizer::parse(part(document, "pre_tokenizer")));
  NBL_ASSIGN_OR_RETURN(parts.post_processor, PostProcessor::parse(part(document, "post_processor")));
  NBL_ASSIGN_OR_RETURN(parts.decoder, TokenDecoder::parse(part(document, "decoder")));
  NBL_ASSIGN_OR_RETURN(parts.model, make_model(part(document, "model"), lists));
  NBL_RETURN_IF_ERROR(add_tokens(part(document, "added_tokens"), parts));
  return parts;
}

}  // namespace nbl

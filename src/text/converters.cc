#include "text/converters.h"

#include <algorithm>
#include <array>

#include "text/bpe.h"
#include "text/sentencepiece_normalizer.h"
#include "text/tokenizer_json_reader.h"
#include "text/unigram.h"

namespace nbl {
namespace {

const char* const kMetaspace = "\xE2\x96\x81";

Json step(const char* type) { return Json{{"type", type}}; }

Json byte_level(bool add_prefix_space, bool use_regex) {
  return Json{{"type", "ByteLevel"}, {"add_prefix_space", add_prefix_space}, {"trim_offsets", true}, {"use_regex", use_regex}};
}

Json replace(Json pattern, const char* content) {
  return Json{{"type", "Replace"}, {"pattern", std::move(pattern)}, {"content", content}};
}

Json sequence(const char* key, Json steps) { return Json{{"type", "Sequence"}, {key, std::move(steps)}}; }

// Parses the steps, so that a converted pipeline is made of the very same ones as a tokenizer.json.
Status set_steps(const Json& normalizer, const Json& pre_tokenizer, const Json& decoder, PipelineParts& parts) {
  NBL_ASSIGN_OR_RETURN(parts.normalizer, Normalizer::parse(normalizer));
  NBL_ASSIGN_OR_RETURN(parts.pre_tokenizers, PreTokenizer::parse(pre_tokenizer));
  NBL_ASSIGN_OR_RETURN(parts.decoder, TokenDecoder::parse(decoder));
  return {};
}

int32_t id_of(const PipelineParts& parts, const std::string& token) {
  const AddedToken* added = parts.added.by_content(token);
  return added ? added->id : parts.model->vocabulary().find(token);
}

void wrap(PipelineParts& parts, bool add_bos, const std::string& bos, bool add_eos, const std::string& eos) {
  const int32_t bos_id = add_bos ? id_of(parts, bos) : -1, eos_id = add_eos ? id_of(parts, eos) : -1;
  if (bos_id >= 0) parts.post_processor.before.push_back(bos_id);
  if (eos_id >= 0) parts.post_processor.after.push_back(eos_id);
}

// The tokens of tokenizer_config.json and added_tokens.json, by id.
Status add_config_tokens(const TokenizerConfig& config, PipelineParts& parts) {
  for (const ConfigToken& token : config.added_tokens) NBL_RETURN_IF_ERROR(add_token(parts, token.token));
  return {};
}

Status add_special(const std::optional<std::string>& content, PipelineParts& parts) {
  if (!content || parts.added.by_content(*content)) return {};
  AddedToken token;
  token.content = *content;
  token.special = true;
  return add_token(parts, std::move(token));
}

using ModelPiece = SentencePieceModel::Piece;
using Type = SentencePieceModel::Type;

// A tokenizer.model has no merge list: pieces are merged in the order of their scores, whatever their ids.
Bpe::Merges merges_by_score(const SentencePieceModel& model, const Vocabulary& vocabulary) {
  struct Merge {
    float score;
    std::string_view left, right;
  };
  std::vector<Merge> found;
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    const ModelPiece& piece = model.pieces[id];
    if (piece.type == Type::kControl || piece.type == Type::kUnknown || piece.type == Type::kByte) continue;
    if (vocabulary.find(piece.text) != static_cast<int32_t>(id)) continue;  // given again later
    const size_t first = found.size();
    const std::string_view text = piece.text;
    for (size_t cut = 1; cut < text.size(); ++cut) {
      if ((static_cast<uint8_t>(text[cut]) & 0xC0) == 0x80) continue;
      const std::string_view left = text.substr(0, cut), right = text.substr(cut);
      if (vocabulary.find(left) >= 0 && vocabulary.find(right) >= 0) found.push_back({piece.score, left, right});
    }
    std::sort(found.begin() + static_cast<ptrdiff_t>(first), found.end(), [&](const Merge& a, const Merge& b) {
      const int32_t left_a = vocabulary.find(a.left), left_b = vocabulary.find(b.left);
      return left_a != left_b ? left_a < left_b : vocabulary.find(a.right) < vocabulary.find(b.right);
    });
  }
  std::stable_sort(found.begin(), found.end(), [](const Merge& a, const Merge& b) { return a.score > b.score; });
  Bpe::Merges merges;
  for (const Merge& merge : found) merges.add(merge.left, merge.right);
  return merges;
}

std::string base64(std::string_view bytes) {
  constexpr const char* kLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t word = 0;
    for (size_t k = 0; k < 3; ++k) word = word << 8 | (i + k < bytes.size() ? static_cast<uint8_t>(bytes[i + k]) : 0);
    for (size_t k = 0; k < 4; ++k) out += i + k <= bytes.size() ? kLetters[word >> (18 - 6 * k) & 63] : '=';
  }
  return out;
}

// How the converters for the class treat spaces.
enum class Family { kLlama, kGemma, kGeneric };

Family family_of(const std::string& tokenizer_class) {
  if (tokenizer_class.find("Gemma") != std::string::npos) return Family::kGemma;
  if (tokenizer_class == "T5Tokenizer" || tokenizer_class == "MT5Tokenizer" || tokenizer_class == "PegasusTokenizer")
    return Family::kGeneric;
  return Family::kLlama;
}

struct Spaces {
  Json normalizer, pre_tokenizer, decoder;
};

// Every part between added tokens gets its own metaspace in front in the legacy way, only the very first otherwise.
// The decoder takes back the space in front, which a model without extra spaces has not either.
Spaces llama_spaces(bool add_prefix, bool legacy, bool strip) {
  Spaces spaces;
  Json decoders = {replace({{"String", kMetaspace}}, " "), step("ByteFallback"), step("Fuse")};
  if (legacy) {
    Json normalizers = Json::array();
    if (add_prefix) normalizers.push_back(Json{{"type", "Prepend"}, {"prepend", kMetaspace}});
    normalizers.push_back(replace({{"String", " "}}, kMetaspace));
    spaces.normalizer = sequence("normalizers", std::move(normalizers));
  } else {
    spaces.pre_tokenizer = Json{{"type", "Metaspace"}, {"replacement", kMetaspace},
                                {"prepend_scheme", add_prefix ? "first" : "never"}, {"split", false}};
  }
  if (strip) decoders.push_back(Json{{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  spaces.decoder = sequence("decoders", std::move(decoders));
  return spaces;
}

Spaces gemma_spaces() {
  Spaces spaces;
  spaces.normalizer = replace({{"String", " "}}, kMetaspace);
  spaces.pre_tokenizer = Json{{"type", "Split"}, {"pattern", {{"String", " "}}}, {"behavior", "MergedWithPrevious"}, {"invert", false}};
  spaces.decoder = sequence("decoders", {replace({{"String", kMetaspace}}, " "), step("ByteFallback"), step("Fuse")});
  return spaces;
}

Spaces generic_spaces(const SentencePieceModel& model, bool legacy) {
  Spaces spaces;
  Json normalizers = Json::array();
  if (!model.precompiled_charsmap.empty()) {
    normalizers.push_back(Json{{"type", "Precompiled"}, {"precompiled_charsmap", base64(model.precompiled_charsmap)}});
  }
  normalizers.push_back(Json{{"type", "Strip"}, {"strip_left", false}, {"strip_right", true}});
  normalizers.push_back(replace({{"Regex", " {2,}"}}, kMetaspace));
  spaces.normalizer = sequence("normalizers", std::move(normalizers));
  const char* scheme = !model.add_dummy_prefix ? "never" : legacy ? "always" : "first";
  spaces.pre_tokenizer = Json{{"type", "Metaspace"}, {"replacement", kMetaspace}, {"prepend_scheme", scheme}, {"split", true}};
  spaces.decoder = spaces.pre_tokenizer;
  return spaces;
}

Result<std::unique_ptr<TokenModel>> make_sentencepiece_model(const SentencePieceModel& model, int64_t extra_ids) {
  Vocabulary vocabulary;
  std::vector<double> scores;
  for (const ModelPiece& piece : model.pieces) {
    NBL_RETURN_IF_ERROR(vocabulary.add(piece.text, static_cast<int64_t>(scores.size())));
    scores.push_back(static_cast<double>(piece.score));
  }
  for (int64_t i = extra_ids; i-- > 0;) {
    NBL_RETURN_IF_ERROR(vocabulary.add("<extra_id_" + std::to_string(i) + ">", static_cast<int64_t>(scores.size())));
    scores.push_back(0);
  }
  vocabulary.finish();
  if (model.kind == SentencePieceModel::Kind::kUnigram) {
    UnigramOptions options;
    options.unk_id = model.unk_id;
    options.byte_fallback = model.byte_fallback;
    return Unigram::make(std::move(vocabulary), std::move(scores), options);
  }
  if (model.kind != SentencePieceModel::Kind::kBpe) {
    return error(Code::kUnsupported, "the SentencePiece model is of kind %d, expected Unigram (1) or BPE (2)",
                 static_cast<int>(model.kind));
  }
  BpeOptions options;
  options.has_unk_token = model.unk_id >= 0;
  if (options.has_unk_token) options.unk_token = model.pieces[static_cast<size_t>(model.unk_id)].text;
  options.fuse_unk = true;
  options.byte_fallback = model.byte_fallback;
  const Bpe::Merges merges = merges_by_score(model, vocabulary);
  return Bpe::make(std::move(vocabulary), merges, std::move(options));
}

std::string piece_text(const SentencePieceModel& model, int64_t id) {
  return id >= 0 ? model.pieces[static_cast<size_t>(id)].text : std::string();
}

}  // namespace

Result<PipelineParts> convert_sentencepiece(const SentencePieceModel& model, const TokenizerConfig& config) {
  const Family family = family_of(config.tokenizer_class);
  NBL_ASSIGN_OR_RETURN(const bool legacy, json_bool(config.document, "legacy", true));
  NBL_ASSIGN_OR_RETURN(const bool add_prefix_space, json_bool(config.document, "add_prefix_space", true));
  NBL_ASSIGN_OR_RETURN(int64_t extra_ids, json_i64(config.document, "extra_ids",
                                                   family == Family::kGeneric && config.tokenizer_class == "T5Tokenizer" ? 100 : 0));
  if (extra_ids < 0 || extra_ids > 10000) return error(Code::kFormat, "extra_ids is %lld", static_cast<long long>(extra_ids));
  const bool add_prefix = add_prefix_space && model.add_dummy_prefix;
  const Spaces spaces = family == Family::kGemma   ? gemma_spaces()
                        : family == Family::kLlama ? llama_spaces(add_prefix, legacy, add_prefix || model.remove_extra_whitespaces)
                                                   : generic_spaces(model, legacy);
  PipelineParts parts;
  NBL_RETURN_IF_ERROR(set_steps(spaces.normalizer, spaces.pre_tokenizer, spaces.decoder, parts));
  if (family == Family::kLlama && (!model.precompiled_charsmap.empty() || model.remove_extra_whitespaces)) {
    NBL_ASSIGN_OR_RETURN(parts.normalizer, sentencepiece_normalizer(model, add_prefix, legacy));
  }
  NBL_ASSIGN_OR_RETURN(parts.model, make_sentencepiece_model(model, extra_ids));
  const std::string bos = config.bos_token.value_or(piece_text(model, model.bos_id));
  const std::string eos = config.eos_token.value_or(piece_text(model, model.eos_id));
  for (const ModelPiece& piece : model.pieces) {
    if (piece.type != Type::kControl && piece.type != Type::kUserDefined && piece.type != Type::kUnknown) continue;
    AddedToken token;
    token.content = piece.text;
    token.special = piece.type != Type::kUserDefined;
    NBL_RETURN_IF_ERROR(add_token(parts, std::move(token)));
  }
  for (int64_t i = 0; i < extra_ids; ++i) NBL_RETURN_IF_ERROR(add_special("<extra_id_" + std::to_string(i) + ">", parts));
  NBL_RETURN_IF_ERROR(add_config_tokens(config, parts));
  for (const auto* token : {&config.bos_token, &config.eos_token, &config.unk_token, &config.pad_token}) {
    NBL_RETURN_IF_ERROR(add_special(*token, parts));
  }
  const bool encoder = family == Family::kGeneric;
  wrap(parts, config.add_bos_token.value_or(!encoder), bos, config.add_eos_token.value_or(encoder), eos);
  return parts;
}

namespace {

Status read_merges(const std::string& path, Bpe::Merges& merges) {
  NBL_ASSIGN_OR_RETURN(const std::string text, read_text_file(path));
  size_t number = 0;
  for (size_t at = 0; at < text.size(); ) {
    size_t end = std::min(text.find('\n', at), text.size());
    std::string_view line = std::string_view(text).substr(at, end - at);
    at = end + 1;
    ++number;
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    if (line.empty() || line.substr(0, 8) == "#version") continue;
    const size_t space = line.find(' ');
    if (space == std::string_view::npos || line.find(' ', space + 1) != std::string_view::npos) {
      return error(Code::kFormat, "%s: line %zu is \"%.*s\", expected two tokens and one space", path.c_str(), number,
                   static_cast<int>(std::min<size_t>(line.size(), 100)), line.data());
    }
    merges.add(line.substr(0, space), line.substr(space + 1));
  }
  return {};
}

// What the classes that save vocab.json and merges.txt put around the bytes.
struct ByteLevelClass {
  const char* name;
  const char* bos;  // by default
  const char* eos;
  bool is_roberta;  // <s> text </s>
  bool is_qwen;     // NFC and Qwen's split
};

constexpr std::array<ByteLevelClass, 8> kByteLevelClasses = {{{"GPT2Tokenizer", "<|endoftext|>", "<|endoftext|>", false, false},
                                                              {"", "<|endoftext|>", "<|endoftext|>", false, false},
                                                              {"CodeGenTokenizer", "<|endoftext|>", "<|endoftext|>", false, false},
                                                              {"GPTNeoXTokenizer", "<|endoftext|>", "<|endoftext|>", false, false},
                                                              {"Qwen2Tokenizer", "", "<|endoftext|>", false, true},
                                                              {"RobertaTokenizer", "<s>", "</s>", true, false},
                                                              {"BartTokenizer", "<s>", "</s>", true, false},
                                                              {"LongformerTokenizer", "<s>", "</s>", true, false}}};

constexpr const char* kQwenPattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

}  // namespace

Result<PipelineParts> convert_vocab_and_merges(const std::string& directory, const TokenizerConfig& config) {
  const auto* known = std::find_if(kByteLevelClasses.begin(), kByteLevelClasses.end(),
                                   [&](const ByteLevelClass& c) { return config.tokenizer_class == c.name; });
  if (known == kByteLevelClasses.end()) {
    return error(Code::kUnsupported,
                 "%s has vocab.json and merges.txt of a %s, which nibble does not know without a tokenizer.json; "
                 "save one with transformers (AutoTokenizer, save_pretrained)",
                 directory.c_str(), config.tokenizer_class.c_str());
  }
  Vocabulary vocabulary;
  NBL_ASSIGN_OR_RETURN(const std::string text, read_text_file(directory + "/vocab.json"));
  NBL_RETURN_IF_ERROR(read_vocabulary(text, directory + "/vocab.json", vocabulary));
  Bpe::Merges merges;
  NBL_RETURN_IF_ERROR(read_merges(directory + "/merges.txt", merges));
  PipelineParts parts;
  NBL_ASSIGN_OR_RETURN(parts.model, Bpe::make(std::move(vocabulary), merges, BpeOptions()));
  NBL_ASSIGN_OR_RETURN(const bool add_prefix_space, json_bool(config.document, "add_prefix_space", false));
  Json pre_tokenizer = byte_level(add_prefix_space, !known->is_qwen);
  if (known->is_qwen) {
    const Json split = {{"type", "Split"}, {"pattern", {{"Regex", kQwenPattern}}}, {"behavior", "Isolated"}, {"invert", false}};
    pre_tokenizer = sequence("pretokenizers", {split, std::move(pre_tokenizer)});
  }
  NBL_RETURN_IF_ERROR(set_steps(known->is_qwen ? step("NFC") : Json(), pre_tokenizer, byte_level(true, true), parts));
  NBL_RETURN_IF_ERROR(add_config_tokens(config, parts));
  const std::string bos = config.bos_token.value_or(known->bos), eos = config.eos_token.value_or(known->eos);
  for (const std::string& token : {bos, eos, config.unk_token.value_or(known->is_roberta ? "<unk>" : known->eos)}) {
    NBL_RETURN_IF_ERROR(add_special(token.empty() ? std::nullopt : std::make_optional(token), parts));
  }
  NBL_RETURN_IF_ERROR(add_special(config.pad_token, parts));
  wrap(parts, config.add_bos_token.value_or(known->is_roberta), bos, known->is_roberta, eos);
  return parts;
}

}  // namespace nbl

#include "text/sentencepiece_tokenizer.h"

#if NBL_HAVE_SENTENCEPIECE
#include <sentencepiece_processor.h>
#endif

#include <algorithm>
#include <exception>

#include "base/utf8.h"
#include "text/charsmap.h"
#include "text/sentencepiece_model.h"
#include "text/step.h"
#include "text/stream_decoder.h"

namespace nbl {

#if NBL_HAVE_SENTENCEPIECE

namespace {

constexpr std::string_view kMetaspace = "\xE2\x96\x81";

class SentencePieceTokenizer final : public Tokenizer {
 public:
  SentencePieceTokenizer(SentencePieceModel model, std::string name) : model_(std::move(model)), name_(std::move(name)) {}

  Status load(std::string_view bytes, const std::string& where) {
    std::string problem;
    try {
      const auto status = processor_.LoadFromSerializedProto(absl_view(bytes));
      if (status.ok()) return {};
      problem = status.ToString();
    } catch (const std::exception& thrown) {  // its trie throws on pieces that hold a NUL
      problem = thrown.what();
    }
    return error(Code::kFormat, "%s: the sentencepiece library refuses it: %s", where.c_str(), problem.c_str());
  }

  Result<std::vector<int32_t>> encode(std::string_view text, const EncodeOptions& options,
                                      std::vector<TokenSpan>* spans) const override {
    if (text.size() > kLargestText) {
      return error(Code::kArgument, "the text has %zu bytes, more than the %zu that can be encoded at once", text.size(), kLargestText);
    }
    const size_t bad = utf8_first_invalid(text);
    if (bad != std::string_view::npos) {
      return error(Code::kArgument, "the text is not UTF-8 at byte %zu", bad).with("offset", static_cast<int64_t>(bad));
    }
    std::vector<int32_t> ids;
    if (spans) spans->clear();
    // A model without a beginning of text is an encoder's (T5): its texts have an end instead.
    const bool add_bos = options.add_special && model_.bos_id >= 0;
    const bool add_eos = options.add_special && model_.bos_id < 0 && model_.eos_id >= 0;
    if (add_bos) {
      ids.push_back(bos_id());
      if (spans) spans->push_back({0, 0});
    }
    NBL_RETURN_IF_ERROR(spans ? encode_with_spans(text, ids, *spans) : encode_plain(text, ids));
    if (add_eos) {
      ids.push_back(eos_id());
      if (spans) spans->push_back({text.size(), text.size()});
    }
    return ids;
  }

  std::string decode(const int32_t* ids, size_t count, bool) const override {
    std::vector<int> known;
    known.reserve(count);
    for (size_t i = 0; i < count; ++i) {
      if (piece(ids[i])) known.push_back(ids[i]);
    }
    std::string text;
    if (!processor_.Decode(known, &text).ok()) return {};
    // The library gives U+FFFD for bytes that are no character; a piece of the model may still hold anything.
    return text;
  }

  std::unique_ptr<StreamDecoder> stream(bool skip_special) const override { return make_stream_decoder(*this, skip_special); }

  std::string token_bytes(int32_t id) const override {
    const SentencePieceModel::Piece* found = piece(id);
    if (!found) return {};
    std::string text = found->text;
    if (is_special(id)) return text;
    if (found->type == SentencePieceModel::Type::kByte && text.size() == 6) {
      return std::string(1, static_cast<char>(std::strtol(text.substr(3, 2).c_str(), nullptr, 16)));
    }
    for (size_t at = text.find(kMetaspace); at != std::string::npos; at = text.find(kMetaspace, at))
      text.replace(at, kMetaspace.size(), " ");
    return text;
  }

  int32_t vocabulary_size() const override { return static_cast<int32_t>(model_.pieces.size()); }
  int32_t id_of(std::string_view token) const override {
    const auto found = std::find_if(model_.pieces.begin(), model_.pieces.end(), [&](const auto& p) { return p.text == token; });
    return found == model_.pieces.end() ? -1 : static_cast<int32_t>(found - model_.pieces.begin());
  }
  bool is_special(int32_t id) const override {
    const SentencePieceModel::Piece* found = piece(id);
    return found && (found->type == SentencePieceModel::Type::kControl || found->type == SentencePieceModel::Type::kUnknown);
  }
  std::string description() const override {
    return std::string(model_.kind == SentencePieceModel::Kind::kBpe ? "SentencePiece BPE, " : "SentencePiece Unigram, ") + name_;
  }
  int32_t bos_id() const override { return static_cast<int32_t>(model_.bos_id); }
  int32_t eos_id() const override { return static_cast<int32_t>(model_.eos_id); }
  int32_t pad_id() const override { return static_cast<int32_t>(model_.pad_id); }

 private:
  static absl::string_view absl_view(std::string_view text) { return absl::string_view(text.data(), text.size()); }

  const SentencePieceModel::Piece* piece(int32_t id) const {
    return id >= 0 && static_cast<size_t>(id) < model_.pieces.size() ? &model_.pieces[static_cast<size_t>(id)] : nullptr;
  }

  Status encode_plain(std::string_view text, std::vector<int32_t>& ids) const {
    std::vector<int> found;
    const auto status = processor_.Encode(absl_view(text), &found);
    if (!status.ok()) return error(Code::kInternal, "the sentencepiece library failed: %s", status.ToString().c_str());
    ids.insert(ids.end(), found.begin(), found.end());
    return {};
  }

  Status encode_with_spans(std::string_view text, std::vector<int32_t>& ids, std::vector<TokenSpan>& spans) const {
    const auto encoded = processor_.EncodeAsImmutableProto(absl_view(text));
    for (size_t i = 0; i < encoded.pieces_size(); ++i) {
      const auto one = encoded.pieces(static_cast<int>(i));
      ids.push_back(static_cast<int32_t>(one.id()));
      spans.push_back({one.begin(), one.end()});
    }
    return {};
  }

  SentencePieceModel model_;
  std::string name_;
  sentencepiece::SentencePieceProcessor processor_;
};

}  // namespace

Result<std::unique_ptr<Tokenizer>> open_sentencepiece(std::string_view bytes, const std::string& where, const std::string& name) {
  // The library trusts what it reads; what it would stumble over is looked at here first.
  NBL_ASSIGN_OR_RETURN(SentencePieceModel model, SentencePieceModel::parse(bytes, where));
  if (!model.precompiled_charsmap.empty()) {
    NBL_ASSIGN_OR_RETURN(const Charsmap map, Charsmap::from_bytes(model.precompiled_charsmap));
    if (!map.is_sound()) return error(Code::kFormat, "%s: its precompiled_charsmap points outside itself", where.c_str());
  }
  auto tokenizer = std::make_unique<SentencePieceTokenizer>(std::move(model), name);
  NBL_RETURN_IF_ERROR(tokenizer->load(bytes, where));
  return std::unique_ptr<Tokenizer>(std::move(tokenizer));
}

#else

Result<std::unique_ptr<Tokenizer>> open_sentencepiece(std::string_view, const std::string& where, const std::string& name) {
  return error(Code::kUnsupported,
               "%s: a bare %s needs the sentencepiece library, and this build was made without it (NIBBLE_SENTENCEPIECE=OFF); "
               "put the checkpoint's tokenizer.json or tokenizer_config.json beside it",
               where.c_str(), name.c_str());
}

#endif

}  // namespace nbl

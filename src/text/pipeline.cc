#include "text/pipeline.h"

#include <algorithm>

#include "base/utf8.h"
#include "text/byte_level.h"
#include "text/step.h"
#include "text/stream_decoder.h"

namespace nbl {
namespace {

int32_t id_of_optional(const Tokenizer& tokenizer, const std::optional<std::string>& token) {
  return token ? tokenizer.id_of(*token) : -1;
}

// Part [begin, end) of a text, with its alignment.
AlignedText part_of(const AlignedText& text, size_t begin, size_t end) {
  AlignedText part;
  part.text = text.text.substr(begin, end - begin);
  part.tracked = text.tracked;
  // Where a step asks "is this the beginning?", only the beginning may answer with 0.
  part.base = text.base + begin;
  if (!text.source.empty()) {
    part.source.assign(text.source.begin() + static_cast<ptrdiff_t>(begin), text.source.begin() + static_cast<ptrdiff_t>(end));
  }
  return part;
}

}  // namespace

std::unique_ptr<Tokenizer> Pipeline::make(PipelineParts parts, const TokenizerConfig& config, std::string source) {
  std::unique_ptr<Pipeline> pipeline(new Pipeline(std::move(parts)));
  PipelineParts& own = pipeline->parts_;
  if (!own.pre_tokenizers.empty() && own.pre_tokenizers.back()->is_byte_level() && own.model->accept_raw_bytes()) {
    own.pre_tokenizers.back()->leave_bytes();
  }
  pipeline->needs_origin_ = own.normalizer && std::any_of(own.pre_tokenizers.begin(), own.pre_tokenizers.end(),
                                                          [](const auto& step) { return step->needs_origin(); });
  pipeline->source_ = std::move(source);
  pipeline->bos_id_ = id_of_optional(*pipeline, config.bos_token);
  pipeline->eos_id_ = id_of_optional(*pipeline, config.eos_token);
  pipeline->pad_id_ = id_of_optional(*pipeline, config.pad_token);
  return pipeline;
}

Result<std::vector<int32_t>> Pipeline::encode(std::string_view text, const EncodeOptions& options,
                                              std::vector<TokenSpan>* spans) const {
  if (text.size() > kLargestText) {
    return error(Code::kArgument, "the text has %zu bytes, more than the %zu that can be encoded at once", text.size(), kLargestText);
  }
  const size_t bad = utf8_first_invalid(text);
  if (bad != std::string_view::npos) {
    return error(Code::kArgument, "the text is not UTF-8 at byte %zu", bad).with("offset", static_cast<int64_t>(bad));
  }
  auto scratch = scratch_.borrow();
  EncodedPieces& pieces = scratch->pieces;
  pieces.ids.clear();
  pieces.spans.clear();
  pieces.with_spans = spans != nullptr;
  if (spans) spans->clear();

  if (options.add_special) {
    for (const int32_t id : parts_.post_processor.before) {
      pieces.add(id, 0, 0);
      if (spans) spans->push_back({0, 0});
    }
  }
  pieces.spans.clear();
  if (!parts_.added.looks_for(false)) {
    NBL_RETURN_IF_ERROR(encode_segment(text, 0, options.parse_special, *scratch, spans));
  } else {
    for (const AddedSpan& span : parts_.added.cut(text, false, options.parse_special)) {
      if (span.index < 0) {
        NBL_RETURN_IF_ERROR(
            encode_segment(text.substr(span.begin, span.end - span.begin), span.begin, options.parse_special, *scratch, spans));
        continue;
      }
      pieces.ids.push_back(parts_.added.all()[static_cast<size_t>(span.index)].id);
      if (spans) spans->push_back({span.begin, span.end});
    }
  }
  if (options.add_special) {
    for (const int32_t id : parts_.post_processor.after) {
      pieces.ids.push_back(id);
      if (spans) spans->push_back({text.size(), text.size()});
    }
  }
  return std::vector<int32_t>(pieces.ids);
}

// A stretch without added tokens of the raw kind: normalized, then searched for those of the normalized kind.
Status Pipeline::encode_segment(std::string_view text, size_t base, bool parse_special, Scratch& scratch,
                                std::vector<TokenSpan>* spans) const {
  AlignedText aligned;
  aligned.text = std::string(text);
  aligned.base = base;
  aligned.tracked = spans != nullptr || needs_origin_;
  if (parts_.normalizer) NBL_RETURN_IF_ERROR(parts_.normalizer->apply(aligned, scratch.regex));
  if (!parts_.added.looks_for(true)) return encode_between(std::move(aligned), scratch, spans);
  for (const AddedSpan& span : parts_.added.cut(aligned.text, true, parse_special)) {
    if (span.index < 0) {
      NBL_RETURN_IF_ERROR(encode_between(part_of(aligned, span.begin, span.end), scratch, spans));
      continue;
    }
    scratch.pieces.ids.push_back(parts_.added.all()[static_cast<size_t>(span.index)].id);
    if (spans) spans->push_back(aligned.span(span.begin, span.end));
  }
  return {};
}

Status Pipeline::encode_between(AlignedText text, Scratch& scratch, std::vector<TokenSpan>* spans) const {
  if (text.text.empty()) return {};
  PreTokenized& state = scratch.state;
  state.pieces.assign(1, {0, static_cast<uint32_t>(text.text.size())});
  state.text = std::move(text);
  state.raw_bytes = false;
  for (const auto& step : parts_.pre_tokenizers) {
    NBL_RETURN_IF_ERROR(step->apply(state, scratch.regex));
    if (state.text.text.size() > 2 * kLargestText) return error(Code::kArgument, "the text grew beyond what can be encoded at once");
  }
  scratch.pieces.spans.clear();
  for (const Piece piece : state.pieces) {
    NBL_RETURN_IF_ERROR(parts_.model->encode(state.text.text, piece, state.raw_bytes, scratch.pieces));
  }
  if (spans) {
    for (const Piece& span : scratch.pieces.spans) spans->push_back(state.text.span(span.begin, span.end));
  }
  return {};
}

std::string Pipeline::decode(const int32_t* ids, size_t count, bool skip_special) const {
  // Kept by the thread: a stream decodes a token or two at a time, and shall not allocate for each.
  thread_local std::vector<std::string> tokens;
  tokens.clear();
  for (size_t i = 0; i < count; ++i) {
    if (const AddedToken* added = parts_.added.by_id(ids[i])) {
      const std::string& spelling = parts_.added.spelling(*added);
      if (!(skip_special && parts_.added.is_special_spelling(spelling))) tokens.push_back(spelling);
    } else if (parts_.model->vocabulary().has(ids[i])) {
      tokens.emplace_back(parts_.model->vocabulary().token(ids[i]));
    }
  }
  std::string text;
  if (parts_.decoder) {
    parts_.decoder->apply(tokens);
    for (const std::string& token : tokens) text += token;
  } else {
    for (size_t i = 0; i < tokens.size(); ++i) text += (i ? " " : "") + tokens[i];
  }
  return text;
}

std::unique_ptr<StreamDecoder> Pipeline::stream(bool skip_special) const { return make_stream_decoder(*this, skip_special); }

std::string Pipeline::token_bytes(int32_t id) const {
  if (const AddedToken* added = parts_.added.by_id(id)) return parts_.added.spelling(*added);
  std::string token(parts_.model->vocabulary().token(id));
  if (!parts_.decoder) return token;
  const std::string mark = parts_.decoder->mark();
  std::string bytes;
  switch (parts_.decoder->spelling()) {
    case TokenDecoder::Spelling::kByteLetters:
      return letters_to_bytes(token, bytes) ? bytes : token;
    case TokenDecoder::Spelling::kMetaspace: {
      const int byte = byte_of_fallback_token(token);
      if (byte >= 0) return std::string(1, static_cast<char>(byte));
      constexpr std::string_view kMetaspace = "\xE2\x96\x81";
      for (size_t at = token.find(kMetaspace); at != std::string::npos; at = token.find(kMetaspace, at))
        token.replace(at, kMetaspace.size(), " ");
      return token;
    }
    case TokenDecoder::Spelling::kWordPiece:
      return token.compare(0, mark.size(), mark) == 0 ? token.substr(mark.size()) : token;
    case TokenDecoder::Spelling::kSuffix:
      if (!mark.empty() && token.size() >= mark.size() && token.compare(token.size() - mark.size(), mark.size(), mark) == 0) {
        return token.substr(0, token.size() - mark.size()) + " ";
      }
      return token;
    case TokenDecoder::Spelling::kPlain:
      return token;
  }
  return token;
}

int32_t Pipeline::vocabulary_size() const {
  return std::max(parts_.model->vocabulary().id_bound(), parts_.added.id_bound());
}

int32_t Pipeline::id_of(std::string_view token) const {
  const AddedToken* added = parts_.added.by_content(token);
  return added ? added->id : parts_.model->vocabulary().find(token);
}

bool Pipeline::is_special(int32_t id) const {
  const AddedToken* added = parts_.added.by_id(id);
  return added && added->special;
}

std::string Pipeline::description() const {
  const bool bytes = parts_.decoder && parts_.decoder->spelling() == TokenDecoder::Spelling::kByteLetters;
  return std::string(bytes ? "byte-level " : "") + parts_.model->name() + ", " + source_;
}

}  // namespace nbl

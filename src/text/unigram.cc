#include "text/unigram.h"

#include <algorithm>
#include <cstdio>

#include "base/utf8.h"

namespace nbl {
namespace {

// What an unknown character costs beyond the worst token.
constexpr double kUnknownPenalty = 10.0;

uint64_t edge(uint32_t node, char byte) { return static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(byte); }

}  // namespace

Unigram::Unigram(Vocabulary vocabulary, std::vector<double> scores, UnigramOptions options)
    : TokenModel(std::move(vocabulary)), scores_(std::move(scores)), options_(options) {}

Result<std::unique_ptr<TokenModel>> Unigram::make(Vocabulary vocabulary, std::vector<double> scores, UnigramOptions options) {
  if (scores.empty()) return error(Code::kFormat, "the Unigram model has an empty vocabulary");
  if (options.unk_id >= static_cast<int64_t>(scores.size())) {
    return error(Code::kFormat, "unk_id is %lld, but the vocabulary ends at %zu", static_cast<long long>(options.unk_id), scores.size());
  }
  std::unique_ptr<Unigram> model(new Unigram(std::move(vocabulary), std::move(scores), options));
  model->unknown_score_ = *std::min_element(model->scores_.begin(), model->scores_.end()) - kUnknownPenalty;
  NBL_RETURN_IF_ERROR(model->build_trie());
  for (int byte = 0; options.byte_fallback && byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof(name), "<0x%02X>", static_cast<unsigned>(byte));
    model->fallback_ids_.push_back(model->vocabulary_.find(name));
  }
  return std::unique_ptr<TokenModel>(std::move(model));
}

Status Unigram::build_trie() {
  size_t bytes = 0;
  for (int32_t id = 0; id < vocabulary_.id_bound(); ++id) bytes += vocabulary_.token(id).size();
  edges_.reserve(bytes);  // no more edges than bytes
  uint32_t nodes = 1;
  for (int32_t id = 0; id < vocabulary_.id_bound(); ++id) {
    const std::string_view token = vocabulary_.token(id);
    uint32_t node = 0;
    for (size_t i = 0; i < token.size(); ++i) {
      const uint64_t key = edge(node, token[i]);
      const Node* found = edges_.find(key);
      Node next = found ? *found : Node{-1, nodes++};
      if (i + 1 == token.size()) next.id = vocabulary_.find(token);
      edges_.set(key, next);
      node = next.child;
    }
  }
  return {};
}

Status Unigram::encode(std::string_view text, Piece piece, bool, EncodedPieces& out) const {
  if (piece.begin == piece.end) return {};
  // best[i]: the best way to spell the piece up to byte i.
  const std::string_view in = text.substr(piece.begin, piece.end - piece.begin);
  std::vector<Best> best(in.size() + 1);
  for (size_t at = 0; at < in.size();) {
    const double so_far = best[at].score;
    size_t after = at;
    utf8_next(in, after);
    bool single = false;
    const auto offer = [&](size_t end, int32_t id, double score) {
      Best& target = best[end];
      if (target.reached && score <= target.score) return;
      target = {score, static_cast<uint32_t>(at), id, true};
    };
    uint32_t node = 0;
    for (size_t i = at; i < in.size(); ++i) {
      const Node* next = edges_.find(edge(node, in[i]));
      if (!next) break;
      node = next->child;
      if (next->id < 0) continue;
      offer(i + 1, next->id, so_far + scores_[static_cast<size_t>(next->id)]);
      single = single || i + 1 == after;
    }
    if (!single) {
      if (options_.unk_id < 0) {
        return error(Code::kFormat, "the text has characters that no token spells, and the Unigram model has no unk_id");
      }
      offer(after, static_cast<int32_t>(options_.unk_id), so_far + unknown_score_);
    }
    at = after;
  }
  // Walk back, joining neighbouring unknowns into one.
  std::vector<Piece> cuts;
  size_t end = in.size();
  bool unknown_before = false;
  while (end > 0) {
    const Best& step = best[end];
    const bool unknown = step.id == options_.unk_id;
    if (unknown && unknown_before) {
      cuts.back().begin = step.begin;
    } else {
      cuts.push_back({step.begin, static_cast<uint32_t>(end)});
    }
    unknown_before = unknown;
    end = step.begin;
  }
  for (size_t i = cuts.size(); i-- > 0;)
    NBL_RETURN_IF_ERROR(encode_span(text, piece.begin + cuts[i].begin, piece.begin + cuts[i].end, out));
  return {};
}

Status Unigram::encode_span(std::string_view text, uint32_t begin, uint32_t end, EncodedPieces& out) const {
  const std::string_view token = text.substr(begin, end - begin);
  const int32_t id = vocabulary_.find(token);
  if (id >= 0) {
    out.add(id, begin, end);
    return {};
  }
  if (options_.byte_fallback && std::all_of(token.begin(), token.end(), [this](char c) {
        return fallback_ids_[static_cast<uint8_t>(c)] >= 0;
      })) {
    for (uint32_t i = begin; i < end; ++i) out.add(fallback_ids_[static_cast<uint8_t>(text[i])], i, i + 1);
    return {};
  }
  out.add(static_cast<int32_t>(options_.unk_id), begin, end);
  return {};
}

}  // namespace nbl

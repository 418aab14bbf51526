#include "text/bpe.h"

#include <algorithm>
#include <cstdio>

#include "base/utf8.h"
#include "text/byte_level.h"

namespace nbl {
namespace {

constexpr size_t kFewSymbols = 40;
constexpr std::string_view kMetaspace = "\xE2\x96\x81";

}  // namespace

Bpe::Bpe(Vocabulary vocabulary, BpeOptions options) : TokenModel(std::move(vocabulary)), options_(std::move(options)) {
  byte_ids_.fill(-1);
  fallback_ids_.fill(-1);
  if (options_.has_unk_token) unk_id_ = vocabulary_.find(options_.unk_token);
  for (int byte = 0; options_.byte_fallback && byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof(name), "<0x%02X>", static_cast<unsigned>(byte));
    fallback_ids_[static_cast<size_t>(byte)] = vocabulary_.find(name);
  }
}

Result<std::unique_ptr<TokenModel>> Bpe::make(Vocabulary vocabulary, const Merges& merges, BpeOptions options) {
  std::unique_ptr<Bpe> model(new Bpe(std::move(vocabulary), std::move(options)));
  NBL_RETURN_IF_ERROR(model->load_merges(merges));
  model->find_word_boundary();
  return std::unique_ptr<TokenModel>(std::move(model));
}

Status Bpe::load_merges(const Merges& merges) {
  merges_.reserve(merges.count());
  const std::string_view all = merges.arena_;
  const size_t prefix = options_.continuing_subword_prefix.size();
  size_t at = 0;
  std::string joined;
  for (size_t rank = 0; rank < merges.ends_.size(); ++rank) {
    const std::string_view left = all.substr(at, merges.ends_[rank].left);
    at += left.size();
    const std::string_view right = all.substr(at, merges.ends_[rank].right);
    at += right.size();
    joined.assign(left);
    if (right.size() >= prefix) joined += right.substr(prefix);
    const int32_t left_id = vocabulary_.find(left), right_id = vocabulary_.find(right), id = vocabulary_.find(joined);
    const std::string_view lost = left_id < 0 ? left : right_id < 0 ? right : id < 0 ? std::string_view(joined) : std::string_view();
    if (left_id < 0 || right_id < 0 || id < 0) {
      return error(Code::kFormat, "merge %zu is of \"%.*s\" and \"%.*s\", but \"%.*s\" is not in the vocabulary", rank,
                   static_cast<int>(left.size()), left.data(), static_cast<int>(right.size()), right.data(),
                   static_cast<int>(lost.size()), lost.data());
    }
    merges_.set(static_cast<uint64_t>(static_cast<uint32_t>(left_id)) << 32 | static_cast<uint32_t>(right_id),
                Merge{static_cast<uint32_t>(rank), id});
    // Is there a merge from another character into a metaspace? Then words cannot be encoded one by one.
    const bool into = right.substr(0, kMetaspace.size()) == kMetaspace;
    const bool from = left.size() >= kMetaspace.size() && left.substr(left.size() - kMetaspace.size()) == kMetaspace;
    if (into && !from) boundary_ = "none";
  }
  return {};
}

// A text of SentencePiece style comes as one piece of any length. If no merge joins another character with a
// metaspace behind it, each word can be encoded alone, and looked up in the cache.
void Bpe::find_word_boundary() {
  const bool crosses = !boundary_.empty();
  boundary_.clear();
  if (crosses || options_.ignore_merges || !options_.end_of_word_suffix.empty() || !options_.continuing_subword_prefix.empty()) return;
  if (vocabulary_.find(kMetaspace) >= 0) boundary_ = kMetaspace;
}

bool Bpe::accept_raw_bytes() {
  if (!options_.continuing_subword_prefix.empty() || !options_.end_of_word_suffix.empty()) return false;
  bool complete = true;
  for (int byte = 0; byte < 256; ++byte) {
    byte_ids_[static_cast<size_t>(byte)] = vocabulary_.find(byte_letter(static_cast<uint8_t>(byte)));
    complete = complete && byte_ids_[static_cast<size_t>(byte)] >= 0;
  }
  if (!complete && (options_.byte_fallback || options_.has_unk_token)) return false;
  if (!options_.ignore_merges) return true;
  std::string bytes;
  for (int32_t id = 0; id < vocabulary_.id_bound(); ++id) {
    if (vocabulary_.has(id) && letters_to_bytes(vocabulary_.token(id), bytes) && !raw_words_.add(bytes, id).ok()) return false;
  }
  raw_words_.finish();
  return true;
}

Status Bpe::encode(std::string_view text, Piece piece, bool raw_bytes, EncodedPieces& out) const {
  if (boundary_.empty() || raw_bytes) return encode_word(text, piece, raw_bytes, out);
  const std::string_view word = text.substr(0, piece.end);
  uint32_t begin = piece.begin;
  while (begin < piece.end) {
    // The next metaspace that does not follow another one starts a new word.
    size_t cut = begin;
    while (word.compare(cut, boundary_.size(), boundary_) == 0) cut += boundary_.size();
    cut = std::min<size_t>(word.find(boundary_, cut), piece.end);
    NBL_RETURN_IF_ERROR(encode_word(text, {begin, static_cast<uint32_t>(cut)}, false, out));
    begin = static_cast<uint32_t>(cut);
  }
  return {};
}

Status Bpe::encode_word(std::string_view text, Piece piece, bool raw_bytes, EncodedPieces& out) const {
  const std::string_view word = text.substr(piece.begin, piece.end - piece.begin);
  WordCache::Entry* entry = nullptr;
  uint64_t hash = 0;
  if (!out.with_spans && word.size() <= WordCache::kLongestWord) {
    hash = hash_bytes(word);
    entry = out.cache.slot(word, hash);
    if (entry && WordCache::holds(*entry, word, hash)) {
      out.ids.insert(out.ids.end(), entry->ids, entry->ids + entry->count);
      return {};
    }
  }
  const size_t first = out.ids.size();
  const int32_t whole = options_.ignore_merges ? (raw_bytes ? raw_words_ : vocabulary_).find(word) : -1;
  if (whole >= 0) {
    out.add(whole, piece.begin, piece.end);
  } else {
    std::vector<Symbol>& symbols = out.symbols;
    symbols.clear();
    if (raw_bytes) {
      for (uint32_t i = piece.begin; i < piece.end; ++i) {
        // A byte without a token vanishes when the model knows no unknown one.
        const int32_t id = byte_ids_[static_cast<uint8_t>(text[i])];
        if (id >= 0) symbols.push_back({id, i, i + 1});
      }
    } else {
      NBL_RETURN_IF_ERROR(symbols_of(word, piece.begin, symbols));
    }
    if (symbols.size() <= kFewSymbols) {
      merge_few(symbols);
    } else {
      merge_many(symbols);
    }
    for (const Symbol& symbol : symbols) out.add(symbol.id, symbol.begin, symbol.end);
  }
  if (entry) WordCache::keep(*entry, word, hash, out.ids.data() + first, out.ids.size() - first);
  return {};
}

bool Bpe::fall_back_to_bytes(std::string_view symbol, uint32_t at, std::vector<Symbol>& out) const {
  for (const char c : symbol) {
    if (fallback_ids_[static_cast<uint8_t>(c)] < 0) return false;
  }
  for (const char c : symbol) {
    out.push_back({fallback_ids_[static_cast<uint8_t>(c)], at, at + 1});
    ++at;
  }
  return true;
}

Status Bpe::symbols_of(std::string_view word, uint32_t base, std::vector<Symbol>& out) const {
  Symbol unknown{-1, 0, 0};  // characters without a token, waiting to be fused with more of them
  std::string spelled;
  for (size_t at = 0; at < word.size();) {
    const size_t begin = at;
    utf8_next(word, at);
    const auto from = static_cast<uint32_t>(base + begin), to = static_cast<uint32_t>(base + at);
    std::string_view symbol = word.substr(begin, at - begin);
    const bool with_prefix = begin > 0 && !options_.continuing_subword_prefix.empty();
    const bool with_suffix = at == word.size() && !options_.end_of_word_suffix.empty();
    if (with_prefix || with_suffix) {
      spelled.assign(with_prefix ? options_.continuing_subword_prefix : std::string());
      spelled += symbol;
      if (with_suffix) spelled += options_.end_of_word_suffix;
      symbol = spelled;
    }
    const int32_t id = vocabulary_.find(symbol);
    if (id >= 0) {
      if (unknown.id >= 0) out.push_back(unknown);
      unknown.id = -1;
      out.push_back({id, from, to});
      continue;
    }
    if (options_.byte_fallback && fall_back_to_bytes(symbol, from, out)) continue;
    if (!options_.has_unk_token) continue;
    if (unk_id_ < 0) {
      return error(Code::kFormat, "the text needs the unknown token \"%s\", which is not in the vocabulary", options_.unk_token.c_str());
    }
    if (unknown.id >= 0 && options_.fuse_unk) {
      unknown.end = to;
    } else {
      if (unknown.id >= 0) out.push_back(unknown);
      unknown = {unk_id_, from, to};
    }
  }
  if (unknown.id >= 0) out.push_back(unknown);
  return {};
}

void Bpe::merge_few(std::vector<Symbol>& symbols) const {
  constexpr uint32_t kNone = 0xFFFFFFFF;
  Merge found[kFewSymbols];  // of symbols i and i + 1
  size_t count = symbols.size();
  const auto look = [&](size_t i) {
    const Merge* merge = merge_of(symbols[i].id, symbols[i + 1].id);
    found[i] = merge ? *merge : Merge{kNone, -1};
  };
  for (size_t i = 0; i + 1 < count; ++i) look(i);
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; ++i) {
      if (found[i].rank < found[best].rank) best = i;
    }
    if (found[best].rank == kNone) break;
    symbols[best].id = found[best].id;
    symbols[best].end = symbols[best + 1].end;
    for (size_t i = best + 1; i + 1 < count; ++i) {
      symbols[i] = symbols[i + 1];
      found[i] = found[i + 1];
    }
    --count;
    if (best > 0) look(best - 1);
    if (best + 1 < count) look(best);
  }
  symbols.resize(count);
}

void Bpe::merge_many(std::vector<Symbol>& symbols) const {
  constexpr uint32_t kNone = 0xFFFFFFFF;
  struct Candidate {
    uint32_t rank, at;
    int32_t left, right, id;
  };
  const auto later = [](const Candidate& a, const Candidate& b) { return a.rank != b.rank ? a.rank > b.rank : a.at > b.at; };
  const auto count = static_cast<uint32_t>(symbols.size());
  std::vector<uint32_t> next(count), previous(count);
  std::vector<Candidate> heap;
  heap.reserve(count);
  for (uint32_t i = 0; i < count; ++i) {
    next[i] = i + 1 < count ? i + 1 : kNone;
    previous[i] = i > 0 ? i - 1 : kNone;
    if (i + 1 == count) break;
    if (const Merge* merge = merge_of(symbols[i].id, symbols[i + 1].id)) {
      heap.push_back({merge->rank, i, symbols[i].id, symbols[i + 1].id, merge->id});
    }
  }
  std::make_heap(heap.begin(), heap.end(), later);
  const auto offer = [&](uint32_t left) {
    const uint32_t right = next[left];
    if (right == kNone) return;
    const Merge* merge = merge_of(symbols[left].id, symbols[right].id);
    if (!merge) return;
    heap.push_back({merge->rank, left, symbols[left].id, symbols[right].id, merge->id});
    std::push_heap(heap.begin(), heap.end(), later);
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), later);
    const Candidate best = heap.back();
    heap.pop_back();
    // Stale when one of the two has been merged with something else since; a symbol that is gone has id -1.
    const uint32_t right = next[best.at];
    if (symbols[best.at].id != best.left || right == kNone || symbols[right].id != best.right) continue;
    symbols[best.at].id = best.id;
    symbols[best.at].end = symbols[right].end;
    symbols[right].id = -1;
    next[best.at] = next[right];
    if (next[right] != kNone) previous[next[right]] = best.at;
    if (previous[best.at] != kNone) offer(previous[best.at]);
    offer(best.at);
  }
  size_t kept = 0;
  for (uint32_t i = 0; i != kNone; i = next[i]) symbols[kept++] = symbols[i];
  symbols.resize(kept);
}

}  // namespace nbl

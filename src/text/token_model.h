// The models of tokenizer.json: one piece of text to ids.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/status.h"
#include "text/aligned_text.h"
#include "text/vocabulary.h"

namespace nbl {

// Words that were encoded lately. Direct-mapped: a new word takes the place of the old one. Belongs to one thread.
class WordCache {
 public:
  static constexpr size_t kLongestWord = 30, kMostIds = 6;

  struct Entry {
    uint64_t hash;
    uint8_t size = 0, count = 0;  // size 0: free
    char word[kLongestWord];
    int32_t ids[kMostIds];
  };

  // The entry that the word has, or would have; null if the word is not for the cache.
  Entry* slot(std::string_view word, uint64_t hash) {
    if (word.size() > kLongestWord || word.empty()) return nullptr;
    if (entries_.empty()) entries_.resize(kEntries);
    return &entries_[hash & (kEntries - 1)];
  }
  static bool holds(const Entry& entry, std::string_view word, uint64_t hash) {
    return entry.hash == hash && entry.size == word.size() && __builtin_memcmp(entry.word, word.data(), word.size()) == 0;
  }
  static void keep(Entry& entry, std::string_view word, uint64_t hash, const int32_t* ids, size_t count) {
    if (count > kMostIds) return;
    entry.hash = hash;
    entry.size = static_cast<uint8_t>(word.size());
    entry.count = static_cast<uint8_t>(count);
    __builtin_memcpy(entry.word, word.data(), word.size());
    __builtin_memcpy(entry.ids, ids, count * sizeof(int32_t));
  }

 private:
  static constexpr size_t kEntries = 8192;
  std::vector<Entry> entries_;
};

// One symbol of a word on its way through BPE, and the bytes of the text it stands for.
struct Symbol {
  int32_t id;
  uint32_t begin, end;
};

// What encoding writes to, and its working memory. Belongs to one thread at a time.
struct EncodedPieces {
  std::vector<int32_t> ids;
  std::vector<Piece> spans;  // in bytes of the text that held the piece; kept only if with_spans
  bool with_spans = false;
  WordCache cache;
  std::vector<Symbol> symbols;  // working memory

  void add(int32_t id, size_t begin, size_t end) {
    ids.push_back(id);
    if (with_spans) spans.push_back({static_cast<uint32_t>(begin), static_cast<uint32_t>(end)});
  }
};


class TokenModel {
 public:
  virtual ~TokenModel() = default;

  // Appends the ids of text[piece]. `raw_bytes`: the piece holds bytes that were not spelled as byte letters.
  virtual Status encode(std::string_view text, Piece piece, bool raw_bytes, EncodedPieces& out) const = 0;
  // Makes ready for raw pieces; false if the model needs the letters.
  virtual bool accept_raw_bytes() { return false; }
  virtual const char* name() const = 0;

  const Vocabulary& vocabulary() const { return vocabulary_; }

 protected:
  explicit TokenModel(Vocabulary vocabulary) : vocabulary_(std::move(vocabulary)) {}
  Vocabulary vocabulary_;
};

}  // namespace nbl

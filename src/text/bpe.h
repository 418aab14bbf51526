// Byte pair encoding: symbols are merged in the order of the merge list, the earliest first, from left to right.
//
// Words of up to a few dozen symbols are merged by looking for the best pair each time; longer ones with a heap, so
// that a megabyte without a space costs n log n.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "text/token_model.h"

namespace nbl {

struct BpeOptions {
  std::string unk_token;
  bool has_unk_token = false;
  std::string continuing_subword_prefix, end_of_word_suffix;
  bool fuse_unk = false, byte_fallback = false, ignore_merges = false;
};

class Bpe final : public TokenModel {
 public:
  // Collects merges while a file is read.
  class Merges {
   public:
    void add(std::string_view left, std::string_view right) {
      ends_.push_back({static_cast<uint32_t>(left.size()), static_cast<uint32_t>(right.size())});
      arena_ += left;
      arena_ += right;
    }
    size_t count() const { return ends_.size(); }

   private:
    friend class Bpe;
    struct Sizes {
      uint32_t left, right;
    };
    std::string arena_;
    std::vector<Sizes> ends_;
  };

  // A merge of tokens that are not in the vocabulary, or whose result is not, is kFormat.
  static Result<std::unique_ptr<TokenModel>> make(Vocabulary vocabulary, const Merges& merges, BpeOptions options);

  Status encode(std::string_view text, Piece piece, bool raw_bytes, EncodedPieces& out) const override;
  bool accept_raw_bytes() override;
  const char* name() const override { return "BPE"; }

 private:
  struct Merge {
    uint32_t rank;
    int32_t id;
  };

  Bpe(Vocabulary vocabulary, BpeOptions options);
  Status load_merges(const Merges& merges);
  void find_word_boundary();

  Status encode_word(std::string_view text, Piece piece, bool raw_bytes, EncodedPieces& out) const;
  Status symbols_of(std::string_view word, uint32_t base, std::vector<Symbol>& out) const;
  bool fall_back_to_bytes(std::string_view symbol, uint32_t at, std::vector<Symbol>& out) const;
  void merge_few(std::vector<Symbol>& symbols) const;
  void merge_many(std::vector<Symbol>& symbols) const;
  const Merge* merge_of(int32_t left, int32_t right) const {
    return merges_.find(static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right));
  }

  BpeOptions options_;
  int32_t unk_id_ = -1;
  FlatMap<Merge> merges_;
  std::array<int32_t, 256> byte_ids_;        // of the byte letters, for raw pieces; -1 where there is none
  std::array<int32_t, 256> fallback_ids_;    // of <0x00> to <0xFF>
  Vocabulary raw_words_;                     // the vocabulary spelled in bytes, for ignore_merges on raw pieces
  std::string boundary_;                     // no merge crosses from another character into this one; empty if none
};

}  // namespace nbl

// WordPiece (the longest prefix first, BERT's) and WordLevel (a word is a token or unknown).
#pragma once

#include <string>

#include "text/token_model.h"

namespace nbl {

class WordPiece final : public TokenModel {
 public:
  WordPiece(Vocabulary vocabulary, std::string unk_token, std::string continuing_subword_prefix, size_t max_input_chars_per_word)
      : TokenModel(std::move(vocabulary)),
        unk_token_(std::move(unk_token)),
        prefix_(std::move(continuing_subword_prefix)),
        most_characters_(max_input_chars_per_word) {}

  Status encode(std::string_view text, Piece piece, bool raw_bytes, EncodedPieces& out) const override;
  const char* name() const override { return "WordPiece"; }

 private:
  std::string unk_token_, prefix_;
  size_t most_characters_;
};

class WordLevel final : public TokenModel {
 public:
  WordLevel(Vocabulary vocabulary, std::string unk_token) : TokenModel(std::move(vocabulary)), unk_token_(std::move(unk_token)) {}

  Status encode(std::string_view text, Piece piece, bool raw_bytes, EncodedPieces& out) const override;
  const char* name() const override { return "WordLevel"; }

 private:
  std::string unk_token_;
};

}  // namespace nbl

// Unigram: of all ways to cut a piece into tokens the one with the largest sum of scores, as the `tokenizers` package
// finds it (ties go to the earlier candidate; runs of unknown characters become one unknown token).
#pragma once

#include <string>
#include <vector>

#include "text/token_model.h"

namespace nbl {

struct UnigramOptions {
  int64_t unk_id = -1;  // -1: none
  bool byte_fallback = false;
};

class Unigram final : public TokenModel {
 public:
  static Result<std::unique_ptr<TokenModel>> make(Vocabulary vocabulary, std::vector<double> scores, UnigramOptions options);

  Status encode(std::string_view text, Piece piece, bool raw_bytes, EncodedPieces& out) const override;
  const char* name() const override { return "Unigram"; }

 private:
  struct Node {
    int32_t id;      // the token that ends here, or -1
    uint32_t child;  // the node itself; 0 is the root
  };
  struct Best {
    double score = 0;
    uint32_t begin = 0;
    int32_t id = -1;
    bool reached = false;
  };

  Unigram(Vocabulary vocabulary, std::vector<double> scores, UnigramOptions options);
  Status build_trie();
  Status encode_span(std::string_view text, uint32_t begin, uint32_t end, EncodedPieces& out) const;

  std::vector<double> scores_;
  UnigramOptions options_;
  double unknown_score_ = 0;
  FlatMap<Node> edges_;  // from node and byte
  std::vector<int32_t> fallback_ids_;
};

}  // namespace nbl

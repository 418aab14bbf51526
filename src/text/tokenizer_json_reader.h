// Reads tokenizer.json as a stream: everything but the model's vocabulary and merges into a document.
#pragma once

#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/status.h"
#include "text/bpe.h"
#include "text/vocabulary.h"

namespace nbl {

// model.vocab and model.merges.
struct ModelLists {
  Vocabulary vocabulary;       // finished
  std::vector<double> scores;  // of Unigram, by id
  Bpe::Merges merges;
  bool has_vocab = false;   // {"token": id}
  bool has_scores = false;  // [["token", score]]
  bool has_merges = false;
};

// The document without those two lists. The caller names the file.
Result<Json> read_document(std::string_view text, ModelLists& lists);

// {"token": id} alone: vocab.json.
Status read_vocabulary(std::string_view text, std::string_view where, Vocabulary& out);

}  // namespace nbl

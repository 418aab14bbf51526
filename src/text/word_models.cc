#include "text/word_models.h"

#include <algorithm>

namespace nbl {
namespace {

bool begins_character(char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; }

Status add_unknown(const Vocabulary& vocabulary, const std::string& unk_token, Piece piece, EncodedPieces& out) {
  const int32_t id = vocabulary.find(unk_token);
  if (id < 0) {
    return error(Code::kFormat, "the text needs the unknown token \"%s\", which is not in the vocabulary", unk_token.c_str());
  }
  out.add(id, piece.begin, piece.end);
  return {};
}

}  // namespace

Status WordPiece::encode(std::string_view text, Piece piece, bool, EncodedPieces& out) const {
  const std::string_view word = text.substr(piece.begin, piece.end - piece.begin);
  if (static_cast<size_t>(std::count_if(word.begin(), word.end(), begins_character)) > most_characters_) {
    return add_unknown(vocabulary_, unk_token_, piece, out);
  }
  const size_t first = out.ids.size();
  std::string spelled;
  for (size_t begin = 0; begin < word.size();) {
    size_t end = word.size();
    int32_t id = -1;
    while (end > begin) {
      spelled.assign(begin > 0 ? prefix_ : std::string());
      spelled += word.substr(begin, end - begin);
      id = vocabulary_.find(spelled);
      if (id >= 0) break;
      do --end;
      while (end > begin && !begins_character(word[end]));
    }
    if (id < 0) {  // one part without a token makes the whole word unknown
      out.ids.resize(first);
      if (out.with_spans) out.spans.resize(first);
      return add_unknown(vocabulary_, unk_token_, piece, out);
    }
    out.add(id, piece.begin + begin, piece.begin + end);
    begin = end;
  }
  return {};
}

Status WordLevel::encode(std::string_view text, Piece piece, bool, EncodedPieces& out) const {
  const int32_t id = vocabulary_.find(text.substr(piece.begin, piece.end - piece.begin));
  if (id < 0) return add_unknown(vocabulary_, unk_token_, piece, out);
  out.add(id, piece.begin, piece.end);
  return {};
}

}  // namespace nbl

// tokenizer.model and spiece.model: SentencePiece's ModelProto, read from its protobuf encoding.
//
// Only what a tokenizer needs is kept: field 1 the pieces (text, score, type), field 2 the trainer's settings, field 3
// the normalizer's.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace nbl {

struct SentencePieceModel {
  enum class Type : int { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };
  enum class Kind : int { kUnigram = 1, kBpe = 2, kWord = 3, kCharacter = 4 };

  struct Piece {
    std::string text;
    float score = 0;
    Type type = Type::kNormal;
  };

  std::vector<Piece> pieces;
  Kind kind = Kind::kUnigram;
  bool byte_fallback = false;
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  std::string precompiled_charsmap;  // bytes, may be empty
  int64_t unk_id = 0, bos_id = 1, eos_id = 2, pad_id = -1;  // -1: none

  static Result<SentencePieceModel> parse(std::string_view bytes, std::string_view where);
};

}  // namespace nbl

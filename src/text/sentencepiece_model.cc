#include "text/sentencepiece_model.h"

#include <cstring>

#include "base/utf8.h"
#include "text/vocabulary.h"

namespace nbl {
namespace {

// One field of a protobuf message after the other.
class Fields {
 public:
  explicit Fields(std::string_view bytes) : bytes_(bytes) {}

  // False at the end, or when the bytes are no message; bad() tells which.
  bool next() {
    if (at_ >= bytes_.size()) return false;
    uint64_t key = 0;
    if (!varint(key)) return fail();
    number_ = key >> 3;
    wire_ = static_cast<int>(key & 7);
    if (wire_ == 0) return varint(value_) || fail();
    if (wire_ == 1) return take(8);
    if (wire_ == 5) return take(4);
    uint64_t size = 0;
    if (wire_ != 2 || !varint(size)) return fail();
    return take(size);
  }
  bool bad() const { return bad_; }
  bool is(uint64_t number, int wire) const { return number_ == number && wire_ == wire; }
  uint64_t value() const { return value_; }
  std::string_view data() const { return data_; }
  float as_float() const {
    float number = 0;
    std::memcpy(&number, data_.data(), sizeof(number));
    return number;
  }

 private:
  bool fail() {
    bad_ = true;
    return false;
  }
  bool varint(uint64_t& value) {
    value = 0;
    for (int shift = 0; shift < 64 && at_ < bytes_.size(); shift += 7) {
      const auto byte = static_cast<uint8_t>(bytes_[at_++]);
      value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return true;
    }
    return false;
  }
  bool take(uint64_t size) {
    if (size > bytes_.size() - at_) return fail();
    data_ = bytes_.substr(at_, size);
    at_ += size;
    return true;
  }

  std::string_view bytes_, data_;
  size_t at_ = 0;
  uint64_t number_ = 0, value_ = 0;
  int wire_ = 0;
  bool bad_ = false;
};

int64_t as_int32(uint64_t value) { return static_cast<int32_t>(static_cast<uint32_t>(value)); }

bool read_piece(std::string_view bytes, SentencePieceModel::Piece& piece) {
  Fields fields(bytes);
  while (fields.next()) {
    if (fields.is(1, 2)) piece.text = std::string(fields.data());
    if (fields.is(2, 5)) piece.score = fields.as_float();
    if (fields.is(3, 0)) piece.type = static_cast<SentencePieceModel::Type>(as_int32(fields.value()));
  }
  return !fields.bad() && utf8_first_invalid(piece.text) == std::string_view::npos;
}

bool read_trainer(std::string_view bytes, SentencePieceModel& model) {
  Fields fields(bytes);
  while (fields.next()) {
    if (fields.is(3, 0)) model.kind = static_cast<SentencePieceModel::Kind>(as_int32(fields.value()));
    if (fields.is(35, 0)) model.byte_fallback = fields.value() != 0;
    if (fields.is(40, 0)) model.unk_id = as_int32(fields.value());
    if (fields.is(41, 0)) model.bos_id = as_int32(fields.value());
    if (fields.is(42, 0)) model.eos_id = as_int32(fields.value());
    if (fields.is(43, 0)) model.pad_id = as_int32(fields.value());
  }
  return !fields.bad();
}

bool read_normalizer(std::string_view bytes, SentencePieceModel& model) {
  Fields fields(bytes);
  while (fields.next()) {
    if (fields.is(2, 2)) model.precompiled_charsmap = std::string(fields.data());
    if (fields.is(3, 0)) model.add_dummy_prefix = fields.value() != 0;
    if (fields.is(4, 0)) model.remove_extra_whitespaces = fields.value() != 0;
  }
  return !fields.bad();
}

}  // namespace

Result<SentencePieceModel> SentencePieceModel::parse(std::string_view bytes, std::string_view where) {
  const auto broken = [&](const char* what) {
    return error(Code::kFormat, "%.*s is no SentencePiece model: %s", static_cast<int>(where.size()), where.data(), what);
  };
  SentencePieceModel model;
  Fields fields(bytes);
  while (fields.next()) {
    if (fields.is(1, 2)) {
      model.pieces.emplace_back();
      if (!read_piece(fields.data(), model.pieces.back())) return broken("a piece is damaged");
      if (model.pieces.size() > static_cast<size_t>(kLargestTokenId)) return broken("it has too many pieces");
    }
    if (fields.is(2, 2) && !read_trainer(fields.data(), model)) return broken("its trainer's settings are damaged");
    if (fields.is(3, 2) && !read_normalizer(fields.data(), model)) return broken("its normalizer's settings are damaged");
  }
  if (fields.bad()) return broken("it ends in the middle or is no protobuf message");
  if (model.pieces.empty()) return broken("it has no pieces");
  const auto count = static_cast<int64_t>(model.pieces.size());
  for (int64_t* id : {&model.unk_id, &model.bos_id, &model.eos_id, &model.pad_id}) {
    if (*id >= count) *id = -1;
  }
  // The type of the piece decides what is unknown, whatever the settings say.
  for (size_t i = 0; i < model.pieces.size(); ++i) {
    if (model.pieces[i].type == Type::kUnknown) model.unk_id = static_cast<int64_t>(i);
  }
  return model;
}

}  // namespace nbl

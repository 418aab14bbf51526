#include "text/vocabulary.h"

#include <algorithm>

namespace nbl {

Status Vocabulary::add(std::string_view token, int64_t id) {
  if (id < 0 || id > kLargestTokenId) {
    return error(Code::kFormat, "the token \"%.*s\" has the id %lld, expected 0 to %lld",
                 static_cast<int>(std::min<size_t>(token.size(), 100)), token.data(), static_cast<long long>(id),
                 static_cast<long long>(kLargestTokenId));
  }
  added_.push_back({static_cast<uint32_t>(arena_.size()), static_cast<uint32_t>(token.size()), static_cast<int32_t>(id)});
  arena_ += token;
  return {};
}

void Vocabulary::finish() {
  arena_.shrink_to_fit();
  size_t size = 16;
  while (size < added_.size() * 2) size *= 2;
  slots_.assign(size, 0);
  int32_t bound = 0;
  for (size_t i = 0; i < added_.size(); ++i) {
    const std::string_view token = std::string_view(arena_).substr(added_[i].begin, added_[i].size);
    uint32_t& slot = slots_[slot_of(token)];
    if (slot == 0) ++count_;
    slot = static_cast<uint32_t>(i + 1);
    bound = std::max(bound, added_[i].id + 1);
  }
  by_id_.resize(static_cast<size_t>(bound));
  for (const uint32_t slot : slots_) {
    if (slot == 0) continue;
    const Added& added = added_[slot - 1];
    by_id_[static_cast<size_t>(added.id)] = {added.begin, added.size, true};
  }
}

size_t Vocabulary::slot_of(std::string_view token) const {
  const size_t mask = slots_.size() - 1;
  size_t at = static_cast<size_t>(hash_bytes(token)) & mask;
  while (slots_[at] != 0) {
    const Added& added = added_[slots_[at] - 1];
    if (std::string_view(arena_).substr(added.begin, added.size) == token) break;
    at = (at + 1) & mask;
  }
  return at;
}

int32_t Vocabulary::find(std::string_view token) const {
  if (slots_.empty()) return -1;
  const uint32_t slot = slots_[slot_of(token)];
  return slot == 0 ? -1 : added_[slot - 1].id;
}

}  // namespace nbl

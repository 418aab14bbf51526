// Tokens and their ids. Immutable once built; look-ups are lock-free.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace nbl {

// Ids at or above this are refused: a table of them would be memory for nothing.
constexpr int64_t kLargestTokenId = (1 << 24) - 1;

inline uint64_t hash_bytes(std::string_view text) {
  uint64_t hash = text.size() * 0x9E3779B97F4A7C15ull;
  const char* data = text.data();
  size_t left = text.size();
  const auto mix = [&hash](uint64_t word) {
    hash = (hash ^ word) * 0xD6E8FEB86659FD93ull;
    hash ^= hash >> 32;
  };
  for (; left >= 8; left -= 8, data += 8) {
    uint64_t word;
    __builtin_memcpy(&word, data, 8);
    mix(word);
  }
  uint64_t tail = 0;
  for (size_t i = 0; i < left; ++i) tail |= static_cast<uint64_t>(static_cast<uint8_t>(data[i])) << (8 * i);
  mix(tail);
  return hash;
}

class Vocabulary {
 public:
  // A token given twice keeps its last id, as a JSON object would.
  Status add(std::string_view token, int64_t id);
  // To be called once after the last add().
  void finish();

  int32_t find(std::string_view token) const;  // -1 if there is none
  // The spelling of a token; empty outside the vocabulary.
  std::string_view token(int32_t id) const {
    if (id < 0 || static_cast<size_t>(id) >= by_id_.size()) return {};
    const Entry& entry = by_id_[static_cast<size_t>(id)];
    return std::string_view(arena_).substr(entry.begin, entry.size);
  }
  bool has(int32_t id) const {
    return id >= 0 && static_cast<size_t>(id) < by_id_.size() && by_id_[static_cast<size_t>(id)].used;
  }
  size_t count() const { return count_; }                              // tokens
  int32_t id_bound() const { return static_cast<int32_t>(by_id_.size()); }  // one past the largest id

 private:
  struct Entry {
    uint32_t begin = 0, size = 0;
    bool used = false;
  };
  struct Added {
    uint32_t begin, size;
    int32_t id;
  };
  size_t slot_of(std::string_view token) const;

  std::string arena_;
  std::vector<Added> added_;
  std::vector<Entry> by_id_;
  std::vector<uint32_t> slots_;  // index into added_, plus one; 0 is free
  size_t count_ = 0;
};

// Open addressing from a 64-bit key to a value; the key ~0 is never used.
template <typename Value>
class FlatMap {
 public:
  void reserve(size_t count) {
    size_t size = 16;
    while (size < count * 2) size *= 2;
    slots_.assign(size, Slot{kFree, Value{}});
    mask_ = size - 1;
  }
  // reserve() must have made room. A key given again gets the new value.
  void set(uint64_t key, Value value) {
    Slot& slot = slots_[probe(key)];
    slot.key = key;
    slot.value = value;
  }
  const Value* find(uint64_t key) const {
    if (slots_.empty()) return nullptr;
    const Slot& slot = slots_[probe(key)];
    return slot.key == key ? &slot.value : nullptr;
  }

 private:
  static constexpr uint64_t kFree = ~uint64_t{0};
  struct Slot {
    uint64_t key;
    Value value;
  };
  size_t probe(uint64_t key) const {
    uint64_t hash = key * 0x9E3779B97F4A7C15ull;
    size_t at = static_cast<size_t>(hash ^ hash >> 29) & mask_;
    while (slots_[at].key != key && slots_[at].key != kFree) at = (at + 1) & mask_;
    return at;
  }
  std::vector<Slot> slots_;
  size_t mask_ = 0;
};

}  // namespace nbl

// Large blocks of zeroed memory, aligned for the kernels; pages that nothing touches take no memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>

namespace nbl {
namespace cpu {

class Memory {
 public:
  Memory() = default;
  ~Memory() { release(); }
  Memory(Memory&& other) noexcept { *this = std::move(other); }
  Memory& operator=(Memory&& other) noexcept;
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  // False when there is not that much. `huge` asks for huge pages: for memory that is filled and read as a
  // whole.
  bool allocate(int64_t bytes, bool huge);
  uint8_t* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  void release();

  uint8_t* data_ = nullptr;  // aligned to 64 bytes at least
  int64_t bytes_ = 0;
  void* base_ = nullptr;  // what was mapped
  size_t mapped_ = 0;
};

// Packed weights, one behind another in blocks of huge pages: a matrix of its own mapping would have small pages
// where it is smaller than a huge one, and at its end, and is read slower there.
class Arena {
 public:
  // Zeroed; null when there is not that much. Its block is given back with the last piece of it.
  std::shared_ptr<uint8_t> allocate(int64_t bytes);

 private:
  std::mutex mutex_;
  std::shared_ptr<Memory> block_;
  int64_t used_ = 0;
};

// Hands out aligned pieces of one block: first count, then allocate, then take the same pieces again.
class Carver {
 public:
  explicit Carver(uint8_t* base) : base_(base) {}
  template <typename T>
  T* take(int64_t count) {
    const int64_t at = used_;
    used_ += (count * static_cast<int64_t>(sizeof(T)) + 127) / 64 * 64;  // at least 64 bytes apart
    return base_ ? reinterpret_cast<T*>(base_ + at) : nullptr;
  }
  int64_t used() const { return used_; }

 private:
  uint8_t* base_;
  int64_t used_ = 0;
};

}  // namespace cpu
}  // namespace nbl

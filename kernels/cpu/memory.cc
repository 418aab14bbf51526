#include "kernels/cpu/memory.h"

#include <sys/mman.h>

#include <algorithm>

namespace nbl {
namespace cpu {

namespace {
constexpr size_t kHugePage = size_t{2} << 20;
constexpr int64_t kMost =
    int64_t{1} << 46;  // more than any machine maps; keeps the sums below from overflowing
}  // namespace

Memory& Memory::operator=(Memory&& other) noexcept {
  if (this != &other) {
    release();
    data_ = std::exchange(other.data_, nullptr);
    bytes_ = std::exchange(other.bytes_, 0);
    base_ = std::exchange(other.base_, nullptr);
    mapped_ = std::exchange(other.mapped_, 0);
  }
  return *this;
}

void Memory::release() {
  if (base_) munmap(base_, mapped_);
  base_ = nullptr;
  data_ = nullptr;
  bytes_ = 0;
}

bool Memory::allocate(int64_t bytes, bool huge) {
  release();
  if (bytes < 0 || bytes > kMost) return false;
  huge = huge && bytes >= static_cast<int64_t>(kHugePage);
  // Kernels may read a vector beyond the end.
  mapped_ = static_cast<size_t>(bytes) + 256 + (huge ? kHugePage : 0);
  void* base =
      mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) return false;
  base_ = base;
  bytes_ = bytes;
  uintptr_t at = reinterpret_cast<uintptr_t>(base);
  if (huge) {
    at = (at + kHugePage - 1) / kHugePage * kHugePage;
#ifdef MADV_HUGEPAGE
    // Whole huge pages only: the tail would take up to two megabytes more than it needs.
    madvise(reinterpret_cast<void*>(at), static_cast<size_t>(bytes) / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
  }
  data_ = reinterpret_cast<uint8_t*>(at);
  return true;
}

std::shared_ptr<uint8_t> Arena::allocate(int64_t bytes) {
  constexpr int64_t kBlock = int64_t{32} << 20, kHuge = static_cast<int64_t>(kHugePage);
  if (bytes < 0 || bytes > kMost) return nullptr;
  bytes = (bytes + 256 + 63) / 64 * 64;  // kernels may read a vector beyond the end
  std::lock_guard<std::mutex> lock(mutex_);
  if (!block_ || bytes > block_->bytes() - used_) {
    auto block = std::make_shared<Memory>();
    if (!block->allocate(std::max(kBlock, (bytes + kHuge - 1) / kHuge * kHuge), true)) return nullptr;
    block_ = std::move(block);
    used_ = 0;
  }
  uint8_t* data = block_->data() + used_;
  used_ += bytes;
  return std::shared_ptr<uint8_t>(block_, data);
}

}  // namespace cpu
}  // namespace nbl

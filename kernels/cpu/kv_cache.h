// CpuKvCache: keys and values of one sequence, for the attention kernels' order (isa.h, AttendView).
//
// All positions have their addresses from the start, and the system gives a page its memory when a step first
// writes to it: an idle session with room for 128 thousand tokens costs what it has said so far.
//   keys    [layer][kv head][position / 16][head_dim][16]
//   values  [layer][kv head][position][head_dim rounded up to 16]
#pragma once

#include <cstdint>
#include <memory>

#include "kernels/backend.h"
#include "kernels/cpu/memory.h"

namespace nbl {
namespace cpu {

struct KvShape {
  int64_t layers = 0, heads = 0, head_dim = 0;
  int64_t positions = 0;  // capacity rounded up to 16
  bool half = true;

  int64_t value_stride() const { return (head_dim + 15) / 16 * 16; }
  int64_t element() const { return half ? 2 : 4; }
  int64_t key_bytes() const { return positions * head_dim * element(); }  // of one layer and head
  int64_t value_bytes() const { return positions * value_stride() * element(); }
  // Of all; -1 when that is more than any machine has.
  int64_t bytes() const;
};

class CpuKvCache final : public KvCache {
 public:
  static Result<std::unique_ptr<KvCache>> create(const DecoderConfig& config, const KvOptions& options);
  static Result<KvShape> shape_of(const DecoderConfig& config, const KvOptions& options);

  int64_t length() const override { return length_; }
  int64_t capacity() const override { return capacity_; }
  int64_t bytes() const override { return shape_.bytes(); }
  void truncate(int64_t length) override;

  const KvShape& shape() const { return shape_; }
  void grow(int64_t count) { length_ += count; }
  uint8_t* keys(int64_t layer, int64_t head) const { return memory_.data() + at(layer, head); }
  uint8_t* values(int64_t layer, int64_t head) const { return keys(layer, head) + shape_.key_bytes(); }

 private:
  CpuKvCache() = default;
  int64_t at(int64_t layer, int64_t head) const {
    return (layer * shape_.heads + head) * (shape_.key_bytes() + shape_.value_bytes());
  }

  KvShape shape_;
  Memory memory_;
  int64_t length_ = 0, capacity_ = 0;
};

}  // namespace cpu
}  // namespace nbl

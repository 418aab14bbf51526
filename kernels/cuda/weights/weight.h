// A packed weight on the GPU, and what of a WeightSpec decides its layout.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/weights/tile.h"

namespace nbl::cuda {

// The layout of parts fused into one matrix; everything of Tiles but the pointers. One piece of memory holds it all:
// codes, then (each at a multiple of 256) permutations, code pairs, row scales.
struct TilePlan {
  Tiles tiles;
  int64_t in_features = 0;
  int64_t padded_k = 0;
  int64_t code_bytes = 0;   // of the whole matrix, records with scales
  int64_t order_at = 0, pairs_at = 0, row_scale_at = 0;  // 0: there is none
  int64_t total_bytes = 0;
  bool dequantized = false; // a group size that no record can hold: stored as f16 values instead
};
TilePlan plan_tiles(const std::vector<WeightSpec>& parts, WeightRole role);

// Memory that several weights share; it goes when the last of them does.
struct Arena {
  DeviceBuffer buffer;
  int64_t used = 0;
};

class CudaWeight final : public PackedWeight {
 public:
  CudaWeight(WeightSpec spec, const TilePlan& plan, int device, std::shared_ptr<const Arena> memory, unsigned char* data)
      : PackedWeight(std::move(spec)), plan_(plan), device_(device), memory_(std::move(memory)), data_(data) {}
  int64_t bytes() const override { return plan_.total_bytes; }
  std::string kernel() const override;
  std::string reason() const override;
  const Tiles& tiles() const { return plan_.tiles; }
  int64_t padded_k() const { return plan_.padded_k; }
  int device() const { return device_; }

 private:
  friend class Packer;
  TilePlan plan_;
  int device_;
  std::shared_ptr<const Arena> memory_;
  unsigned char* data_;
};

// Packs on the device, a few strips at a time through page-locked memory. One caller at a time.
class Packer {
 public:
  static Result<std::unique_ptr<Packer>> create(int device);
  ~Packer();
  Status begin_load(int64_t packed_bytes);
  void end_load();
  Result<std::shared_ptr<const PackedWeight>> pack(const std::vector<const QuantWeight*>& parts, WeightRole role);
  // Copies `bytes` from anywhere on the host through the page-locked memory.
  Status upload(void* to, const void* from, int64_t bytes);

 private:
  struct Chunk;
  Packer() = default;
  Status ensure_staging();
  Result<std::shared_ptr<CudaWeight>> allocate(WeightSpec spec, const TilePlan& plan);
  Status pack_into(const std::vector<const QuantWeight*>& parts, CudaWeight& weight);
  Status upload_extra(const std::vector<const QuantWeight*>& parts, CudaWeight& weight);
  Status pack_strips(const std::vector<const QuantWeight*>& parts, CudaWeight& weight, int strip, int count);
  Status next_slot();

  int device_ = 0;
  Stream stream_;
  std::shared_ptr<Arena> arena_;
  PinnedBuffer host_[2];
  DeviceBuffer staging_[2];
  cudaEvent_t done_[2] = {nullptr, nullptr};
  bool busy_[2] = {false, false};
  int slot_ = 0;
};

}  // namespace nbl::cuda

// A packed weight on the GPU, and what of a WeightSpec decides its layout.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/tile.h"

namespace nbl::cuda {

// The layout of parts fused into one matrix; everything of Tiles but the pointers.
struct TilePlan {
  Tiles tiles;
  int64_t in_features = 0;
  int64_t padded_k = 0;
  int64_t code_bytes = 0;   // of the whole matrix, records with scales
  int64_t total_bytes = 0;  // with permutations, tables and row scales
  bool dequantized = false; // a group size that no record can hold: stored as f16 values instead
};
TilePlan plan_tiles(const std::vector<WeightSpec>& parts, WeightRole role);

class CudaWeight final : public PackedWeight {
 public:
  CudaWeight(WeightSpec spec, const TilePlan& plan, int device) : PackedWeight(std::move(spec)), plan_(plan), device_(device) {}
  int64_t bytes() const override { return data_.bytes() + extra_.bytes(); }
  std::string kernel() const override;
  const Tiles& tiles() const { return plan_.tiles; }
  int64_t padded_k() const { return plan_.padded_k; }
  int device() const { return device_; }

 private:
  friend class Packer;
  TilePlan plan_;
  int device_;
  DeviceBuffer data_;
  DeviceBuffer extra_;  // permutations, code pairs, row scales
};

// Packs on the device, a few strips at a time through page-locked memory. One caller at a time.
class Packer {
 public:
  static Result<std::unique_ptr<Packer>> create(int device);
  Result<std::shared_ptr<const PackedWeight>> pack(const std::vector<const QuantWeight*>& parts, WeightRole role);

 private:
  Packer() = default;
  Status upload_extra(const std::vector<const QuantWeight*>& parts, CudaWeight& weight);
  Status pack_strips(const std::vector<const QuantWeight*>& parts, CudaWeight& weight, int strip, int count, int slot);

  int device_ = 0;
  Stream stream_;
  PinnedBuffer host_[2];
  DeviceBuffer staging_[2];
  cudaEvent_t done_[2] = {nullptr, nullptr};
  bool busy_[2] = {false, false};

 public:
  ~Packer();
};

}  // namespace nbl::cuda

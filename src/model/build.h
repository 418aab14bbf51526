// build_decoder: a checkpoint's tensors, packed by a backend, as a Decoder.
//
// Works tensor by tensor and gives file pages back, so that a load takes the packed weights and the largest tensor.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "base/status.h"
#include "kernels/backend.h"
#include "model/config.h"
#include "quant/weight_loader.h"

namespace nbl {

// Bytes done and in all; false cancels.
using BuildProgress = std::function<bool(uint64_t done, uint64_t total)>;

// What to warn of where the files have layers beyond those that config.json counts, which nothing will read; else empty.
std::string layers_not_read(const Checkpoint& checkpoint, const DecoderConfig& config);

Result<std::shared_ptr<const Decoder>> build_decoder(std::shared_ptr<const WeightLoader> loader, const Backend& backend,
                                                     const BuildProgress& progress);

// The matrices of a layer, by role: what build, estimate and synthesize all walk over.
struct LinearPlan {
  WeightRole role;
  std::vector<std::string> names;      // module paths: of each part, or of one that has the rows of all
  std::vector<int64_t> part_rows;
  int64_t in_features;

  int64_t out_features() const;
  bool joined() const { return names.size() < part_rows.size(); }
};
struct LayerPlan {
  LinearPlan qkv, output, gate_up, down;
};
LayerPlan plan_layer(const ModelConfig& config, int64_t layer);
LinearPlan plan_head(const DecoderConfig& config);

// All matrices of a model as a backend packs them, fused where it fuses them, and what they then take. No weight is read.
Result<std::vector<MatrixSpecs>> model_matrices(const WeightLoader& loader, const Backend& backend, const ModelConfig& config);
int64_t packed_bytes(const Backend& backend, const std::vector<MatrixSpecs>& matrices);

}  // namespace nbl

// A Decoder as the GPU needs it: the packed weights it refers to, and its small vectors uploaded into one buffer.
#pragma once

#include <memory>
#include <vector>

#include "kernels/cuda/plan/step.h"
#include "kernels/cuda/weights/weight.h"

namespace nbl::cuda {

// The embedding table on the device, shared by all plans of a model.
struct DeviceEmbedding final : PackedEmbedding {
  int64_t bytes() const override { return data.bytes(); }
  DeviceBuffer data;
  DType type = DType::kF32;
};

struct DeviceLinear {
  const CudaWeight* weight = nullptr;
  const float* bias = nullptr;   // [rows] or null
  int64_t offset = 0;            // where its rows begin in the rows of all matrices over the same input
};

struct DeviceBlock {
  DeviceNorm input_norm, post_norm;
  AttentionShape attention;
  std::vector<DeviceLinear> qkv, gate_up;  // one fused, or three and two
  DeviceLinear output, down;
  Activation activation = Activation::kSilu;
};

class DeviceDecoder {
 public:
  // kUnsupported names what this backend cannot do.
  static Result<std::unique_ptr<DeviceDecoder>> create(std::shared_ptr<const Decoder> decoder,
                                                       std::shared_ptr<const DeviceEmbedding> embedding, int device, cudaStream_t stream);
  const DecoderConfig& config() const { return decoder_->config; }
  const Decoder& decoder() const { return *decoder_; }
  const DeviceEmbedding& embedding() const { return *embedding_; }
  const std::vector<DeviceBlock>& blocks() const { return blocks_; }
  const DeviceNorm& final_norm() const { return final_norm_; }
  const DeviceLinear& head() const { return head_; }
  const float* inv_freq() const { return inv_freq_; }        // [rotary_dim / 2]
  int rotary_half() const { return static_cast<int>(decoder_->rope.rotary_dim / 2); }
  int64_t bytes() const { return vectors_.bytes(); }

 private:
  DeviceDecoder() = default;
  Status check() const;
  Status collect(int device, cudaStream_t stream);

  std::shared_ptr<const Decoder> decoder_;
  std::shared_ptr<const DeviceEmbedding> embedding_;
  std::vector<DeviceBlock> blocks_;
  DeviceNorm final_norm_;
  DeviceLinear head_;
  const float* inv_freq_ = nullptr;
  DeviceBuffer vectors_;
};

}  // namespace nbl::cuda

#include "kernels/cuda/device_decoder.h"

#include <cstring>

namespace nbl::cuda {
namespace {

// Small vectors laid one after another on the host, then uploaded at once. Offsets are handed out first; the addresses
// are known once the buffer exists.
class Vectors {
 public:
  int64_t add(const std::vector<float>& values) {
    if (values.empty()) return -1;
    const int64_t at = static_cast<int64_t>(host_.size());
    host_.insert(host_.end(), values.begin(), values.end());
    host_.resize(static_cast<size_t>(pad_up(static_cast<int64_t>(host_.size()), 4)));
    return at;
  }
  Status upload(int device, cudaStream_t stream, DeviceBuffer& buffer) {
    NBL_ASSIGN_OR_RETURN(buffer, DeviceBuffer::allocate(device, static_cast<int64_t>(host_.size()) * 4, "norms and biases", stream));
    if (!host_.empty()) NBL_CUDA(cudaMemcpyAsync(buffer.as<void>(), host_.data(), host_.size() * 4, cudaMemcpyHostToDevice, stream));
    NBL_CUDA(cudaStreamSynchronize(stream));
    return {};
  }

 private:
  std::vector<float> host_;
};

// Visits every vector of a Decoder next to the device pointer that stands for it, in one fixed order.
template <typename Visit>
void visit_norm(const Norm& norm, DeviceNorm& out, Visit visit) {
  out.kind = norm.kind;
  out.epsilon = norm.epsilon;
  out.width = static_cast<int>(norm.weight.size());
  visit(norm.weight, out.weight);
  visit(norm.bias, out.bias);
}
template <typename Visit>
void visit_linear(const Linear& linear, DeviceLinear& out, Visit visit) {
  out.weight = static_cast<const CudaWeight*>(linear.weight.get());
  visit(linear.bias, out.bias);
}
template <typename Visit>
void visit_linears(const std::vector<Linear>& linears, std::vector<DeviceLinear>& out, Visit visit) {
  out.resize(linears.size());
  int64_t offset = 0;
  for (size_t i = 0; i < linears.size(); ++i) {
    visit_linear(linears[i], out[i], visit);
    out[i].offset = offset;
    offset += linears[i].out_features;
  }
}

Status check_linear(const Linear& linear) {
  if (linear.weight == nullptr || dynamic_cast<const CudaWeight*>(linear.weight.get()) == nullptr) {
    return error(Code::kArgument, "%s was not packed by the CUDA backend", linear.names.empty() ? "a matrix" : linear.names[0].c_str());
  }
  return {};
}

}  // namespace

Status DeviceDecoder::check() const {
  const DecoderConfig& c = decoder_->config;
  if (c.head_dim % 8 != 0 || c.head_dim > 256 || c.head_dim < 8) {
    return error(Code::kUnsupported, "head_dim %lld: the CUDA backend runs multiples of 8 up to 256; run this model on the CPU",
                 static_cast<long long>(c.head_dim));
  }
  if (c.num_key_value_heads < 1 || c.num_attention_heads % c.num_key_value_heads != 0) {
    return error(Code::kUnsupported, "%lld attention heads cannot share %lld key-value heads evenly",
                 static_cast<long long>(c.num_attention_heads), static_cast<long long>(c.num_key_value_heads));
  }
  if (decoder_->rope.rotary_dim > c.head_dim || decoder_->rope.rotary_dim % 2 != 0) {
    return error(Code::kUnsupported, "rotary_dim %lld does not fit head_dim %lld", static_cast<long long>(decoder_->rope.rotary_dim),
                 static_cast<long long>(c.head_dim));
  }
  for (const Block& block : decoder_->blocks) {
    for (const Linear& linear : block.attention.qkv) NBL_RETURN_IF_ERROR(check_linear(linear));
    for (const Linear& linear : block.mlp.gate_up) NBL_RETURN_IF_ERROR(check_linear(linear));
    NBL_RETURN_IF_ERROR(check_linear(block.attention.output));
    NBL_RETURN_IF_ERROR(check_linear(block.mlp.down));
  }
  return check_linear(decoder_->head);
}

Status DeviceDecoder::collect(int device, cudaStream_t stream) {
  const DecoderConfig& c = decoder_->config;
  blocks_.resize(decoder_->blocks.size());
  auto visit_all = [&](auto visit) {
    visit(decoder_->rope.inv_freq, inv_freq_);
    visit_norm(decoder_->final_norm, final_norm_, visit);
    visit_linear(decoder_->head, head_, visit);
    for (size_t i = 0; i < blocks_.size(); ++i) {
      const Block& from = decoder_->blocks[i];
      DeviceBlock& to = blocks_[i];
      visit_norm(from.input_norm, to.input_norm, visit);
      visit_norm(from.post_attention_norm, to.post_norm, visit);
      visit_linears(from.attention.qkv, to.qkv, visit);
      visit_linears(from.mlp.gate_up, to.gate_up, visit);
      visit_linear(from.attention.output, to.output, visit);
      visit_linear(from.mlp.down, to.down, visit);
      to.activation = from.mlp.activation;
      AttentionShape& a = to.attention;
      a.heads = static_cast<int>(c.num_attention_heads);
      a.kv_heads = static_cast<int>(c.num_key_value_heads);
      a.head_dim = static_cast<int>(c.head_dim);
      a.rotary_half = from.attention.rotary ? rotary_half() : 0;
      a.window = from.attention.sliding_window;
      a.scale = from.attention.scale;
      a.layer = static_cast<int>(i);
      if (!from.attention.q_norm.empty()) visit_norm(from.attention.q_norm[0], a.q_norm, visit);
      if (!from.attention.k_norm.empty()) visit_norm(from.attention.k_norm[0], a.k_norm, visit);
    }
  };
  // Twice in the same order: first to lay the vectors out, then to hand out their addresses.
  Vectors vectors;
  std::vector<int64_t> offsets;
  visit_all([&](const std::vector<float>& values, const float*&) { offsets.push_back(vectors.add(values)); });
  NBL_RETURN_IF_ERROR(vectors.upload(device, stream, vectors_));
  size_t next = 0;
  visit_all([&](const std::vector<float>&, const float*& pointer) {
    const int64_t at = offsets[next++];
    pointer = at < 0 ? nullptr : vectors_.as<float>() + at;
  });
  return {};
}

Result<std::unique_ptr<DeviceDecoder>> DeviceDecoder::create(std::shared_ptr<const Decoder> decoder,
                                                             std::shared_ptr<const DeviceEmbedding> embedding, int device,
                                                             cudaStream_t stream) {
  std::unique_ptr<DeviceDecoder> made(new DeviceDecoder);
  made->decoder_ = std::move(decoder);
  made->embedding_ = std::move(embedding);
  NBL_RETURN_IF_ERROR(made->check());
  NBL_RETURN_IF_ERROR(made->collect(device, stream));
  return Result<std::unique_ptr<DeviceDecoder>>(std::move(made));
}

}  // namespace nbl::cuda

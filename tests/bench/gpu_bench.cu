// Speed of whole steps on a GPU: gpu_bench. Models have the shape of Mistral-7B and Qwen2.5 and random weights.
//
// Two different blocks are packed and take turns through the layers: together they are several times larger than any
// second-level cache, so that every layer reads its weights from memory as a real model does. Times are medians of
// whole Plan::step calls, with the upload of the tokens and the download of the logits.
#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <functional>
#include <vector>

#include "kernels/backend.h"

namespace {

using namespace nbl;

struct Shape {
  const char* name;
  int64_t hidden, inner, layers, heads, kv_heads, head_dim, vocab;
};
const Shape kMistral = {"mistral-7b", 4096, 14336, 32, 32, 8, 128, 32000};
const Shape kQwenHalf = {"qwen2.5-0.5b", 896, 4864, 24, 14, 2, 64, 151936};
const Shape kQwenOneHalf = {"qwen2.5-1.5b", 1536, 8960, 28, 12, 2, 128, 151936};

struct Format {
  const char* name;
  WeightFormat format;
  int bits;
  int64_t group;
  DType scale;
  bool permuted;
};

uint32_t next_random(uint32_t& state) { return state = state * 1664525u + 1013904223u, state >> 8; }

QuantWeight make_weight(const Format& f, int64_t n, int64_t k, uint32_t seed) {
  QuantWeight w;
  w.format = f.format;
  w.out_features = n;
  w.in_features = k;
  w.bits = f.bits;
  w.group_size = f.group;
  w.value_type = DType::kF16;
  w.scale_type = f.scale;
  w.source = f.name;
  const float size = 1.f / std::sqrt(static_cast<float>(k));
  if (f.format == WeightFormat::kFloat) {
    w.dense_owned.resize(static_cast<size_t>(n * k * 2));
    auto* values = reinterpret_cast<uint16_t*>(w.dense_owned.data());
    for (int64_t i = 0; i < n * k; ++i) values[i] = float_to_f16((static_cast<int>(next_random(seed) % 2001) - 1000) * 1.7e-3f * size);
    w.dense = values;
    return w;
  }
  w.codes.resize(static_cast<size_t>(n * k));
  for (uint8_t& c : w.codes) c = static_cast<uint8_t>(next_random(seed) & ((1u << f.bits) - 1));
  w.scales.assign(static_cast<size_t>(n * w.groups()), round_to(DType::kF16, size * 3.4f / (1 << f.bits)));
  if (f.format == WeightFormat::kIntGroup) w.zeros.assign(w.scales.size(), static_cast<uint8_t>(1 << (f.bits - 1)));
  for (int i = 0; i < 16; ++i) w.codebook[i] = static_cast<float>(i) - 7.5f;
  w.permuted = f.permuted;
  for (int64_t i = 0; f.permuted && i < k; ++i) w.k_order.push_back(static_cast<int32_t>(i * 7 % k));
  return w;
}

Result<Linear> make_linear(const Backend& backend, const Format& f, std::vector<int64_t> rows, int64_t k, WeightRole role, uint32_t seed) {
  std::vector<QuantWeight> parts;
  for (int64_t n : rows) parts.push_back(make_weight(f, n, k, seed++));
  std::vector<const QuantWeight*> pointers;
  Linear linear;
  for (const QuantWeight& part : parts) pointers.push_back(&part), linear.out_features += part.out_features;
  linear.part_rows = rows;
  linear.in_features = k;
  NBL_ASSIGN_OR_RETURN(linear.weight, backend.pack(pointers, role));
  return linear;
}

struct Model {
  std::shared_ptr<Decoder> decoder = std::make_shared<Decoder>();
  std::vector<uint16_t> table;
  int64_t bytes = 0;  // read by a decode step: blocks and head
};

Result<std::unique_ptr<Model>> make_model(const Backend& backend, const Shape& s, const Format& f) {
  auto model = std::make_unique<Model>();
  Decoder& d = *model->decoder;
  d.config.vocab_size = s.vocab;
  d.config.hidden_size = s.hidden;
  d.config.intermediate_size = s.inner;
  d.config.num_hidden_layers = s.layers;
  d.config.num_attention_heads = s.heads;
  d.config.num_key_value_heads = s.kv_heads;
  d.config.head_dim = s.head_dim;
  d.rope.rotary_dim = s.head_dim;
  for (int64_t i = 0; i < s.head_dim / 2; ++i) d.rope.inv_freq.push_back(static_cast<float>(1 / std::pow(1e6, 2.0 * i / s.head_dim)));
  model->table.resize(static_cast<size_t>(s.vocab * s.hidden));
  uint32_t seed = 1;
  for (uint16_t& v : model->table) v = float_to_f16((static_cast<int>(next_random(seed) % 2001) - 1000) * 1e-3f);
  d.embedding = {model->table.data(), DType::kF16};
  const auto norm = [&](int64_t width) { return Norm{Norm::Kind::kRms, std::vector<float>(static_cast<size_t>(width), 1.f), {}, 1e-5f}; };
  std::vector<Block> kinds(2);
  for (Block& block : kinds) {
    block.input_norm = block.post_attention_norm = norm(s.hidden);
    block.attention.scale = 1.f / std::sqrt(static_cast<float>(s.head_dim));
    NBL_ASSIGN_OR_RETURN(Linear qkv, make_linear(backend, f, {s.heads * s.head_dim, s.kv_heads * s.head_dim, s.kv_heads * s.head_dim}, s.hidden,
                                                 WeightRole::kQkv, seed += 9));
    NBL_ASSIGN_OR_RETURN(Linear gate_up, make_linear(backend, f, {s.inner, s.inner}, s.hidden, WeightRole::kGateUp, seed += 9));
    block.attention.qkv.push_back(std::move(qkv));
    block.mlp.gate_up.push_back(std::move(gate_up));
    NBL_ASSIGN_OR_RETURN(block.attention.output, make_linear(backend, f, {s.hidden}, s.heads * s.head_dim, WeightRole::kAttentionOutput, seed += 9));
    NBL_ASSIGN_OR_RETURN(block.mlp.down, make_linear(backend, f, {s.hidden}, s.inner, WeightRole::kDown, seed += 9));
  }
  for (int64_t i = 0; i < s.layers; ++i) {
    d.blocks.push_back(kinds[i % 2]);
    for (const Linear* l : {&kinds[i % 2].attention.qkv[0], &kinds[i % 2].mlp.gate_up[0], &kinds[i % 2].attention.output, &kinds[i % 2].mlp.down}) {
      model->bytes += l->weight->bytes();
    }
  }
  d.final_norm = norm(s.hidden);
  const Format dense = {"f16", WeightFormat::kFloat, 0, 0, DType::kF32, false};
  NBL_ASSIGN_OR_RETURN(d.head, make_linear(backend, dense, {s.vocab}, s.hidden, WeightRole::kHead, seed));
  model->bytes += d.head.weight->bytes();
  return Result<std::unique_ptr<Model>>(std::move(model));
}

// Median seconds of a call, after two that are not counted.
double median_seconds(int times, const std::function<Status()>& call, Status* status) {
  std::vector<double> seconds;
  for (int i = 0; i < times + 3 && status->ok(); ++i) {
    const auto begin = std::chrono::steady_clock::now();
    *status = call();
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  if (!status->ok()) return 0;
  std::sort(seconds.begin() + 3, seconds.end());
  return seconds[3 + times / 2];
}

__global__ void read_all(const uint4* data, int64_t count, unsigned* sink) {
  uint4 sum = make_uint4(0, 0, 0, 0);
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < count; i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const uint4 v = __ldcs(data + i);
    sum.x ^= v.x, sum.y ^= v.y, sum.z ^= v.z, sum.w ^= v.w;
  }
  if ((sum.x ^ sum.y ^ sum.z ^ sum.w) == 0x12345678u) *sink = 1;
}

Status print_bandwidth() {
  const size_t bytes = size_t{4} << 30;
  void* data = nullptr;
  if (cudaMalloc(&data, bytes) != cudaSuccess) return error(Code::kNoDeviceMemory, "4 GiB for the bandwidth test");
  cudaMemset(data, 1, bytes);
  Status status;
  const double seconds = median_seconds(7, [&]() -> Status {
    read_all<<<132 * 16, 512>>>(static_cast<uint4*>(data), bytes / 16, static_cast<unsigned*>(data));
    return cudaDeviceSynchronize() == cudaSuccess ? Status() : error(Code::kDevice, "the read kernel failed");
  }, &status);
  cudaFree(data);
  if (status.ok()) std::printf("read bandwidth %.2f TB/s\n", bytes / seconds / 1e12);
  return status;
}

Status bench(const Backend& backend, const Shape& shape, const Format& format, const std::vector<int>& batches, int64_t prefill) {
  NBL_ASSIGN_OR_RETURN(std::unique_ptr<Model> model, make_model(backend, shape, format));
  std::printf("%s %s: %.3f GB a token\n", shape.name, format.name, model->bytes / 1e9);
  constexpr int64_t kContext = 512;
  for (int batch_size : batches) {
    NBL_ASSIGN_OR_RETURN(std::unique_ptr<Plan> plan, backend.compile(model->decoder, {512, batch_size, batch_size, kContext + 64}));
    std::vector<std::unique_ptr<KvCache>> caches;
    std::vector<int32_t> tokens(512, 7);
    std::vector<float> logits(static_cast<size_t>(batch_size * shape.vocab));
    for (int i = 0; i < batch_size; ++i) {
      NBL_ASSIGN_OR_RETURN(std::unique_ptr<KvCache> cache, backend.make_kv_cache(*model->decoder, {kContext + 64, DType::kF16}));
      Batch fill;
      fill.sequences = {{cache.get(), tokens.data(), kContext, 0}};
      NBL_RETURN_IF_ERROR(plan->step(fill));
      caches.push_back(std::move(cache));
    }
    Batch batch;
    batch.logits = logits.data();
    for (auto& cache : caches) batch.sequences.push_back({cache.get(), tokens.data(), 1, 1});
    Status status;
    const double seconds = median_seconds(31, [&] { return plan->step(batch); }, &status);
    NBL_RETURN_IF_ERROR(status);
    std::printf("  decode batch %2d context 512: %8.1f us a step, %8.1f tokens/s, weights at %.2f TB/s\n", batch_size, seconds * 1e6,
                batch_size / seconds, model->bytes / seconds / 1e12);
    std::fflush(stdout);
  }
  if (prefill == 0) return {};
  NBL_ASSIGN_OR_RETURN(std::unique_ptr<Plan> plan, backend.compile(model->decoder, {prefill, 1, 1, prefill}));
  NBL_ASSIGN_OR_RETURN(std::unique_ptr<KvCache> cache, backend.make_kv_cache(*model->decoder, {prefill, DType::kF16}));
  std::vector<int32_t> tokens(static_cast<size_t>(prefill), 5);
  std::vector<float> logits(static_cast<size_t>(shape.vocab));
  Batch batch;
  batch.logits = logits.data();
  batch.sequences = {{cache.get(), tokens.data(), prefill, 1}};
  Status status;
  const double seconds = median_seconds(7, [&] {
    cache->truncate(0);
    return plan->step(batch);
  }, &status);
  NBL_RETURN_IF_ERROR(status);
  std::printf("  prefill %lld tokens: %.2f ms, %.0f tokens/s, scratch %.0f MB\n", static_cast<long long>(prefill), seconds * 1e3,
              prefill / seconds, plan->scratch_bytes() / 1e6);
  std::fflush(stdout);
  return {};
}

Status run() {
  NBL_RETURN_IF_ERROR(print_bandwidth());
  NBL_ASSIGN_OR_RETURN(std::unique_ptr<Backend> backend, make_cuda_backend({}));
  std::printf("%s\n", backend->description().c_str());
  const Format awq = {"int4 g128 (AWQ)", WeightFormat::kIntGroup, 4, 128, DType::kF16, false};
  NBL_RETURN_IF_ERROR(bench(*backend, kMistral, awq, {1, 2, 8, 16, 32, 64}, 2048));
  NBL_RETURN_IF_ERROR(bench(*backend, kMistral, {"nf4 b64", WeightFormat::kCodebook, 4, 64, DType::kF32, false}, {1, 8}, 0));
  NBL_RETURN_IF_ERROR(bench(*backend, kMistral, {"int4 g128 act-order (GPTQ)", WeightFormat::kIntGroup, 4, 128, DType::kF16, true}, {1}, 0));
  NBL_RETURN_IF_ERROR(bench(*backend, kMistral, {"int3 g128", WeightFormat::kIntGroup, 3, 128, DType::kF16, false}, {1}, 0));
  NBL_RETURN_IF_ERROR(bench(*backend, kMistral, {"int8 g128", WeightFormat::kIntGroup, 8, 128, DType::kF16, false}, {1}, 0));
  NBL_RETURN_IF_ERROR(bench(*backend, kQwenHalf, awq, {1}, 0));
  return bench(*backend, kQwenOneHalf, awq, {1}, 0);
}

}  // namespace

int main() {
  const Status status = run();
  if (!status.ok()) std::printf("failed: %s\n", status.message().c_str());
  return status.ok() ? 0 : 1;
}

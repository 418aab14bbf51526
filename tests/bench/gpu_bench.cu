// Speed of whole steps on a GPU: gpu_bench [part of a name ...]. Models have the shape of Mistral-7B and Qwen2.5 and random weights.
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
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/draws.h"

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

// Tokens drawn by the device, the host two steps behind: the loop of a generation.
Status bench_ahead(const Backend& backend, const Model& model, KvCache* cache, const SamplingOptions& sampling, const char* what) {
  PlanLimits limits{64, 1, 1, cache->capacity()};
  limits.max_draws = 1;
  NBL_ASSIGN_OR_RETURN(std::unique_ptr<Plan> plan, backend.compile(model.decoder, limits));
  const int32_t token = 7;
  const std::vector<int32_t> tokens(static_cast<size_t>(cache->capacity()), token);
  constexpr int kTokens = 48;
  Status status;
  const double seconds = median_seconds(5, [&]() -> Status {
    cache->truncate(512);
    Draw draw;
    draw.options = &sampling;
    draw.tokens = tokens.data();
    draw.token_count = 513;
    Batch batch;
    batch.sequences = {{cache, &token, 1, 0}};
    batch.sequences[0].draw = &draw;
    NBL_RETURN_IF_ERROR(plan->begin(batch));
    for (int i = 0; i < kTokens; ++i) {
      if (i + 1 < kTokens) NBL_RETURN_IF_ERROR(plan->follow());
      DrawnToken drawn;
      NBL_RETURN_IF_ERROR(plan->finish(&drawn));
    }
    return {};
  }, &status);
  NBL_RETURN_IF_ERROR(status);
  std::printf("  running ahead, %s: %8.1f us a token, %8.1f tokens/s, weights at %.2f TB/s\n", what, seconds / kTokens * 1e6, kTokens / seconds,
              model.bytes * kTokens / seconds / 1e12);
  std::fflush(stdout);
  return {};
}

// The draw alone, over logits as of a model.
Status bench_draws(int64_t vocab, int rows) {
  int optin = 0;
  NBL_CUDA(cudaDeviceGetAttribute(&optin, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0));
  NBL_ASSIGN_OR_RETURN(cuda::Stream stream, cuda::Stream::create(0));
  NBL_ASSIGN_OR_RETURN(cuda::DeviceBuffer scratch, cuda::DeviceBuffer::allocate(0, cuda::Draws::scratch_bytes(rows, vocab, optin), "draws", stream.get()));
  NBL_ASSIGN_OR_RETURN(std::unique_ptr<cuda::Draws> draws, cuda::Draws::create(scratch.as<unsigned char>(), rows, vocab, optin));
  NBL_ASSIGN_OR_RETURN(cuda::DeviceBuffer device_logits, cuda::DeviceBuffer::allocate(0, rows * vocab * 4, "logits", stream.get()));
  DecoderConfig config;
  NBL_ASSIGN_OR_RETURN(cuda::DeviceBuffer memory, cuda::DeviceBuffer::allocate(0, cuda::CudaKvCache::bytes_for(config, {4096, DType::kF16}), "history", stream.get()));
  cuda::CudaKvCache cache(std::move(memory), config, {4096, DType::kF16});
  std::vector<float> logits(static_cast<size_t>(rows * vocab));
  uint32_t seed = 5;
  for (float& l : logits) {
    l = 0;
    for (int i = 0; i < 6; ++i) l += (static_cast<int>(next_random(seed) % 2001) - 1000) * 2e-3f;
  }
  NBL_CUDA(cudaMemcpy(device_logits.as<void>(), logits.data(), logits.size() * 4, cudaMemcpyHostToDevice));
  struct Row {
    const char* name;
    double temperature;
    int64_t top_k;
    double top_p, min_p, typical_p, repetition, frequency;
  };
  const Row options[] = {{"greedy", 0, 0, 1, 0, 1, 1, 0},          {"temperature", 1, 0, 1, 0, 1, 1, 0},          {"top_k 50", 1, 50, 1, 0, 1, 1, 0},
                         {"top_k 50, top_p 0.9", 1, 50, 0.9, 0, 1, 1, 0}, {"top_p 0.9", 1, 0, 0.9, 0, 1, 1, 0}, {"min_p 0.05", 1, 0, 1, 0.05, 1, 1, 0},
                         {"typical_p 0.9", 1, 0, 1, 0, 0.9, 1, 0}, {"all, penalties over 4000 tokens", 0.8, 100, 0.9, 0.01, 0.9, 1.1, 0.1}};
  const std::vector<int32_t> tokens(4000, 77);
  cuda::StepRows step;
  step.rows = step.sequence_count = rows;
  for (const Row& row : options) {
    SamplingOptions sampling;
    sampling.temperature = row.temperature, sampling.top_k = row.top_k, sampling.top_p = row.top_p, sampling.min_p = row.min_p;
    sampling.typical_p = row.typical_p, sampling.repetition_penalty = row.repetition, sampling.frequency_penalty = row.frequency;
    Draw draw;
    draw.options = &sampling;
    draw.tokens = tokens.data();
    draw.token_count = 4000;
    Batch batch;
    for (int i = 0; i < rows; ++i) {
      batch.sequences.push_back({&cache, tokens.data(), 1, 0});
      batch.sequences.back().draw = &draw;
    }
    NBL_RETURN_IF_ERROR(draws->upload(batch, stream.get()));
    NBL_ASSIGN_OR_RETURN(cuda::Event begin, cuda::Event::create());
    NBL_ASSIGN_OR_RETURN(cuda::Event end, cuda::Event::create());
    for (int i = 0; i < 220; ++i) {
      if (i == 20) NBL_CUDA(cudaEventRecord(begin.get(), stream.get()));
      NBL_RETURN_IF_ERROR(draws->launch(step, false, device_logits.as<float>(), stream.get()));
    }
    NBL_CUDA(cudaEventRecord(end.get(), stream.get()));
    NBL_CUDA(cudaStreamSynchronize(stream.get()));
    float ms = 0;
    NBL_CUDA(cudaEventElapsedTime(&ms, begin.get(), end.get()));
    std::printf("draw of %lld logits, %d rows, %s: %.1f us\n", static_cast<long long>(vocab), rows, row.name, ms * 1e3 / 200);
  }
  std::fflush(stdout);
  return {};
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
    if (batch_size > 1) continue;
    NBL_RETURN_IF_ERROR(bench_ahead(backend, *model, caches[0].get(), {}, "greedy"));
    SamplingOptions sampling;
    sampling.temperature = 0.7, sampling.top_k = 50, sampling.top_p = 0.9, sampling.repetition_penalty = 1.1;
    NBL_RETURN_IF_ERROR(bench_ahead(backend, *model, caches[0].get(), sampling, "top_k, top_p, repetition penalty"));
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

// Without arguments everything; else what has one of them in its name.
Status run(const std::vector<std::string>& wanted) {
  const auto wants = [&](const std::string& name) {
    return wanted.empty() || std::any_of(wanted.begin(), wanted.end(), [&](const std::string& w) { return name.find(w) != std::string::npos; });
  };
  NBL_RETURN_IF_ERROR(print_bandwidth());
  NBL_ASSIGN_OR_RETURN(std::unique_ptr<Backend> backend, make_cuda_backend({}));
  std::printf("%s\n", backend->description().c_str());
  const Format awq = {"int4 g128 (AWQ)", WeightFormat::kIntGroup, 4, 128, DType::kF16, false};
  struct Row {
    Shape shape;
    Format format;
    std::vector<int> batches;
    int64_t prefill;
  };
  const Row rows[] = {{kMistral, awq, {1, 2, 8, 16, 32, 64}, 2048},
                      {kMistral, {"nf4 b64", WeightFormat::kCodebook, 4, 64, DType::kF32, false}, {1, 8}, 0},
                      {kMistral, {"int4 g128 act-order (GPTQ)", WeightFormat::kIntGroup, 4, 128, DType::kF16, true}, {1}, 0},
                      {kMistral, {"int3 g128", WeightFormat::kIntGroup, 3, 128, DType::kF16, false}, {1}, 0},
                      {kMistral, {"int8 g128", WeightFormat::kIntGroup, 8, 128, DType::kF16, false}, {1}, 0},
                      {kQwenHalf, awq, {1}, 0},
                      {kQwenOneHalf, awq, {1}, 0}};
  for (const Row& row : rows) {
    if (wants(std::string(row.shape.name) + " " + row.format.name)) NBL_RETURN_IF_ERROR(bench(*backend, row.shape, row.format, row.batches, row.prefill));
  }
  for (int count : {1, 64}) {
    if (wants("draws")) NBL_RETURN_IF_ERROR(bench_draws(kQwenHalf.vocab, count));
  }
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  const Status status = run({argv + 1, argv + argc});
  if (!status.ok()) std::printf("failed: %s\n", status.message().c_str());
  return status.ok() ? 0 : 1;
}

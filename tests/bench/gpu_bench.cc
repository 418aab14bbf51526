// Speed on a GPU. Models have the shape of Mistral-7B and Qwen2.5 and random weights.
//
//   gpu_bench [part of a name ...]   whole steps of every model and format, or of those with one of the parts in their names
//   gpu_bench --matmul [BATCHES]     the four matrices of a Mistral-7B layer, one table a format; or AWQ at batch sizes as 2,8,64
//   gpu_bench --step BATCH CONTEXT   one batch size of Mistral-7B AWQ, or several as 2,8,64; BATCH 0: prompts of CONTEXT tokens, of
//                                    which there may be several. Another format with --format nf4 (part of its name), 2 layers
//                                    with --layers 2. The last step of each lies between cudaProfilerStart and cudaProfilerStop
//
// Two different blocks are packed and take turns through the layers: together they are several times larger than any
// second-level cache, so that every layer reads its weights from memory as a real model does. Times are medians of
// whole Plan::step calls, with the upload of the tokens and the download of the logits. A matrix alone is measured as a
// graph of launches over copies of it that take more than a gigabyte together.
#include <cuda_profiler_api.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/matmul/matmul.h"
#include "kernels/cuda/sampling/draws.h"
#include "kernels/cuda/weights/weight.h"
#include "tests/support/decoder_parts.h"

namespace {

using namespace nbl;

struct Shape : testing::DecoderShape {
  const char* name;
};
const Shape kMistral = {{4096, 14336, 32, 32, 8, 128, 32000}, "mistral-7b"};
const Shape kQwenHalf = {{896, 4864, 24, 14, 2, 64, 151936}, "qwen2.5-0.5b"};
const Shape kQwenOneHalf = {{1536, 8960, 28, 12, 2, 128, 151936}, "qwen2.5-1.5b"};

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
  for (int64_t i = 0; f.permuted && i < k; ++i) w.k_order.push_back(static_cast<int32_t>(i * 11 % k));  // no width here has the factor 11
  return w;
}

Result<Linear> make_linear(const Backend& backend, const Format& f, std::vector<int64_t> rows, int64_t k, WeightRole role, uint32_t seed) {
  std::vector<QuantWeight> parts;
  for (int64_t n : rows) parts.push_back(make_weight(f, n, k, seed++));
  std::vector<const QuantWeight*> pointers;
  for (const QuantWeight& part : parts) pointers.push_back(&part);
  return testing::pack_linear(backend, pointers, role);
}

struct Model {
  std::shared_ptr<Decoder> decoder;
  std::vector<uint16_t> table;
  int64_t bytes = 0;  // read by a decode step: blocks and head
};

Result<std::unique_ptr<Model>> make_model(const Backend& backend, const Shape& s, const Format& f) {
  auto model = std::make_unique<Model>();
  model->decoder = testing::decoder_of_shape(s, 1e6);
  Decoder& d = *model->decoder;
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
    NBL_ASSIGN_OR_RETURN(Linear gate_up, make_linear(backend, f, {s.intermediate, s.intermediate}, s.hidden, WeightRole::kGateUp, seed += 9));
    block.attention.qkv.push_back(std::move(qkv));
    block.mlp.gate_up.push_back(std::move(gate_up));
    NBL_ASSIGN_OR_RETURN(block.attention.output, make_linear(backend, f, {s.hidden}, s.heads * s.head_dim, WeightRole::kAttentionOutput, seed += 9));
    NBL_ASSIGN_OR_RETURN(block.mlp.down, make_linear(backend, f, {s.hidden}, s.intermediate, WeightRole::kDown, seed += 9));
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

Status print_rates(const Backend& backend) {
  NBL_ASSIGN_OR_RETURN(const DeviceRates rates, backend.measure_rates());
  std::printf("read bandwidth %.2f TB/s, f16 products %.0f Tflop/s\n", rates.read_bytes_per_second / 1e12,
              rates.multiply_operations_per_second / 1e12);
  return {};
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

// Prints one line for a prompt of so many tokens.
Status bench_prompt(const Backend& backend, const Model& model, const Shape& shape, int64_t prefill) {
  NBL_ASSIGN_OR_RETURN(std::unique_ptr<Plan> plan, backend.compile(model.decoder, {prefill, 1, 1, prefill}));
  NBL_ASSIGN_OR_RETURN(std::unique_ptr<KvCache> cache, backend.make_kv_cache(*model.decoder, {prefill, DType::kF16}));
  std::vector<int32_t> tokens(static_cast<size_t>(prefill), 5);
  std::vector<float> logits(static_cast<size_t>(shape.vocab));
  Batch batch;
  batch.logits = logits.data();
  batch.sequences = {{cache.get(), tokens.data(), prefill, 1}};
  Status status;
  const auto step = [&] {
    cache->truncate(0);
    return plan->step(batch);
  };
  const double seconds = median_seconds(7, step, &status);
  NBL_RETURN_IF_ERROR(status);
  std::printf("  prefill %lld tokens: %.2f ms, %.0f tokens/s, scratch %.0f MB\n", static_cast<long long>(prefill), seconds * 1e3,
              prefill / seconds, plan->scratch_bytes() / 1e6);
  std::fflush(stdout);
  cudaProfilerStart();
  status = step();
  cudaProfilerStop();
  return status;
}

// Prints one line for each batch of single tokens, and one for each prompt.
Status bench(const Backend& backend, const Shape& shape, const Format& format, const std::vector<int>& batches, int64_t context,
             const std::vector<int>& prompts) {
  NBL_ASSIGN_OR_RETURN(std::unique_ptr<Model> model, make_model(backend, shape, format));
  std::printf("%s %s: %.3f GB a token\n", shape.name, format.name, model->bytes / 1e9);
  for (int batch_size : batches) {
    PlanLimits limits{512, batch_size, batch_size, context + 64};
    limits.max_draws = batch_size;
    NBL_ASSIGN_OR_RETURN(std::unique_ptr<Plan> plan, backend.compile(model->decoder, limits));
    std::vector<std::unique_ptr<KvCache>> caches;
    std::vector<int32_t> tokens(512, 7);
    std::vector<float> logits(static_cast<size_t>(batch_size * shape.vocab));
    for (int i = 0; i < batch_size; ++i) {
      NBL_ASSIGN_OR_RETURN(std::unique_ptr<KvCache> cache, backend.make_kv_cache(*model->decoder, {context + 64, DType::kF16}));
      for (int64_t at = 0; at < context; at += 512) {
        Batch fill;
        fill.sequences = {{cache.get(), tokens.data(), std::min<int64_t>(512, context - at), 0}};
        NBL_RETURN_IF_ERROR(plan->step(fill));
      }
      caches.push_back(std::move(cache));
    }
    Batch batch;
    batch.logits = logits.data();
    for (auto& cache : caches) batch.sequences.push_back({cache.get(), tokens.data(), 1, 1});
    // A stepped batch draws on the device (src/engine/batch.cc); who asks for logits waits for their way to the host as well.
    const SamplingOptions greedy_options = [] { SamplingOptions o; o.temperature = 0; return o; }();
    Draw draw;
    draw.options = &greedy_options;
    draw.tokens = tokens.data();
    draw.token_count = context + 1;
    std::vector<DrawnToken> drawn(static_cast<size_t>(batch_size));
    batch.drawn = drawn.data();
    Status status;
    for (const bool draws : batch_size > 1 ? std::vector<bool>{false, true} : std::vector<bool>{false}) {
      for (size_t i = 0; i < caches.size(); ++i) {
        caches[i]->truncate(context);
        batch.sequences[i].logit_rows = draws ? 0 : 1;
        batch.sequences[i].draw = draws ? &draw : nullptr;
      }
      const double seconds = median_seconds(31, [&] { return plan->step(batch); }, &status);
      NBL_RETURN_IF_ERROR(status);
      std::printf("  decode batch %2d context %lld%s: %8.1f us a step, %8.1f tokens/s, weights at %.2f TB/s\n", batch_size,
                  static_cast<long long>(context), draws ? ", drawn on the device" : "", seconds * 1e6, batch_size / seconds,
                  model->bytes / seconds / 1e12);
      std::fflush(stdout);
    }
    cudaProfilerStart();
    status = plan->step(batch);
    cudaProfilerStop();
    NBL_RETURN_IF_ERROR(status);
    if (batch_size > 1 || context != 512) continue;
    NBL_RETURN_IF_ERROR(bench_ahead(backend, *model, caches[0].get(), {}, "greedy"));
    SamplingOptions sampling;
    sampling.temperature = 0.7, sampling.top_k = 50, sampling.top_p = 0.9, sampling.repetition_penalty = 1.1;
    NBL_RETURN_IF_ERROR(bench_ahead(backend, *model, caches[0].get(), sampling, "top_k, top_p, repetition penalty"));
  }
  for (const int tokens : prompts) NBL_RETURN_IF_ERROR(bench_prompt(backend, *model, shape, tokens));
  return {};
}

#define CUDA_OK(call)                                                                                     \
  do {                                                                                                    \
    if (const cudaError_t e = (call); e != cudaSuccess) return error(Code::kDevice, "%s: %s", #call, cudaGetErrorString(e)); \
  } while (0)

// Microseconds of one product, from a graph that multiplies by every copy of the matrix once.
Status time_product(const cuda::Tiles& tiles, int64_t bytes, int64_t padded_k, int rows, bool gate, double* us) {
  const int copies = static_cast<int>((int64_t{5} << 28) / bytes + 1);
  std::vector<cuda::DeviceBuffer> memory;
  NBL_ASSIGN_OR_RETURN(cuda::Stream stream, cuda::Stream::create(0));
  const auto take = [&](int64_t size) -> void* {
    auto buffer = cuda::DeviceBuffer::allocate(0, size, "a buffer of the benchmark", stream.get());
    if (!buffer.ok()) return nullptr;
    memory.push_back(std::move(buffer).value());
    return memory.back().as<void>();
  };
  cuda::DeviceTraits traits;
  CUDA_OK(cudaDeviceGetAttribute(&traits.multiprocessors, cudaDevAttrMultiProcessorCount, 0));
  CUDA_OK(cudaDeviceGetAttribute(&traits.shared_optin, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0));
  int major = 0, minor = 0;
  CUDA_OK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
  CUDA_OK(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0));
  traits.sm = major * 10 + minor;
  NBL_RETURN_IF_ERROR(cuda::prepare_matmul(traits));
  const int from = cuda::blocked_from(traits.sm);
  const cuda::ActivationLayout layout(padded_k, from > 0 && rows >= from);
  auto* weights = static_cast<unsigned char*>(take(bytes * copies));
  auto* x = static_cast<uint16_t*>(take(64 * padded_k * 2));
  cuda::SplitScratch scratch;
  scratch.partial_bytes = static_cast<int64_t>(traits.multiprocessors) * 128 * 1024;
  scratch.partial = static_cast<float*>(take(scratch.partial_bytes));
  scratch.tickets = static_cast<unsigned*>(take(cuda::SplitScratch::kTickets * 4));
  cuda::Output out;
  out.kind = gate ? cuda::Output::Kind::kGate : cuda::Output::Kind::kStore;
  out.values = static_cast<float*>(take(64 * tiles.rows * 4));
  out.half_values = out.values;
  out.pitch = gate ? tiles.rows / 2 : tiles.rows;
  if (weights == nullptr || x == nullptr || out.values == nullptr || scratch.tickets == nullptr) {
    return error(Code::kNoDeviceMemory, "no memory for the benchmark");
  }
  std::vector<uint16_t> values(static_cast<size_t>(64 * padded_k));
  uint32_t seed = 3;
  for (uint16_t& v : values) v = float_to_f16((static_cast<int>(next_random(seed) % 2001) - 1000) * 1e-3f);
  CUDA_OK(cudaMemcpyAsync(x, values.data(), values.size() * 2, cudaMemcpyHostToDevice, stream.get()));
  for (int i = 0; i < copies; ++i) CUDA_OK(cudaMemcpyAsync(weights + i * bytes, tiles.data, bytes, cudaMemcpyDeviceToDevice, stream.get()));
  CUDA_OK(cudaStreamSynchronize(stream.get()));
  CUDA_OK(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal));
  Status status;
  for (int i = 0; i < copies && status.ok(); ++i) {
    cuda::Tiles copy = tiles;
    copy.data = weights + i * bytes;
    status = cuda::matmul_tiles(copy, x, layout, rows, out, scratch, traits, stream.get());
  }
  cudaGraph_t graph;
  CUDA_OK(cudaStreamEndCapture(stream.get(), &graph));
  NBL_RETURN_IF_ERROR(status);
  cudaGraphExec_t exec;
  CUDA_OK(cudaGraphInstantiate(&exec, graph, 0));
  cudaEvent_t begin, end;
  CUDA_OK(cudaEventCreate(&begin));
  CUDA_OK(cudaEventCreate(&end));
  std::vector<float> times;
  for (int i = 0; i < 9; ++i) {
    CUDA_OK(cudaEventRecord(begin, stream.get()));
    CUDA_OK(cudaGraphLaunch(exec, stream.get()));
    CUDA_OK(cudaEventRecord(end, stream.get()));
    CUDA_OK(cudaEventSynchronize(end));
    float ms = 0;
    CUDA_OK(cudaEventElapsedTime(&ms, begin, end));
    if (i >= 2) times.push_back(ms * 1e3f / copies);
  }
  std::sort(times.begin(), times.end());
  *us = times[times.size() / 2];
  cudaEventDestroy(begin), cudaEventDestroy(end);
  cudaGraphExecDestroy(exec), cudaGraphDestroy(graph);
  return {};
}

Status bench_matmul(const Backend& backend, const Format& format, const std::vector<int>& batches) {
  struct Matrix {
    const char* name;
    std::vector<int64_t> rows;
    int64_t k;
    WeightRole role;
  };
  const Matrix matrices[] = {{"qkv 4096x6144", {4096, 1024, 1024}, 4096, WeightRole::kQkv},
                             {"o 4096x4096", {4096}, 4096, WeightRole::kAttentionOutput},
                             {"gate_up 4096x28672", {14336, 14336}, 4096, WeightRole::kGateUp},
                             {"down 14336x4096", {4096}, 14336, WeightRole::kDown}};
  std::printf("%s, microseconds a product:", format.name);
  for (const Matrix& m : matrices) std::printf(" | %s", m.name);
  std::printf(" | sum | bytes over time\n");
  std::vector<Linear> linears;
  int64_t total = 0;
  for (const Matrix& m : matrices) {
    NBL_ASSIGN_OR_RETURN(Linear linear, make_linear(backend, format, m.rows, m.k, m.role, 1));
    total += linear.weight->bytes();
    linears.push_back(std::move(linear));
  }
  for (int rows : batches) {
    std::printf("  batch %2d:", rows);
    double sum = 0;
    for (const Linear& linear : linears) {
      const auto& weight = static_cast<const cuda::CudaWeight&>(*linear.weight);
      const cuda::Tiles& t = weight.tiles();
      double us = 0;
      NBL_RETURN_IF_ERROR(time_product(t, static_cast<int64_t>(t.strips) * t.records * t.record_bytes, weight.padded_k(), rows, t.interleaved, &us));
      std::printf(" %7.2f", us);
      sum += us;
    }
    std::printf(" | %7.2f | %.2f TB/s\n", sum, total / sum / 1e6);
    std::fflush(stdout);
  }
  return {};
}

const Format kAwq = {"int4 g128 (AWQ)", WeightFormat::kIntGroup, 4, 128, DType::kF16, false};
const Format kNf4 = {"nf4 b64", WeightFormat::kCodebook, 4, 64, DType::kF32, false};
const Format kActOrder = {"int4 g128 act-order (GPTQ)", WeightFormat::kIntGroup, 4, 128, DType::kF16, true};
const Format kInt3 = {"int3 g128", WeightFormat::kIntGroup, 3, 128, DType::kF16, false};
const Format kInt8 = {"int8 g128", WeightFormat::kIntGroup, 8, 128, DType::kF16, false};
const Format kInt8Wide = {"int8 float32 scales (bitsandbytes)", WeightFormat::kIntGroup, 8, 128, DType::kF32, false};
const Format kHalf = {"f16", WeightFormat::kFloat, 16, 128, DType::kF16, false};

Result<Format> format_named(const std::string& part) {
  for (const Format& format : {kAwq, kNf4, kActOrder, kInt3, kInt8, kInt8Wide, kHalf}) {
    if (std::string(format.name).find(part) != std::string::npos) return format;
  }
  return error(Code::kArgument, "no format has \"%s\" in its name", part.c_str());
}

// "2,8,64"
std::vector<int> numbers(const std::string& list) {
  std::vector<int> out;
  for (size_t at = 0; at < list.size(); at = std::min(list.find(',', at), list.size() - 1) + 1) out.push_back(std::atoi(list.c_str() + at));
  return out;
}

Status run(int argc, char** argv) {
  Shape mistral = kMistral;
  std::vector<int> batches, contexts;
  bool matmul = false;
  Format format = kAwq;
  std::vector<std::string> wanted;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--matmul") {
      matmul = true;
      if (i + 1 < argc) batches = numbers(argv[++i]);
    } else if (argument == "--step" && i + 2 < argc) batches = numbers(argv[++i]), contexts = numbers(argv[++i]);
    else if (argument == "--layers" && i + 1 < argc) mistral.layers = std::atoi(argv[++i]);
    else if (argument == "--format" && i + 1 < argc) {
      NBL_ASSIGN_OR_RETURN(format, format_named(argv[++i]));
    }
    else if (argument[0] == '-') return error(Code::kArgument, "%s is not understood; see the top of gpu_bench.cc", argv[i]);
    else wanted.push_back(argument);
  }
  NBL_ASSIGN_OR_RETURN(std::unique_ptr<Backend> backend, make_cuda_backend({}));
  NBL_RETURN_IF_ERROR(print_rates(*backend));
  std::printf("%s\n", backend->description().c_str());
  if (matmul && !batches.empty()) return bench_matmul(*backend, kAwq, batches);
  if (matmul) {
    NBL_RETURN_IF_ERROR(bench_matmul(*backend, kAwq, {1, 2, 4, 8, 16, 24, 32, 48, 64}));
    for (const Format& format : {kNf4, kInt3, kInt8}) NBL_RETURN_IF_ERROR(bench_matmul(*backend, format, {1, 8, 64}));
    return {};
  }
  if (!batches.empty() && contexts.empty()) return error(Code::kArgument, "--step takes batch sizes and contexts");
  if (!batches.empty() && batches.front() == 0) return bench(*backend, mistral, format, {}, 0, contexts);
  if (!batches.empty()) return bench(*backend, mistral, format, batches, contexts.front(), {});
  struct Row {
    Shape shape;
    Format format;
    std::vector<int> batches;
    int64_t context;
    std::vector<int> prompts;
  };
  const Row rows[] = {{mistral, kAwq, {1, 2, 8, 16, 32, 64}, 512, {256, 1024, 2048}},
                      {mistral, kAwq, {8, 64}, 192, {}},
                      {mistral, kNf4, {1, 8}, 512, {}},
                      {mistral, kActOrder, {1}, 512, {}},
                      {mistral, kInt3, {1}, 512, {}},
                      {mistral, kInt8, {1}, 512, {}},
                      {kQwenHalf, kAwq, {1}, 512, {}},
                      {kQwenOneHalf, kAwq, {1}, 512, {}}};
  const auto wants = [&](const std::string& name) {
    return wanted.empty() || std::any_of(wanted.begin(), wanted.end(), [&](const std::string& w) { return name.find(w) != std::string::npos; });
  };
  for (const Row& row : rows) {
    if (!wants(std::string(row.shape.name) + " " + row.format.name)) continue;
    NBL_RETURN_IF_ERROR(bench(*backend, row.shape, row.format, row.batches, row.context, row.prompts));
  }
  for (int count : {1, 64}) {
    if (wants("draws")) NBL_RETURN_IF_ERROR(bench_draws(kQwenHalf.vocab, count));
  }
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  const Status status = run(argc, argv);
  if (!status.ok()) std::printf("failed: %s\n", status.message().c_str());
  return status.ok() ? 0 : 1;
}

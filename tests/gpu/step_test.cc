// Whole steps against the same decoder in double: prefill, decode, batches, every feature of a Decoder.
#include <algorithm>
#include <cmath>
#include <string>

#include "check.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/matmul/cublas.h"
#include "models.h"

namespace nbl::gpu_test {
namespace {

constexpr double kTolerance = 1e-2;       // f16 activations and keys through a few layers
// Of one token. Random weights of few bits have large scores, and one token in a hundred hangs by them: the same computation in
// double, with nothing but these roundings to f16, moves such a token by 1e-2 to 4e-2.
constexpr double kTokenTolerance = 4e-2;

std::vector<int32_t> random_tokens(int64_t count, int64_t vocab, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (int32_t& t : tokens) t = static_cast<int32_t>(random() % vocab);
  return tokens;
}

struct Machine {
  std::unique_ptr<Backend> backend;
  std::unique_ptr<TestModel> model;
  std::unique_ptr<Plan> plan;
};

bool make_machine(const ModelOptions& options, const PlanLimits& limits, Machine* machine, CudaKernel kernel = CudaKernel::kAuto) {
  auto backend = make_cuda_backend({0, kernel});
  CHECK_THAT(backend.ok(), "%s", backend.status().message().c_str());
  if (!backend.ok()) return false;
  machine->backend = std::move(backend).value();
  auto model = TestModel::create(*machine->backend, options);
  CHECK_THAT(model.ok(), "%s", model.status().message().c_str());
  if (!model.ok()) return false;
  machine->model = std::move(model).value();
  auto plan = machine->backend->compile(machine->model->decoder(), limits);
  CHECK_THAT(plan.ok(), "%s", plan.status().message().c_str());
  if (!plan.ok()) return false;
  machine->plan = std::move(plan).value();
  return true;
}

std::unique_ptr<KvCache> make_cache(const Machine& machine, int64_t capacity, DType type = DType::kF16) {
  auto cache = machine.backend->make_kv_cache(*machine.model->decoder(), {capacity, type});
  CHECK_THAT(cache.ok(), "%s", cache.status().message().c_str());
  return cache.ok() ? std::move(cache).value() : nullptr;
}

// Prefills `prompt` tokens (logits of all of them), then decodes the rest one by one, and compares every row.
void check_sequence(const ModelOptions& options, int64_t prompt, int64_t count, const char* what, DType kv_type = DType::kF16,
                    double tolerance = kTolerance, CudaKernel kernel = CudaKernel::kAuto) {
  Machine machine;
  if (!make_machine(options, {std::max<int64_t>(prompt, 1), 1, std::max<int64_t>(prompt, 1), count}, &machine, kernel)) return;
  const std::vector<int32_t> tokens = random_tokens(count, options.vocab, options.seed + 17);
  const auto cache = make_cache(machine, count, kv_type);
  if (cache == nullptr) return;
  std::vector<float> logits(static_cast<size_t>(count * options.vocab), 1e30f);
  Batch batch;
  batch.sequences.resize(1);
  for (int64_t at = 0; at < count;) {
    const int64_t n = at == 0 ? prompt : 1;
    batch.sequences[0] = {cache.get(), tokens.data() + at, n, n};
    batch.logits = logits.data() + at * options.vocab;
    const Status status = machine.plan->step(batch);
    CHECK_THAT(status.ok(), "%s: %s", what, status.message().c_str());
    if (!status.ok()) return;
    at += n;
    CHECK_THAT(cache->length() == at, "%s: length %lld", what, static_cast<long long>(cache->length()));
  }
  const std::vector<double> exact = machine.model->exact_logits(tokens);
  const double prefill = relative_error(logits.data(), exact.data(), prompt * options.vocab);
  CHECK_THAT(prefill < tolerance, "%s: prefill differs by %.2e", what, prefill);
  for (int64_t i = prompt; i < count; ++i) {
    const double e = relative_error(logits.data() + i * options.vocab, exact.data() + i * options.vocab, options.vocab);
    CHECK_THAT(e < std::max(tolerance, kTokenTolerance), "%s: token %lld differs by %.2e", what, static_cast<long long>(i), e);
  }
}

}  // namespace

// Through the launches, and with heads of 64 through the resident kernel.
GPU_TEST(StepAgreesWithDoubleForEveryFormat) {
  for (int64_t head_dim : {32, 64}) {
    for (const FormatCase& format : formats()) {
      ModelOptions options;
      options.format = format;
      options.head_dim = head_dim;
      check_sequence(options, 5, 9, format.name);
    }
  }
}

// Prompts of several tiles of tokens, and the same where every matrix is unpacked for cuBLAS.
GPU_TEST(StepAgreesWithDoubleForEveryFormatInLongPrompts) {
  for (CudaKernel kernel : {CudaKernel::kTiles, CudaKernel::kCublas}) {
    if (kernel == CudaKernel::kCublas && cuda::Cublas::file().empty()) {
      std::printf("SKIPPED: prompts by cuBLAS, there is none here\n");
      continue;
    }
    for (const FormatCase& format : formats()) {
      ModelOptions options;
      options.format = format;
      options.seed = 2;
      check_sequence(options, 170, 172, format.name, DType::kF16, kTolerance, kernel);
    }
  }
}

// So long that cuBLAS takes them unasked, behind the lengths that other kernels do.
GPU_TEST(StepAgreesWithDoubleInPromptsThatCublasTakes) {
  for (size_t format : {size_t{0}, size_t{5}}) {
    ModelOptions options;
    options.format = formats()[format];
    check_sequence(options, 1155, 1156, options.format.name);
  }
}

GPU_TEST(StepAgreesWithDoubleForEveryFeature) {
  struct Feature {
    const char* name;
    void (*set)(ModelOptions&);
  };
  const Feature features[] = {
      {"separate matrices", [](ModelOptions& o) { o.fused = false; }},
      {"separate act-order matrices", [](ModelOptions& o) { o.fused = false, o.format = formats()[5], o.hidden = 256, o.inner = 384; }},
      {"biases", [](ModelOptions& o) { o.biases = true; }},
      {"separate with biases", [](ModelOptions& o) { o.biases = true, o.fused = false; }},
      {"head norms", [](ModelOptions& o) { o.head_norms = true; }},
      {"layer norms", [](ModelOptions& o) { o.layer_norms = true; }},
      {"sliding window", [](ModelOptions& o) { o.window = 4; }},
      {"partial rotation", [](ModelOptions& o) { o.rotary_dim = 16; }},
      {"no rotation", [](ModelOptions& o) { o.rotary_dim = 0; }},
      {"a layer without rotation", [](ModelOptions& o) { o.still_layers = true; }},
      {"the same, heads of 64", [](ModelOptions& o) { o.still_layers = true, o.head_dim = 64; }},
      {"three quarters turn, heads of 128", [](ModelOptions& o) { o.rotary_dim = 96, o.head_dim = 128; }},
      {"one kv head", [](ModelOptions& o) { o.kv_heads = 1, o.heads = 7; }},
      {"no sharing of kv heads", [](ModelOptions& o) { o.kv_heads = 4; }},
      {"head_dim 24", [](ModelOptions& o) { o.head_dim = 24, o.hidden = 96, o.inner = 200; }},
      {"head_dim 80", [](ModelOptions& o) { o.head_dim = 80; }},
      {"head_dim 128", [](ModelOptions& o) { o.head_dim = 128; }},
      {"head_dim 256", [](ModelOptions& o) { o.head_dim = 256, o.heads = 2, o.kv_heads = 1; }},
      {"gelu", [](ModelOptions& o) { o.activation = Activation::kGelu; }},
      {"gelu tanh", [](ModelOptions& o) { o.activation = Activation::kGeluTanh; }},
      {"relu", [](ModelOptions& o) { o.activation = Activation::kRelu; }},
      {"odd inner width", [](ModelOptions& o) { o.inner = 100; }},
      {"odd vocabulary", [](ModelOptions& o) { o.vocab = 333; }},
  };
  for (const Feature& feature : features) {
    ModelOptions options;
    feature.set(options);
    check_sequence(options, 6, 12, feature.name);
    check_sequence(options, 75, 77, feature.name);
    check_sequence(options, 165, 166, feature.name);
    options.format = options.format.permuted ? options.format : formats()[0];
    if (options.hidden % 128 == 0) check_sequence(options, 3, 7, feature.name);
  }
}

// Rows of more columns than the warps of the resident kernel hold at once, with and without a remainder of a unit of 128,
// and strips that the chunks of its ring cut anywhere.
GPU_TEST(WideRowsAgreeWithDouble) {
  struct Shape {
    const char* name;
    int64_t hidden, inner, heads, kv_heads;
  };
  for (const Shape& shape :
       {Shape{"7 records a strip", 896, 1216, 14, 2}, Shape{"two passes", 4224, 16640, 4, 2}, Shape{"remainders", 4296, 1100, 4, 4}}) {
    for (size_t format : {size_t{0}, size_t{5}}) {  // with act-order as well
      ModelOptions options;
      options.format = formats()[format];
      options.layers = 1;
      options.hidden = shape.hidden, options.inner = shape.inner, options.heads = shape.heads, options.kv_heads = shape.kv_heads;
      options.head_dim = 64;
      check_sequence(options, 3, 5, shape.name);
    }
  }
}

// Rows of 1024, 2048 and 4096 columns, which a chunk of the resident kernel's ring has four, two and one of: there a warp has the same
// columns of each strip and keeps their x. Of 1536 and 8192 columns it has others in every chunk, of one strip still; of 256 its
// records are of two strips. Some CTAs have a strip less than others, some warps nothing of the last chunk, and the last matrices of
// two of the shapes have more strips than the sums of one window.
GPU_TEST(WarpsWithRecordsOfOneStripAgreeWithDouble) {
  struct Shape {
    const char* name;
    int64_t hidden, inner, vocab;
  };
  for (const Shape& shape : {Shape{"four strips a chunk", 1024, 4000, 320}, Shape{"two strips a chunk", 2048, 4000, 320},
                             Shape{"one strip a chunk", 4096, 2560, 17500}, Shape{"parts of strips", 1536, 8192, 20000},
                             Shape{"two strips a warp", 256, 512, 33000}}) {
    for (const FormatCase& format : formats()) {
      if (format.bits != 3 && format.format != WeightFormat::kCodebook) continue;
      if (shape.vocab > 320 && format.group_size != (format.bits == 3 ? 128 : 64)) continue;  // the reference takes long
      ModelOptions options;
      options.format = format;
      options.layers = 1;
      options.hidden = shape.hidden, options.inner = shape.inner, options.vocab = shape.vocab, options.head_dim = 64;
      check_sequence(options, 1, 3, (std::string(shape.name) + ", " + format.name).c_str());
    }
  }
}

// Keys already cached keep the rotation they were given, so only a whole prompt in one call can be compared.
namespace {

// Whether all logits behind a prompt, or those of the step of one token behind it, are numbers.
bool answers(const ModelOptions& options, int64_t prompt, DType kv_type) {
  Machine machine;
  if (!make_machine(options, {prompt, 1, 1, prompt + 1}, &machine)) return false;
  const std::vector<int32_t> tokens = random_tokens(prompt + 1, options.vocab, 5);
  const auto cache = make_cache(machine, prompt + 1, kv_type);
  if (cache == nullptr) return false;
  for (const int64_t count : {prompt, int64_t{1}}) {
    std::vector<float> logits(static_cast<size_t>(options.vocab));
    Batch batch;
    batch.logits = logits.data();
    batch.sequences = {{cache.get(), tokens.data() + cache->length(), count, 1}};
    const Status status = machine.plan->step(batch);
    CHECK_THAT(status.ok(), "%s", status.message().c_str());
    if (std::all_of(logits.begin(), logits.end(), [](float v) { return v <= 3.4028234e38f; })) return true;
  }
  return false;
}

}  // namespace

// A scale that is no number must not come out as an answer: through launches and the resident kernel (heads of 32 and 64), every
// format, prompts of all kernels, and keys and values in bytes.
GPU_TEST(WhatIsNotFiniteReachesTheLogits) {
  static const char* const kNames[] = {"q", "k", "v", "gate", "up", "output", "down"};
  const auto check = [](ModelOptions options, int matrix, float scale, int64_t prompt, DType kv_type) {
    options.spoiled = matrix;
    options.spoiled_scale = scale;
    CHECK_THAT(!answers(options, prompt, kv_type), "%s, heads of %lld: a scale %g of %s behind %lld tokens", options.format.name,
               static_cast<long long>(options.head_dim), static_cast<double>(scale), kNames[matrix], static_cast<long long>(prompt));
  };
  for (int64_t head_dim : {32, 64}) {
    ModelOptions options;
    options.head_dim = head_dim;
    for (const FormatCase& format : formats()) {
      if (format.format == WeightFormat::kFloat) continue;
      options.format = format;
      for (int matrix = 0; matrix < 7; ++matrix) check(options, matrix, NAN, 3, DType::kF16);
      check(options, 0, INFINITY, 3, DType::kF16);
    }
    options.format = formats()[0];
    for (int matrix = 0; matrix < 7; ++matrix) {
      for (int64_t prompt : {70, 200, 1100}) check(options, matrix, NAN, prompt, DType::kF16);
      check(options, matrix, INFINITY, 3, DType::kF16);
      check(options, matrix, NAN, 3, DType::kI8);
    }
    options.activation = Activation::kRelu;
    check(options, 3, NAN, 3, DType::kF16);
  }
}

GPU_TEST(DynamicRopesGoByTheLengthOfTheCall) {
  for (const testing::TestRope rope : {testing::TestRope::kDynamic, testing::TestRope::kLong}) {
    ModelOptions options;
    options.rope = rope;
    check_sequence(options, 6, 6, "within the original length");
    check_sequence(options, 20, 20, "beyond the original length");
  }
}

GPU_TEST(LongContextsAreSplitOverTheGpu) {
  ModelOptions options;
  options.head_dim = 64;
  options.layers = 1;
  check_sequence(options, 700, 706, "700 positions");
  options.window = 300;
  check_sequence(options, 700, 706, "700 positions, window 300");
}

// A byte is half a step of 1/127 of the largest value of its head off at most: some 0.3 % of a head's norm, where f16 has 0.02 %.
GPU_TEST(Int8CachesAreNearlyAsExact) {
  constexpr double kByteTolerance = 2e-2;
  struct Shape {
    const char* name;
    int64_t heads, kv_heads, head_dim, window;
  };
  const Shape shapes[] = {{"int8 cache, head_dim 24", 4, 2, 24, 0},   {"int8 cache, head_dim 64", 4, 1, 64, 0},
                          {"int8 cache, head_dim 80", 4, 4, 80, 0},   {"int8 cache, head_dim 128", 7, 1, 128, 0},
                          {"int8 cache, head_dim 256", 2, 1, 256, 0}, {"int8 cache, window", 4, 2, 32, 5}};
  for (const Shape& shape : shapes) {
    ModelOptions options;
    options.heads = shape.heads, options.kv_heads = shape.kv_heads, options.head_dim = shape.head_dim, options.window = shape.window;
    check_sequence(options, 6, 12, shape.name, DType::kI8, kByteTolerance);
    check_sequence(options, 75, 77, shape.name, DType::kI8, kByteTolerance);
  }
  ModelOptions options;
  options.head_dim = 64;
  options.layers = 1;
  options.head_norms = true;
  check_sequence(options, 700, 706, "int8 cache, 700 positions", DType::kI8, kByteTolerance);
}

// Rounding to 127 steps makes errors of a hundredth; a value on an edge may fall to either side and adds to them.
GPU_TEST(Int8MatricesKeepTheOutliersOfTheirInput) {
  for (const FormatCase& format : formats()) {
    if (std::string(format.name) != "int8 one group f32") continue;
    for (const double threshold : {0., 2., 1e6}) {
      ModelOptions options;
      options.format = format;
      options.outlier_threshold = threshold;
      check_sequence(options, 6, 12, "int8 activations", DType::kF16, 3e-2);
      check_sequence(options, 75, 77, "int8 activations", DType::kF16, 3e-2);
      options.fused = false;
      check_sequence(options, 6, 8, "int8 activations, separate", DType::kF16, 3e-2);
    }
  }
}

GPU_TEST(CachesOfBothTypesShareAStep) {
  ModelOptions options;
  Machine machine;
  if (!make_machine(options, {64, 3, 3, 64}, &machine)) return;
  const std::vector<int32_t> tokens = random_tokens(12, options.vocab, 3);
  const DType types[] = {DType::kF16, DType::kI8, DType::kF16};
  std::vector<std::vector<float>> alone;
  std::unique_ptr<KvCache> caches[3];
  for (int i = 0; i < 3; ++i) {
    alone.emplace_back(static_cast<size_t>(options.vocab));
    const auto cache = make_cache(machine, 64, types[i]);
    caches[i] = make_cache(machine, 64, types[i]);
    if (cache == nullptr || caches[i] == nullptr) return;
    for (int64_t at = 0; at < 12; at += at == 0 ? 10 : 1) {
      Batch batch;
      batch.logits = alone[i].data();
      batch.sequences = {{cache.get(), tokens.data() + at, at == 0 ? 10 : 1, 1}};
      CHECK_THAT(machine.plan->step(batch).ok(), "alone");
    }
  }
  std::vector<float> together(static_cast<size_t>(3 * options.vocab));
  for (int64_t at = 0; at < 12; at += at == 0 ? 10 : 1) {
    Batch batch;
    batch.logits = together.data();
    for (int i = 0; i < 3; ++i) batch.sequences.push_back({caches[i].get(), tokens.data() + at, at == 0 ? 10 : 1, 1});
    CHECK_THAT(machine.plan->step(batch).ok(), "together");
  }
  for (int i = 0; i < 3; ++i) {
    const std::vector<double> wanted(alone[i].begin(), alone[i].end());
    const double e = relative_error(&together[i * options.vocab], wanted.data(), options.vocab);
    CHECK_THAT(e < 1e-3, "sequence %d differs by %.2e from what it gets alone", i, e);
  }
}

GPU_TEST(ABatchGivesEachSequenceWhatItGetsAlone) {
  ModelOptions options;
  options.format = formats()[0];
  Machine machine;
  if (!make_machine(options, {400, 40, 40, 64}, &machine)) return;
  for (int sequences : {2, 5, 8, 9, 17, 40}) {
    std::vector<std::unique_ptr<KvCache>> caches;
    std::vector<std::vector<int32_t>> tokens;
    for (int i = 0; i < sequences; ++i) {
      caches.push_back(make_cache(machine, 64));
      tokens.push_back(random_tokens(3 + i % 7 + 4, options.vocab, static_cast<uint32_t>(i)));
    }
    std::vector<float> logits(static_cast<size_t>(sequences * options.vocab));
    for (int round = 0; round < 5; ++round) {
      Batch batch;
      batch.logits = logits.data();
      for (int i = 0; i < sequences; ++i) {
        const int64_t prompt = static_cast<int64_t>(tokens[i].size()) - 4;
        batch.sequences.push_back({caches[i].get(), tokens[i].data() + (round == 0 ? 0 : prompt + round - 1), round == 0 ? prompt : 1, 1});
      }
      const Status status = machine.plan->step(batch);
      CHECK_THAT(status.ok(), "%d sequences: %s", sequences, status.message().c_str());
      if (!status.ok()) return;
    }
    for (int i = 0; i < sequences; ++i) {
      const std::vector<double> exact = machine.model->exact_logits(tokens[i]);
      const double e = relative_error(&logits[i * options.vocab], &exact[(tokens[i].size() - 1) * options.vocab], options.vocab);
      CHECK_THAT(e < kTolerance, "%d sequences, number %d: %.2e", sequences, i, e);
    }
  }
}

// The f16 copies for cuBLAS are in a plan exactly where its longest step goes that way, and in the estimate of it.
GPU_TEST(PlansHaveRoomForCublasWhereTheyUseIt) {
  if (cuda::Cublas::file().empty()) return;
  ModelOptions options;
  options.hidden = 1024;
  options.inner = 4096;
  options.heads = 16;
  options.kv_heads = 4;
  options.head_dim = 64;
  for (const FormatCase& format : {formats()[0], options.format}) {
    options.format = format;
    for (int64_t rows : {64, 512, 640, 641, 1024, 1025, 2048}) {
      const PlanLimits limits{rows, 1, 1, 2048};
      Machine machine, tiles;
      if (!make_machine(options, limits, &machine) || !make_machine(options, limits, &tiles, CudaKernel::kTiles)) return;
      const std::vector<StepKernel> kernels = machine.plan->kernels();
      const bool unpacks = std::any_of(kernels.begin(), kernels.end(),
                                       [](const StepKernel& k) { return k.kernel.find("unpacked") != std::string::npos; });
      const int64_t more = machine.plan->scratch_bytes() - tiles.plan->scratch_bytes();
      CHECK_THAT(unpacks ? more > (16 << 20) : more < (16 << 20), "%s, %lld rows: %lld bytes more than without cuBLAS", format.name,
                 static_cast<long long>(rows), static_cast<long long>(more));
      std::vector<MatrixSpecs> matrices;
      for (const Block& block : machine.model->decoder()->blocks) {
        for (const Linear& linear : block.attention.qkv) matrices.push_back({{linear.weight->spec()}, WeightRole::kQkv});
        for (const Linear& linear : block.mlp.gate_up) matrices.push_back({{linear.weight->spec()}, WeightRole::kGateUp});
        matrices.push_back({{block.attention.output.weight->spec()}, WeightRole::kAttentionOutput});
        matrices.push_back({{block.mlp.down.weight->spec()}, WeightRole::kDown});
      }
      matrices.push_back({{machine.model->decoder()->head.weight->spec()}, WeightRole::kHead});
      const int64_t estimate = machine.backend->plan_bytes(machine.model->decoder()->config, matrices, limits);
      const int64_t off = estimate - machine.plan->scratch_bytes();
      CHECK_THAT(off > -(1 << 20) && off < (6 << 20), "%s, %lld rows: estimated %lld, taken %lld", format.name,
                 static_cast<long long>(rows), static_cast<long long>(estimate), static_cast<long long>(machine.plan->scratch_bytes()));
    }
  }
}

GPU_TEST(RefusalsChangeNoCache) {
  ModelOptions options;
  Machine machine;
  if (!make_machine(options, {8, 1, 1, 8}, &machine)) return;
  const auto cache = make_cache(machine, 8);
  const std::vector<int32_t> tokens = random_tokens(9, options.vocab, 1);
  std::vector<float> logits(static_cast<size_t>(options.vocab));
  Batch batch;
  batch.logits = logits.data();
  batch.sequences = {{cache.get(), tokens.data(), 9, 1}};
  CHECK_THAT(machine.plan->step(batch).code() == Code::kContextFull, "nine tokens in eight positions");
  batch.sequences = {{cache.get(), tokens.data(), 8, 1}};
  std::atomic<bool> cancel{true};
  batch.cancel = &cancel;
  CHECK_THAT(machine.plan->step(batch).code() == Code::kCancelled, "not cancelled");
  CHECK_THAT(cache->length() == 0, "length %lld", static_cast<long long>(cache->length()));
  cancel = false;
  CHECK_THAT(machine.plan->step(batch).ok(), "after the cancel");
  cache->truncate(3);
  CHECK_THAT(cache->length() == 3, "truncated");
}

// Every CUDA call made to fail once: an error comes back, nothing is lost, and the next attempt works.
GPU_TEST(EveryCudaCallMayFail) {
  auto scenario = []() -> Status {
    NBL_ASSIGN_OR_RETURN(std::unique_ptr<Backend> backend, make_cuda_backend({}));
    ModelOptions options;
    options.format = formats()[5];
    options.layers = 1;
    NBL_ASSIGN_OR_RETURN(std::unique_ptr<TestModel> model, TestModel::create(*backend, options));
    PlanLimits limits{170, 1, 1, 180};
    limits.max_draws = 1;
    NBL_ASSIGN_OR_RETURN(std::unique_ptr<Plan> plan, backend->compile(model->decoder(), limits));
    NBL_ASSIGN_OR_RETURN(std::unique_ptr<KvCache> cache, backend->make_kv_cache(*model->decoder(), {180, DType::kF16}));
    const std::vector<int32_t> tokens = random_tokens(170, options.vocab, 1);
    std::vector<float> logits(static_cast<size_t>(options.vocab));
    Batch batch;
    batch.logits = logits.data();
    for (int64_t count : {165, 1, 1, 1}) {
      const int64_t before = cache->length();
      batch.sequences = {{cache.get(), tokens.data(), count, 1}};
      const Status status = plan->step(batch);
      if (!status.ok() && cache->length() != before) return error(Code::kInternal, "a failed step changed the cache");
      NBL_RETURN_IF_ERROR(status);
    }
    // Drawing, and running ahead; a step that could not be launched leaves those in front of it alone.
    SamplingOptions sampling;
    sampling.temperature = 1;
    sampling.top_k = 5;
    sampling.repetition_penalty = 1.1;
    const std::vector<std::pair<int32_t, float>> bias = {{3, 1.f}};
    for (int round = 0; round < 2; ++round) {
      Draw draw;
      draw.options = &sampling;
      draw.tokens = tokens.data();
      draw.token_count = cache->length() + 1;
      draw.bias = &bias;
      batch.sequences = {{cache.get(), tokens.data() + cache->length(), 1, 0}};
      batch.sequences[0].draw = &draw;
      const int64_t before = cache->length();
      DrawnToken drawn[3];
      int flying = 1;
      NBL_RETURN_IF_ERROR(plan->begin(batch));
      Status status;
      while (flying < 3 && status.ok()) {
        status = plan->follow();
        flying += status.ok();
      }
      for (int i = 0; i < flying; ++i) NBL_RETURN_IF_ERROR(plan->finish(&drawn[i]));
      if (cache->length() != before + flying) return error(Code::kInternal, "%d steps were finished, not so many are held", flying);
      NBL_RETURN_IF_ERROR(status);
    }
    return {};
  };
  const int64_t before = cuda::calls();
  const Status sound = scenario();
  CHECK_THAT(sound.ok(), "%s", sound.message().c_str());
  const int64_t calls = cuda::calls() - before;
  int64_t failed = 0;
  for (int64_t n = 1; n <= calls; ++n) {
    cuda::fail_call(n);
    const Status status = scenario();
    failed += !status.ok();
    CHECK_THAT(status.ok() || status.code() == Code::kDevice || status.code() == Code::kNoDeviceMemory, "call %lld: %s",
               static_cast<long long>(n), status.message().c_str());
  }
  cuda::fail_call(0);
  CHECK_THAT(failed * 10 > calls * 8, "only %lld of %lld failures were noticed", static_cast<long long>(failed),
             static_cast<long long>(calls));
  CHECK_THAT(scenario().ok(), "after all failures");
}

// One plan and one cache through failures of every call of a step, in a prompt and in decode steps, plain and drawn.
GPU_TEST(APlanIsUsableAfterEveryFailure) {
  ModelOptions options;
  options.format = formats()[0];
  Machine machine;
  PlanLimits limits{80, 1, 1, 100};
  limits.max_draws = 1;
  if (!make_machine(options, limits, &machine)) return;
  const auto cache = make_cache(machine, 100);
  const std::vector<int32_t> tokens = random_tokens(100, options.vocab, 5);
  SamplingOptions sampling;
  sampling.temperature = 1;
  sampling.repetition_penalty = 1.2;
  std::vector<float> logits(static_cast<size_t>(options.vocab)), wanted(logits);
  int64_t failures = 0, faults = 0;
  for (const int64_t count : {70, 1, 1, 1}) {
    const int64_t length = cache->length();
    const auto run = [&](float* to, DrawnToken* drawn) -> Status {
      cache->truncate(length);
      Batch batch;
      batch.logits = to;
      batch.sequences = {{cache.get(), tokens.data() + length, count, 1}};
      NBL_RETURN_IF_ERROR(machine.plan->step(batch));
      cache->truncate(length);
      Draw draw;
      draw.options = &sampling;
      draw.tokens = tokens.data();
      draw.token_count = length + count;
      batch.sequences[0].logit_rows = 0;
      batch.sequences[0].draw = &draw;
      NBL_RETURN_IF_ERROR(machine.plan->begin(batch));
      return machine.plan->finish(drawn);
    };
    DrawnToken first, drawn;
    const int64_t before = cuda::calls();
    Status status = run(wanted.data(), &first);
    CHECK_THAT(status.ok(), "%s", status.message().c_str());
    const int64_t calls = cuda::calls() - before;
    for (int64_t n = 1; n <= calls; ++n) {
      const int64_t start = cuda::calls();
      cuda::fail_call(n);
      failures += !run(logits.data(), &drawn).ok();
      cuda::fail_call(0);
      faults += cuda::calls() - start >= n;  // a graph makes the calls of a step fewer
      status = run(logits.data(), &drawn);
      CHECK_THAT(status.ok(), "after a failure of call %lld: %s", static_cast<long long>(n), status.message().c_str());
      CHECK_THAT(logits == wanted && drawn.id == first.id, "after a failure of call %lld: other logits or another token",
                 static_cast<long long>(n));
    }
  }
  CHECK_THAT(faults > 50 && failures * 10 >= faults * 8, "only %lld failures of %lld faults", static_cast<long long>(failures),
             static_cast<long long>(faults));
}

GPU_TEST(DeviceQueriesAnswer) {
  const int count = cuda_device_count();
  const auto device = cuda_device(0);
  CHECK_THAT(device.ok() && device->total_bytes > 0 && device->sm_major >= 7, "device 0");
  CHECK_THAT(!cuda_device(count).ok() && !cuda_device(-1).ok(), "a device that does not exist");
  CHECK_THAT(!make_cuda_backend({count}).ok(), "a backend on it");
}

}  // namespace nbl::gpu_test

// Whole steps of every backend against a plain forward pass in double.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <thread>

#include "support/watched_new.h"
#include "test_model.h"

namespace {
std::atomic<bool> counting{false};
std::atomic<long> allocations{0};
}  // namespace

bool nbl::testing::may_allocate() noexcept {
  if (counting.load(std::memory_order_relaxed)) allocations.fetch_add(1, std::memory_order_relaxed);
  return true;
}

namespace nbl {
namespace {

std::vector<ModelCase> model_cases() {
  std::vector<ModelCase> cases;
  const auto add = [&](const char* name, auto change) {
    ModelCase c;
    c.name = name;
    change(c);
    cases.push_back(c);
  };
  add("llama", [](ModelCase&) {});
  add("biases, unfused, f16 embedding", [](ModelCase& c) {
    c.biases = true;
    c.fused = false;
    c.embedding = DType::kF16;
  });
  add("head norms, one key head of 80", [](ModelCase& c) {
    c.head_norms = true;
    c.kv_heads = 1;
    c.head_dim = 80;
    c.embedding = DType::kBF16;
  });
  add("window of 5", [](ModelCase& c) { c.window = 5; });
  add("layer norm, gelu", [](ModelCase& c) {
    c.norm = Norm::Kind::kLayer;
    c.activation = Activation::kGelu;
  });
  add("gelu_tanh, partial rotation", [](ModelCase& c) {
    c.activation = Activation::kGeluTanh;
    c.rotary_dim = 8;
  });
  add("relu, no rotation, as many key heads", [](ModelCase& c) {
    c.activation = Activation::kRelu;
    c.rotary_dim = 0;
    c.kv_heads = 4;
  });
  add("dynamic rope", [](ModelCase& c) { c.rope = testing::TestRope::kDynamic; });
  add("longrope, a layer that does not turn", [](ModelCase& c) {
    c.rope = testing::TestRope::kLong;
    c.still_layers = true;
  });
  add("biases, pieces of gate and up for every thread", [](ModelCase& c) {
    c.biases = true;
    c.hidden = 128;
    c.intermediate = 73 * 16;
    c.activation = Activation::kGelu;
  });
  add("act-order", [](ModelCase& c) {
    c.format = 4;
    c.fused = false;
  });
  add("nf4", [](ModelCase& c) { c.format = 20; });
  add("f16 matrices, nine heads over one", [](ModelCase& c) {
    c.format = 22;
    c.heads = 9;
    c.kv_heads = 1;
  });
  add("odd widths", [](ModelCase& c) {
    c.hidden = 76;
    c.intermediate = 100;
    c.head_dim = 14;
    c.vocab = 33;
  });
  add("head of 256", [](ModelCase& c) {
    c.head_dim = 256;
    c.heads = 2;
    c.kv_heads = 1;
  });
  return cases;
}

struct Running {
  std::shared_ptr<const Decoder> decoder;
  std::unique_ptr<KvCache> cache;
  std::unique_ptr<Plan> plan;
};

Running start(const Backend& backend, std::shared_ptr<const Decoder> decoder, int64_t capacity, DType kv,
              int64_t sequences = 1) {
  Running run;
  run.decoder = std::move(decoder);
  Result<std::unique_ptr<KvCache>> cache = backend.make_kv_cache(*run.decoder, {capacity, kv});
  EXPECT_TRUE(cache.ok()) << cache.status().message();
  if (cache.ok()) run.cache = std::move(cache).value();
  PlanLimits limits;
  limits.max_tokens = 64;
  limits.max_sequences = sequences;
  limits.max_logit_rows = 64;
  limits.max_context = capacity;
  Result<std::unique_ptr<Plan>> plan = backend.compile(run.decoder, limits);
  EXPECT_TRUE(plan.ok()) << plan.status().message();
  if (plan.ok()) run.plan = std::move(plan).value();
  return run;
}

BatchSequence sequence(KvCache* cache, const int32_t* tokens, int64_t count, int64_t logit_rows,
                       int64_t call_length = 0) {
  BatchSequence s;
  s.cache = cache;
  s.tokens = tokens;
  s.token_count = count;
  s.logit_rows = logit_rows;
  s.call_length = call_length;
  return s;
}

Status step(Running& run, const int32_t* tokens, int64_t count, float* logits, int64_t call_length = 0) {
  Batch batch;
  batch.sequences.push_back(sequence(run.cache.get(), tokens, count, count, call_length));
  batch.logits = logits;
  return run.plan->step(batch);
}

std::vector<int32_t> some_tokens(int64_t count, int64_t vocab) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i) tokens.push_back(static_cast<int32_t>((i * i * 7 + 3) % vocab));
  return tokens;
}

// How far from the plain forward pass: the float32 path is held to the tolerance of the project's goldens.
double step_tolerance(const BackendCase& backend) {
  return backend.int_tolerance > 1e-2 ? 0.2 : backend.rounds ? 1e-4 : 3e-3;
}

TEST(Step, AgreesWithAPlainForwardPass) {
  const std::vector<BackendCase> backends = all_backends();
  for (const ModelCase& test : model_cases()) {
    const TestModel model(test, 11);
    const std::vector<int32_t> tokens = some_tokens(29, test.vocab);
    // A prompt of 19 in chunks of 11 and 8, then one at a time, then three at once.
    const std::vector<double> expected = model.logits(tokens, {19, 20, 21, 22, 23, 24, 25, 26, 29});
    for (const BackendCase& backend : backends) {
      Running run = start(*backend.backend, model.pack(*backend.backend), 40, DType::kF32);
      std::vector<float> logits(expected.size());
      float* out = logits.data();
      int64_t at = 0;
      const auto feed = [&](int64_t count, int64_t call) {
        const Status status = step(run, tokens.data() + at, count, out, call);
        ASSERT_TRUE(status.ok()) << status.message();
        at += count;
        out += count * test.vocab;
      };
      feed(11, 19);
      feed(8, 0);
      for (int i = 0; i < 7; ++i) feed(1, 0);
      feed(3, 0);
      EXPECT_EQ(run.cache->length(), 29);
      EXPECT_LE(relative_rms(expected, logits.data()), step_tolerance(backend))
          << backend.name << ", " << test.name;
    }
  }
}

TEST(Step, HalfPrecisionCachesLoseLittle) {
  const TestModel model({}, 12);
  const std::vector<int32_t> tokens = some_tokens(40, 70);
  const std::vector<double> expected = model.logits(tokens, {40});
  for (const BackendCase& backend : all_backends()) {
    Running run = start(*backend.backend, model.pack(*backend.backend), 40, DType::kF16);
    std::vector<float> logits(expected.size());
    ASSERT_TRUE(step(run, tokens.data(), 40, logits.data()).ok());
    EXPECT_LE(relative_rms(expected, logits.data()), std::max(step_tolerance(backend), 2e-3)) << backend.name;
  }
}

// Two planted columns, thirty times as large as the others: with them among the 127 steps the others drown.
TEST(Step, Int8MatricesKeepTheOutliersOfTheirInput) {
  ModelCase test;
  test.format = 16;
  ASSERT_STREQ(format_cases()[16].name, "int8_row_sym");
  test.planted = 30;
  const std::vector<int32_t> tokens = some_tokens(24, test.vocab);
  const std::vector<double> exact = TestModel(test, 31).logits(tokens, {24});
  for (const BackendCase& backend : all_backends()) {
    if (backend.int_tolerance > 1e-2) continue;  // 8-bit activations throughout
    double last_error = 1e30;
    int64_t last_count = -1;
    for (const double threshold : {0.0, 40.0, 6.0, 0.5}) {
      test.outlier_threshold = threshold;
      const TestModel model(test, 31);
      const std::vector<double> expected = model.logits(tokens, {24});
      Running run = start(*backend.backend, model.pack(*backend.backend), 40, DType::kF32);
      std::vector<float> logits(expected.size());
      ASSERT_TRUE(step(run, tokens.data(), 20, logits.data(), 24).ok());
      for (int i = 20; i < 24; ++i) ASSERT_TRUE(step(run, tokens.data() + i, 1, logits.data() + i * test.vocab, 24).ok());
      // A value on an edge, of the threshold or between two of the 127 steps, may fall to either side.
      const double error = relative_rms(exact, logits.data());
      EXPECT_LE(relative_rms(expected, logits.data()), std::max(2e-3, error / 2)) << backend.name << ", threshold " << threshold;
      EXPECT_LT(error, last_error) << backend.name << ", threshold " << threshold;
      EXPECT_GT(run.plan->outliers(), threshold > 0 ? last_count : -1) << backend.name << ", threshold " << threshold;
      EXPECT_EQ(threshold == 0, run.plan->outliers() == 0) << backend.name << ", threshold " << threshold;
      last_error = error;
      last_count = run.plan->outliers();
    }
  }
}

TEST(Step, LongContextsAreSummedInBlocks) {
  // More positions than one block of the softmax, and a window that begins inside a block.
  for (int64_t window : {0, 300}) {
    ModelCase test;
    test.layers = 1;
    test.window = window;
    const TestModel model(test, 13);
    const std::vector<int32_t> tokens = some_tokens(600, test.vocab);
    const std::vector<double> expected = model.logits(tokens, {600});
    for (const BackendCase& backend : all_backends()) {
      Running run = start(*backend.backend, model.pack(*backend.backend), 600, DType::kF32);
      std::vector<float> logits(expected.size());
      for (int64_t at = 0; at < 600; at += 50)
        ASSERT_TRUE(step(run, tokens.data() + at, 50, logits.data() + at * test.vocab, 600).ok());
      EXPECT_LE(relative_rms(expected, logits.data()), step_tolerance(backend))
          << backend.name << ", window " << window;
    }
  }
}

TEST(Step, ThreadsShareTheKeysOfOneHead) {
  ModelCase test;
  test.layers = 1;
  test.kv_heads = 1;
  test.heads = 3;
  for (int64_t window : {0, 700}) {
    test.window = window;
    const TestModel model(test, 21);
    const std::vector<int32_t> tokens = some_tokens(1200, test.vocab);
    const std::vector<double> all = model.logits(tokens, {1200});
    const std::vector<double> expected(all.end() - 3 * test.vocab, all.end());
    for (const BackendCase& backend : default_backends(4)) {
      Running run = start(*backend.backend, model.pack(*backend.backend), 1200, DType::kF32);
      std::vector<float> logits(64 * 70);
      for (int64_t at = 0; at < 1197; at += 63)
        ASSERT_TRUE(step(run, tokens.data() + at, 63, logits.data(), 1200).ok());
      for (int64_t i = 0; i < 3; ++i)
        ASSERT_TRUE(step(run, tokens.data() + 1197 + i, 1, logits.data() + i * test.vocab).ok());
      EXPECT_LE(relative_rms(expected, logits.data()), step_tolerance(backend))
          << backend.name << ", window " << window;
    }
  }
}

// Whether the logits behind a prompt, and those of a step of one token behind it, are all numbers or minus infinity. Also where
// only the largest is looked at, which takes another way through the head.
bool answers(const Backend& backend, const TestModel& model) {
  const std::vector<int32_t> tokens = some_tokens(6, 70);
  Running run = start(backend, model.pack(backend), 16, DType::kF32);
  for (const int64_t exact_top : {0, 1}) {
    for (const int64_t count : {5, 1}) {
      std::vector<float> logits(70);
      Batch batch;
      batch.logits = logits.data();
      batch.sequences.push_back(sequence(run.cache.get(), tokens.data() + run.cache->length(), count, 1));
      batch.sequences[0].exact_top = exact_top;
      const Status status = run.plan->step(batch);
      EXPECT_TRUE(status.ok()) << status.message();
      if (std::all_of(logits.begin(), logits.end(), [](float v) { return v <= std::numeric_limits<float>::max(); })) return true;
    }
    run.cache->truncate(0);
  }
  return false;
}

// A weight that is no number must not come out as an answer: whatever lies between it and the logits passes it on.
TEST(Step, WhatIsNotFiniteReachesTheLogits) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  constexpr size_t kMatrices = 4, kGateUp = 2;  // of the first block: q, k and v; the output; gate and up; down
  const auto check = [](const ModelCase& shape, size_t matrix, size_t part, float scale) {
    TestModel model(shape, 3);
    model.spoil(matrix, part, scale);
    for (const BackendCase& backend : all_backends()) {
      EXPECT_FALSE(answers(*backend.backend, model)) << backend.name << ": matrix " << matrix << ", part " << part << ", " << scale;
    }
  };
  ModelCase shape;
  for (size_t matrix = 0; matrix < kMatrices; ++matrix) {
    for (size_t part = 0; part < TestModel(shape, 3).parts(matrix); ++part) {
      check(shape, matrix, part, nan);
      check(shape, matrix, part, infinity);
    }
  }
  for (const Activation activation : {Activation::kGelu, Activation::kGeluTanh, Activation::kRelu}) {
    shape.activation = activation;
    for (size_t part : {0, 1}) check(shape, kGateUp, part, nan);
  }
}

TEST(Step, SequencesOfABatchDoNotTouchEachOther) {
  const TestModel model({}, 14);
  const std::vector<int32_t> a = some_tokens(9, 70), b = some_tokens(17, 60);
  const std::vector<double> ea = model.logits(a, {9}), eb = model.logits(b, {17});
  for (const BackendCase& backend : all_backends()) {
    Running run = start(*backend.backend, model.pack(*backend.backend), 32, DType::kF32, 2);
    Result<std::unique_ptr<KvCache>> second = backend.backend->make_kv_cache(*run.decoder, {20, DType::kF32});
    ASSERT_TRUE(second.ok());
    std::vector<float> logits(70 * 3);
    Batch batch;
    batch.logits = logits.data();
    batch.sequences = {sequence(run.cache.get(), a.data(), 8, 0, 9),
                       sequence(second.value().get(), b.data(), 16, 0, 17)};
    ASSERT_TRUE(run.plan->step(batch).ok());
    batch.sequences = {sequence(run.cache.get(), a.data() + 8, 1, 1),
                       sequence(second.value().get(), b.data() + 16, 1, 1)};
    ASSERT_TRUE(run.plan->step(batch).ok());
    const std::vector<double> la(ea.end() - 70, ea.end()), lb(eb.end() - 70, eb.end());
    EXPECT_LE(relative_rms(la, logits.data()), step_tolerance(backend)) << backend.name;
    EXPECT_LE(relative_rms(lb, logits.data() + 70), step_tolerance(backend)) << backend.name;
  }
}

TEST(Step, TheLargestLogitsAreExactWhenOnlyTheyAreLookedAt) {
  ModelCase test;
  test.vocab = 5000;
  const TestModel model(test, 20);
  const std::vector<int32_t> tokens = some_tokens(20, 70);
  for (const BackendCase& backend : all_backends()) {
    Running run = start(*backend.backend, model.pack(*backend.backend), 32, DType::kF16);
    const auto logits_of = [&](int64_t top, std::vector<float>* logits) {
      run.cache->truncate(0);
      logits->assign(3 * 5000, 0);
      Batch batch;
      batch.sequences.push_back(sequence(run.cache.get(), tokens.data(), 20, 3));
      batch.sequences[0].exact_top = top;
      batch.logits = logits->data();
      ASSERT_TRUE(run.plan->step(batch).ok()) << backend.name;
    };
    std::vector<float> all, some;
    logits_of(0, &all);
    for (const int64_t top : {1, 7, 200, 1000}) {
      logits_of(top, &some);
      for (int64_t row = 0; row < 3; ++row) {
        const float* a = all.data() + row * 5000;
        const float* b = some.data() + row * 5000;
        std::vector<int64_t> order(5000);
        for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int64_t>(i);
        std::partial_sort(order.begin(), order.begin() + top, order.end(),
                          [&](int64_t i, int64_t j) { return a[i] > a[j]; });
        for (int64_t i = 0; i < top; ++i)
          ASSERT_EQ(a[order[static_cast<size_t>(i)]], b[order[static_cast<size_t>(i)]])
              << backend.name << ", top " << top;
        const float least = a[order[static_cast<size_t>(top - 1)]];
        for (size_t i = static_cast<size_t>(top); i < order.size(); ++i)
          ASSERT_LE(b[order[i]], least) << backend.name << ", top " << top;
        EXPECT_LE(relative_rms(std::vector<double>(a, a + 5000), b), 0.02) << backend.name;
      }
    }
  }
}

TEST(Step, ForgettingAndRepeatingGivesTheSameLogits) {
  const TestModel model({}, 15);
  const std::vector<int32_t> tokens = some_tokens(24, 70);
  for (const BackendCase& backend : all_backends()) {
    Running run = start(*backend.backend, model.pack(*backend.backend), 24, DType::kF16);
    std::vector<float> first(24 * 70), second(4 * 70);
    ASSERT_TRUE(step(run, tokens.data(), 20, first.data()).ok());
    ASSERT_TRUE(step(run, tokens.data() + 20, 4, first.data()).ok());
    run.cache->truncate(20);
    ASSERT_TRUE(step(run, tokens.data() + 20, 4, second.data()).ok());
    for (size_t i = 0; i < second.size(); ++i) ASSERT_EQ(first[i], second[i]) << backend.name;
  }
}

TEST(Step, FailuresLeaveTheCacheAsItWas) {
  const TestModel model({}, 16);
  const std::vector<int32_t> tokens = some_tokens(30, 70);
  for (const BackendCase& backend : all_backends()) {
    Running run = start(*backend.backend, model.pack(*backend.backend), 16, DType::kF16);
    std::vector<float> logits(64 * 70);
    EXPECT_EQ(step(run, tokens.data(), 17, logits.data()).code(), Code::kContextFull) << backend.name;
    EXPECT_EQ(run.cache->length(), 0);
    std::atomic<bool> cancel{true};
    Batch batch;
    batch.sequences.push_back(sequence(run.cache.get(), tokens.data(), 5, 5));
    batch.logits = logits.data();
    batch.cancel = &cancel;
    EXPECT_EQ(run.plan->step(batch).code(), Code::kCancelled) << backend.name;
    EXPECT_EQ(run.cache->length(), 0);
    cancel = false;
    EXPECT_TRUE(run.plan->step(batch).ok());
    EXPECT_EQ(run.cache->length(), 5);
    batch.sequences.push_back(batch.sequences[0]);
    EXPECT_EQ(run.plan->step(batch).code(), Code::kArgument) << backend.name;
    EXPECT_EQ(run.cache->length(), 5);
  }
}

TEST(Step, AllocatesNothing) {
  const TestModel model({}, 17);
  const std::vector<int32_t> tokens = some_tokens(30, 70);
  for (const BackendCase& backend : all_backends()) {
    if (backend.name == "ref") continue;  // the oracle promises plainness, not this
    Running run = start(*backend.backend, model.pack(*backend.backend), 30, DType::kF16);
    std::vector<float> logits(64 * 70);
    Batch prompt, token;
    prompt.sequences.push_back(sequence(run.cache.get(), tokens.data(), 20, 1));
    token.sequences.push_back(sequence(run.cache.get(), tokens.data() + 20, 1, 1));
    prompt.logits = token.logits = logits.data();
    allocations = 0;
    counting = true;
    const bool ok = run.plan->step(prompt).ok() && run.plan->step(token).ok() && run.plan->step(token).ok();
    counting = false;
    EXPECT_TRUE(ok);
    EXPECT_EQ(allocations.load(), 0) << backend.name;
  }
}

TEST(Step, PlansOfOneBackendRunOnSeveralThreads) {
  const TestModel model({}, 18);
  const std::vector<int32_t> tokens = some_tokens(24, 70);
  for (const BackendCase& backend : default_backends(2)) {
    const std::shared_ptr<const Decoder> decoder = model.pack(*backend.backend);
    std::vector<float> expected(70);
    const auto generate = [&](float* out) {
      Running run = start(*backend.backend, decoder, 24, DType::kF16);
      std::vector<float> logits(70 * 8);
      for (int64_t at = 0; at < 24; at += at < 8 ? 8 : 1)
        EXPECT_TRUE(step(run, tokens.data() + at, at < 8 ? 8 : 1, logits.data()).ok());
      std::copy(logits.begin(), logits.begin() + 70, out);
    };
    generate(expected.data());
    std::vector<std::vector<float>> results(4, std::vector<float>(70));
    std::vector<std::thread> threads;
    for (auto& result : results) threads.emplace_back([&] { generate(result.data()); });
    for (std::thread& thread : threads) thread.join();
    for (const auto& result : results) EXPECT_EQ(result, expected) << backend.name;
  }
}

TEST(KvCache, SaysWhenItIsTooLarge) {
  const TestModel model({}, 19);
  for (const BackendCase& backend : default_backends(1)) {
    const Result<std::unique_ptr<KvCache>> cache =
        backend.backend->make_kv_cache(model.plain(), {int64_t{1} << 61, DType::kF16});
    EXPECT_EQ(cache.status().code(), Code::kNoMemory);
    EXPECT_EQ(backend.backend->make_kv_cache(model.plain(), {0, DType::kF16}).status().code(),
              Code::kArgument);
    EXPECT_EQ(backend.backend->make_kv_cache(model.plain(), {8, DType::kI8}).status().code(),
              Code::kUnsupported);
  }
}

TEST(Backend, RefusesAnInstructionSetTheMachineLacks) {
  const std::vector<std::string> here = cpu_isas();
  EXPECT_EQ(here.front(), "generic");
  CpuOptions options;
  options.threads = 1;
  options.isa = CpuIsa::kAvxVnni;
  const bool has = std::find(here.begin(), here.end(), "avxvnni") != here.end();
  EXPECT_EQ(make_cpu_backend(options).status().code(), has ? Code::kOk : Code::kUnsupported);
}

}  // namespace
}  // namespace nbl

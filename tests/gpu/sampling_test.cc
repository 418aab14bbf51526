// Drawing on the device against the host's Sampler: the same ids for the same logits, options, sequence and seed, up to
// the rounding of probabilities; and steps that run ahead against steps that do not.
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <thread>

#include "check.h"
#include "engine/sampler.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/sampling/draws.h"
#include "models.h"

namespace nbl::gpu_test {
namespace {

constexpr int64_t kCapacity = 4000;  // positions of a sequence

// One draw and what it refers to.
struct Case {
  SamplingOptions options;
  std::vector<int32_t> tokens, forbidden;
  std::vector<std::pair<int32_t, float>> bias;
  Draw draw;
  void connect() {
    draw.options = &options;
    draw.tokens = tokens.data();
    draw.token_count = static_cast<int64_t>(tokens.size());
    draw.bias = &bias;
    draw.forbidden = forbidden.data();
    draw.forbidden_count = static_cast<int64_t>(forbidden.size());
  }
};

class Random {
 public:
  explicit Random(uint32_t seed) : generator_(seed) {}
  int64_t below(int64_t n) { return static_cast<int64_t>(generator_() % static_cast<uint64_t>(n)); }
  bool one_in(int n) { return below(n) == 0; }
  double unit() { return std::uniform_real_distribution<double>(0, 1)(generator_); }
  float normal() { return std::normal_distribution<float>(0, 1)(generator_); }

 private:
  std::mt19937 generator_;
};

std::vector<float> make_logits(Random& random, int64_t vocab, int kind) {
  std::vector<float> logits(static_cast<size_t>(vocab));
  const float infinity = std::numeric_limits<float>::infinity();
  for (float& l : logits) {
    switch (kind) {
      case 0: l = 3 * random.normal(); break;
      case 1: l = std::round(4 * random.normal()) / 2; break;              // many equals
      case 2: l = 1.5f; break;                                             // all equal
      case 3: l = 1000 * random.normal(); break;
      case 4: l = random.one_in(3) ? -infinity : 2 * random.normal(); break;
      case 5: l = random.one_in(5) ? NAN : random.normal(); break;
      case 6: l = 1e-3f * random.normal(); break;
      case 7: l = random.one_in(50) ? 20 + random.normal() : -20 + random.normal(); break;
      case 8: l = random.one_in(100) ? infinity : random.normal(); break;
      default: l = random.one_in(2) ? -infinity : static_cast<float>(NAN); break;
    }
  }
  return logits;
}
constexpr int kLogitKinds = 10;

Case make_case(Random& random, int64_t vocab) {
  Case c;
  SamplingOptions& o = c.options;
  o.temperature = random.one_in(5) ? 0 : random.one_in(4) ? 1 : 0.05 + 2 * random.unit();
  if (random.one_in(2)) o.top_k = 1 + random.below(random.one_in(2) ? 50 : 2 * vocab);
  if (random.one_in(2)) o.top_p = random.one_in(6) ? 0 : random.unit();
  if (random.one_in(3)) o.min_p = random.one_in(6) ? 1 : 0.3 * random.unit();
  if (random.one_in(3)) o.typical_p = random.unit();
  if (random.one_in(3)) o.repetition_penalty = 0.7 + random.unit();
  if (random.one_in(4)) o.presence_penalty = 2 * random.unit() - 0.5;
  if (random.one_in(4)) o.frequency_penalty = random.unit() - 0.2;
  if (random.one_in(2)) o.penalty_window = random.below(300);
  o.seed = static_cast<uint64_t>(random.below(1 << 30)) << 20 | 7;
  const int64_t length = 1 + random.below(random.one_in(3) ? 3000 : 30), spread = random.one_in(2) ? vocab : 1 + vocab / 20;
  for (int64_t i = 0; i < length; ++i) c.tokens.push_back(static_cast<int32_t>(random.below(spread)));
  c.draw.answer_start = random.below(length + 1);
  c.draw.step = static_cast<uint64_t>(random.below(1000));
  if (random.one_in(3)) {
    for (int64_t n = 1 + random.below(3); n > 0; --n) c.forbidden.push_back(static_cast<int32_t>(random.below(vocab)));
    c.draw.forbidden_until = c.draw.step + static_cast<uint64_t>(random.below(3));
  }
  if (random.one_in(3)) {
    for (int64_t n = 1 + random.below(random.one_in(4) ? 900 : 5); n > 0; --n) {
      c.bias.emplace_back(static_cast<int32_t>(random.below(random.one_in(2) ? vocab : 20 < vocab ? 20 : vocab)), 5 * random.normal());
    }
  }
  return c;
}

// Ids that the host may draw when its thresholds are moved by no more than what float32 arithmetic may move them.
bool plausible(Sampler& sampler, const float* logits, const Case& c, int32_t id) {
  for (const double by : {0., 3e-6, -3e-6}) {
    for (int which = 0; which < 4; ++which) {
      Case moved = c;
      moved.connect();
      if (which == 0) moved.options.top_p = std::min(moved.options.top_p, 1 + by) * (moved.options.top_p < 1 ? 1 + by : 1);
      if (which == 1 && moved.options.typical_p < 1) moved.options.typical_p *= 1 + by;
      if (which == 2) moved.options.min_p *= 1 + by;
      if (which == 3) moved.options.temperature *= 1 + by;
      if (sampler.sample(logits, moved.draw) == id) return true;
    }
  }
  return false;
}

template <typename T>
struct OnDevice {
  T* data = nullptr;
  explicit OnDevice(int64_t count) {
    cudaMalloc(&data, static_cast<size_t>(count) * sizeof(T)), cudaMemset(data, 0, static_cast<size_t>(count) * sizeof(T));
  }
  ~OnDevice() { cudaFree(data); }
  void set(const T* from, int64_t count) { cudaMemcpy(data, from, static_cast<size_t>(count) * sizeof(T), cudaMemcpyHostToDevice); }
};

std::unique_ptr<cuda::CudaKvCache> history_cache(cudaStream_t stream) {
  auto memory = cuda::DeviceBuffer::allocate(0, cuda::CudaKvCache::bytes_for(DecoderConfig(), {kCapacity, DType::kF16}), "history", stream);
  return memory.ok() ? std::make_unique<cuda::CudaKvCache>(std::move(memory).value(), DecoderConfig(), KvOptions{kCapacity, DType::kF16})
                     : nullptr;
}

int shared_optin() {
  int bytes = 0;
  cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0);
  return bytes;
}

// `rounds` batches of `rows` draws, each followed by two more that the device does by itself.
void check_draws(int64_t vocab, int rows, int rounds, int optin, uint32_t seed) {
  Random random(seed);
  auto stream = cuda::Stream::create(0);
  OnDevice<unsigned char> scratch(cuda::Draws::scratch_bytes(rows, vocab, optin));
  auto made = cuda::Draws::create(scratch.data, rows, vocab, optin);
  CHECK_THAT(made.ok() && stream.ok(), "%s", made.status().message().c_str());
  if (!made.ok() || !stream.ok()) return;
  cuda::Draws& draws = **made;
  OnDevice<float> device_logits(rows * vocab);
  OnDevice<int32_t> tokens(rows), positions(rows);
  OnDevice<cuda::StepSequence> sequences(rows);
  std::vector<std::unique_ptr<cuda::CudaKvCache>> caches;
  for (int i = 0; i < rows; ++i) caches.push_back(history_cache(stream->get()));
  cuda::StepRows step;
  step.tokens = tokens.data, step.positions = positions.data, step.sequences = sequences.data;
  step.rows = step.sequence_count = rows;
  Sampler sampler(vocab);
  int64_t drawn = 0, unequal = 0, wrong = 0;
  for (int round = 0; round < rounds; ++round) {
    std::vector<Case> cases;
    std::vector<float> logits;
    Batch batch;
    for (int i = 0; i < rows; ++i) {
      cases.push_back(make_case(random, vocab));
      const std::vector<float> row = make_logits(random, vocab, random.one_in(2) ? 0 : static_cast<int>(random.below(kLogitKinds)));
      logits.insert(logits.end(), row.begin(), row.end());
    }
    for (int i = 0; i < rows; ++i) {
      cases[i].connect();
      caches[i]->truncate(0);
      BatchSequence sequence;
      sequence.cache = caches[i].get();
      sequence.draw = &cases[i].draw;
      if (!draws.can_draw(cases[i].draw)) sequence.draw = nullptr, sequence.logit_rows = 1;
      batch.sequences.push_back(sequence);
    }
    device_logits.set(logits.data(), rows * vocab);
    Status status = draws.upload(batch, stream->get());
    for (int n = 0; n < 3 && status.ok(); ++n) status = draws.launch(step, true, device_logits.data, stream->get());
    const bool ran = status.ok() && cudaStreamSynchronize(stream->get()) == cudaSuccess;
    CHECK_THAT(ran, "vocabulary %lld: %s %s", static_cast<long long>(vocab), status.message().c_str(),
               cudaGetErrorString(cudaGetLastError()));
    if (!ran) return;
    for (int n = 0; n < 3; ++n) {
      for (int i = 0; i < rows; ++i) {
        if (batch.sequences[i].draw == nullptr) continue;
        cases[i].connect();
        const int32_t found = draws.id(n, i), wanted = sampler.sample(&logits[i * vocab], cases[i].draw);
        ++drawn;
        if (found != wanted) {
          ++unequal;
          const bool near = found >= 0 && found < vocab && plausible(sampler, &logits[i * vocab], cases[i], found);
          wrong += !near;
          if (!near && wrong < 5) {
            const SamplingOptions& o = cases[i].options;
            std::printf(
                "  vocabulary %lld row %d draw %d: %d, not %d: t %g k %lld p %g min %g typical %g rep %g pres %g freq %g window %lld bias "
                "%zu forbidden %zu\n",
                static_cast<long long>(vocab), i, n, found, wanted, o.temperature, static_cast<long long>(o.top_k), o.top_p, o.min_p,
                o.typical_p, o.repetition_penalty, o.presence_penalty, o.frequency_penalty, static_cast<long long>(o.penalty_window),
                cases[i].bias.size(), cases[i].forbidden.size());
          }
        }
        cases[i].tokens.push_back(std::max(found, 0));  // what the kernel goes on with where none could be drawn
        ++cases[i].draw.step;
      }
    }
  }
  CHECK_THAT(wrong == 0, "vocabulary %lld: %lld of %lld draws are not the host's", static_cast<long long>(vocab),
             static_cast<long long>(wrong), static_cast<long long>(drawn));
  CHECK_THAT(unequal * 500 <= drawn, "vocabulary %lld: %lld of %lld draws differ", static_cast<long long>(vocab),
             static_cast<long long>(unequal), static_cast<long long>(drawn));
}

struct Machine {
  std::unique_ptr<Backend> backend;
  std::unique_ptr<TestModel> model;
};
Machine make_machine(const ModelOptions& options) {
  Machine machine;
  auto backend = make_cuda_backend({});
  CHECK_THAT(backend.ok(), "%s", backend.status().message().c_str());
  if (!backend.ok()) return machine;
  machine.backend = std::move(backend).value();
  auto model = TestModel::create(*machine.backend, options);
  CHECK_THAT(model.ok(), "%s", model.status().message().c_str());
  if (model.ok()) machine.model = std::move(model).value();
  return machine;
}

SamplingOptions some_options(int i) {
  SamplingOptions o;
  o.temperature = i % 4 == 0 ? 0 : 0.5 + 0.3 * (i % 4);
  o.top_k = i % 3 == 1 ? 20 : 0;
  o.top_p = i % 2 == 0 ? 0.9 : 1;
  o.repetition_penalty = i % 5 == 2 ? 1.3 : 1;
  o.frequency_penalty = i % 7 == 3 ? 0.5 : 0;
  o.seed = static_cast<uint64_t>(i) * 77 + 1;
  return o;
}

// The plain way: logits of each step to the host, and the Sampler.
std::vector<int32_t> draw_plainly(const Backend& backend, const TestModel& model, std::vector<int32_t> tokens,
                                  const SamplingOptions& options, int count) {
  const int64_t vocab = model.decoder()->config.vocab_size, prompt = static_cast<int64_t>(tokens.size());
  auto plan = backend.compile(model.decoder(), {64, 1, 1, 256});
  auto cache = backend.make_kv_cache(*model.decoder(), {256, DType::kF16});
  std::vector<int32_t> drawn;
  if (!plan.ok() || !cache.ok()) return drawn;
  Sampler sampler(vocab);
  std::vector<float> logits(static_cast<size_t>(vocab));
  Batch batch;
  batch.logits = logits.data();
  for (int i = 0; i < count; ++i) {
    batch.sequences = {{cache->get(), tokens.data() + (*cache)->length(), static_cast<int64_t>(tokens.size()) - (*cache)->length(), 1}};
    if (!(*plan)->step(batch).ok()) return drawn;
    Draw draw;
    draw.options = &options;
    draw.tokens = tokens.data();
    draw.token_count = static_cast<int64_t>(tokens.size());
    draw.answer_start = prompt;
    draw.step = static_cast<uint64_t>(i);
    drawn.push_back(sampler.sample(logits.data(), draw));
    tokens.push_back(drawn.back());
  }
  return drawn;
}

// Steps that follow each other, abandoned and begun anew on the way.
// followed: is counted up with each step that the host was not waited for.
std::vector<int32_t> draw_ahead(const Backend& backend, const TestModel& model, std::vector<int32_t> tokens, const SamplingOptions& options,
                                int count, int abandon_every, Status* status, int* followed) {
  const int64_t prompt = static_cast<int64_t>(tokens.size());
  PlanLimits limits{64, 1, 1, 256};
  limits.max_draws = 1;
  auto plan = backend.compile(model.decoder(), limits);
  auto cache = backend.make_kv_cache(*model.decoder(), {256, DType::kF16});
  std::vector<int32_t> drawn;
  if (!plan.ok() || !cache.ok()) {
    *status = plan.ok() ? cache.status() : plan.status();
    return drawn;
  }
  std::vector<float> logits(static_cast<size_t>(model.decoder()->config.vocab_size));
  int in_flight = 0;
  const auto step = [&]() -> Status {
    if (in_flight == 0) {
      Draw draw;
      draw.options = &options;
      draw.tokens = tokens.data();
      draw.token_count = static_cast<int64_t>(tokens.size());
      draw.answer_start = prompt;
      draw.step = static_cast<uint64_t>(drawn.size());
      Batch batch;
      batch.sequences = {{cache->get(), tokens.data() + (*cache)->length(), static_cast<int64_t>(tokens.size()) - (*cache)->length(), 0}};
      batch.sequences[0].draw = &draw;
      NBL_RETURN_IF_ERROR((*plan)->begin(batch));
      in_flight = 1;
    }
    while (in_flight < 3 && (*plan)->can_follow()) {
      NBL_RETURN_IF_ERROR((*plan)->follow());
      ++in_flight, ++*followed;
    }
    DrawnToken token;
    NBL_RETURN_IF_ERROR((*plan)->finish(&token));
    --in_flight;
    drawn.push_back(token.id);
    tokens.push_back(token.id);
    if ((*cache)->length() + 1 != static_cast<int64_t>(tokens.size()))
      return error(Code::kInternal, "the cache has %lld positions", static_cast<long long>((*cache)->length()));
    if (abandon_every > 0 && static_cast<int>(drawn.size()) % abandon_every == 0 && drawn.size() > 1) {
      // The last token's logits once more, the plain way, with steps in flight. Not of the prompt's last token: the kernels for
      // many rows round otherwise than those for one, and a draw may hang by that.
      (*plan)->abandon();
      in_flight = 0;
      (*cache)->truncate((*cache)->length() - 1);
      Batch batch;
      batch.logits = logits.data();
      batch.sequences = {{cache->get(), &tokens[tokens.size() - 2], 1, 1}};
      NBL_RETURN_IF_ERROR((*plan)->step(batch));
    }
    return {};
  };
  for (int i = 0; i < count && status->ok(); ++i) *status = step();
  return drawn;
}

}  // namespace

GPU_TEST(DrawsAreTheSamplersOnes) {
  check_draws(1, 3, 3, shared_optin(), 1);
  check_draws(7, 8, 60, shared_optin(), 2);
  check_draws(333, 16, 60, shared_optin(), 3);
  check_draws(5000, 16, 20, shared_optin(), 4);
  check_draws(32000, 8, 12, shared_optin(), 5);
  check_draws(151936, 6, 8, shared_optin(), 6);
  check_draws(151936, 3, 3, 60000, 7);   // slices that do not fit: a copy in device memory
  check_draws(400000, 2, 2, shared_optin(), 8);
}

namespace {

// Of a model, draws from several prompts: ahead of the host they are as one by one.
void check_running_ahead(const ModelOptions& options, int cases, const char* what) {
  const Machine machine = make_machine(options);
  if (!machine.model) return;
  for (int i = 0; i < cases; ++i) {
    const std::vector<int32_t> prompt(static_cast<size_t>(1 + 7 * (i % 3)), 5 + i);
    const std::vector<int32_t> wanted = draw_plainly(*machine.backend, *machine.model, prompt, some_options(i), 60);
    for (int abandon_every : {0, 7, 1}) {
      Status status;
      int followed = 0;
      const std::vector<int32_t> found =
          draw_ahead(*machine.backend, *machine.model, prompt, some_options(i), 60, abandon_every, &status, &followed);
      CHECK_THAT(status.ok(), "%s: %s", what, status.message().c_str());
      size_t same = 0;
      while (same < found.size() && same < wanted.size() && found[same] == wanted[same]) ++same;
      CHECK_THAT(found == wanted && wanted.size() == 60, "%s: options %d, abandoned every %d: %zu of %zu tokens are the same", what, i,
                 abandon_every, same, wanted.size());
      if (abandon_every != 0) continue;
      // Beyond 8 positions the frequencies of dynamic scaling are others with each token.
      const int64_t positions = static_cast<int64_t>(prompt.size());
      const bool runs = options.rope != testing::TestRope::kDynamic || positions < 8;
      CHECK_THAT(runs ? followed > 0 : followed == 0, "%s: %d steps followed behind %lld", what, followed, static_cast<long long>(positions));
      if (options.rope != testing::TestRope::kDynamic) CHECK_THAT(followed > 50, "%s: only %d steps followed", what, followed);
    }
  }
}

}  // namespace

// Through the launches, and with heads of 64 through the resident kernel.
GPU_TEST(StepsRunAheadAsTheyWalk) {
  for (int64_t head_dim : {32, 64}) {
    ModelOptions options;
    options.vocab = 997;
    options.layers = 3;
    options.head_dim = head_dim;
    check_running_ahead(options, 12, "plain");
    options.rope = testing::TestRope::kDynamic;
    check_running_ahead(options, 3, "dynamic rope");
    options.rope = testing::TestRope::kLong;
    check_running_ahead(options, 3, "longrope");
  }
}

// A token that turns all that follows it into NaN: the step behind it says so, by launches and by the resident kernel, while
// further steps are under way; and cache and device go on.
GPU_TEST(LogitsThatAreNotFiniteAreTold) {
  for (int64_t head_dim : {32, 64}) {
    ModelOptions options;
    options.head_dim = head_dim;
    const Machine machine = make_machine(options);
    if (!machine.model) return;
    PlanLimits limits{64, 1, 1, 64};
    limits.max_draws = 1;
    const std::vector<int32_t> prompt = {5, 9, 17, 33};
    for (int i = 0; i < 8; ++i) {
      const SamplingOptions sampling = some_options(i);
      // Draws behind `tokens`; `follow` more steps are begun before it is waited for.
      const auto draw = [&](Plan& plan, KvCache& cache, const std::vector<int32_t>& tokens, int follow, int32_t* id) -> Status {
        Draw draw;
        draw.options = &sampling;
        draw.tokens = tokens.data();
        draw.token_count = static_cast<int64_t>(tokens.size());
        draw.answer_start = static_cast<int64_t>(prompt.size());
        draw.step = static_cast<uint64_t>(tokens.size() - prompt.size());
        Batch batch;
        batch.sequences = {{&cache, tokens.data() + cache.length(), draw.token_count - cache.length(), 0}};
        batch.sequences[0].draw = &draw;
        NBL_RETURN_IF_ERROR(plan.begin(batch));
        for (int n = 0; n < follow; ++n) NBL_RETURN_IF_ERROR(plan.follow());
        DrawnToken drawn;
        NBL_RETURN_IF_ERROR(plan.finish(&drawn));
        *id = drawn.id;
        for (int n = 0; n < follow; ++n) NBL_RETURN_IF_ERROR(plan.finish(&drawn));  // behind what broke anything may come
        cache.truncate(static_cast<int64_t>(tokens.size()));
        return {};
      };
      auto cache = machine.backend->make_kv_cache(*machine.model->decoder(), {64, DType::kF16});
      auto healthy = machine.backend->compile(machine.model->decoder(), limits);
      CHECK_THAT(cache.ok() && healthy.ok(), "%s%s", cache.status().message().c_str(), healthy.status().message().c_str());
      if (!cache.ok() || !healthy.ok()) return;
      int32_t first = -9, other = -9;
      Status status = draw(**healthy, **cache, prompt, 0, &first);
      std::vector<int32_t> with_other = prompt, with_first = prompt;
      with_first.push_back(first);
      with_other.push_back(first == 2 ? 3 : 2);
      (*cache)->truncate(static_cast<int64_t>(prompt.size()));
      if (status.ok()) status = draw(**healthy, **cache, with_other, 2, &other);
      CHECK_THAT(status.ok() && first >= 0 && other >= 0, "options %d: %d, %d %s", i, first, other, status.message().c_str());
      if (!status.ok()) return;
      if (std::count(with_other.begin(), with_other.end(), first) > 0) continue;  // that would break itself

      auto decoder = std::make_shared<Decoder>(*machine.model->decoder());
      const auto* table = static_cast<const uint16_t*>(decoder->embedding.data);
      std::vector<uint16_t> rows(table, table + options.vocab * options.hidden);
      std::fill_n(rows.begin() + first * options.hidden, options.hidden, uint16_t{0x7e00});
      decoder->embedding = {rows.data(), DType::kF16, nullptr};
      auto plan = machine.backend->compile(decoder, limits);
      CHECK_THAT(plan.ok(), "%s", plan.status().message().c_str());
      if (!plan.ok()) return;
      (*cache)->truncate(0);
      int32_t before = -9, broken = -9, after = -9;
      status = draw(**plan, **cache, prompt, 0, &before);
      if (status.ok()) status = draw(**plan, **cache, with_first, 2, &broken);
      CHECK_THAT(status.ok() && before == first && broken == kLogitsNotFinite, "options %d: %d, then %d %s", i, before, broken,
                 status.message().c_str());
      (*cache)->truncate(static_cast<int64_t>(prompt.size()));
      if (status.ok()) status = draw(**plan, **cache, with_other, 2, &after);
      CHECK_THAT(status.ok() && after == other, "options %d: %d, not %d, in the place of what broke %s", i, after, other,
                 status.message().c_str());
    }
  }
}

GPU_TEST(ABatchDrawsForSomeAndGivesLogitsToOthers) {
  ModelOptions options;
  options.vocab = 640;
  const Machine machine = make_machine(options);
  if (!machine.model) return;
  PlanLimits limits{64, 9, 9, 64};
  limits.max_draws = 9;
  auto plan = machine.backend->compile(machine.model->decoder(), limits);
  CHECK_THAT(plan.ok(), "%s", plan.status().message().c_str());
  if (!plan.ok()) return;
  std::vector<std::unique_ptr<KvCache>> caches;
  std::vector<std::vector<int32_t>> tokens(9);
  Sampler sampler(options.vocab);
  std::vector<SamplingOptions> sampling;
  for (int i = 0; i < 9; ++i) {
    auto cache = machine.backend->make_kv_cache(*machine.model->decoder(), {64, DType::kF16});
    CHECK_THAT(cache.ok(), "%s", cache.status().message().c_str());
    if (!cache.ok()) return;
    caches.push_back(std::move(cache).value());
    tokens[i].assign(1 + i % 3, 9 * i);
    sampling.push_back(some_options(i));
  }
  for (int round = 0; round < 8; ++round) {
    Batch drawing, plain;
    std::vector<Draw> draws(9);
    std::vector<DrawnToken> drawn(9);
    std::vector<float> some(static_cast<size_t>(9 * options.vocab)), all(some);
    for (int i = 0; i < 9; ++i) {
      const int64_t length = caches[i]->length();
      draws[i].options = &sampling[i];
      draws[i].tokens = tokens[i].data();
      draws[i].token_count = static_cast<int64_t>(tokens[i].size());
      draws[i].step = static_cast<uint64_t>(round);
      plain.sequences.push_back({caches[i].get(), tokens[i].data() + length, draws[i].token_count - length, 1});
      drawing.sequences.push_back(plain.sequences.back());
      if (i % 3 != round % 3) drawing.sequences[i].logit_rows = 0, drawing.sequences[i].draw = &draws[i];
    }
    drawing.logits = some.data();
    drawing.drawn = drawn.data();
    plain.logits = all.data();
    Status status = (*plan)->step(drawing);
    CHECK_THAT(status.ok(), "%s", status.message().c_str());
    for (int i = 0; i < 9; ++i) caches[i]->truncate(caches[i]->length() - plain.sequences[i].token_count);
    if (status.ok()) status = (*plan)->step(plain);
    CHECK_THAT(status.ok(), "%s", status.message().c_str());
    if (!status.ok()) return;
    const float* row = some.data();
    for (int i = 0; i < 9; ++i) {
      const int32_t wanted = sampler.sample(&all[i * options.vocab], draws[i]);
      if (drawing.sequences[i].draw != nullptr) {
        CHECK_THAT(drawn[i].id == wanted, "round %d, sequence %d: %d, not %d", round, i, drawn[i].id, wanted);
      } else {
        CHECK_THAT(std::memcmp(row, &all[i * options.vocab], static_cast<size_t>(options.vocab) * 4) == 0,
                   "round %d, sequence %d: other logits", round, i);
        row += options.vocab;
      }
      tokens[i].push_back(wanted);
    }
  }
}

// Sessions of one model on one GPU at the same time, each with a thread: the same bits as alone.
GPU_TEST(ConcurrentPlansGiveTheSameBits) {
  ModelOptions options;
  options.vocab = 997;
  options.layers = 4;
  options.hidden = 256;
  options.format = formats()[0];
  const Machine machine = make_machine(options);
  if (!machine.model) return;
  const auto logits_of = [&](int which, std::vector<float>* out) -> Status {
    NBL_ASSIGN_OR_RETURN(std::unique_ptr<Plan> plan, machine.backend->compile(machine.model->decoder(), {128, 1, 1, 256}));
    NBL_ASSIGN_OR_RETURN(std::unique_ptr<KvCache> cache, machine.backend->make_kv_cache(*machine.model->decoder(), {256, DType::kF16}));
    std::vector<int32_t> tokens(140);
    for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>((i * 31 + static_cast<size_t>(which) * 17) % 997);
    Batch batch;
    for (int64_t at = 0; at < 140;) {
      const int64_t count = at == 0 ? 100 : 1;
      out->resize(out->size() + static_cast<size_t>(options.vocab));
      batch.logits = out->data() + out->size() - options.vocab;
      batch.sequences = {{cache.get(), tokens.data() + at, count, 1}};
      NBL_RETURN_IF_ERROR(plan->step(batch));
      at += count;
    }
    return {};
  };
  std::vector<std::vector<float>> alone(4), together(4);
  std::vector<Status> status(4);
  for (int i = 0; i < 4; ++i) status[i] = logits_of(i, &alone[i]);
  for (int i = 0; i < 4; ++i) CHECK_THAT(status[i].ok(), "alone: %s", status[i].message().c_str());
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) threads.emplace_back([&, i] { status[i] = logits_of(i, &together[i]); });
  for (std::thread& thread : threads) thread.join();
  for (int i = 0; i < 4; ++i) {
    CHECK_THAT(status[i].ok(), "together: %s", status[i].message().c_str());
    CHECK_THAT(alone[i].size() == together[i].size() && std::memcmp(alone[i].data(), together[i].data(), alone[i].size() * 4) == 0,
               "sequence %d: other bits than alone", i);
  }
}

// A cancel in the middle of a prompt: the host is never far ahead of the device, so few blocks are launched after it.
GPU_TEST(ACancelStopsAPromptBetweenBlocks) {
  ModelOptions options;
  options.layers = 12;
  options.hidden = 512;
  options.inner = 1024;
  options.heads = 8;
  options.kv_heads = 8;
  options.head_dim = 64;
  const Machine machine = make_machine(options);
  if (!machine.model) return;
  constexpr int64_t kPrompt = 4096;
  auto plan = machine.backend->compile(machine.model->decoder(), {kPrompt, 1, 1, kPrompt});
  auto cache = machine.backend->make_kv_cache(*machine.model->decoder(), {kPrompt, DType::kF16});
  CHECK_THAT(plan.ok() && cache.ok(), "%s", plan.status().message().c_str());
  if (!plan.ok() || !cache.ok()) return;
  const std::vector<int32_t> tokens(kPrompt, 3);
  std::vector<float> logits(static_cast<size_t>(options.vocab));
  std::atomic<bool> cancel{false};
  Batch batch;
  batch.logits = logits.data();
  batch.cancel = &cancel;
  batch.sequences = {{cache->get(), tokens.data(), kPrompt, 1}};
  int64_t before = cuda::calls();
  CHECK_THAT((*plan)->step(batch).ok(), "a whole prompt");
  const int64_t whole = cuda::calls() - before, block = whole / options.layers;
  (*cache)->truncate(0);
  before = cuda::calls();
  int64_t seen = 0;
  std::thread canceller([&] {
    while (cuda::calls() - before < 5 * block) std::this_thread::yield();
    cancel = true;
    seen = cuda::calls() - before;
  });
  const Status status = (*plan)->step(batch);
  canceller.join();
  const int64_t made = cuda::calls() - before;
  CHECK_THAT(status.code() == Code::kCancelled && (*cache)->length() == 0, "%s", status.message().c_str());
  CHECK_THAT(made <= seen + 2 * block, "%lld calls at the cancel, %lld in the end, %lld a block", static_cast<long long>(seen),
             static_cast<long long>(made), static_cast<long long>(block));
  cancel = false;
  CHECK_THAT((*plan)->step(batch).ok(), "after the cancel");
}

}  // namespace nbl::gpu_test

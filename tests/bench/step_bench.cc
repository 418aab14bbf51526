// Whole steps of well-known shapes with random 4-bit weights, beside the memory's read bandwidth in the same
// run.
//
//   step_bench [qwen2.5-0.5b|tinyllama|smollm2-135m] [threads] [isa] [decode tokens] [prompt tokens]
//
// Prints tokens/s of decoding and of a prompt, the bytes read for a token and the share of the bandwidth
// probed. The best of five rounds counts, because the machines it runs on are shared.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "kernels/backend.h"
#include "tests/support/decoder_parts.h"

namespace {

using namespace nbl;

struct Shape : testing::DecoderShape {
  const char* name;
  int64_t group;
};
constexpr Shape kShapes[] = {
    {{896, 4864, 24, 14, 2, 64, 151936}, "qwen2.5-0.5b", 128},
    {{2048, 5632, 22, 32, 4, 64, 32000}, "tinyllama", 128},
    {{576, 1536, 30, 9, 3, 64, 49152}, "smollm2-135m", 64},
};

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// GB/s of reading a buffer far larger than the caches, each thread its part.
double read_bandwidth(int threads) {
  static std::vector<uint64_t> buffer((size_t{1} << 30) / 8, 1);
  std::vector<uint64_t> sums(static_cast<size_t>(threads) * 8);
  double best = 0;
  for (int round = 0; round < 3; ++round) {
    const double start = now();
    std::vector<std::thread> workers;
    for (int t = 0; t < threads; ++t)
      workers.emplace_back([&, t] {
        const size_t count = buffer.size() / static_cast<size_t>(threads) / 32 * 32;
        const uint64_t* at = buffer.data() + count * static_cast<size_t>(t);
        uint64_t s[32] = {};  // enough independent sums for the widest vectors
        for (size_t i = 0; i < count; i += 32)
          for (size_t j = 0; j < 32; ++j) s[j] += at[i + j];
        for (uint64_t v : s) sums[static_cast<size_t>(t) * 8] += v;
      });
    for (std::thread& w : workers) w.join();
    best = std::max(best, static_cast<double>(buffer.size() * 8) / (now() - start));
  }
  return best / 1e9;
}

uint64_t next(uint64_t* state) {
  *state ^= *state << 13;
  *state ^= *state >> 7;
  *state ^= *state << 17;
  return *state;
}

QuantWeight int4(int64_t n, int64_t k, int64_t group) {
  QuantWeight w;
  w.format = WeightFormat::kIntGroup;
  w.out_features = n;
  w.in_features = k;
  w.bits = 4;
  w.group_size = group;
  w.value_type = w.scale_type = DType::kF16;
  w.source = "random";
  uint64_t state = 88172645463325252u;
  w.codes.resize(static_cast<size_t>(n * k));
  for (uint8_t& c : w.codes) c = next(&state) >> 40 & 15;
  w.scales.assign(static_cast<size_t>(n * w.groups()),
                  round_to(DType::kF16, 0.2f / std::sqrt(static_cast<float>(k))));
  w.zeros.assign(static_cast<size_t>(n * w.groups()), 8);
  return w;
}

QuantWeight f16(int64_t n, int64_t k) {
  QuantWeight w;
  w.out_features = n;
  w.in_features = k;
  w.value_type = DType::kF16;
  w.source = "random";
  w.dense_owned.resize(static_cast<size_t>(2 * n * k));
  uint64_t state = 88172645463325252u;
  for (int64_t i = 0; i < n * k; ++i) {
    const uint64_t bits = next(&state);
    float v = 0;  // four uniform numbers are nearly normal, as real heads are
    for (int j = 0; j < 4; ++j) v += static_cast<float>(bits >> (16 * j) & 0xffff) / 65536 - 0.5f;
    const uint16_t half = float_to_f16(v * 0.03f);
    std::memcpy(&w.dense_owned[static_cast<size_t>(2 * i)], &half, 2);
  }
  w.dense = w.dense_owned.data();
  return w;
}

struct Built {
  std::shared_ptr<Decoder> decoder;
  QuantWeight head;
  int64_t bytes = 0;
};

Built build(const Shape& s, const Backend& backend) {
  Built built;
  built.decoder = testing::decoder_of_shape(s, 10000);
  Decoder& d = *built.decoder;
  const auto linear = [&](std::vector<const QuantWeight*> parts, WeightRole role) {
    Result<Linear> packed = testing::pack_linear(backend, parts, role);
    if (!packed.ok()) {
      std::fprintf(stderr, "%s\n", packed.status().message().c_str());
      std::exit(1);
    }
    built.bytes += packed->weight->bytes();
    return std::move(packed).value();
  };
  Norm norm;
  norm.weight.assign(static_cast<size_t>(s.hidden), 1.0f);
  norm.epsilon = 1e-6f;
  const QuantWeight q = int4(s.heads * s.head_dim, s.hidden, s.group),
                    kv = int4(s.kv_heads * s.head_dim, s.hidden, s.group);
  const QuantWeight o = int4(s.hidden, s.heads * s.head_dim, s.group),
                    gate = int4(s.intermediate, s.hidden, s.group);
  const QuantWeight down = int4(s.hidden, s.intermediate, s.group);
  for (int64_t i = 0; i < s.layers; ++i) {
    Block b;
    b.input_norm = b.post_attention_norm = norm;
    b.attention.qkv = {linear({&q, &kv, &kv}, WeightRole::kQkv)};
    b.attention.output = linear({&o}, WeightRole::kAttentionOutput);
    b.attention.scale = 1 / std::sqrt(static_cast<float>(s.head_dim));
    b.mlp.gate_up = {linear({&gate, &gate}, WeightRole::kGateUp)};
    b.mlp.down = linear({&down}, WeightRole::kDown);
    d.blocks.push_back(std::move(b));
  }
  d.final_norm = norm;
  built.head = f16(s.vocab, s.hidden);
  d.embedding = {built.head.dense, DType::kF16};
  // Sampling looks at the largest logits only (exact_top below), for which the backend reads the upper half
  // of the head.
  const int64_t body = built.bytes;
  d.head = linear({&built.head}, WeightRole::kHead);
  built.bytes = body + d.head.weight->bytes() / 2;
  return built;
}

struct Timing {
  double decode = 0, prompt = 0;
};

Timing measure(const Backend& backend, const Built& built, int64_t decode, int64_t prompt) {
  const int64_t context = std::max(decode + 64, prompt);
  PlanLimits limits;
  limits.max_tokens = std::max<int64_t>(prompt, 64);
  limits.max_context = context;
  std::unique_ptr<Plan> plan = std::move(backend.compile(built.decoder, limits)).value();
  std::unique_ptr<KvCache> cache =
      std::move(backend.make_kv_cache(*built.decoder, {context, DType::kF16})).value();
  std::vector<float> logits(static_cast<size_t>(built.decoder->config.vocab_size));
  std::vector<int32_t> tokens;
  uint64_t state = 7;
  for (int64_t i = 0; i < context; ++i)
    tokens.push_back(static_cast<int32_t>(next(&state) % static_cast<uint64_t>(logits.size())));
  const auto step = [&](const int32_t* ids, int64_t count) {
    Batch batch;
    BatchSequence s;
    s.cache = cache.get();
    s.tokens = ids;
    s.token_count = count;
    s.logit_rows = 1;
    s.exact_top = 40;
    batch.sequences.push_back(s);
    batch.logits = logits.data();
    const double start = now();
    if (!plan->step(batch).ok()) std::exit(1);
    return now() - start;
  };
  Timing timing;
  if (prompt > 0) timing.prompt = static_cast<double>(prompt) / step(tokens.data(), prompt);
  cache->truncate(0);
  step(tokens.data(), 64);
  double total = 0;
  for (int64_t i = 0; i < decode; ++i) total += step(&tokens[static_cast<size_t>(64 + i)], 1);
  timing.decode = static_cast<double>(decode) / total;
  return timing;
}

CpuIsa isa_named(const std::string& name) {
  const char* const names[] = {"auto", "generic", "avx2", "avxvnni", "avx512vnni"};
  for (int i = 0; i < 5; ++i)
    if (name == names[i]) return static_cast<CpuIsa>(i);
  std::fprintf(stderr, "unknown isa %s\n", name.c_str());
  std::exit(2);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string wanted = argc > 1 ? argv[1] : kShapes[0].name;
  CpuOptions options;
  options.threads = argc > 2 ? std::atoi(argv[2]) : 1;
  options.isa = isa_named(argc > 3 ? argv[3] : "auto");
  const int64_t decode = argc > 4 ? std::atoi(argv[4]) : 64, prompt = argc > 5 ? std::atoi(argv[5]) : 512;
  for (const Shape& shape : kShapes) {
    if (wanted != shape.name) continue;
    Result<std::unique_ptr<Backend>> backend = make_cpu_backend(options);
    if (!backend.ok()) {
      std::fprintf(stderr, "%s\n", backend.status().message().c_str());
      return 1;
    }
    const Built built = build(shape, **backend);
    Timing best;
    double bandwidth = 0;
    for (int round = 0; round < 5; ++round) {
      bandwidth = std::max(bandwidth, read_bandwidth(options.threads));
      const Timing t = measure(**backend, built, decode, prompt);
      best.decode = std::max(best.decode, t.decode);
      best.prompt = std::max(best.prompt, t.prompt);
    }
    const double read = best.decode * static_cast<double>(built.bytes) / 1e9;
    std::printf(
        "%s, %s: decode %.1f t/s, %.1f MB a token, %.1f GB/s of %.1f probed (%.0f %%); prompt of %lld: %.0f "
        "t/s\n",
        shape.name, (*backend)->description().c_str(), best.decode, static_cast<double>(built.bytes) / 1e6,
        read, bandwidth, 100 * read / bandwidth, static_cast<long long>(prompt), best.prompt);
    return 0;
  }
  std::fprintf(stderr, "unknown shape %s\n", wanted.c_str());
  return 2;
}

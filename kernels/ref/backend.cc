// The reference backend's packing, cache and steps.
#include <algorithm>
#include <cstring>

#include "kernels/ref/ref.h"
#include "kernels/rope.h"

namespace nbl {
namespace ref {

Cache::Cache(const DecoderConfig& config, int64_t capacity)
    : width_(config.num_key_value_heads * config.head_dim), capacity_(capacity),
      keys_(config.num_hidden_layers, std::vector<double>(capacity * width_)), values_(keys_) {}

int64_t Cache::bytes() const { return 2 * static_cast<int64_t>(keys_.size()) * capacity_ * width_ * static_cast<int64_t>(sizeof(double)); }

namespace {

double embedding_value(const Embedding& embedding, int64_t at) {
  const uint8_t* data = static_cast<const uint8_t*>(embedding.data);
  if (embedding.type == DType::kF32) {
    float value;
    std::memcpy(&value, data + 4 * at, 4);
    return value;
  }
  uint16_t half;
  std::memcpy(&half, data + 2 * at, 2);
  return embedding.type == DType::kF16 ? f16_to_float(half) : bf16_to_float(half);
}

class RefPlan : public Plan {
 public:
  RefPlan(std::shared_ptr<const Decoder> decoder, const PlanLimits& limits) : decoder_(std::move(decoder)), limits_(limits) {}

  Status step(const Batch& batch) override {
    int64_t tokens = 0, rows = 0;
    for (const BatchSequence& sequence : batch.sequences) {
      tokens += sequence.token_count;
      rows += sequence.logit_rows;
      if (sequence.cache->length() + sequence.token_count > sequence.cache->capacity()) {
        return error(Code::kContextFull, "the sequence's cache holds %lld positions", static_cast<long long>(sequence.cache->capacity()));
      }
    }
    if (tokens > limits_.max_tokens || rows > limits_.max_logit_rows ||
        static_cast<int64_t>(batch.sequences.size()) > limits_.max_sequences) {
      return error(Code::kArgument, "the step has %lld tokens and %lld rows of logits, more than the plan was made for",
                   static_cast<long long>(tokens), static_cast<long long>(rows));
    }
    float* logits = batch.logits;
    for (const BatchSequence& sequence : batch.sequences) NBL_RETURN_IF_ERROR(run_sequence(batch, sequence, logits));
    // All have run: only now do the caches grow.
    for (const BatchSequence& sequence : batch.sequences) {
      auto& cache = static_cast<Cache&>(*sequence.cache);
      cache.set_length(cache.length() + sequence.token_count);
    }
    return {};
  }
  int64_t scratch_bytes() const override { return 0; }
  int64_t outliers() const override { return outliers_; }

 private:
  Status run_sequence(const Batch& batch, const BatchSequence& sequence, float*& logits) {
    const DecoderConfig& c = decoder_->config;
    auto& cache = static_cast<Cache&>(*sequence.cache);
    const int64_t start = cache.length(), end = start + sequence.token_count;
    const int64_t half = decoder_->rope.rotary_dim / 2;
    std::vector<float> frequencies(half), cosine(half), sine(half);
    rope_inv_freq(decoder_->rope, std::max(end, sequence.call_length), frequencies.data());
    for (int64_t i = 0; i < sequence.token_count; ++i) {
      rope_tables(decoder_->rope, frequencies.data(), start + i, cosine.data(), sine.data());
      const Row turn_cosine(cosine.begin(), cosine.end()), turn_sine(sine.begin(), sine.end());
      Row h(c.hidden_size);
      for (int64_t k = 0; k < c.hidden_size; ++k) h[k] = embedding_value(decoder_->embedding, sequence.tokens[i] * c.hidden_size + k);
      for (int64_t layer = 0; layer < c.num_hidden_layers; ++layer) {
        if (batch.cancel && batch.cancel->load(std::memory_order_relaxed)) return Status(Code::kCancelled, "cancelled");
        run_block(*decoder_, layer, cache, start + i, turn_cosine, turn_sine, h, outliers_);
      }
      if (sequence.token_count - i > sequence.logit_rows) continue;
      normalize(decoder_->final_norm, h.data(), c.hidden_size);
      const Row out = multiply(decoder_->head, h, outliers_);
      for (int64_t v = 0; v < c.vocab_size; ++v) *logits++ = static_cast<float>(out[v]);
    }
    return {};
  }

  std::shared_ptr<const Decoder> decoder_;
  PlanLimits limits_;
  int64_t outliers_ = 0;
};

class RefBackend : public Backend {
 public:
  std::string name() const override { return "ref"; }
  std::string description() const override { return "reference, float64, one thread"; }
  bool can_fuse(const std::vector<WeightSpec>&) const override { return true; }

  Result<std::shared_ptr<const PackedWeight>> pack(const std::vector<const QuantWeight*>& parts, WeightRole) const override {
    WeightSpec spec = *parts[0];
    spec.out_features = 0;
    std::vector<float> values;
    for (const QuantWeight* part : parts) {
      const int64_t first = static_cast<int64_t>(values.size()), k = part->in_features;
      spec.out_features += part->out_features;
      values.resize(first + part->out_features * k);
      for (int64_t n = 0; n < part->out_features; ++n) {
        for (int64_t p = 0; p < k; ++p) {
          const int64_t column = part->k_order.empty() ? p : part->k_order[p];
          values[first + n * k + column] = weight_value(*part, n, p);
        }
      }
    }
    return std::shared_ptr<const PackedWeight>(std::make_shared<Weight>(std::move(spec), std::move(values)));
  }

  int64_t packed_bytes(const std::vector<WeightSpec>& parts, WeightRole) const override {
    int64_t bytes = 0;
    for (const WeightSpec& part : parts) bytes += part.out_features * part.in_features * static_cast<int64_t>(sizeof(float));
    return bytes;
  }

  Result<std::unique_ptr<Plan>> compile(std::shared_ptr<const Decoder> decoder, const PlanLimits& limits) const override {
    return std::unique_ptr<Plan>(new RefPlan(std::move(decoder), limits));
  }

  Result<std::unique_ptr<KvCache>> make_kv_cache(const Decoder& decoder, const KvOptions& options) const override {
    if (options.type != DType::kF16 && options.type != DType::kF32) {
      return error(Code::kUnsupported, "the reference backend keeps keys and values as they are computed, for F16 or F32, not as %s",
                   dtype_name(options.type));
    }
    return std::unique_ptr<KvCache>(new Cache(decoder.config, options.capacity));
  }

  int64_t kv_bytes(const DecoderConfig& c, const KvOptions& options) const override {
    return 2 * c.num_hidden_layers * options.capacity * c.num_key_value_heads * c.head_dim * static_cast<int64_t>(sizeof(double));
  }
  int64_t plan_bytes(const DecoderConfig&, const std::vector<MatrixSpecs>&, const PlanLimits&) const override { return 0; }

  Status matmul(const PackedWeight& weight, const float* x, int64_t m, float* y) const override {
    const float* w = static_cast<const Weight&>(weight).values();
    const int64_t n_count = weight.spec().out_features, k_count = weight.spec().in_features;
    for (int64_t row = 0; row < m; ++row) {
      for (int64_t n = 0; n < n_count; ++n) {
        double sum = 0;
        for (int64_t k = 0; k < k_count; ++k) sum += static_cast<double>(w[n * k_count + k]) * x[row * k_count + k];
        y[row * n_count + n] = static_cast<float>(sum);
      }
    }
    return {};
  }
};

}  // namespace
}  // namespace ref

std::unique_ptr<Backend> make_ref_backend() { return std::make_unique<ref::RefBackend>(); }

}  // namespace nbl

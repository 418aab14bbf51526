#include "model/synthesize.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "model/build.h"
#include "model/config.h"
#include "quant/codebooks.h"
#include "quant/formats.h"

namespace nbl {
namespace {

struct Shape {
  const char* name;
  int64_t hidden, intermediate, layers, heads, kv_heads, head_dim, vocabulary;
  bool tied, qkv_bias;
  double theta;
};

// From the publishers' config.json files.
constexpr Shape kShapes[] = {
    {"smollm2-135m", 576, 1536, 30, 9, 3, 64, 49152, true, false, 1e5},
    {"qwen2.5-0.5b", 896, 4864, 24, 14, 2, 64, 151936, true, true, 1e6},
    {"qwen2.5-1.5b", 1536, 8960, 28, 12, 2, 128, 151936, true, true, 1e6},
    {"qwen2.5-3b", 2048, 11008, 36, 16, 2, 128, 151936, true, true, 1e6},
    {"tinyllama-1.1b", 2048, 5632, 22, 32, 4, 64, 32000, false, false, 1e4},
    {"mistral-7b", 4096, 14336, 32, 32, 8, 128, 32000, false, false, 1e4},
    {"llama-3-8b", 4096, 14336, 32, 32, 8, 128, 128256, false, false, 5e5},
};

struct FormatName {
  const char* name;
  WeightFormat format;
  int bits;
  int64_t group_size;  // 0: the whole row
  bool symmetric, permuted;
};

constexpr FormatName kFormatNames[] = {
    {"awq-g128", WeightFormat::kIntGroup, 4, 128, false, false},  {"awq-g64", WeightFormat::kIntGroup, 4, 64, false, false},
    {"awq-g32", WeightFormat::kIntGroup, 4, 32, false, false},    {"gptq-g128", WeightFormat::kIntGroup, 4, 128, true, false},
    {"gptq-g128-actorder", WeightFormat::kIntGroup, 4, 128, true, true}, {"gptq2-g128", WeightFormat::kIntGroup, 2, 128, true, false},
    {"gptq3-g128", WeightFormat::kIntGroup, 3, 128, true, false}, {"gptq8-g128", WeightFormat::kIntGroup, 8, 128, true, false},
    {"int8", WeightFormat::kIntGroup, 8, 0, true, false},         {"nf4", WeightFormat::kCodebook, 4, 64, false, false},
    {"nf4-dq", WeightFormat::kCodebook, 4, 64, false, false},  // double quantization is undone when loading: nf4's cost
    {"fp4", WeightFormat::kCodebook, 4, 64, false, false},        {"f16", WeightFormat::kFloat, 0, 0, false, false},
};

template <typename Row, size_t count>
Result<const Row*> find(const Row (&rows)[count], const std::string& name, const char* key) {
  std::string known;
  for (const Row& row : rows) {
    if (name == row.name) return &row;
    known += (known.empty() ? "" : ", ") + std::string(row.name);
  }
  return error(Code::kOptionValue, "\"%s\" is \"%s\"; known are %s", key, name.c_str(), known.c_str()).with("key", key);
}

// A cheap stream of random words (xorshift64*).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15ull | 1) {}
  uint64_t next() {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return state_ * 0x2545F4914F6CDD1Dull;
  }
  float normal() {  // near enough: the sum of four uniform numbers, unit variance
    const uint64_t bits = next();
    const float sum = static_cast<float>(bits & 0xffff) + static_cast<float>(bits >> 16 & 0xffff) +
                      static_cast<float>(bits >> 32 & 0xffff) + static_cast<float>(bits >> 48);
    return (sum / 65536.0f - 2.0f) * 1.7320508f;
  }

 private:
  uint64_t state_;
};

class Synthesizer {
 public:
  Synthesizer(const Shape& shape, const FormatName& format, const Backend& backend) : shape_(shape), format_(format), backend_(backend) {}
  Result<std::shared_ptr<const Decoder>> make(int64_t layers);

 private:
  QuantWeight weight(int64_t n, int64_t k);
  QuantWeight float_weight(int64_t n, int64_t k);
  Status linear(const LinearPlan& plan, bool bias, std::vector<Linear>& out);
  Status one(const LinearPlan& plan, Linear& out);
  Norm norm(int64_t width);

  const Shape& shape_;
  const FormatName& format_;
  const Backend& backend_;
  Random random_{1};
};

QuantWeight Synthesizer::float_weight(int64_t n, int64_t k) {
  QuantWeight w;
  w.format = WeightFormat::kFloat;
  w.out_features = n;
  w.in_features = k;
  w.value_type = DType::kF16;
  w.source = "random F16";
  w.dense_owned.resize(n * k * 2);
  // Rows repeat a block of random numbers at odd offsets: as good for timing, and made at the speed of memory.
  std::vector<uint16_t> block(1 << 16);
  const float scale = 1.0f / std::sqrt(static_cast<float>(k));
  for (uint16_t& value : block) value = float_to_f16(random_.normal() * scale);
  uint16_t* out = reinterpret_cast<uint16_t*>(w.dense_owned.data());
  for (int64_t at = 0; at < n * k; at += 4093) {
    const int64_t count = std::min<int64_t>(4093, n * k - at);
    std::copy_n(block.data() + random_.next() % (block.size() - 4093), count, out + at);
  }
  w.dense = w.dense_owned.data();
  return w;
}

QuantWeight Synthesizer::weight(int64_t n, int64_t k) {
  if (format_.format == WeightFormat::kFloat) return float_weight(n, k);
  QuantWeight w;
  w.format = format_.format;
  w.out_features = n;
  w.in_features = k;
  w.bits = format_.bits;
  w.group_size = format_.group_size == 0 ? k : std::gcd(k, format_.group_size);
  w.value_type = DType::kF16;
  w.scale_type = w.format == WeightFormat::kCodebook || format_.group_size == 0 ? DType::kF32 : DType::kF16;
  w.symmetric = format_.symmetric;
  w.permuted = format_.permuted;
  w.source = std::string("random ") + format_.name;
  w.stored.layout = StoredCodes::Layout::kRandom;
  w.stored.seed = random_.next();
  if (!backend_.takes_stored({w})) {
    w.codes.resize(n * k);
    unpack_codes(w.stored, n, k, w.bits, w.codes.data());
    w.stored = {};
  }
  const int64_t scales = n * w.groups();
  w.scales.resize(scales);
  // Codes are uniform: this scale gives the matrix entries of variance 1/K.
  const double spread = w.format == WeightFormat::kCodebook ? 0.55 : (1 << format_.bits) / 3.46;
  const double scale = 1.0 / (spread * std::sqrt(static_cast<double>(k)));
  for (float& s : w.scales) s = f16_to_float(float_to_f16(static_cast<float>(scale * (0.75 + 0.5 * (random_.next() >> 11) * 0x1p-53))));
  if (w.format == WeightFormat::kIntGroup) {
    const uint8_t half = static_cast<uint8_t>(1u << (format_.bits - 1));
    w.zeros.assign(scales, half);
    if (!w.symmetric) {
      for (uint8_t& zero : w.zeros) zero = static_cast<uint8_t>(half - 1 + random_.next() % 3);
    }
  } else {
    w.codebook = std::string_view(format_.name) == "fp4" ? kFp4Codebook : kNf4Codebook;
  }
  if (w.permuted) {
    w.k_order.resize(k);
    std::iota(w.k_order.begin(), w.k_order.end(), 0);
    Random order(static_cast<uint64_t>(k));  // the same for all matrices over one input
    for (int64_t i = k - 1; i > 0; --i) std::swap(w.k_order[i], w.k_order[order.next() % (i + 1)]);
  }
  return w;
}

Status Synthesizer::one(const LinearPlan& plan, Linear& out) {
  std::vector<Linear> all;
  NBL_RETURN_IF_ERROR(linear(plan, false, all));
  out = std::move(all[0]);
  return {};
}

Status Synthesizer::linear(const LinearPlan& plan, bool bias, std::vector<Linear>& out) {
  std::vector<QuantWeight> weights;
  weights.reserve(plan.names.size());
  for (int64_t rows : plan.part_rows) {
    weights.push_back(plan.role == WeightRole::kHead ? float_weight(rows, plan.in_features) : weight(rows, plan.in_features));
  }
  const auto add = [&](std::vector<const QuantWeight*> parts, const LinearPlan& piece) -> Status {
    Linear linear;
    NBL_ASSIGN_OR_RETURN(linear.weight, backend_.pack(parts, piece.role));
    linear.names = piece.names;
    linear.part_rows = piece.part_rows;
    linear.in_features = piece.in_features;
    linear.out_features = piece.out_features();
    if (bias) {
      for (int64_t i = 0; i < linear.out_features; ++i) linear.bias.push_back(0.1f * random_.normal());
    }
    out.push_back(std::move(linear));
    return {};
  };
  std::vector<const QuantWeight*> parts;
  std::vector<WeightSpec> specs;
  for (const QuantWeight& w : weights) {
    parts.push_back(&w);
    specs.push_back(w);
  }
  if (backend_.can_fuse(specs)) return add(parts, plan);
  for (size_t i = 0; i < parts.size(); ++i) {
    NBL_RETURN_IF_ERROR(add({parts[i]}, {plan.role, {plan.names[i]}, {plan.part_rows[i]}, plan.in_features}));
  }
  return {};
}

Norm Synthesizer::norm(int64_t width) {
  Norm out;
  out.epsilon = 1e-6f;
  out.weight.assign(width, 1.0f);
  return out;
}

Result<std::shared_ptr<const Decoder>> Synthesizer::make(int64_t layers) {
  auto decoder = std::make_shared<Decoder>();
  DecoderConfig& c = decoder->config;
  c.architecture = "LlamaForCausalLM";
  c.model_type = "llama";
  c.vocab_size = shape_.vocabulary;
  c.hidden_size = shape_.hidden;
  c.intermediate_size = shape_.intermediate;
  c.num_hidden_layers = layers;
  c.num_attention_heads = shape_.heads;
  c.num_key_value_heads = shape_.kv_heads;
  c.head_dim = shape_.head_dim;
  c.max_position_embeddings = 32768;
  c.tie_word_embeddings = shape_.tied;
  decoder->rope.rotary_dim = c.head_dim;
  decoder->rope.theta = shape_.theta;
  for (int64_t i = 0; i < c.head_dim / 2; ++i) {
    decoder->rope.inv_freq.push_back(
        static_cast<float>(std::pow(shape_.theta, -2.0 * static_cast<double>(i) / static_cast<double>(c.head_dim))));
  }
  auto embedding = std::make_shared<QuantWeight>(float_weight(c.vocab_size, c.hidden_size));
  decoder->embedding = {embedding->dense, DType::kF16, nullptr};
  decoder->keep_alive = embedding;
  NBL_ASSIGN_OR_RETURN(decoder->embedding.packed, backend_.pack_embedding(decoder->embedding, c.vocab_size, c.hidden_size));
  ModelConfig config;
  config.decoder = c;
  decoder->blocks.resize(layers);
  for (int64_t layer = 0; layer < layers; ++layer) {
    Block& block = decoder->blocks[layer];
    const LayerPlan plan = plan_layer(config, layer);
    block.input_norm = norm(c.hidden_size);
    block.post_attention_norm = norm(c.hidden_size);
    block.attention.scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
    NBL_RETURN_IF_ERROR(linear(plan.qkv, shape_.qkv_bias, block.attention.qkv));
    NBL_RETURN_IF_ERROR(one(plan.output, block.attention.output));
    NBL_RETURN_IF_ERROR(linear(plan.gate_up, false, block.mlp.gate_up));
    NBL_RETURN_IF_ERROR(one(plan.down, block.mlp.down));
  }
  decoder->final_norm = norm(c.hidden_size);
  NBL_RETURN_IF_ERROR(one(plan_head(c), decoder->head));
  return std::shared_ptr<const Decoder>(std::move(decoder));
}

// A name, or an object with the keys of config.json.
Result<Shape> shape_of(const Json& request) {
  if (request.contains("shape") && request["shape"].is_object()) {
    NBL_ASSIGN_OR_RETURN(const ModelConfig config, read_model_config(request["shape"]));
    const DecoderConfig& c = config.decoder;
    return Shape{"config",   c.hidden_size, c.intermediate_size,   c.num_hidden_layers,     c.num_attention_heads, c.num_key_value_heads,
                 c.head_dim, c.vocab_size,  c.tie_word_embeddings, c.model_type == "qwen2", config.rope.theta};
  }
  NBL_ASSIGN_OR_RETURN(const std::string name, json_str(request, "shape", ""));
  NBL_ASSIGN_OR_RETURN(const Shape* shape, find(kShapes, name, "shape"));
  return *shape;
}

}  // namespace

Result<std::shared_ptr<const Decoder>> synthesize_decoder(const Json& request, const Backend& backend) {
  if (!request.is_object()) return error(Code::kArgument, "the request is not a JSON object");
  NBL_ASSIGN_OR_RETURN(const std::string format_name, json_str(request, "format", "awq-g128"));
  NBL_ASSIGN_OR_RETURN(const Shape shape, shape_of(request));
  NBL_ASSIGN_OR_RETURN(const FormatName* format, find(kFormatNames, format_name, "format"));
  NBL_ASSIGN_OR_RETURN(const int64_t layers, json_i64(request, "layers", shape.layers));
  if (layers < 1 || layers > 1024)
    return error(Code::kOptionValue, "\"layers\" is %lld, expected 1 to 1024", static_cast<long long>(layers));
  return Synthesizer(shape, *format, backend).make(layers);
}

}  // namespace nbl

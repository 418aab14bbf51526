#include "models.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/rope.h"

namespace nbl::gpu_test {

const std::vector<FormatCase>& formats() {
  static const std::vector<FormatCase> all = {
      {"int4 g128 f16", WeightFormat::kIntGroup, 4, 128, DType::kF16, DType::kF16, false},
      {"int4 g64 f16", WeightFormat::kIntGroup, 4, 64, DType::kF16, DType::kF16, false},
      {"int4 g32 bf16", WeightFormat::kIntGroup, 4, 32, DType::kBF16, DType::kBF16, false},
      {"int4 one group", WeightFormat::kIntGroup, 4, 0, DType::kF16, DType::kF16, false},
      {"int4 g256 f32", WeightFormat::kIntGroup, 4, 256, DType::kF32, DType::kF32, false},
      {"int4 g128 act-order", WeightFormat::kIntGroup, 4, 128, DType::kF16, DType::kF16, true},
      {"int4 g24 (no tile)", WeightFormat::kIntGroup, 4, 24, DType::kF16, DType::kF16, false},
      {"int2 g64 f16", WeightFormat::kIntGroup, 2, 64, DType::kF16, DType::kF16, false},
      {"int2 g32 act-order", WeightFormat::kIntGroup, 2, 32, DType::kF16, DType::kF32, true},
      {"int3 g128 f16", WeightFormat::kIntGroup, 3, 128, DType::kF16, DType::kF16, false},
      {"int3 g32 act-order", WeightFormat::kIntGroup, 3, 32, DType::kF16, DType::kF16, true},
      {"int5 g32 f16", WeightFormat::kIntGroup, 5, 32, DType::kF16, DType::kF16, false},
      {"int6 g64 f32", WeightFormat::kIntGroup, 6, 64, DType::kF32, DType::kF32, false},
      {"int7 g128 f16", WeightFormat::kIntGroup, 7, 128, DType::kF16, DType::kF16, false},
      {"int8 g128 f16", WeightFormat::kIntGroup, 8, 128, DType::kF16, DType::kF16, false},
      {"int8 one group f32", WeightFormat::kIntGroup, 8, 0, DType::kF16, DType::kF32, false},
      {"nf4 b64", WeightFormat::kCodebook, 4, 64, DType::kF16, DType::kF32, false},
      {"nf4 b128", WeightFormat::kCodebook, 4, 128, DType::kBF16, DType::kF32, false},
      {"f16", WeightFormat::kFloat, 0, 0, DType::kF16, DType::kF32, false},
      {"bf16", WeightFormat::kFloat, 0, 0, DType::kBF16, DType::kF32, false},
      {"f32", WeightFormat::kFloat, 0, 0, DType::kF32, DType::kF32, false},
  };
  return all;
}

std::vector<float> random_values(int64_t count, float deviation, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.f, deviation);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& v : values) v = normal(random);
  return values;
}

QuantWeight random_weight(const FormatCase& format, int64_t n, int64_t k, uint32_t seed) {
  QuantWeight w;
  w.format = format.format;
  w.out_features = n;
  w.in_features = k;
  w.bits = format.bits;
  w.group_size = format.format == WeightFormat::kFloat ? 0 : format.group_size > 0 ? format.group_size : k;
  w.value_type = format.value_type;
  w.scale_type = format.scale_type;
  w.source = format.name;
  std::mt19937 random(seed);
  if (format.format == WeightFormat::kFloat) {
    const std::vector<float> values = random_values(n * k, 1.f / std::sqrt(static_cast<float>(k)), seed);
    w.dense_owned.resize(static_cast<size_t>(n * k * dtype_bytes(w.value_type)));
    for (size_t i = 0; i < values.size(); ++i) {
      if (w.value_type == DType::kF32) reinterpret_cast<float*>(w.dense_owned.data())[i] = values[i];
      else reinterpret_cast<uint16_t*>(w.dense_owned.data())[i] =
          w.value_type == DType::kF16 ? float_to_f16(values[i]) : float_to_bf16(values[i]);
    }
    w.dense = w.dense_owned.data();
    return w;
  }
  const int levels = 1 << format.bits;
  w.codes.resize(static_cast<size_t>(n * k));
  for (uint8_t& c : w.codes) c = static_cast<uint8_t>(random() % levels);
  const float step = 1.f / (std::sqrt(static_cast<float>(k)) * levels * 0.3f);
  w.scales.resize(static_cast<size_t>(n * w.groups()));
  for (float& s : w.scales) s = round_to(w.scale_type, step * (0.5f + static_cast<float>(random() % 1024) / 1024.f));
  if (format.format == WeightFormat::kIntGroup) {
    w.zeros.resize(w.scales.size());
    for (uint8_t& z : w.zeros) z = static_cast<uint8_t>(levels / 2 + static_cast<int>(random() % (levels / 2 + 1)) - levels / 4);
  } else {
    for (int i = 0; i < 16; ++i) w.codebook[i] = std::sin(static_cast<float>(i) - 7.3f) * levels * 0.3f;
  }
  if (format.permuted) {
    w.permuted = true;
    w.k_order.resize(static_cast<size_t>(k));
    std::iota(w.k_order.begin(), w.k_order.end(), 0);
    std::shuffle(w.k_order.begin(), w.k_order.end(), random);
  }
  return w;
}

QuantWeight random_weight_like(const QuantWeight& other, const FormatCase& format, int64_t n, uint32_t seed) {
  QuantWeight w = random_weight(format, n, other.in_features, seed);
  w.k_order = other.k_order;
  return w;
}

std::vector<double> exact_matmul(const QuantWeight& w, const float* x, int64_t m) {
  std::vector<double> y(static_cast<size_t>(m * w.out_features), 0);
  for (int64_t n = 0; n < w.out_features; ++n) {
    for (int64_t p = 0; p < w.in_features; ++p) {
      const double v = weight_value(w, n, p);
      const int64_t column = w.k_order.empty() ? p : w.k_order[p];
      for (int64_t i = 0; i < m; ++i) y[i * w.out_features + n] += v * x[i * w.in_features + column];
    }
  }
  return y;
}

double relative_error(const float* got, const double* want, int64_t count) {
  double difference = 0, size = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (!std::isfinite(got[i])) return std::numeric_limits<double>::infinity();
    difference += (got[i] - want[i]) * (got[i] - want[i]);
    size += want[i] * want[i];
  }
  return std::sqrt(difference / size);
}

namespace {

Norm random_norm(int64_t width, bool layer, uint32_t seed) {
  Norm norm;
  norm.kind = layer ? Norm::Kind::kLayer : Norm::Kind::kRms;
  norm.weight = random_values(width, 0.1f, seed);
  for (float& v : norm.weight) v += 1.f;
  if (layer) norm.bias = random_values(width, 0.1f, seed + 1);
  norm.epsilon = 1e-5f;
  return norm;
}

Result<Linear> make_linear(const Backend& backend, const std::vector<const QuantWeight*>& parts, WeightRole role, bool bias,
                           uint32_t seed) {
  NBL_ASSIGN_OR_RETURN(Linear linear, testing::pack_linear(backend, parts, role));
  linear.names.assign(parts.size(), "test");
  if (bias) linear.bias = random_values(linear.out_features, 0.1f, seed);
  return linear;
}

std::vector<double> apply_norm(const Norm& norm, const double* v, int64_t width) {
  double mean = 0, square = 0;
  for (int64_t i = 0; i < width; ++i) mean += v[i] / width, square += v[i] * v[i] / width;
  if (norm.kind == Norm::Kind::kRms) mean = 0;
  const double deviation = std::sqrt(square - mean * mean + norm.epsilon);
  std::vector<double> out(static_cast<size_t>(width));
  for (int64_t i = 0; i < width; ++i) out[i] = (v[i] - mean) / deviation * norm.weight[i] + (norm.bias.empty() ? 0 : norm.bias[i]);
  return out;
}

double apply_activation(Activation kind, double v) {
  switch (kind) {
    case Activation::kSilu: return v / (1 + std::exp(-v));
    case Activation::kGelu: return 0.5 * v * (1 + std::erf(v / std::sqrt(2.0)));
    case Activation::kGeluTanh: return 0.5 * v * (1 + std::tanh(std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)));
    case Activation::kRelu: return v > 0 ? v : 0;
  }
  return v;
}

}  // namespace

Result<std::unique_ptr<TestModel>> TestModel::create(const Backend& backend, const ModelOptions& o) {
  std::unique_ptr<TestModel> model(new TestModel);
  model->decoder_ = testing::decoder_of_shape({o.hidden, o.inner, o.layers, o.heads, o.kv_heads, o.head_dim, o.vocab}, 10000, o.rotary_dim);
  Decoder& d = *model->decoder_;
  testing::set_rope(o.rope, d.rope);
  uint32_t seed = o.seed * 1000;
  for (float v : random_values(o.vocab * o.hidden, 1.f, seed++)) model->table_.push_back(float_to_f16(v));
  d.embedding.data = model->table_.data();
  d.embedding.type = DType::kF16;
  model->blocks_.resize(static_cast<size_t>(o.layers));
  d.blocks.resize(static_cast<size_t>(o.layers));
  const int64_t q_rows = o.heads * o.head_dim, kv_rows = o.kv_heads * o.head_dim;
  for (int64_t l = 0; l < o.layers; ++l) {
    PlainBlock& plain = model->blocks_[l];
    Block& block = d.blocks[l];
    plain.qkv.push_back(random_weight(o.format, q_rows, o.hidden, seed++));
    plain.qkv.push_back(random_weight_like(plain.qkv[0], o.format, kv_rows, seed++));
    plain.qkv.push_back(o.fused ? random_weight_like(plain.qkv[0], o.format, kv_rows, seed++)
                                : random_weight(o.format, kv_rows, o.hidden, seed++));
    plain.gate_up.push_back(random_weight(o.format, o.inner, o.hidden, seed++));
    plain.gate_up.push_back(o.fused ? random_weight_like(plain.gate_up[0], o.format, o.inner, seed++)
                                    : random_weight(o.format, o.inner, o.hidden, seed++));
    plain.output = random_weight(o.format, o.hidden, q_rows, seed++);
    plain.down = random_weight(o.format, o.hidden, o.inner, seed++);
    for (std::vector<QuantWeight>* all : {&plain.qkv, &plain.gate_up}) {
      for (QuantWeight& w : *all) w.outlier_threshold = o.outlier_threshold;
    }
    plain.output.outlier_threshold = plain.down.outlier_threshold = o.outlier_threshold;
    QuantWeight* const matrices[] = {&plain.qkv[0],     &plain.qkv[1], &plain.qkv[2], &plain.gate_up[0],
                                     &plain.gate_up[1], &plain.output, &plain.down};
    if (l == 0 && o.spoiled >= 0) matrices[o.spoiled]->scales[1] = o.spoiled_scale;
    block.input_norm = random_norm(o.hidden, o.layer_norms, seed += 2);
    block.post_attention_norm = random_norm(o.hidden, o.layer_norms, seed += 2);
    if (o.head_norms) {
      block.attention.q_norm.push_back(random_norm(o.head_dim, false, seed += 2));
      block.attention.k_norm.push_back(random_norm(o.head_dim, false, seed += 2));
    }
    block.attention.scale = 1.f / std::sqrt(static_cast<float>(o.head_dim));
    block.attention.sliding_window = l % 2 == 0 ? o.window : 0;
    block.attention.rotary = !o.still_layers || l % 2 == 0;
    block.mlp.activation = o.activation;
    auto add = [&](std::vector<Linear>& list, const std::vector<QuantWeight>& parts, WeightRole role) -> Status {
      if (o.fused) {
        std::vector<const QuantWeight*> pointers;
        for (const QuantWeight& part : parts) pointers.push_back(&part);
        NBL_ASSIGN_OR_RETURN(Linear linear, make_linear(backend, pointers, role, o.biases, seed++));
        list.push_back(std::move(linear));
        return {};
      }
      for (const QuantWeight& part : parts) {
        NBL_ASSIGN_OR_RETURN(Linear linear, make_linear(backend, {&part}, role, o.biases, seed++));
        list.push_back(std::move(linear));
      }
      return {};
    };
    NBL_RETURN_IF_ERROR(add(block.attention.qkv, plain.qkv, WeightRole::kQkv));
    NBL_RETURN_IF_ERROR(add(block.mlp.gate_up, plain.gate_up, WeightRole::kGateUp));
    NBL_ASSIGN_OR_RETURN(block.attention.output, make_linear(backend, {&plain.output}, WeightRole::kAttentionOutput, o.biases, seed++));
    NBL_ASSIGN_OR_RETURN(block.mlp.down, make_linear(backend, {&plain.down}, WeightRole::kDown, o.biases, seed++));
  }
  d.final_norm = random_norm(o.hidden, o.layer_norms, seed += 2);
  const FormatCase dense = {"f16", WeightFormat::kFloat, 0, 0, DType::kF16, DType::kF32, false};
  model->head_ = random_weight(dense, o.vocab, o.hidden, seed++);
  NBL_ASSIGN_OR_RETURN(d.head, make_linear(backend, {&model->head_}, WeightRole::kHead, false, seed++));
  return Result<std::unique_ptr<TestModel>>(std::move(model));
}

std::vector<double> TestModel::linear(const QuantWeight& w, const std::vector<double>& given, const float* bias) const {
  const int64_t rows = static_cast<int64_t>(given.size()) / w.in_features;
  std::vector<double> x = given;
  for (int64_t i = 0; i < rows && w.outlier_threshold >= 0; ++i) {  // arXiv:2208.07339, a row at a time
    double* row = &x[i * w.in_features];
    const auto outlier = [&](double v) { return w.outlier_threshold > 0 && std::abs(v) >= w.outlier_threshold; };
    double top = 0;
    for (int64_t k = 0; k < w.in_features; ++k) top = std::max(top, outlier(row[k]) ? 0. : std::abs(row[k]));
    for (int64_t k = 0; k < w.in_features; ++k) {
      if (!outlier(row[k]) && top > 0) row[k] = std::rint(127 * row[k] / top) * top / 127;
    }
  }
  std::vector<double> y(static_cast<size_t>(rows * w.out_features));
  for (int64_t n = 0; n < w.out_features; ++n) {
    for (int64_t i = 0; i < rows; ++i) y[i * w.out_features + n] = bias != nullptr ? bias[n] : 0;
    for (int64_t p = 0; p < w.in_features; ++p) {
      const double v = weight_value(w, n, p);
      const int64_t column = w.k_order.empty() ? p : w.k_order[p];
      for (int64_t i = 0; i < rows; ++i) y[i * w.out_features + n] += v * x[i * w.in_features + column];
    }
  }
  return y;
}

std::vector<double> TestModel::exact_logits(const std::vector<int32_t>& tokens) const {
  const Decoder& d = *decoder_;
  const int64_t hidden = d.config.hidden_size, head_dim = d.config.head_dim, count = static_cast<int64_t>(tokens.size());
  const int64_t heads = d.config.num_attention_heads, kv_heads = d.config.num_key_value_heads, half = d.rope.rotary_dim / 2;
  std::vector<double> h;
  for (int32_t token : tokens) {
    for (int64_t i = 0; i < hidden; ++i) h.push_back(f16_to_float(table_[token * hidden + i]));
  }
  std::vector<float> inv_freq(static_cast<size_t>(half) + 1), cosine(inv_freq), sine(inv_freq);
  rope_inv_freq(d.rope, count, inv_freq.data());
  auto normed = [&](const Norm& norm) {
    std::vector<double> x;
    for (int64_t i = 0; i < count; ++i) {
      const std::vector<double> row = apply_norm(norm, &h[i * hidden], hidden);
      x.insert(x.end(), row.begin(), row.end());
    }
    return x;
  };
  auto project = [&](const std::vector<QuantWeight>& parts, const std::vector<Linear>& linears, const std::vector<double>& x) {
    std::vector<std::vector<double>> out;
    int64_t row = 0;
    for (size_t i = 0; i < parts.size(); ++i) {
      const Linear& from = linears[linears.size() == 1 ? 0 : i];
      out.push_back(linear(parts[i], x, from.bias.empty() ? nullptr : from.bias.data() + (linears.size() == 1 ? row : 0)));
      row += parts[i].out_features;
    }
    return out;
  };
  for (size_t l = 0; l < blocks_.size(); ++l) {
    const Block& block = d.blocks[l];
    std::vector<std::vector<double>> qkv = project(blocks_[l].qkv, block.attention.qkv, normed(block.input_norm));
    for (int part = 0; part < 2; ++part) {
      const int64_t n = part == 0 ? heads : kv_heads;
      for (int64_t i = 0; i < count; ++i) {
        rope_tables(d.rope, inv_freq.data(), i, cosine.data(), sine.data());
        for (int64_t j = 0; j < n; ++j) {
          double* v = &qkv[part][(i * n + j) * head_dim];
          const std::vector<Norm>& norm = part == 0 ? block.attention.q_norm : block.attention.k_norm;
          if (!norm.empty()) {
            const std::vector<double> scaled = apply_norm(norm[0], v, head_dim);
            std::copy(scaled.begin(), scaled.end(), v);
          }
          for (int64_t p = 0; p < (block.attention.rotary ? half : 0); ++p) {
            const double a = v[p], b = v[p + half];
            v[p] = a * cosine[p] - b * sine[p];
            v[p + half] = b * cosine[p] + a * sine[p];
          }
        }
      }
    }
    std::vector<double> attended(static_cast<size_t>(count * heads * head_dim), 0);
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t j = 0; j < heads; ++j) {
        const int64_t g = j / (heads / kv_heads), window = block.attention.sliding_window;
        const int64_t first = window > 0 ? std::max<int64_t>(0, i - window + 1) : 0;
        std::vector<double> weight;
        double top = -1e300, total = 0;
        for (int64_t k = first; k <= i; ++k) {
          double score = 0;
          for (int64_t e = 0; e < head_dim; ++e)
            score += qkv[0][(i * heads + j) * head_dim + e] * qkv[1][(k * kv_heads + g) * head_dim + e];
          weight.push_back(score * block.attention.scale);
          top = std::max(top, weight.back());
        }
        for (double& v : weight) total += v = std::exp(v - top);
        for (int64_t k = first; k <= i; ++k) {
          for (int64_t e = 0; e < head_dim; ++e) {
            attended[(i * heads + j) * head_dim + e] += weight[k - first] / total * qkv[2][(k * kv_heads + g) * head_dim + e];
          }
        }
      }
    }
    auto bias_of = [](const Linear& from) { return from.bias.empty() ? nullptr : from.bias.data(); };
    std::vector<double> y = linear(blocks_[l].output, attended, bias_of(block.attention.output));
    for (size_t i = 0; i < h.size(); ++i) h[i] += y[i];
    std::vector<std::vector<double>> gate_up = project(blocks_[l].gate_up, block.mlp.gate_up, normed(block.post_attention_norm));
    for (size_t i = 0; i < gate_up[0].size(); ++i) gate_up[0][i] = apply_activation(block.mlp.activation, gate_up[0][i]) * gate_up[1][i];
    y = linear(blocks_[l].down, gate_up[0], bias_of(block.mlp.down));
    for (size_t i = 0; i < h.size(); ++i) h[i] += y[i];
  }
  return linear(head_, normed(d.final_norm), nullptr);
}

}  // namespace nbl::gpu_test

#include "test_model.h"

#include <algorithm>
#include <cmath>

#include "kernels/rope.h"

namespace nbl {

namespace {

// Every linear of a decoder in the order in which TestModel makes them.
template <typename D, typename Visit>
void each_linear(D& decoder, Visit visit) {
  for (auto& block : decoder.blocks) {
    for (auto& l : block.attention.qkv) visit(l);
    visit(block.attention.output);
    for (auto& l : block.mlp.gate_up) visit(l);
    visit(block.mlp.down);
  }
  visit(decoder.head);
}

std::vector<double> apply_norm(const Norm& norm, const std::vector<double>& x) {
  const double n = static_cast<double>(x.size());
  double mean = 0, squares = 0;
  if (norm.kind == Norm::Kind::kLayer)
    for (double v : x) mean += v / n;
  for (double v : x) squares += (v - mean) * (v - mean) / n;
  std::vector<double> out(x.size());
  for (size_t i = 0; i < x.size(); ++i)
    out[i] = (x[i] - mean) / std::sqrt(squares + norm.epsilon) * norm.weight[i] +
             (norm.bias.empty() ? 0.0 : norm.bias[i]);
  return out;
}

double activate(Activation kind, double g) {
  switch (kind) {
    case Activation::kSilu:
      return g / (1 + std::exp(-g));
    case Activation::kGelu:
      return 0.5 * g * (1 + std::erf(g / std::sqrt(2.0)));
    case Activation::kGeluTanh:
      return 0.5 * g * (1 + std::tanh(std::sqrt(2 / M_PI) * (g + 0.044715 * g * g * g)));
    case Activation::kRelu:
      return std::max(g, 0.0);
  }
  return 0;
}

}  // namespace

Norm TestModel::norm(int64_t width) {
  Norm n;
  n.kind = case_.norm;
  n.weight = random_row(width, random_, 0.2f);
  for (float& v : n.weight) v += 1;
  for (size_t i : {size_t{3}, n.weight.size() / 2}) n.weight[i] *= case_.planted;
  if (case_.norm == Norm::Kind::kLayer) n.bias = random_row(width, random_, 0.1f);
  n.epsilon = 1e-5f;
  return n;
}

Linear TestModel::linear(const std::string& name, std::vector<int64_t> rows, int64_t columns,
                         const FormatCase& format, bool bias) {
  Linear l;
  l.in_features = columns;
  Matrix matrix;
  for (int64_t n : rows) {
    l.names.push_back(name);
    l.part_rows.push_back(n);
    l.out_features += n;
    QuantWeight w = random_weight(format, n, columns, random_);
    w.outlier_threshold = case_.outlier_threshold;
    if (!matrix.parts.empty()) {
      w.codebook = matrix.parts[0].codebook;
      w.k_order = matrix.parts[0].k_order;
    }
    // Of a size that keeps the stream of a deep model in range.
    const float shrink = 2 / std::sqrt(static_cast<float>(columns));
    if (format.format != WeightFormat::kFloat)
      for (float& s : w.scales) s = round_to(w.scale_type, s * shrink);
    matrix.parts.push_back(std::move(w));
  }
  matrices_.push_back(std::move(matrix));
  if (bias) l.bias = random_row(l.out_features, random_, 0.1f);
  return l;
}

std::vector<Linear> TestModel::linears(const std::string& name, std::vector<int64_t> rows, int64_t columns) {
  const FormatCase& format = format_cases()[static_cast<size_t>(case_.format)];
  if (case_.fused) return {linear(name, rows, columns, format, case_.biases)};
  std::vector<Linear> all;
  for (int64_t n : rows) all.push_back(linear(name, {n}, columns, format, case_.biases));
  return all;
}

TestModel::TestModel(const ModelCase& test, unsigned seed) : case_(test), random_(seed) {
  decoder_ = *testing::decoder_of_shape(
      {test.hidden, test.intermediate, test.layers, test.heads, test.kv_heads, test.head_dim, test.vocab}, 10000, test.rotary_dim);
  Rope& rope = decoder_.rope;
  testing::set_rope(test.rope, rope);
  const FormatCase& format = format_cases()[static_cast<size_t>(test.format)];
  const int64_t query = test.heads * test.head_dim, kv = test.kv_heads * test.head_dim;
  for (int64_t i = 0; i < test.layers; ++i) {
    Block block;
    block.input_norm = norm(test.hidden);
    block.attention.qkv = linears("qkv", {query, kv, kv}, test.hidden);
    block.attention.output = linear("o_proj", {test.hidden}, query, format, test.biases);
    if (test.head_norms) {
      block.attention.q_norm.push_back(norm(test.head_dim));
      block.attention.k_norm.push_back(norm(test.head_dim));
    }
    block.attention.scale = 1 / std::sqrt(static_cast<float>(test.head_dim));
    block.attention.sliding_window = test.window;
    block.attention.rotary = rope.rotary_dim > 0 && !(test.still_layers && i % 2 != 0);
    block.post_attention_norm = norm(test.hidden);
    block.mlp.activation = test.activation;
    block.mlp.gate_up = linears("gate_up", {test.intermediate, test.intermediate}, test.hidden);
    block.mlp.down = linear("down", {test.hidden}, test.intermediate, format, test.biases);
    decoder_.blocks.push_back(std::move(block));
  }
  decoder_.final_norm = norm(test.hidden);
  const FormatCase head = {"head", WeightFormat::kFloat, 0, 0, false, false, DType::kF16, DType::kF32};
  decoder_.head = linear("lm_head", {test.vocab}, test.hidden, head, false);
  // One byte of offset: a checkpoint's mapping need not be aligned.
  const int64_t size = dtype_bytes(test.embedding), count = test.vocab * test.hidden;
  embedding_.resize(static_cast<size_t>(1 + count * size));
  const std::vector<float> values = random_row(count, random_);
  for (int64_t i = 0; i < count; ++i) {
    const float v = values[static_cast<size_t>(i)];
    const uint16_t half = test.embedding == DType::kF16 ? float_to_f16(v) : float_to_bf16(v);
    std::memcpy(&embedding_[static_cast<size_t>(1 + i * size)],
                size == 4 ? static_cast<const void*>(&v) : &half, static_cast<size_t>(size));
  }
  decoder_.embedding = {embedding_.data() + 1, test.embedding};
}

std::shared_ptr<const Decoder> TestModel::pack(const Backend& backend) const {
  auto packed = std::make_shared<Decoder>(decoder_);
  const auto role_of = [&](const Linear& l) {
    for (const Block& block : packed->blocks)
      if (&l == &block.mlp.gate_up.front()) return WeightRole::kGateUp;
    return &l == &packed->head ? WeightRole::kHead : WeightRole::kOther;
  };
  size_t i = 0;
  each_linear(*packed, [&](Linear& l) {
    std::vector<const QuantWeight*> parts;
    for (const QuantWeight& w : matrices_[i].parts) parts.push_back(&w);
    ++i;
    Result<std::shared_ptr<const PackedWeight>> weight = backend.pack(parts, role_of(l));
    if (weight.ok()) l.weight = weight.value();
  });
  return packed;
}

std::vector<double> TestModel::apply(const Linear& linear, size_t matrix,
                                     const std::vector<double>& given) const {
  std::vector<double> y, x = given;
  if (case_.outlier_threshold >= 0) {  // arXiv:2208.07339: absmax over what is no outlier, then 127 steps
    double top = 0;
    const auto outlier = [&](double v) { return case_.outlier_threshold > 0 && std::abs(v) >= case_.outlier_threshold; };
    for (double v : x) top = std::max(top, outlier(v) ? 0.0 : std::abs(v));
    for (double& v : x)
      if (!outlier(v) && top > 0) v = std::rint(127 * v / top) * top / 127;
  }
  for (const QuantWeight& w : matrices_[matrix].parts)
    for (int64_t n = 0; n < w.out_features; ++n) {
      double sum = linear.bias.empty() ? 0.0 : linear.bias[y.size()];
      for (int64_t p = 0; p < w.in_features; ++p)
        sum += exact_value(w, n, p, true) *
               x[static_cast<size_t>(w.k_order.empty() ? p : w.k_order[static_cast<size_t>(p)])];
      y.push_back(sum);
    }
  return y;
}

std::vector<double> TestModel::logits(const std::vector<int32_t>& tokens,
                                      const std::vector<int64_t>& calls) const {
  const ModelCase& t = case_;
  const auto count = static_cast<int64_t>(tokens.size());
  const int64_t group = t.heads / t.kv_heads, half = decoder_.rope.rotary_dim / 2;
  std::vector<std::vector<double>> stream, cosine, sine;
  for (int64_t i = 0; i < count; ++i) {
    std::vector<double> row;
    for (int64_t d = 0; d < t.hidden; ++d) {
      const uint8_t* at =
          embedding_.data() + 1 + (tokens[static_cast<size_t>(i)] * t.hidden + d) * dtype_bytes(t.embedding);
      float v;
      uint16_t h;
      std::memcpy(&v, at, t.embedding == DType::kF32 ? 4 : 2);
      std::memcpy(&h, at, 2);
      row.push_back(t.embedding == DType::kF32   ? v
                    : t.embedding == DType::kF16 ? f16_to_float(h)
                                                 : bf16_to_float(h));
    }
    stream.push_back(row);
    const int64_t call = *std::upper_bound(calls.begin(), calls.end(), i);
    std::vector<float> inv(static_cast<size_t>(half)), c(inv.size()), s(inv.size());
    if (half > 0) {
      rope_inv_freq(decoder_.rope, call, inv.data());
      rope_tables(decoder_.rope, inv.data(), i, c.data(), s.data());
    }
    cosine.emplace_back(c.begin(), c.end());
    sine.emplace_back(s.begin(), s.end());
  }
  size_t matrix = 0;
  const auto rotate = [&](std::vector<double>& v, size_t at, int64_t token) {
    for (int64_t i = 0; i < half; ++i) {
      const auto p = static_cast<size_t>(i), r = static_cast<size_t>(token);
      const double a = v[at + p], b = v[at + p + static_cast<size_t>(half)];
      v[at + p] = a * cosine[r][p] - b * sine[r][p];
      v[at + p + static_cast<size_t>(half)] = b * cosine[r][p] + a * sine[r][p];
    }
  };
  const auto all = [&](const std::vector<Linear>& linears, const std::vector<double>& x) {
    std::vector<double> y;
    for (size_t l = 0; l < linears.size(); ++l) {
      const std::vector<double> part = apply(linears[l], matrix + l, x);
      y.insert(y.end(), part.begin(), part.end());
    }
    return y;
  };
  const auto dim = static_cast<size_t>(t.head_dim);
  for (const Block& block : decoder_.blocks) {
    std::vector<std::vector<double>> qkv;
    const auto k_at = static_cast<size_t>(t.heads * t.head_dim),
               v_at = k_at + static_cast<size_t>(t.kv_heads * t.head_dim);
    for (int64_t i = 0; i < count; ++i) {
      qkv.push_back(all(block.attention.qkv, apply_norm(block.input_norm, stream[static_cast<size_t>(i)])));
      std::vector<double>& row = qkv.back();
      for (int64_t h = 0; h < t.heads + t.kv_heads; ++h) {
        const size_t at = static_cast<size_t>(h) * dim;
        const std::vector<Norm>& norms = h < t.heads ? block.attention.q_norm : block.attention.k_norm;
        if (!norms.empty()) {
          const std::vector<double> n = apply_norm(
              norms[0], {row.begin() + static_cast<long>(at), row.begin() + static_cast<long>(at + dim)});
          std::copy(n.begin(), n.end(), row.begin() + static_cast<long>(at));
        }
        if (block.attention.rotary) rotate(row, at, i);
      }
    }
    matrix += block.attention.qkv.size();
    for (int64_t i = 0; i < count; ++i) {
      std::vector<double> attended;
      for (int64_t h = 0; h < t.heads; ++h) {
        const size_t kv = static_cast<size_t>(h / group) * dim;
        const int64_t first = t.window > 0 ? std::max<int64_t>(0, i - t.window + 1) : 0;
        std::vector<double> weights, out(dim);
        double total = 0;
        for (int64_t j = first; j <= i; ++j) {
          double score = 0;
          for (size_t d = 0; d < dim; ++d)
            score += qkv[static_cast<size_t>(i)][static_cast<size_t>(h) * dim + d] *
                     qkv[static_cast<size_t>(j)][k_at + kv + d];
          weights.push_back(std::exp(score * block.attention.scale));
          total += weights.back();
        }
        for (int64_t j = first; j <= i; ++j)
          for (size_t d = 0; d < dim; ++d)
            out[d] +=
                weights[static_cast<size_t>(j - first)] / total * qkv[static_cast<size_t>(j)][v_at + kv + d];
        attended.insert(attended.end(), out.begin(), out.end());
      }
      const std::vector<double> o = apply(block.attention.output, matrix, attended);
      for (size_t d = 0; d < o.size(); ++d) stream[static_cast<size_t>(i)][d] += o[d];
    }
    ++matrix;
    for (std::vector<double>& row : stream) {
      const std::vector<double> gu = all(block.mlp.gate_up, apply_norm(block.post_attention_norm, row));
      std::vector<double> inner(gu.size() / 2);
      for (size_t d = 0; d < inner.size(); ++d)
        inner[d] = activate(block.mlp.activation, gu[d]) * gu[d + inner.size()];
      const std::vector<double> down = apply(block.mlp.down, matrix + block.mlp.gate_up.size(), inner);
      for (size_t d = 0; d < down.size(); ++d) row[d] += down[d];
    }
    matrix += block.mlp.gate_up.size() + 1;
  }
  std::vector<double> out;
  for (const std::vector<double>& row : stream) {
    const std::vector<double> l = apply(decoder_.head, matrix, apply_norm(decoder_.final_norm, row));
    out.insert(out.end(), l.begin(), l.end());
  }
  return out;
}

}  // namespace nbl

// The operations of a layer (arXiv:2302.13971), one token at a time.
#include <algorithm>
#include <cmath>

#include "kernels/outliers.h"
#include "kernels/ref/ref.h"

namespace nbl::ref {

Row multiply(const Linear& linear, const Row& given, int64_t& outliers) {
  Row x = given;
  const double threshold = linear.weight->spec().outlier_threshold;
  if (threshold >= 0) outliers += round_activations(x.data(), linear.in_features, threshold);
  const float* w = static_cast<const Weight&>(*linear.weight).values();
  Row y(linear.out_features);
  for (int64_t n = 0; n < linear.out_features; ++n) {
    double sum = linear.bias.empty() ? 0.0 : linear.bias[n];
    for (int64_t k = 0; k < linear.in_features; ++k) sum += static_cast<double>(w[n * linear.in_features + k]) * x[k];
    y[n] = sum;
  }
  return y;
}

void normalize(const Norm& norm, double* x, int64_t width) {
  double mean = 0, square = 0;
  if (norm.kind == Norm::Kind::kLayer) {
    for (int64_t i = 0; i < width; ++i) mean += x[i];
    mean /= static_cast<double>(width);
  }
  for (int64_t i = 0; i < width; ++i) square += (x[i] - mean) * (x[i] - mean);
  const double factor = 1.0 / std::sqrt(square / static_cast<double>(width) + norm.epsilon);
  for (int64_t i = 0; i < width; ++i) {
    x[i] = (x[i] - mean) * factor * norm.weight[i] + (norm.bias.empty() ? 0.0 : norm.bias[i]);
  }
}

double activate(Activation activation, double x) {
  switch (activation) {
    case Activation::kSilu: return x / (1 + std::exp(-x));
    case Activation::kGelu: return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    case Activation::kGeluTanh: return 0.5 * x * (1 + std::tanh(std::sqrt(2.0 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
    case Activation::kRelu: return std::max(x, 0.0);
  }
  return x;
}

namespace {

// The outputs of several matrices over one input, one after another.
Row multiply_all(const std::vector<Linear>& linears, const Row& x, int64_t& outliers) {
  Row all;
  for (const Linear& linear : linears) {
    const Row part = multiply(linear, x, outliers);
    all.insert(all.end(), part.begin(), part.end());
  }
  return all;
}

// Turns the pairs (i, i + half) of one head.
void rotate(double* head, const Row& cosine, const Row& sine) {
  const size_t half = cosine.size();
  for (size_t i = 0; i < half; ++i) {
    const double a = head[i], b = head[i + half];
    head[i] = a * cosine[i] - b * sine[i];
    head[i + half] = b * cosine[i] + a * sine[i];
  }
}

// softmax(q . k * scale) . v over the positions that this one sees.
void attend(const Attention& attention, const DecoderConfig& c, Cache& cache, int64_t layer, int64_t position, const double* q, Row& out) {
  const int64_t first = attention.sliding_window > 0 ? std::max<int64_t>(0, position - attention.sliding_window + 1) : 0;
  const int64_t sharing = c.num_attention_heads / c.num_key_value_heads;
  Row score(position - first + 1);
  out.assign(c.num_attention_heads * c.head_dim, 0.0);
  for (int64_t head = 0; head < c.num_attention_heads; ++head) {
    const int64_t offset = head / sharing * c.head_dim;
    for (int64_t p = first; p <= position; ++p) {
      const double* k = cache.key(layer, p) + offset;
      double dot = 0;
      for (int64_t i = 0; i < c.head_dim; ++i) dot += q[head * c.head_dim + i] * k[i];
      score[p - first] = dot * attention.scale;
    }
    const double most = *std::max_element(score.begin(), score.end());
    double sum = 0;
    for (double& s : score) sum += s = std::exp(s - most);
    for (int64_t p = first; p <= position; ++p) {
      const double* v = cache.value(layer, p) + offset;
      for (int64_t i = 0; i < c.head_dim; ++i) out[head * c.head_dim + i] += score[p - first] / sum * v[i];
    }
  }
}

}  // namespace

void run_block(const Decoder& decoder, int64_t layer, Cache& cache, int64_t position, const Row& cosine, const Row& sine, Row& h,
               int64_t& outliers) {
  const DecoderConfig& c = decoder.config;
  const Block& block = decoder.blocks[layer];
  const int64_t q_width = c.num_attention_heads * c.head_dim, kv_width = c.num_key_value_heads * c.head_dim;

  Row x = h;
  normalize(block.input_norm, x.data(), c.hidden_size);
  Row qkv = multiply_all(block.attention.qkv, x, outliers);
  double *q = qkv.data(), *k = q + q_width, *v = k + kv_width;
  for (int64_t head = 0; head < c.num_attention_heads; ++head) {
    if (!block.attention.q_norm.empty()) normalize(block.attention.q_norm[0], q + head * c.head_dim, c.head_dim);
    if (block.attention.rotary) rotate(q + head * c.head_dim, cosine, sine);
  }
  for (int64_t head = 0; head < c.num_key_value_heads; ++head) {
    if (!block.attention.k_norm.empty()) normalize(block.attention.k_norm[0], k + head * c.head_dim, c.head_dim);
    if (block.attention.rotary) rotate(k + head * c.head_dim, cosine, sine);
  }
  std::copy(k, k + kv_width, cache.key(layer, position));
  std::copy(v, v + kv_width, cache.value(layer, position));
  Row mixed;
  attend(block.attention, c, cache, layer, position, q, mixed);
  const Row attended = multiply(block.attention.output, mixed, outliers);
  for (int64_t i = 0; i < c.hidden_size; ++i) h[i] += attended[i];

  x = h;
  normalize(block.post_attention_norm, x.data(), c.hidden_size);
  const Row gate_up = multiply_all(block.mlp.gate_up, x, outliers);
  const int64_t width = static_cast<int64_t>(gate_up.size()) / 2;
  Row inner(width);
  for (int64_t i = 0; i < width; ++i) inner[i] = activate(block.mlp.activation, gate_up[i]) * gate_up[width + i];
  const Row fed = multiply(block.mlp.down, inner, outliers);
  for (int64_t i = 0; i < c.hidden_size; ++i) h[i] += fed[i];
}

}  // namespace nbl::ref

// The reference backend against numbers worked out by hand: models of width 2, where RMS norms leave (1, 1) and (1, -1)
// as they are, and a scale of ln(3)/2 that makes attention weights quarters.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "kernels/ref/ref.h"

namespace nbl {
namespace {

using Rows = std::vector<std::vector<float>>;

QuantWeight plain(const Rows& rows) {
  QuantWeight w;
  w.out_features = static_cast<int64_t>(rows.size());
  w.in_features = static_cast<int64_t>(rows[0].size());
  std::vector<float> values;
  for (const std::vector<float>& row : rows) values.insert(values.end(), row.begin(), row.end());
  w.dense_owned.resize(values.size() * sizeof(float));
  std::memcpy(w.dense_owned.data(), values.data(), w.dense_owned.size());
  w.dense = w.dense_owned.data();
  return w;
}

Linear linear(const Backend& backend, const Rows& rows, std::vector<float> bias = {}) {
  const QuantWeight w = plain(rows);
  Linear out;
  out.in_features = w.in_features;
  out.out_features = w.out_features;
  out.part_rows = {w.out_features};
  out.weight = backend.pack({&w}, WeightRole::kOther).value();
  out.bias = std::move(bias);
  return out;
}

const Rows kIdentity = {{1, 0}, {0, 1}}, kZero = {{0, 0}, {0, 0}};

Norm ones(int64_t width) {
  Norm norm;
  norm.weight.assign(static_cast<size_t>(width), 1.0f);
  return norm;
}

// One layer, one head, identity projections, no MLP to speak of. Token 0 is (1, 1), token 1 is (1, -1).
class SmallModel : public ::testing::Test {
 protected:
  SmallModel() {
    DecoderConfig& c = decoder_->config;
    c.vocab_size = c.hidden_size = c.intermediate_size = c.head_dim = 2;
    c.num_hidden_layers = c.num_attention_heads = c.num_key_value_heads = 1;
    decoder_->embedding = {embedding_, DType::kF32};
    decoder_->final_norm = ones(2);
    decoder_->head = linear(*backend_, kIdentity);
    decoder_->blocks.resize(1);
    block().input_norm = block().post_attention_norm = ones(2);
    block().attention.qkv = {linear(*backend_, kIdentity), linear(*backend_, kIdentity), linear(*backend_, kIdentity)};
    block().attention.output = linear(*backend_, kIdentity);
    block().attention.scale = static_cast<float>(std::log(3.0) / 2);
    block().attention.rotary = false;
    block().mlp.gate_up = {linear(*backend_, kIdentity), linear(*backend_, kIdentity)};
    block().mlp.down = linear(*backend_, kZero);
  }

  Block& block() { return decoder_->blocks[0]; }

  std::unique_ptr<KvCache> cache(int64_t capacity) const {
    return std::move(backend_->make_kv_cache(*decoder_, {capacity, DType::kF32})).value();
  }
  std::unique_ptr<Plan> plan() const {
    PlanLimits limits;
    limits.max_tokens = limits.max_logit_rows = 4;
    return std::move(backend_->compile(decoder_, limits)).value();
  }
  Status step(KvCache& cache, const std::vector<int32_t>& tokens, std::vector<float>& logits, const std::atomic<bool>* cancel = nullptr) {
    logits.assign(tokens.size() * 2, std::nanf(""));
    Batch batch;
    batch.sequences = {{&cache, tokens.data(), static_cast<int64_t>(tokens.size()), static_cast<int64_t>(tokens.size())}};
    batch.logits = logits.data();
    batch.cancel = cancel;
    return plan()->step(batch);
  }
  // The residual stream after the layer is (x, y): what the head then says after the final norm.
  void expect_after_the_layer(const std::vector<int32_t>& tokens, double x, double y) {
    std::vector<float> logits;
    const auto kv = cache(4);
    const Status status = step(*kv, tokens, logits);
    ASSERT_TRUE(status.ok()) << status.message();
    const double rms = std::sqrt((x * x + y * y) / 2);
    EXPECT_NEAR(logits[logits.size() - 2], x / rms, 1e-6);
    EXPECT_NEAR(logits[logits.size() - 1], y / rms, 1e-6);
  }

  float embedding_[4] = {1, 1, 1, -1};
  std::unique_ptr<Backend> backend_ = make_ref_backend();
  std::shared_ptr<Decoder> decoder_ = std::make_shared<Decoder>();
};

TEST_F(SmallModel, AFirstTokenAttendsToItself) { expect_after_the_layer({1}, 2, -2); }

TEST_F(SmallModel, WeightsAreTheSoftmaxOfScaledProducts) {
  // Products 0 and 2, scaled to 0 and ln 3: weights 1/4 and 3/4 of (1, 1) and (1, -1).
  expect_after_the_layer({0, 1}, 1 + 1, -1 - 0.5);
}

TEST_F(SmallModel, AWindowOfOneSeesOnlyItself) {
  block().attention.sliding_window = 1;
  expect_after_the_layer({0, 1}, 2, -2);
}

TEST_F(SmallModel, AWindowOfTwoForgetsTheThirdLast) {
  block().attention.sliding_window = 2;
  expect_after_the_layer({0, 1, 1}, 2, -2);       // both that it sees are (1, -1)
  block().attention.sliding_window = 3;
  expect_after_the_layer({0, 1, 1}, 2, -1 - 5.0 / 7);  // weights 1/7, 3/7, 3/7
}

TEST_F(SmallModel, AQuarterTurnPerPositionMovesQueriesAndKeysButNotValues) {
  decoder_->rope.rotary_dim = 2;
  decoder_->rope.inv_freq = {static_cast<float>(std::acos(0.0))};
  block().attention.rotary = true;
  // (1, -1) turned is (1, 1): it finds both keys equal, and mixes (1, 1) and (1, -1) evenly.
  expect_after_the_layer({0, 1}, 1 + 1, -1 + 0);
}

TEST_F(SmallModel, TheAttentionFactorScalesBothSidesOfAProduct) {
  decoder_->rope.rotary_dim = 2;
  decoder_->rope.inv_freq = {0};
  decoder_->rope.attention_factor = 2;
  block().attention.rotary = true;
  expect_after_the_layer({0, 1}, 2, -1 + (1.0 - 81.0) / 82.0);  // products 0 and 8, scaled to 0 and 4 ln 3
}

TEST_F(SmallModel, HeadsShareKeysAndValues) {
  decoder_->config.num_attention_heads = 2;
  block().attention.qkv[0] = linear(*backend_, {{1, 0}, {0, 1}, {-1, 0}, {0, -1}});
  block().attention.output = linear(*backend_, {{0, 0, 1, 0}, {0, 0, 0, 1}});  // only the second head
  // Its query is (-1, 1): products 0 and -2, weights 3/4 and 1/4.
  expect_after_the_layer({0, 1}, 1 + 1, -1 + 0.5);
}

TEST_F(SmallModel, FusedPartsAreTheSameAsSeparateOnes) {
  const QuantWeight q = plain({{2, 0}, {0, 2}}), k = plain(kIdentity), v = plain({{0, 1}, {1, 0}});
  Linear fused;
  fused.weight = backend_->pack({&q, &k, &v}, WeightRole::kQkv).value();
  fused.in_features = 2;
  fused.out_features = 6;
  fused.part_rows = {2, 2, 2};
  block().attention.qkv = {fused};
  // Products 0 and 4, scaled to 0 and ln 9: weights 1/10 and 9/10 of the swapped (1, 1) and (-1, 1).
  expect_after_the_layer({0, 1}, 1 - 0.8, -1 + 1);
}

TEST_F(SmallModel, HeadNormsComeBeforeTheProducts) {
  block().attention.q_norm = {ones(2)};
  block().attention.k_norm = {ones(2)};
  block().attention.q_norm[0].weight = {0, 0};
  expect_after_the_layer({0, 1}, 1 + 1, -1 + 0);  // all products 0: even weights
}

TEST_F(SmallModel, BiasesAreAdded) {
  block().attention.output = linear(*backend_, kZero, {3, 5});
  expect_after_the_layer({0}, 1 + 3, 1 + 5);
}

TEST_F(SmallModel, TheMlpMultipliesTheActivatedGateByUp) {
  block().attention.output = linear(*backend_, kZero);
  block().mlp.activation = Activation::kRelu;
  block().mlp.gate_up = {linear(*backend_, kIdentity), linear(*backend_, {{3, 0}, {0, 3}})};
  block().mlp.down = linear(*backend_, {{0, 1}, {1, 0}});
  expect_after_the_layer({1}, 1 + 0, -1 + 3);  // relu(1, -1) * (3, -3) = (3, 0), swapped
}

TEST_F(SmallModel, AStepInPartsIsTheStep) {
  std::vector<float> whole, first, second;
  const auto a = cache(4), b = cache(4);
  ASSERT_TRUE(step(*a, {0, 1, 1}, whole).ok());
  ASSERT_TRUE(step(*b, {0, 1}, first).ok());
  ASSERT_TRUE(step(*b, {1}, second).ok());
  EXPECT_EQ(std::vector<float>(whole.end() - 2, whole.end()), second);
  b->truncate(1);
  ASSERT_TRUE(step(*b, {1, 1}, second).ok());
  EXPECT_EQ(std::vector<float>(whole.begin() + 2, whole.end()), second);
}

TEST_F(SmallModel, AFailedStepLeavesTheCacheAsItWas) {
  std::vector<float> logits;
  const auto kv = cache(2);
  ASSERT_TRUE(step(*kv, {0}, logits).ok());
  EXPECT_EQ(step(*kv, {0, 1}, logits).code(), Code::kContextFull);
  const std::atomic<bool> cancel{true};
  EXPECT_EQ(step(*kv, {1}, logits, &cancel).code(), Code::kCancelled);
  EXPECT_EQ(step(*cache(9), {0, 0, 0, 0, 0}, logits).code(), Code::kArgument);  // the plan takes four
  EXPECT_EQ(kv->length(), 1);
}

TEST(RefOperations, NormsOfTwoValues) {
  Norm norm = ones(2);
  norm.weight = {1, 2};
  double x[2] = {3, 4};
  ref::normalize(norm, x, 2);  // the mean square is 12.5
  EXPECT_NEAR(x[0], 3 / std::sqrt(12.5), 1e-12);
  EXPECT_NEAR(x[1], 8 / std::sqrt(12.5), 1e-12);
  norm.kind = Norm::Kind::kLayer;
  norm.bias = {10, 20};
  norm.epsilon = 3;
  double y[2] = {1, 3};
  ref::normalize(norm, y, 2);  // mean 2, variance 1, sqrt(1 + 3) = 2
  EXPECT_NEAR(y[0], 10 - 0.5, 1e-12);
  EXPECT_NEAR(y[1], 20 + 1.0, 1e-12);
}

TEST(RefOperations, ActivationsOfOne) {
  // Values as scipy.special and torch print them.
  EXPECT_NEAR(ref::activate(Activation::kSilu, 1), 0.7310585786300049, 1e-15);
  EXPECT_NEAR(ref::activate(Activation::kSilu, -1), -0.2689414213699951, 1e-15);
  EXPECT_NEAR(ref::activate(Activation::kGelu, 1), 0.8413447460685429, 1e-15);
  EXPECT_NEAR(ref::activate(Activation::kGeluTanh, 1), 0.8411919906082768, 1e-15);
  EXPECT_EQ(ref::activate(Activation::kRelu, -1), 0);
  EXPECT_EQ(ref::activate(Activation::kRelu, 2), 2);
}

std::vector<float> unit_products(const QuantWeight& w) {
  const auto backend = make_ref_backend();
  std::vector<float> x(static_cast<size_t>(w.in_features * w.in_features)), y(static_cast<size_t>(w.in_features * w.out_features));
  for (int64_t i = 0; i < w.in_features; ++i) x[static_cast<size_t>(i * w.in_features + i)] = 1;
  EXPECT_TRUE(backend->matmul(*backend->pack({&w}, WeightRole::kOther).value(), x.data(), w.in_features, y.data()).ok());
  return y;
}

TEST(RefPack, GroupsZerosAndOrderOfColumns) {
  QuantWeight w;
  w.format = WeightFormat::kIntGroup;
  w.out_features = 1;
  w.in_features = 3;
  w.bits = 4;
  w.group_size = 2;
  w.codes = {1, 15, 6};
  w.scales = {0.5f, 2};
  w.zeros = {3, 8};
  w.k_order = {2, 0, 1};
  EXPECT_EQ(unit_products(w), (std::vector<float>{6, -4, -1}));  // columns 0, 1, 2
}

TEST(RefPack, RoundsAsTheToolDoes) {
  QuantWeight w;
  w.format = WeightFormat::kIntGroup;
  w.out_features = 1;
  w.in_features = 1;
  w.bits = 4;
  w.group_size = 1;
  w.codes = {11};
  w.zeros = {8};
  w.scales = {0.0999755859375f};  // the half nearest to 0.1
  EXPECT_EQ(unit_products(w)[0], 0.2999267578125f);
  w.value_type = DType::kF16;     // 1228.5 units of 2^-12: to even
  EXPECT_EQ(unit_products(w)[0], 0.2998046875f);
}

TEST(RefPack, CodebooksTimesTheBlocksScale) {
  QuantWeight w;
  w.format = WeightFormat::kCodebook;
  w.out_features = 1;
  w.in_features = 2;
  w.bits = 4;
  w.group_size = 2;
  w.codes = {15, 2};
  w.codebook[15] = 1;
  w.codebook[2] = -0.25f;
  w.scales = {6};
  EXPECT_EQ(unit_products(w), (std::vector<float>{6, -1.5f}));
}

}  // namespace
}  // namespace nbl

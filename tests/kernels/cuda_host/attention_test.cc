// Attention of one token in the resident kernel (kernels/cuda/resident/attention.cuh), run on the host by the CTAs of all its
// tasks at once, which exchange the sums of their splits, and compared with the same in double.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/cuda/resident/attention.cuh"

namespace nbl::cuda {
namespace {

constexpr uint32_t kInTag = 0x12345, kOutTag = 0x12346, kOldTag = 0x12333;
constexpr int kMostLoads = 20000000;  // of one run

struct Case {
  int heads, kv_heads, head_dim, length;  // positions held before the token
  int splits = 1, window = 0, rotary_half = 0;
  bool norms = false, permuted = false;
};

// One layer's heads of one sequence.
class Attention {
 public:
  explicit Attention(const Case& c) : c_(c), random_(c.length * 131 + c.heads * 7 + c.splits), capacity_(c.length + 3) {
    const int d = c.head_dim;
    qkv_ = values((c.heads + 2 * c.kv_heads) * d);
    q_weight_ = values(d), k_weight_ = values(d);
    std::uniform_real_distribution<float> angle(0.f, 6.28f);
    for (int i = 0; i < c.rotary_half; ++i) {
      const float a = angle(random_);
      turns_.push_back(make_float2(std::cos(a), std::sin(a)));
    }
    for (const float v : values(2 * c.kv_heads * capacity_ * d)) cache_.push_back(__half(v));
    // What a longer sequence has left behind: anything, also what is no number.
    for (int row = 0; row < 2 * c.kv_heads; ++row) std::fill_n(&cache_[(row * capacity_ + c.length) * d], (capacity_ - c.length) * d, __half(NAN));
    places_.resize(c.heads * d);
    std::iota(places_.begin(), places_.end(), 0);
    if (c.permuted) std::shuffle(places_.begin(), places_.end(), random_);
  }

  // One value of the first query head, of the first key head (new or held), or of its value is NaN: so is what depends on it.
  enum class Broken { kQuery, kKey, kHeldKey, kValue, kHeldValue };
  void check_broken(Broken what) {
    const int d = c_.head_dim, dim = 5, sharing = what == Broken::kQuery ? 1 : c_.heads / c_.kv_heads;
    switch (what) {
      case Broken::kQuery: qkv_[dim] = NAN; break;
      case Broken::kKey: qkv_[c_.heads * d + dim] = NAN; break;
      case Broken::kHeldKey: cache_[cache_at(0, 0, c_.length / 2) + dim] = __half(NAN); break;
      case Broken::kValue: qkv_[(c_.heads + c_.kv_heads) * d + dim] = NAN; break;
      case Broken::kHeldValue: cache_[cache_at(1, 0, c_.length / 2) + dim] = __half(NAN); break;
    }
    c_.head_dim == 64 ? run<64>(cuda_host::Turns::kAscending) : run<128>(cuda_host::Turns::kAscending);
    for (int i = 0; i < c_.heads * d; ++i) {
      const bool broken = i / d < sharing && (what < Broken::kValue || i % d == dim);
      ASSERT_EQ(std::isnan(f16_to_float(static_cast<uint16_t>(out_[places_[i]]))), broken) << "head " << i / d << ", dimension " << i % d;
    }
  }

  void check() {
    const std::vector<double> expected = result();
    const std::vector<__half> cache = cache_;
    for (const cuda_host::Turns turns : {cuda_host::Turns::kAscending, cuda_host::Turns::kDescending}) {
      SCOPED_TRACE(turns == cuda_host::Turns::kAscending ? "first threads first" : "last threads first");
      cache_ = cache;
      c_.head_dim == 64 ? run<64>(turns) : run<128>(turns);
      for (size_t i = 0; i < expected.size(); ++i) {
        const uint32_t word = out_[places_[i]];
        ASSERT_EQ(word >> 16, kOutTag & 0xffffu) << "the tag of column " << i;
        ASSERT_NEAR(f16_to_float(static_cast<uint16_t>(word)), expected[i], 4e-3)
            << "head " << i / c_.head_dim << ", dimension " << i % c_.head_dim;
      }
      check_cache(cache);
      if (::testing::Test::HasFailure()) return;
    }
  }

 private:
  std::vector<float> values(int count) {
    std::normal_distribution<float> normal;
    std::vector<float> made(count);
    for (float& v : made) v = normal(random_);
    return made;
  }
  float scale() const { return 1.f / std::sqrt(static_cast<float>(c_.head_dim)); }
  int64_t cache_at(int what, int kv_head, int position) const {
    return ((static_cast<int64_t>(what) * c_.kv_heads + kv_head) * capacity_ + position) * c_.head_dim;
  }

  // A head of qkv, normed and turned; `weight` null: neither.
  std::vector<double> head_of(int index, const std::vector<float>* weight) const {
    const int d = c_.head_dim, half = c_.rotary_half;
    std::vector<double> v(qkv_.begin() + index * d, qkv_.begin() + (index + 1) * d);
    if (weight == nullptr) return v;
    if (c_.norms) {
      const double squares = std::inner_product(v.begin(), v.end(), v.begin(), 0.);
      for (int i = 0; i < d; ++i) v[i] *= (*weight)[i] / std::sqrt(squares / d + 1e-5);
    }
    for (int i = 0; i < half; ++i) {
      const double x = v[i], y = v[i + half];
      v[i] = x * turns_[i].x - y * turns_[i].y;
      v[i + half] = y * turns_[i].x + x * turns_[i].y;
    }
    return v;
  }
  // The key or value of a position.
  std::vector<double> held(int what, int kv_head, int position) const {
    if (position == c_.length) {
      return what == 0 ? head_of(c_.heads + kv_head, &k_weight_) : head_of(c_.heads + c_.kv_heads + kv_head, nullptr);
    }
    std::vector<double> v;
    for (int i = 0; i < c_.head_dim; ++i) v.push_back(__half2float(cache_[cache_at(what, kv_head, position) + i]));
    return v;
  }
  std::vector<double> result() const {
    const int d = c_.head_dim, from = c_.window > 0 ? std::max(0, c_.length + 1 - c_.window) : 0;
    std::vector<double> out;
    for (int head = 0; head < c_.heads; ++head) {
      const std::vector<double> q = head_of(head, &q_weight_);
      const int kv_head = head / (c_.heads / c_.kv_heads);
      std::vector<double> sum(d, 0.);
      double total = 0;
      for (int position = from; position <= c_.length; ++position) {
        const std::vector<double> k = held(0, kv_head, position), v = held(1, kv_head, position);
        const double weight = std::exp(std::inner_product(q.begin(), q.end(), k.begin(), 0.) * scale());
        total += weight;
        for (int i = 0; i < d; ++i) sum[i] += weight * v[i];
      }
      for (const double s : sum) out.push_back(s / total);
    }
    return out;
  }

  template <int D>
  void run(cuda_host::Turns turns) {
    AttentionShape a;
    a.heads = c_.heads, a.kv_heads = c_.kv_heads, a.head_dim = D, a.rotary_half = c_.rotary_half, a.window = c_.window, a.scale = scale();
    if (c_.norms) {
      a.q_norm.weight = q_weight_.data(), a.k_norm.weight = k_weight_.data();
      a.q_norm.epsilon = a.k_norm.epsilon = 1e-5f;
    }
    StepSequence s;
    s.cache = cache_.data(), s.capacity = capacity_, s.length = c_.length;
    const int tasks = attention_tasks(c_.heads, c_.kv_heads, kMmaHeads) * c_.splits;
    std::vector<uint2> words(qkv_.size()), parts(c_.heads * c_.splits * D / 2, make_uint2(0, kOldTag));
    for (size_t i = 0; i < qkv_.size(); ++i) put_word(&words[i], __float_as_uint(qkv_[i]), kInTag);
    std::vector<uint4> states(c_.heads * c_.splits, make_uint4(0, kOldTag, 0, kOldTag));
    out_.assign(c_.heads * D, kOldTag << 16);
    const int32_t* place = c_.permuted ? places_.data() : nullptr;
    const AttentionWords to = {words.data(), kInTag, parts.data(), states.data(), out_.data(), place, kOutTag};
    struct alignas(16) Shared {
      unsigned char bytes[mma_attention_bytes(D, kConsumerWarps, kMmaHeads)];
    };
    std::vector<Shared> shared(tasks);
    std::memset(shared.data(), 0xff, shared.size() * sizeof(Shared));  // not numbers
    cuda_host::before_load = [loads = 0]() mutable {                   // other CTAs write meanwhile
      if (++loads > kMostLoads) throw std::logic_error("threads look for words that nobody writes");
      cuda_host::let_others_run();
    };
    cuda_host::run_ctas(tasks, kConsumerThreads, turns, [&](int cta, int tid) {
      const MmaTask task = mma_task(a.heads, a.kv_heads, a.window, s.length + 1, cta, c_.splits);
      attend_mma<D>(a, s, task, to, turns_.data(), shared[cta].bytes, tid,
                    [] { cuda_host::meet_threads(kConsumerThreads); });
    });
    cuda_host::before_load = nullptr;
  }

  // The new position is there, and nothing else has changed.
  void check_cache(const std::vector<__half>& before) const {
    for (int what = 0; what < 2; ++what) {
      for (int kv_head = 0; kv_head < c_.kv_heads; ++kv_head) {
        const std::vector<double> fresh = held(what, kv_head, c_.length);
        for (int position = 0; position < capacity_; ++position) {
          for (int i = 0; i < c_.head_dim; ++i) {
            const int64_t at = cache_at(what, kv_head, position) + i;
            if (position == c_.length) {
              ASSERT_NEAR(__half2float(cache_[at]), fresh[i], std::abs(fresh[i]) * 6e-4 + 1e-5) << (what == 0 ? "key " : "value ") << i;
            } else {
              ASSERT_EQ(cache_[at].bits, before[at].bits) << "position " << position << " has changed";
            }
          }
        }
      }
    }
  }

  Case c_;
  std::mt19937 random_;
  int capacity_;
  std::vector<float> qkv_, q_weight_, k_weight_;
  std::vector<float2> turns_;
  std::vector<__half> cache_;    // [2][kv_heads][capacity][head_dim]
  std::vector<int32_t> places_;  // column of the result -> where it goes
  std::vector<uint32_t> out_;
};

void check(const Case& c) {
  SCOPED_TRACE(std::to_string(c.heads) + " heads over " + std::to_string(c.kv_heads) + " of " + std::to_string(c.head_dim) +
               ", behind " + std::to_string(c.length) + ", splits " + std::to_string(c.splits) + ", window " + std::to_string(c.window) +
               ", " + std::to_string(c.rotary_half) + " pairs turn");
  Attention(c).check();
}

// One token, less than a warp's positions, exactly so many, more than a CTA takes at once.
TEST(ResidentAttention, SeesEveryPositionBeforeTheToken) {
  for (const int head_dim : {64, 128}) {
    for (const int length : {0, 1, 14, 15, 16, 17, 127, 128, 200}) check({2, 1, head_dim, length, 1, 0, head_dim / 2});
  }
}

// Up to eight query heads of a kv head are one task; nine are two.
TEST(ResidentAttention, SharesKeysAmongHeads) {
  for (const int group : {1, 3, 7, 8, 9, 16}) check({2 * group, 2, 64, 40, 1, 0, 32});
}

TEST(ResidentAttention, PutsSplitsTogether) {
  for (const int head_dim : {64, 128}) {
    for (const int splits : {2, 4, 8, 16}) check({4, 1, head_dim, 150, splits, 0, head_dim / 2});
  }
  check({1, 1, 64, 600, 32, 0, 32});
  check({9, 1, 64, 70, 4, 0, 32});
  check({2, 2, 128, 3, 8, 0, 64});  // splits without a position
}

TEST(ResidentAttention, LooksNoFartherBackThanTheWindow) {
  for (const int window : {1, 16, 50, 300}) {
    check({4, 2, 64, 150, 1, window, 32});
    check({4, 2, 64, 150, 4, window, 32});
  }
}

TEST(ResidentAttention, NormsAndTurnsHeadsInPartOrNotAtAll) {
  for (const int head_dim : {64, 128}) {
    for (const int rotary_half : {0, 8, 16, head_dim / 2}) {
      for (const bool norms : {false, true}) check({4, 2, head_dim, 30, 1, 0, rotary_half, norms});
    }
  }
}

TEST(ResidentAttention, PassesOnWhatIsNotANumber) {
  using Broken = Attention::Broken;
  for (const Broken what : {Broken::kQuery, Broken::kKey, Broken::kHeldKey, Broken::kValue, Broken::kHeldValue}) {
    for (const int splits : {1, 4}) {
      SCOPED_TRACE("value " + std::to_string(static_cast<int>(what)) + ", splits " + std::to_string(splits));
      Attention({4, 2, 64, 150, splits, 0, 32}).check_broken(what);
      Attention({4, 2, 128, 20, splits, 0, 64, true}).check_broken(what);
    }
  }
}

TEST(ResidentAttention, PutsItsResultWhereTheNextMatrixWantsIt) {
  for (const int splits : {1, 2}) check({4, 2, 128, 30, splits, 0, 64, false, true});
}

}  // namespace
}  // namespace nbl::cuda

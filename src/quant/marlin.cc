// Marlin (formats.md 2.4, 3.7): symmetric 4-bit codes in the order in which a kernel of that name reads them, by AutoAWQ (qweight,
// scales) and AutoGPTQ (B, s).
//
//   qweight int32 [K/16, 2N]  tiles of 16 inputs by 64 outputs, see unpack_tiles
//   scales  fp16  [G, N]      each row permuted, in blocks of 64; of 32 where a row is the only one
//
// W[n,k] = (q - 8) * s, rounded once to the scales' type; the group size follows from the shapes.
#include "base/parallel.h"
#include "quant/formats.h"

namespace nbl {
namespace {

struct Tensors {
  const TensorView* codes;
  const TensorView* scales;
};

Tensors tensors_of(const ModuleSource& source) {
  if (const TensorView* codes = source.find(".B")) return {codes, source.find(".s")};
  return {source.find(".qweight"), source.find(".scales")};
}

// No other layout has codes and scales and no zeros.
bool matches(const ModuleSource& source) {
  const auto [codes, scales] = tensors_of(source);
  if (!codes || !scales || source.find(".qzeros") || source.find(".scaled_zeros") || source.config.format != "marlin") return false;
  return codes->dtype == DType::kI32 && codes->shape.size() == 2 && scales->shape.size() == 2;
}

Result<WeightSpec> spec(const ModuleSource& source) {
  const int64_t n = source.out_features, k = source.in_features;
  const auto [codes, scales] = tensors_of(source);
  if (k % 16 != 0 || n % 64 != 0 || codes->shape != std::vector<int64_t>{k / 16, 2 * n}) {
    return shape_error(*codes, shape_text({k / 16, 2 * n}) + ", outputs in multiples of 64", source);
  }
  NBL_ASSIGN_OR_RETURN(const int64_t group_size, group_size_by(*scales, source));
  NBL_RETURN_IF_ERROR(check_scale_type(*scales, source));
  WeightSpec out = int_group_spec(source, 4, group_size, scales->dtype, "marlin");
  out.symmetric = true;
  return out;
}

// Word w of row R has 16 inputs' worth of chunk w / 128, which is 64 outputs. With t = w % 128 / 4 and j = w % 4, nibble i is input
// 16R + 2 (t % 4) + (e & 1) + 8 (e >> 1 & 1) of output 64 chunk + 16 j + 8 (e >> 2) + t / 4, where e is 0 2 4 6 1 3 5 7.
void unpack_tiles(const uint8_t* words, int64_t n, int64_t k, uint8_t* out) {
  constexpr int kOrder[8] = {0, 2, 4, 6, 1, 3, 5, 7};
  parallel_for(k / 16, (1 << 14) / n + 1, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      for (int64_t w = 0; w < 2 * n; ++w) {
        const uint32_t word = word_at(words, row * 2 * n + w);
        const int64_t t = w % 128 / 4, input = 16 * row + 2 * (t % 4), output = 64 * (w / 128) + 16 * (w % 4) + t / 4;
        for (int i = 0; i < 8; ++i) {
          const int e = kOrder[i];
          out[(output + 8 * (e >> 2)) * k + input + (e & 1) + 8 * (e >> 1 & 1)] = word >> 4 * i & 15;
        }
      }
    }
  });
}

// Where a row of scales has that of its output n.
int64_t place_of_scale(int64_t n, bool only_row) {
  if (!only_row) return n / 64 * 64 + n % 8 * 8 + n % 64 / 8;
  constexpr int kPlaces[8] = {0, 1, 8, 9, 16, 17, 24, 25};  // stored[8i + j] is that of output 2i + kPlaces[j]
  for (int i = 0; i < 4; ++i) {
    for (int j = 0; j < 8; ++j) {
      if (2 * i + kPlaces[j] == n % 32) return n / 32 * 32 + 8 * i + j;
    }
  }
  return n;
}

Result<QuantWeight> load(const ModuleSource& source) {
  NBL_ASSIGN_OR_RETURN(const WeightSpec facts, spec(source));
  QuantWeight weight;
  static_cast<WeightSpec&>(weight) = facts;
  const int64_t n = facts.out_features, k = facts.in_features, groups = facts.groups();
  const Tensors tensors = tensors_of(source);
  weight.codes.resize(n * k);
  unpack_tiles(tensors.codes->data, n, k, weight.codes.data());
  weight.zeros.assign(n * groups, 8);
  NBL_ASSIGN_OR_RETURN(const std::vector<float> stored, floats_of(*tensors.scales));
  weight.scales.resize(n * groups);
  for (int64_t row = 0; row < n; ++row) {
    const int64_t place = place_of_scale(row, groups == 1);
    for (int64_t g = 0; g < groups; ++g) weight.scales[row * groups + g] = stored[g * n + place];
  }
  return weight;
}

}  // namespace

const Format kMarlin = {"marlin", matches, spec, load};

}  // namespace nbl

// GPTQ (formats.md 3): codes packed along the inputs, and zeros packed along the outputs the same way.
//
//   qweight int32 [ceil(K*b/32), N]   code k of output n: bits b*k .. b*k+b-1 of column n's stream of words
//   qzeros  int32 [G, N*b/32]         "gptq" (v1) stores z - 1, "gptq_v2" and "gptq_p" store z
//   scales  float [G, N]
//   g_idx   int32 or int64 [K]        group of every input (act-order); may be absent or empty
//
// W[n,k] = (q - z[g_idx[k]]) * s[g_idx[k]], rounded once to the scales' type.
//
// Codes of 2, 3, 4 and 8 bits are one little-endian bit stream. GPTQModel's planar layout ("gptq_p", and whatever has 5, 6 or
// 7 bits) cuts the bits of 32 codes into planes instead; such weights are kept as 8-bit ones.
#include <algorithm>

#include "base/parallel.h"
#include "quant/formats.h"

namespace nbl {
namespace {

// Bits follow from the shapes; the configuration is only compared.
int64_t bits_of(const ModuleSource& source) {
  const int64_t rows = source.find(".qweight")->shape[0];
  for (int64_t bits : {4, 8, 3, 2}) {
    if (rows == (source.in_features * bits + 31) / 32) return bits;
  }
  for (int64_t bits : {5, 6, 7}) {
    if (source.in_features % 32 == 0 && rows == source.in_features / 32 * bits) return bits;
  }
  return 0;
}

// 2, 4 and 8 bits are one plane, which is the bit stream.
bool is_planar(const ModuleSource& source, int64_t bits) { return bits > 4 ? bits < 8 : bits == 3 && source.config.format == "gptq_p"; }

// Of the zeros of a group.
int64_t zero_words(int64_t n, int64_t bits) { return (n * bits + 31) / 32; }

bool matches(const ModuleSource& source) {
  const TensorView* qweight = source.find(".qweight");
  const TensorView* scales = source.find(".scales");
  if (!qweight || !scales || !source.find(".qzeros") || qweight->dtype != DType::kI32) return false;
  if (qweight->shape.size() != 2 || scales->shape.size() != 2 || scales->shape[1] != qweight->shape[1]) return false;
  // A shape that fits no width is damage, unless the configuration says that another layout uses the same names (AWQ's gemv).
  const std::string& format = source.config.format;
  const bool says_gptq = source.config.method != "awq" && (format.empty() || format == "gptq" || format == "gptq_v2" || format == "gptq_p");
  return says_gptq || bits_of(source) != 0;
}

Result<WeightSpec> spec(const ModuleSource& source) {
  const int64_t n = source.out_features, k = source.in_features;
  const TensorView& qweight = *source.find(".qweight");
  const TensorView& qzeros = *source.find(".qzeros");
  const TensorView& scales = *source.find(".scales");
  const int64_t bits = bits_of(source);
  if (bits == 0 || qweight.shape[1] != n) {
    return shape_error(qweight, "[" + std::to_string(k) + " * bits / 32, " + std::to_string(n) + "]", source);
  }
  const int64_t groups = scales.shape[0];
  if (groups <= 0 || groups > k) return shape_error(scales, "[groups, " + std::to_string(n) + "]", source);
  if (const std::vector<int64_t> expected = {groups, zero_words(n, bits)}; qzeros.dtype != DType::kI32 || qzeros.shape != expected) {
    return shape_error(qzeros, shape_text(expected) + " I32", source);
  }
  const bool planar = is_planar(source, bits);
  if (planar && (n % 32 != 0 || k % 32 != 0)) return shape_error(qweight, "inputs and outputs in multiples of 32", source);
  NBL_RETURN_IF_ERROR(check_scale_type(scales, source));
  const TensorView* g_idx = source.find(".g_idx");
  NBL_RETURN_IF_ERROR(check_group_index(g_idx, source));
  NBL_ASSIGN_OR_RETURN(const int64_t group_size, group_size_of(scales, groups, source.config.group_size, source));
  const std::string name = planar ? "gptq planar, stored in " + std::to_string(bits) + " bits"
                                  : source.config.format == "gptq_v2" ? "gptq v2" : "gptq v1";
  WeightSpec out = int_group_spec(source, raise_of(bits) ? 8 : static_cast<int>(bits), group_size, scales.dtype, name);
  // GPTQModel rounds a dequantized weight once to the scales' type; AutoGPTQ multiplies in the type of the activations,
  // so that in float32 nothing is rounded.
  out.value_type = source.config.written_by_gptqmodel ? scales.dtype : DType::kF32;
  out.permuted = !group_index(g_idx, groups, out.group_size).empty();
  return out;
}

// Fields of one row of zeros, [columns] of them, stored value.
void unpack_along(const uint8_t* words, int64_t first_word, int64_t columns, int bits, uint32_t add_to_words, uint8_t* out) {
  const uint32_t mask = (1u << bits) - 1;
  uint64_t held = 0;
  int have = 0;
  for (int64_t column = 0; column < columns; ++column) {
    if (have < bits) {
      held |= static_cast<uint64_t>(word_at(words, first_word++) + add_to_words) << have;
      have += 32;
    }
    out[column] = held & mask;
    held >>= bits;
    have -= bits;
  }
}

// 32 codes from `bits` words that are `stride` words apart. A plane of w bits takes w of the words, each a run of 32 / w codes;
// planes have 4, 2 and 1 bits, as many as it takes, and the first has the lowest bits (two of them where the code has three).
void unpack_planes(const uint8_t* words, int64_t first_word, int64_t stride, int bits, uint8_t raise, uint8_t* out) {
  std::fill(out, out + 32, uint8_t{0});
  int64_t word = first_word;
  for (int done = 0; done < bits;) {
    const int left = bits - done, width = left >= 4 ? 4 : left >= 2 ? 2 : 1;
    for (int i = 0; i < 32; i += 32 / width, word += stride) {
      const uint32_t held = word_at(words, word);
      for (int j = 0; j < 32 / width; ++j) out[i + j] |= static_cast<uint8_t>((held >> width * j & ((1u << width) - 1)) << done);
    }
    done += width;
  }
  for (int i = 0; i < 32; ++i) out[i] = static_cast<uint8_t>(out[i] + raise);
}

// Codes [N, K] and zeros [N, G] of the planar layout.
void load_planar(const ModuleSource& source, int bits, QuantWeight& weight) {
  const int64_t n = weight.out_features, k = weight.in_features, groups = weight.groups();
  const uint8_t raise = raise_of(bits);
  const uint8_t* qweight = source.find(".qweight")->data;
  const uint8_t* qzeros = source.find(".qzeros")->data;
  weight.codes.resize(n * k);
  parallel_for(n, (1 << 18) / k + 1, [&](int64_t first, int64_t last) {
    for (int64_t block = 0; block < k / 32; ++block) {  // neighbouring columns lie side by side
      for (int64_t column = first; column < last; ++column) {
        unpack_planes(qweight, block * bits * n + column, n, bits, raise, weight.codes.data() + column * k + block * 32);
      }
    }
  });
  weight.zeros.resize(n * groups);
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t block = 0; block < n / 32; ++block) {
      uint8_t zeros[32];
      unpack_planes(qzeros, (g * (n / 32) + block) * bits, 1, bits, raise, zeros);
      for (int64_t i = 0; i < 32; ++i) weight.zeros[(block * 32 + i) * groups + g] = zeros[i];
    }
  }
  const uint8_t half = static_cast<uint8_t>(1u << (weight.bits - 1));
  weight.symmetric = std::all_of(weight.zeros.begin(), weight.zeros.end(), [half](uint8_t zero) { return zero == half; });
}

// The zero points [N, G], by the decision rule of formats.md 3.4.
void load_zeros(const ModuleSource& source, const WeightSpec& facts, QuantWeight& weight) {
  const int64_t n = facts.out_features, groups = facts.groups();
  const int bits = facts.bits;
  const uint8_t* words = source.find(".qzeros")->data;
  const uint8_t half = static_cast<uint8_t>(1u << (bits - 1));
  const uint8_t mask = static_cast<uint8_t>((1u << bits) - 1);
  const int64_t words_per_row = zero_words(n, bits);
  // Most files are symmetric, and their words all the same: these need not be unpacked.
  const auto all_words = [&](uint8_t value) {
    const uint32_t wanted = 0xffffffffu / mask * value;
    for (int64_t i = 0; i < groups * words_per_row; ++i) {
      if (word_at(words, i) != wanted) return false;
    }
    return true;
  };
  if (bits != 3 && source.config.symmetric && (all_words(half) || all_words(half - 1))) {
    weight.symmetric = true;
    weight.zeros.assign(n * groups, half);
    return;
  }
  std::vector<uint8_t> stored(n * groups);
  const auto read = [&](uint32_t add) {
    constexpr int64_t kColumns = 64;  // at a time: they begin with a word
    parallel_for((n + kColumns - 1) / kColumns, (1 << 18) / (kColumns * groups) + 1, [&](int64_t first, int64_t last) {
      uint8_t row[kColumns];
      for (int64_t column = first * kColumns; column < std::min(n, last * kColumns); column += kColumns) {
        const int64_t count = std::min(kColumns, n - column);
        for (int64_t g = 0; g < groups; ++g) {
          unpack_along(words, g * words_per_row + column * bits / 32, count, bits, add, row);
          for (int64_t i = 0; i < count; ++i) stored[(column + i) * groups + g] = row[i];
        }
      }
    });
  };
  read(0);
  const auto all = [&](uint8_t value) { return std::all_of(stored.begin(), stored.end(), [&](uint8_t z) { return z == value; }); };
  const bool v2 = source.config.format == "gptq_v2" || source.config.format == "gptq_p";
  // Symmetric files whose label and contents disagree exist in both directions; the contents decide.
  const bool symmetric = source.config.symmetric && (all(half) || all(half - 1));
  // GPTQModel before its 3-bit repair subtracted misplaced constants: exactly these words mean 4 everywhere.
  bool misplaced = bits == 3 && source.config.symmetric && !v2;
  for (int64_t i = 0; misplaced && i < groups * words_per_row; ++i) {
    constexpr uint32_t kMisplaced[3] = {0x00000000u, 0xB6DB6DB7u, 0x49249249u};
    misplaced = word_at(words, i) == kMisplaced[i % words_per_row % 3];
  }
  if (symmetric || misplaced) {
    std::fill(stored.begin(), stored.end(), half);
  } else if (!v2) {
    // GPTQModel subtracted one from whole words, with borrow; everyone else field by field. Whether the configuration says
    // symmetric does not matter: its "dynamic" part may say otherwise of this module.
    const bool whole_words = source.config.written_by_gptqmodel && bits != 3;
    if (whole_words) {
      read(bits == 2 ? 0x55555555u : bits == 4 ? 0x11111111u : 0x01010101u);
    } else {
      for (uint8_t& zero : stored) zero = (zero + 1) & mask;
    }
  }
  weight.symmetric = all(half);
  weight.zeros = std::move(stored);
}

Result<QuantWeight> load(const ModuleSource& source) {
  NBL_ASSIGN_OR_RETURN(const WeightSpec facts, spec(source));
  QuantWeight weight;
  static_cast<WeightSpec&>(weight) = facts;
  const int64_t n = facts.out_features, groups = facts.groups();
  const TensorView& scales = *source.find(".scales");
  const StoredCodes codes{StoredCodes::Layout::kAlongInputs, source.find(".qweight")->data};
  const int64_t bits = bits_of(source);
  const bool planar = is_planar(source, bits), keeps = source.keep_stored && !planar;
  if (planar) {
    load_planar(source, static_cast<int>(bits), weight);
  } else {
    load_zeros(source, facts, weight);
    take_codes(codes, keeps, weight);
  }
  if (keeps) {
    weight.stored_scales = {scales.data, scales.dtype};
  } else {
    NBL_ASSIGN_OR_RETURN(weight.scales, transposed_scales(scales, n, groups));
  }
  if (facts.permuted) NBL_RETURN_IF_ERROR(sort_by_group(*source.find(".g_idx"), weight));
  return weight;
}

}  // namespace

const Format kGptq = {"gptq", matches, spec, load};

}  // namespace nbl

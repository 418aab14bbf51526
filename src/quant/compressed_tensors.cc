// compressed-tensors (formats.md 5), as llm-compressor writes it: signed codes by rows, stored with 2^(bits-1) added.
//
//   pack-quantized   weight_packed     int32 [N, ceil(K*b/32)]   row n is one little-endian stream of bits; before version 0.18 codes of
//                                                                3, 5, 6 and 7 bits did not cross words: floor(32/b) in each
//                    weight_scale      float [N, G], [N, 1] or [1]
//                    weight_zero_point int32 [ceil(N*b/32), G]   packed down the rows; older: int8 [N, G]; absent: 0
//                    weight_g_idx      int32 [K]                 group of every input (act-order); may be absent, or all -1
//                    weight_shape      int64 [2]                 N, K
//   int-quantized    weight int8 [N, K], weight_scale as above, weight_zero_point int8 [N, G]; "naive-quantized" is the same
//
// W[n,k] = (q - z) * s, rounded once to the scales' type. Widths that kernels do not have (5 to 7 bits) are kept as 8-bit ones.
#include <algorithm>
#include <cstring>

#include "base/parallel.h"
#include "quant/formats.h"

namespace nbl {
namespace {

// How codes stand in words: as a stream, or so many in each.
struct Packing {
  int bits = 0;      // 0: no packing fits
  int per_word = 0;  // 0: a stream

  int64_t words(int64_t codes) const { return per_word > 0 ? (codes + per_word - 1) / per_word : (codes * bits + 31) / 32; }
};

// The configuration's groups of modules may have several widths: which one a module has its shape tells.
Packing packing_of(const ModuleSource& source) {
  const int64_t words = source.find(".weight_packed")->shape[1], k = source.in_features;
  std::vector<int64_t> widths;
  for (const QuantScheme& scheme : source.config.schemes) widths.push_back(scheme.bits);
  if (widths.empty()) widths = {4, 8, 3, 2};
  for (const int64_t bits : widths) {
    if (bits < 2 || bits > 8) continue;
    for (const int per_word : {0, static_cast<int>(32 / bits)}) {
      const Packing packing{static_cast<int>(bits), per_word};
      if (packing.words(k) == words) return 32 % bits == 0 ? Packing{packing.bits, 0} : packing;
    }
  }
  return {};
}

// Groups of a row; 0: the scales' shape is of none.
int64_t groups_of(const TensorView& scales, int64_t n) {
  if (scales.elements() == 1 || (scales.shape.size() == 1 && scales.shape[0] == n)) return 1;
  return scales.shape.size() == 2 && scales.shape[0] == n ? scales.shape[1] : 0;
}

// What both formats have: scales, zero points and the order of inputs.
Result<WeightSpec> common_spec(const ModuleSource& source, const Packing& packing, const std::string& name) {
  const int64_t n = source.out_features, k = source.in_features;
  const TensorView& scales = *source.find(".weight_scale");
  const int64_t groups = groups_of(scales, n);
  if (groups < 1 || groups > k) return shape_error(scales, "[" + std::to_string(n) + ", groups], or one value", source);
  NBL_RETURN_IF_ERROR(check_scale_type(scales, source));
  int64_t said = 0;
  for (const QuantScheme& scheme : source.config.schemes) {
    if (scheme.bits == packing.bits && scheme.group_size > 0 && (k + scheme.group_size - 1) / scheme.group_size == groups)
      said = scheme.group_size;
  }
  NBL_ASSIGN_OR_RETURN(const int64_t group_size, group_size_of(scales, groups, said, source));
  if (const TensorView* zeros = source.find(".weight_zero_point")) {
    const std::vector<int64_t> packed = {packing.words(n), groups};
    const bool fits = zeros->dtype == DType::kI32 ? zeros->shape == packed : zeros->dtype == DType::kI8 && groups_of(*zeros, n) == groups;
    if (!fits) return shape_error(*zeros, shape_text(packed) + " I32, or " + shape_text({n, groups}) + " I8", source);
  }
  WeightSpec out = int_group_spec(source, raise_of(packing.bits) > 0 ? 8 : packing.bits, group_size, scales.dtype, name);
  const TensorView* index = source.find(".weight_g_idx");
  NBL_RETURN_IF_ERROR(check_group_index(index, source));
  out.permuted = !group_index(index, groups, group_size).empty();
  return out;
}

// Code `index` of words that are `stride` words apart, the first of them at `first`.
uint32_t packed_code(const uint8_t* words, int64_t first, int64_t stride, const Packing& packing, int64_t index) {
  const uint32_t mask = (1u << packing.bits) - 1;
  if (packing.per_word > 0)
    return word_at(words, first + index / packing.per_word * stride) >> packing.bits * (index % packing.per_word) & mask;
  const int64_t bit = index * packing.bits, word = first + bit / 32 * stride;
  const int shift = static_cast<int>(bit % 32);
  uint32_t code = word_at(words, word) >> shift;
  if (shift + packing.bits > 32) code |= word_at(words, word + stride) << (32 - shift);
  return code & mask;
}

// Zero points [N, G], of codes that are not negative.
void load_zeros(const ModuleSource& source, const Packing& packing, QuantWeight& weight) {
  const int64_t n = weight.out_features, groups = weight.groups();
  const uint8_t middle = static_cast<uint8_t>(1u << (weight.bits - 1));
  weight.zeros.assign(n * groups, middle);
  if (const TensorView* zeros = source.find(".weight_zero_point")) {
    const bool packed = zeros->dtype == DType::kI32, one = zeros->elements() == 1;
    for (int64_t row = 0; row < n; ++row) {
      for (int64_t g = 0; g < groups; ++g) {
        uint8_t& zero = weight.zeros[row * groups + g];
        if (packed)
          zero = static_cast<uint8_t>(packed_code(zeros->data, g, groups, packing, row) + raise_of(packing.bits));
        else
          zero = static_cast<uint8_t>(zeros->data[one ? 0 : row * groups + g] + middle);
      }
    }
  }
  weight.symmetric = std::all_of(weight.zeros.begin(), weight.zeros.end(), [middle](uint8_t zero) { return zero == middle; });
}

// Scales stay as they are stored where codes do.
Status load_scales(const ModuleSource& source, QuantWeight& weight) {
  const TensorView& scales = *source.find(".weight_scale");
  const int64_t count = weight.out_features * weight.groups();
  if (weight.stored.data != nullptr && scales.elements() == count) {
    weight.stored_scales.data = scales.data;
    weight.stored_scales.type = scales.dtype;
    weight.stored_scales.by_rows = true;
    return {};
  }
  NBL_ASSIGN_OR_RETURN(weight.scales, floats_of(scales));
  if (weight.scales.size() == 1) weight.scales.assign(count, weight.scales[0]);
  return {};
}

// Of codes that are loaded: everything else.
Result<QuantWeight> finish(const ModuleSource& source, const Packing& packing, QuantWeight weight) {
  load_zeros(source, packing, weight);
  NBL_RETURN_IF_ERROR(load_scales(source, weight));
  if (weight.permuted) NBL_RETURN_IF_ERROR(sort_by_group(*source.find(".weight_g_idx"), weight));
  if (source.config.quantized_activations && source.warnings) {
    const std::string warning = "activations, which the configuration wants quantized too, keep their precision";
    if (std::find(source.warnings->begin(), source.warnings->end(), warning) == source.warnings->end()) source.warnings->push_back(warning);
  }
  return weight;
}

// ---- pack-quantized

bool matches_packed(const ModuleSource& source) {
  const TensorView* packed = source.find(".weight_packed");
  return packed && packed->dtype == DType::kI32 && packed->shape.size() == 2 && source.find(".weight_scale");
}

// weight_shape, which older files have in 32 bits.
Status check_told_shape(const ModuleSource& source) {
  const TensorView* shape = source.find(".weight_shape");
  if (!shape) return {};
  const std::vector<int64_t> expected = {source.out_features, source.in_features};
  const bool wide = shape->dtype == DType::kI64;
  if (shape->elements() != 2 || (!wide && shape->dtype != DType::kI32)) return shape_error(*shape, "[2] I64", source);
  int64_t told[2];
  for (int i = 0; i < 2; ++i) {
    if (wide)
      std::memcpy(&told[i], shape->data + 8 * i, 8);
    else
      told[i] = static_cast<int32_t>(word_at(shape->data, i));
  }
  if (told[0] == expected[0] && told[1] == expected[1]) return {};
  return error(Code::kFormat, "%s says %s, expected %s", shape->name.c_str(), shape_text({told[0], told[1]}).c_str(),
               shape_text(expected).c_str())
      .with("file", shape->file)
      .with("tensor", shape->name);
}

Result<WeightSpec> spec_packed(const ModuleSource& source) {
  const int64_t n = source.out_features, k = source.in_features;
  const TensorView& packed = *source.find(".weight_packed");
  const Packing packing = packing_of(source);
  if (packing.bits == 0 || packed.shape[0] != n) {
    return shape_error(packed, "[" + std::to_string(n) + ", " + std::to_string(k) + " * bits / 32]", source);
  }
  NBL_RETURN_IF_ERROR(check_told_shape(source));
  return common_spec(
      source, packing,
      raise_of(packing.bits) > 0 ? "compressed-tensors, stored in " + std::to_string(packing.bits) + " bits" : "compressed-tensors");
}

Result<QuantWeight> load_packed(const ModuleSource& source) {
  NBL_ASSIGN_OR_RETURN(const WeightSpec facts, spec_packed(source));
  const Packing packing = packing_of(source);
  QuantWeight weight;
  static_cast<WeightSpec&>(weight) = facts;
  const int64_t n = facts.out_features, k = facts.in_features, words = packing.words(k);
  const uint8_t* data = source.find(".weight_packed")->data;
  // Rows of whole bytes without a rest are as bitsandbytes has them.
  if ((packing.bits == 4 || packing.bits == 8) && k * packing.bits == words * 32) {
    StoredCodes codes{StoredCodes::Layout::kRows, data};
    codes.low_first = true;
    take_codes(codes, source.keep_stored, weight);
  } else {
    weight.codes.resize(n * k);
    parallel_for(n, (1 << 18) / k + 1, [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        for (int64_t i = 0; i < k; ++i) {
          weight.codes[row * k + i] = static_cast<uint8_t>(packed_code(data, row * words, 1, packing, i) + raise_of(packing.bits));
        }
      }
    });
  }
  return finish(source, packing, std::move(weight));
}

// ---- int-quantized

constexpr Packing kBytes{8, 0};

bool matches_bytes(const ModuleSource& source) {
  const TensorView* weight = source.find(".weight");
  return weight && weight->dtype == DType::kI8 && source.find(".weight_scale");
}

Result<WeightSpec> spec_bytes(const ModuleSource& source) {
  const TensorView& weight = *source.find(".weight");
  const std::vector<int64_t> expected = {source.out_features, source.in_features};
  if (weight.shape != expected) return shape_error(weight, shape_text(expected), source);
  return common_spec(source, kBytes, "compressed-tensors int8");
}

Result<QuantWeight> load_bytes(const ModuleSource& source) {
  NBL_ASSIGN_OR_RETURN(const WeightSpec facts, spec_bytes(source));
  QuantWeight weight;
  static_cast<WeightSpec&>(weight) = facts;
  const StoredCodes codes{StoredCodes::Layout::kRows, source.find(".weight")->data, 0, 0x80};  // signed + 128
  take_codes(codes, source.keep_stored, weight);
  return finish(source, kBytes, std::move(weight));
}

}  // namespace

const Format kPackQuantized = {"compressed-tensors pack-quantized", matches_packed, spec_packed, load_packed};
const Format kIntQuantized = {"compressed-tensors int-quantized", matches_bytes, spec_bytes, load_bytes};

}  // namespace nbl

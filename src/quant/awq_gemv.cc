// AWQ, the layouts for one row at a time (formats.md 2.2, 2.3): 4-bit codes packed along the inputs. The group size cannot be told
// from the shapes, whose unused columns are zero: the configuration has it.
//
//   gemv       qweight int32 [N, K/8]   nibble i of word c is input 8c + i
//              qzeros  int32 [N, zw]    nibble i of word c is group 8c + i
//              scales  fp16  [N, 8*zw]
//   gemv_fast  qweight int16 [N/4, K]   tiles of 4 outputs by 64 inputs, see unpack_tiles
//              scales  fp16  [8*zw, N]
//              qzeros  fp16  [8*zw, N]  -(scale * zero); llm-awq calls it scaled_zeros
//
// W[n,k] = fl16((q - z) * s), as in the gemm layout.
#include <cmath>
#include <cstring>

#include "base/parallel.h"
#include "quant/formats.h"

namespace nbl {
namespace {

bool is_matrix(const TensorView* tensor, DType type) { return tensor && tensor->shape.size() == 2 && tensor->dtype == type; }

// What both layouts have: the configuration's groups.
Result<WeightSpec> grouped_spec(const ModuleSource& source, const char* name) {
  const int64_t k = source.in_features, said = source.config.group_size;
  const int64_t group_size = said > 0 ? said : said < 0 ? k : 128;  // 128 is what is meant where nothing is said
  if (group_size > k || k % group_size != 0) {
    return error(Code::kFormat, "the configuration has groups of %lld, which do not divide the %lld inputs of %s",
                 static_cast<long long>(group_size), static_cast<long long>(k), source.module.c_str())
        .with("key", "group_size");
  }
  return int_group_spec(source, 4, group_size, source.find(".scales")->dtype, name);
}

QuantWeight empty_weight(const WeightSpec& spec) {
  QuantWeight weight;
  static_cast<WeightSpec&>(weight) = spec;
  weight.codes.resize(spec.out_features * spec.in_features);
  weight.zeros.resize(spec.out_features * spec.groups());
  weight.scales.resize(spec.out_features * spec.groups());
  return weight;
}

// ---- gemv

bool matches_gemv(const ModuleSource& source) {
  const TensorView* qweight = source.find(".qweight");
  const TensorView* qzeros = source.find(".qzeros");
  const TensorView* scales = source.find(".scales");
  if (source.config.method != "awq" || !is_matrix(qweight, DType::kI32) || !is_matrix(qzeros, DType::kI32)) return false;
  if (!scales || scales->shape.size() != 2) return false;
  const int64_t rows = qweight->shape[0];
  return qzeros->shape[0] == rows && scales->shape[0] == rows && scales->shape[1] == 8 * qzeros->shape[1];
}

Result<WeightSpec> spec_gemv(const ModuleSource& source) {
  NBL_ASSIGN_OR_RETURN(WeightSpec out, grouped_spec(source, "awq gemv"));
  const TensorView& qweight = *source.find(".qweight");
  const TensorView& scales = *source.find(".scales");
  if (out.in_features % 8 != 0 || qweight.shape != std::vector<int64_t>{out.out_features, out.in_features / 8}) {
    return shape_error(qweight, shape_text({out.out_features, out.in_features / 8}) + " for 4-bit AWQ", source);
  }
  NBL_RETURN_IF_ERROR(check_scale_type(scales, source));
  if (scales.shape[1] < out.groups())
    return shape_error(scales, "a column for each of " + std::to_string(out.groups()) + " groups", source);
  return out;
}

// Nibble `index` of a run of words, the lowest first.
uint8_t nibble_at(const uint8_t* words, int64_t index) { return words[index / 2] >> (index % 2 * 4) & 15; }

Result<QuantWeight> load_gemv(const ModuleSource& source) {
  NBL_ASSIGN_OR_RETURN(const WeightSpec facts, spec_gemv(source));
  QuantWeight weight = empty_weight(facts);
  const int64_t n = facts.out_features, k = facts.in_features, groups = facts.groups();
  const uint8_t* codes = source.find(".qweight")->data;
  const uint8_t* zeros = source.find(".qzeros")->data;
  NBL_ASSIGN_OR_RETURN(const std::vector<float> scales, floats_of(*source.find(".scales")));
  const int64_t width = source.find(".scales")->shape[1];  // with the columns that pad it
  parallel_for(n, (1 << 18) / k + 1, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      for (int64_t i = 0; i < k; ++i) weight.codes[row * k + i] = nibble_at(codes, row * k + i);
      for (int64_t g = 0; g < groups; ++g) {
        weight.zeros[row * groups + g] = nibble_at(zeros, row * width + g);
        weight.scales[row * groups + g] = scales[row * width + g];
      }
    }
  });
  return weight;
}

// ---- gemv_fast

const TensorView* scaled_zeros(const ModuleSource& source) {
  const TensorView* zeros = source.find(".scaled_zeros");
  return zeros ? zeros : source.find(".qzeros");
}

bool matches_fast(const ModuleSource& source) {
  return is_matrix(source.find(".qweight"), DType::kI16) && source.find(".scales") && scaled_zeros(source);
}

Result<WeightSpec> spec_fast(const ModuleSource& source) {
  NBL_ASSIGN_OR_RETURN(WeightSpec out, grouped_spec(source, "awq gemv_fast"));
  const int64_t n = out.out_features, k = out.in_features;
  const TensorView& qweight = *source.find(".qweight");
  if (n % 4 != 0 || k % 64 != 0 || qweight.shape != std::vector<int64_t>{n / 4, k}) {
    return shape_error(qweight, shape_text({n / 4, k}) + ", 64 inputs to a tile", source);
  }
  for (const TensorView* tensor : {source.find(".scales"), scaled_zeros(source)}) {
    NBL_RETURN_IF_ERROR(check_scale_type(*tensor, source));
    if (tensor->shape.size() != 2 || tensor->shape[0] < out.groups() || tensor->shape[1] != n) {
      return shape_error(*tensor, shape_text({out.groups(), n}) + " or more rows", source);
    }
  }
  return out;
}

// Row R of words has outputs 4R .. 4R+3. Word c of a tile of 64 inputs belongs to output 4R + c/16, and its nibble b is input
// 32 * (c%16 / 8) + c%8 + 8b of the tile.
void unpack_tiles(const uint8_t* words, int64_t n, int64_t k, uint8_t* out) {
  parallel_for(n / 4, (1 << 16) / k + 1, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      for (int64_t column = 0; column < k; ++column) {
        uint16_t word;
        std::memcpy(&word, words + 2 * (row * k + column), 2);
        const int64_t c = column % 64, input = column - c + c % 16 / 8 * 32 + c % 8;
        for (int b = 0; b < 4; ++b) out[(4 * row + c / 16) * k + input + 8 * b] = word >> 4 * b & 15;
      }
    }
  });
}

Result<QuantWeight> load_fast(const ModuleSource& source) {
  NBL_ASSIGN_OR_RETURN(const WeightSpec facts, spec_fast(source));
  QuantWeight weight = empty_weight(facts);
  const int64_t n = facts.out_features, groups = facts.groups();
  unpack_tiles(source.find(".qweight")->data, n, facts.in_features, weight.codes.data());
  NBL_ASSIGN_OR_RETURN(const std::vector<float> scales, floats_of(*source.find(".scales")));
  NBL_ASSIGN_OR_RETURN(const std::vector<float> zeros, floats_of(*scaled_zeros(source)));
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t row = 0; row < n; ++row) {
      const float scale = scales[g * n + row];
      const float zero = scale != 0 ? std::nearbyint(-zeros[g * n + row] / scale) : 0;
      if (!(zero >= 0 && zero <= 15)) {
        return error(Code::kFormat, "%s holds %g at [%lld, %lld], which is no zero point from 0 to 15 by the scale %g",
                     scaled_zeros(source)->name.c_str(), zeros[g * n + row], static_cast<long long>(g), static_cast<long long>(row), scale)
            .with("tensor", scaled_zeros(source)->name);
      }
      weight.zeros[row * groups + g] = static_cast<uint8_t>(zero);
      weight.scales[row * groups + g] = scale;
    }
  }
  return weight;
}

}  // namespace

const Format kAwqGemv = {"awq gemv", matches_gemv, spec_gemv, load_gemv};
const Format kAwqGemvFast = {"awq gemv_fast", matches_fast, spec_fast, load_fast};

}  // namespace nbl

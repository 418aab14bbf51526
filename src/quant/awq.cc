// AWQ, "gemm" layout (formats.md 2.1): 4-bit codes packed along the outputs in an interleaved order.
//
//   qweight int32 [K, N/8]    nibble i of word c is output 8c + order[i], order = 0 2 4 6 1 3 5 7
//   qzeros  int32 [K/g, N/8]  the same order
//   scales  fp16  [K/g, N]
//
// W[n,k] = fl16((q - z) * s), no offset in the zeros, no act-order.
#include <algorithm>

#include "quant/formats.h"

namespace nbl {
namespace {

constexpr uint32_t kPlaces = 0x73625140;  // the inverse of that order: output 8c + j is nibble kPlaces >> 4j

bool matches(const ModuleSource& source) {
  const TensorView* qweight = source.find(".qweight");
  const TensorView* scales = source.find(".scales");
  if (!qweight || !scales || !source.find(".qzeros") || qweight->dtype != DType::kI32) return false;
  if (qweight->shape.size() != 2 || scales->shape.size() != 2) return false;
  return scales->shape[1] == 8 * qweight->shape[1] && scales->shape[0] != qweight->shape[0];
}

Result<WeightSpec> spec(const ModuleSource& source) {
  const int64_t n = source.out_features, k = source.in_features;
  const TensorView& qweight = *source.find(".qweight");
  const TensorView& qzeros = *source.find(".qzeros");
  const TensorView& scales = *source.find(".scales");
  if (n % 8 != 0 || qweight.shape != std::vector<int64_t>{k, n / 8}) {
    return shape_error(qweight, shape_text({k, n / 8}) + " for 4-bit AWQ", source);
  }
  NBL_ASSIGN_OR_RETURN(const int64_t group_size, group_size_by(scales, source));
  const int64_t groups = k / group_size;
  if (qzeros.dtype != DType::kI32 || qzeros.shape != std::vector<int64_t>{groups, n / 8}) {
    return shape_error(qzeros, shape_text({groups, n / 8}) + " I32", source);
  }
  NBL_RETURN_IF_ERROR(check_scale_type(scales, source));
  WeightSpec out = int_group_spec(source, 4, group_size, scales.dtype, "awq gemm");
  const int64_t said = source.config.group_size;
  if (said > 0 && said != out.group_size && source.warnings) {
    source.warnings->push_back(source.module + ": the tensors have groups of " + std::to_string(out.group_size) +
                               ", the configuration says " + std::to_string(said) + "; the tensors decide");
  }
  return out;
}

Result<QuantWeight> load(const ModuleSource& source) {
  NBL_ASSIGN_OR_RETURN(const WeightSpec facts, spec(source));
  QuantWeight weight;
  static_cast<WeightSpec&>(weight) = facts;
  const int64_t n = facts.out_features, groups = facts.groups();
  const TensorView& qzeros = *source.find(".qzeros");
  const TensorView& scales = *source.find(".scales");
  const StoredCodes codes{StoredCodes::Layout::kAlongOutputs, source.find(".qweight")->data, kPlaces};
  const StoredCodes zeros{StoredCodes::Layout::kAlongOutputs, qzeros.data, kPlaces};
  take_codes(codes, source.keep_stored, weight);
  if (source.keep_stored) {
    weight.stored_zeros = zeros;
    weight.stored_scales = {scales.data, scales.dtype};
    weight.symmetric = std::all_of(qzeros.data, qzeros.data + qzeros.bytes, [](uint8_t pair) { return pair == 0x88; });
    return weight;
  }
  weight.zeros.resize(n * groups);
  unpack_codes(zeros, n, groups, 4, weight.zeros.data());
  NBL_ASSIGN_OR_RETURN(weight.scales, transposed_scales(scales, n, groups));
  weight.symmetric = std::all_of(weight.zeros.begin(), weight.zeros.end(), [](uint8_t zero) { return zero == 8; });
  return weight;
}

}  // namespace

const Format kAwqGemm = {"awq gemm", matches, spec, load};

}  // namespace nbl

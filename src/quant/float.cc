// Unquantized modules: X.weight in a float type. The values stay in the mapping; F64 is narrowed to F32.
#include <cstring>

#include "quant/formats.h"

namespace nbl {
namespace {

bool matches(const ModuleSource& source) {
  const TensorView* weight = source.find(".weight");
  return weight && is_float(weight->dtype);
}

Result<WeightSpec> spec(const ModuleSource& source) {
  const TensorView& weight = *source.find(".weight");
  if (weight.shape != std::vector<int64_t>{source.out_features, source.in_features}) {
    return shape_error(weight, shape_text({source.out_features, source.in_features}), source);
  }
  WeightSpec out;
  out.format = WeightFormat::kFloat;
  out.out_features = source.out_features;
  out.in_features = source.in_features;
  out.value_type = weight.dtype == DType::kF64 ? DType::kF32 : weight.dtype;
  out.source = dtype_name(weight.dtype);
  return out;
}

Result<QuantWeight> load(const ModuleSource& source) {
  NBL_ASSIGN_OR_RETURN(const WeightSpec facts, spec(source));
  const TensorView& view = *source.find(".weight");
  QuantWeight weight;
  static_cast<WeightSpec&>(weight) = facts;
  const bool aligned = reinterpret_cast<uintptr_t>(view.data) % dtype_bytes(facts.value_type) == 0;
  if (view.dtype == DType::kF64) {
    NBL_ASSIGN_OR_RETURN(const std::vector<float> values, floats_of(view));
    weight.dense_owned.resize(values.size() * sizeof(float));
    std::memcpy(weight.dense_owned.data(), values.data(), weight.dense_owned.size());
    weight.dense = weight.dense_owned.data();
  } else if (!aligned) {
    weight.dense_owned.assign(view.data, view.data + view.bytes);
    weight.dense = weight.dense_owned.data();
  } else {
    weight.dense = view.data;
  }
  return weight;
}

}  // namespace

const Format kFloat = {"float", matches, spec, load};

}  // namespace nbl

#include "quant/formats.h"

#include <cstring>
#include <utility>

#include "base/dtype.h"

namespace nbl {

const Format* const kFormats[] = {&kAwqGemm, &kAwqGemv, &kAwqGemvFast, &kMarlin, &kGptq, &kPackQuantized, &kIntQuantized,
                                  &kBitsandbytes4, &kBitsandbytes8, &kFloat};
const int kFormatCount = sizeof kFormats / sizeof kFormats[0];

Status shape_error(const TensorView& tensor, const std::string& expected, const ModuleSource& source) {
  return error(Code::kFormat, "%s is %s %s, expected %s (the model wants %lld outputs of %lld inputs there)", tensor.name.c_str(),
               dtype_name(tensor.dtype), shape_text(tensor.shape).c_str(), expected.c_str(),
               static_cast<long long>(source.out_features), static_cast<long long>(source.in_features))
      .with("file", tensor.file)
      .with("tensor", tensor.name)
      .with("found", shape_text(tensor.shape))
      .with("expected", expected);
}

Status missing_tensor(const ModuleSource& source, std::string_view suffix) {
  const std::string name = source.module + std::string(suffix);
  return error(Code::kFormat, "%s is missing in %s", name.c_str(), source.checkpoint.directory().c_str()).with("tensor", name);
}

Status check_scale_type(const TensorView& scales, const ModuleSource& source) {
  return is_float(scales.dtype) && scales.dtype != DType::kF64 ? Status() : shape_error(scales, "F16, BF16 or F32", source);
}

Result<int64_t> group_size_by(const TensorView& scales, const ModuleSource& source) {
  const int64_t n = source.out_features, k = source.in_features, groups = scales.shape[0];
  if (groups <= 0 || k % groups != 0 || scales.shape[1] != n) {
    return shape_error(scales, "[groups, " + std::to_string(n) + "] with groups dividing " + std::to_string(k), source);
  }
  return k / groups;
}

Result<int64_t> group_size_of(const TensorView& scales, int64_t groups, int64_t said, const ModuleSource& source) {
  const int64_t k = source.in_features;
  const bool said_fits = said > 0 && (k + said - 1) / said == groups;
  const int64_t group_size = groups == 1 ? k : said_fits ? said : (k + groups - 1) / groups;
  if ((k + group_size - 1) / group_size == groups) return group_size;
  return shape_error(scales, "a number of groups that fits " + std::to_string(k) + " inputs", source);
}

WeightSpec int_group_spec(const ModuleSource& source, int bits, int64_t group_size, DType scale_type, std::string name) {
  WeightSpec out;
  out.format = WeightFormat::kIntGroup;
  out.out_features = source.out_features;
  out.in_features = source.in_features;
  out.bits = bits;
  out.group_size = group_size;
  out.value_type = out.scale_type = scale_type;
  out.source = std::move(name);
  return out;
}

Result<std::vector<float>> floats_of(const TensorView& tensor) {
  if (!is_float(tensor.dtype)) {
    return error(Code::kFormat, "%s is %s, expected a float type", tensor.name.c_str(), dtype_name(tensor.dtype))
        .with("file", tensor.file)
        .with("tensor", tensor.name);
  }
  std::vector<float> out(tensor.elements());
  if (tensor.dtype != DType::kF64) {
    widen(tensor.dtype, tensor.data, tensor.elements(), out.data());
    return out;
  }
  for (size_t i = 0; i < out.size(); ++i) {
    double value;
    std::memcpy(&value, tensor.data + 8 * i, 8);
    out[i] = static_cast<float>(value);
  }
  return out;
}

}  // namespace nbl

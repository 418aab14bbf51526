#include "quant/formats.h"

#include <cstring>

#include "base/dtype.h"

namespace nbl {

const Format* const kFormats[] = {&kAwqGemm, &kAwqGemv, &kAwqGemvFast, &kMarlin, &kGptq, &kBitsandbytes4, &kBitsandbytes8, &kFloat};
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

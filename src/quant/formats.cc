#include "quant/formats.h"

#include <cstring>

#include "base/dtype.h"

namespace nbl {

const Format* const kFormats[] = {&kAwqGemm, &kGptq, &kBitsandbytes4, &kBitsandbytes8, &kFloat};
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
  for (size_t i = 0; i < out.size(); ++i) {
    switch (tensor.dtype) {
      case DType::kF32: std::memcpy(&out[i], tensor.data + 4 * i, 4); break;
      case DType::kF64: {
        double value;
        std::memcpy(&value, tensor.data + 8 * i, 8);
        out[i] = static_cast<float>(value);
        break;
      }
      default: {
        uint16_t half;
        std::memcpy(&half, tensor.data + 2 * i, 2);
        out[i] = tensor.dtype == DType::kF16 ? f16_to_float(half) : bf16_to_float(half);
      }
    }
  }
  return out;
}

}  // namespace nbl

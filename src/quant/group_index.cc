// Act-order: a group for each input, in the order of x (formats.md 3.5). GPTQ's g_idx, compressed-tensors' weight_g_idx.
#include <algorithm>
#include <cstring>
#include <limits>

#include "quant/formats.h"

namespace nbl {

Status check_group_index(const TensorView* index, const ModuleSource& source) {
  if (index == nullptr || index->elements() == 0) return {};
  if (index->elements() == source.in_features && (index->dtype == DType::kI32 || index->dtype == DType::kI64)) return {};
  return shape_error(*index, shape_text({source.in_features}) + " I32", source);
}

std::vector<int32_t> group_index(const TensorView* tensor, int64_t groups, int64_t group_size) {
  if (tensor == nullptr || tensor->elements() == 0) return {};
  std::vector<int32_t> index(tensor->elements());
  if (tensor->dtype == DType::kI64) {
    std::vector<int64_t> wide(index.size());
    std::memcpy(wide.data(), tensor->data, wide.size() * 8);
    std::transform(wide.begin(), wide.end(), index.begin(),
                   [](int64_t group) { return static_cast<int32_t>(std::clamp<int64_t>(group, -1, std::numeric_limits<int32_t>::max())); });
  } else {
    std::memcpy(index.data(), tensor->data, index.size() * 4);
  }
  bool natural = true, all_zero = true, negative = false;
  for (size_t k = 0; k < index.size(); ++k) {
    natural = natural && index[k] == static_cast<int64_t>(k) / group_size;
    all_zero = all_zero && index[k] == 0;
    negative = negative || index[k] < 0;
  }
  if (natural || negative || (all_zero && groups > 1)) return {};
  return index;
}

Status sort_by_group(const TensorView& tensor, QuantWeight& weight) {
  const int64_t k = weight.in_features, groups = weight.groups(), size = weight.group_size;
  const std::vector<int32_t> index = group_index(&tensor, groups, size);
  weight.k_order.resize(k);
  std::vector<int64_t> used(groups, 0);
  for (int64_t input = 0; input < k; ++input) {
    const int32_t group = index[input];
    if (group < groups && group * size + used[group] < std::min(k, (group + 1) * size)) {
      weight.k_order[group * size + used[group]++] = static_cast<int32_t>(input);
      continue;
    }
    return error(Code::kFormat, "%s puts input %lld into group %d, which does not leave groups of %lld inputs each", tensor.name.c_str(),
                 static_cast<long long>(input), group, static_cast<long long>(size))
        .with("tensor", tensor.name);
  }
  if (weight.codes.empty()) return {};  // they stay in the file's order
  std::vector<uint8_t> row(k);
  for (int64_t n = 0; n < weight.out_features; ++n) {
    uint8_t* codes = weight.codes.data() + n * k;
    for (int64_t p = 0; p < k; ++p) row[p] = codes[weight.k_order[p]];
    std::copy(row.begin(), row.end(), codes);
  }
  return {};
}

}  // namespace nbl

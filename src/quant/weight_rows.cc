#include "quant/weight_rows.h"

namespace nbl {
namespace {

template <typename T>
std::vector<T> lines_of(const std::vector<T>& values, int64_t first, int64_t count, int64_t line) {
  if (values.empty()) return {};
  return std::vector<T>(values.begin() + first * line, values.begin() + (first + count) * line);
}

}  // namespace

QuantWeight rows_of(const QuantWeight& whole, int64_t first, int64_t count) {
  QuantWeight rows;
  static_cast<WeightSpec&>(rows) = whole;
  rows.out_features = count;
  rows.codes = lines_of(whole.codes, first, count, whole.in_features);
  rows.scales = lines_of(whole.scales, first, count, whole.groups());
  rows.zeros = lines_of(whole.zeros, first, count, whole.groups());
  rows.codebook = whole.codebook;
  rows.k_order = whole.k_order;
  rows.stored = whole.stored;
  rows.stored_scales = whole.stored_scales;
  rows.stored_zeros = whole.stored_zeros;
  rows.stored_rows = whole.stored_rows > 0 ? whole.stored_rows : whole.out_features;
  rows.stored_first = whole.stored_first + first;
  rows.rule = whole.rule;
  if (whole.dense != nullptr)
    rows.dense = static_cast<const uint8_t*>(whole.dense) + first * whole.in_features * dtype_bytes(whole.value_type);
  return rows;
}

}  // namespace nbl

// Which tiles a weight becomes, and how that is told.
#include "kernels/cuda/weights/weight.h"

namespace nbl::cuda {
namespace {

constexpr int64_t kAlign = 256;

int64_t total_rows(const std::vector<WeightSpec>& parts) {
  int64_t rows = 0;
  for (const WeightSpec& part : parts) rows += part.out_features;
  return rows;
}

// The group that a record can hold for this spec, 0 when none can.
int record_group(const WeightSpec& spec) {
  if (spec.groups() == 1 || spec.group_size % 128 == 0) return 128;
  if (spec.group_size % 64 == 0) return 64;
  return spec.group_size % 32 == 0 ? 32 : 0;
}

Codes codes_of(const WeightSpec& spec) {
  if (spec.format == WeightFormat::kCodebook) return Codes::kCode4;
  if (spec.bits == 2) return Codes::kInt2;
  if (spec.bits == 3) return Codes::kInt3;
  return spec.bits == 4 ? Codes::kInt4 : Codes::kInt8;
}

}  // namespace

TilePlan plan_tiles(const std::vector<WeightSpec>& parts, WeightRole role) {
  TilePlan plan;
  const WeightSpec& spec = parts.front();
  Tiles& t = plan.tiles;
  t.rows = total_rows(parts);
  t.strips = static_cast<int>(pad_up(t.rows, kStripRows) / kStripRows);
  plan.in_features = spec.in_features;
  plan.padded_k = pad_up(spec.in_features, kColumnAlign);
  t.interleaved = role == WeightRole::kGateUp && parts.size() == 2 && parts[0].out_features == parts[1].out_features &&
                  parts[0].out_features % 8 == 0;
  t.group = spec.format == WeightFormat::kFloat ? 0 : record_group(spec);
  plan.dequantized = spec.format != WeightFormat::kFloat && t.group == 0;
  t.codes = t.group == 0 ? Codes::kHalf : codes_of(spec);
  for (const WeightSpec& part : parts) t.wide_scales |= t.group != 0 && part.scale_type != DType::kF16;
  t.group_bytes = group_bytes(t.codes, t.wide_scales);
  t.record_bytes = code_bytes(t.codes) + (t.group != 0 ? 128 / t.group * t.group_bytes : 0);
  t.records = static_cast<int>(plan.padded_k / record_columns(t.codes));
  plan.code_bytes = static_cast<int64_t>(t.strips) * t.records * t.record_bytes;
  plan.total_bytes = pad_up(plan.code_bytes, kAlign);
  const auto take = [&](int64_t bytes) {
    const int64_t at = plan.total_bytes;
    plan.total_bytes += pad_up(bytes, kAlign);
    return at;
  };
  if (spec.permuted) plan.order_at = take(2 * plan.padded_k * 4);
  if (t.codes == Codes::kCode4) plan.pairs_at = take(1024);
  if (t.codes == Codes::kHalf && (plan.dequantized || spec.value_type != DType::kF16)) plan.row_scale_at = take(t.strips * 64);
  return plan;
}

// The tile's format: how its products are taken differs by the step, and a session describes that.
std::string CudaWeight::kernel() const {
  const Tiles& t = tiles();
  static const char* const names[] = {"int2", "int3", "int4", "int8", "code4", "f16"};
  std::string text = std::string("tile16 ") + names[static_cast<int>(t.codes)];
  if (t.group != 0) text += " g" + std::to_string(t.group) + (t.wide_scales ? " f32-scales" : " f16-scales");
  return text;
}

std::string CudaWeight::reason() const {
  const WeightSpec& s = spec();
  if (plan_.dequantized) return "dequantized to f16: no tile holds groups of " + std::to_string(s.group_size);
  if (s.format == WeightFormat::kFloat && s.value_type != DType::kF16) {
    return std::string(dtype_name(s.value_type)) + " as f16 with a power of two a row";
  }
  if (s.format == WeightFormat::kIntGroup && s.bits > 4 && s.bits < 8) return "codes of " + std::to_string(s.bits) + " bits in bytes";
  if (tiles().wide_scales && s.format == WeightFormat::kIntGroup) return std::string(dtype_name(s.scale_type)) + " scales do not fit f16";
  return "codes and scales as they are stored";
}

}  // namespace nbl::cuda

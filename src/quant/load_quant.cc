#include "quant/load_quant.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/parallel.h"
#include "quant/codebooks.h"

namespace nbl {
namespace {

using Method = LoadQuantOptions::Method;

// `count` values of the flattened matrix from `first` on.
void widen(const QuantWeight& plain, int64_t first, int64_t count, float* out) {
  widen(plain.value_type, static_cast<const uint8_t*>(plain.dense) + first * dtype_bytes(plain.value_type), count, out);
}

// The largest magnitude of `count` values. The bits without the sign order as the values do; comparing those of halves is
// several times faster than widening them.
float largest_magnitude_at(const QuantWeight& plain, int64_t first, int64_t count) {
  if (plain.value_type == DType::kF32) return largest_magnitude(static_cast<const float*>(plain.dense) + first, count);
  const uint16_t* halves = static_cast<const uint16_t*>(plain.dense) + first;
  int16_t most = 0;
  for (int64_t i = 0; i < count; ++i) most = std::max<int16_t>(most, static_cast<int16_t>(halves[i] & 0x7fff));
  const auto bits = static_cast<uint16_t>(most);
  return plain.value_type == DType::kF16 ? f16_to_float(bits) : bf16_to_float(bits);
}

// The largest magnitude of every block.
std::vector<float> block_scales(const QuantWeight& plain, int64_t block) {
  const int64_t count = plain.out_features * plain.in_features;
  std::vector<float> absmax((count + block - 1) / block);
  parallel_for(static_cast<int64_t>(absmax.size()), 4096, [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b) absmax[b] = largest_magnitude_at(plain, b * block, std::min(block, count - b * block));
  });
  return absmax;
}

QuantWeight quantize_codebook(const QuantWeight& plain, const LoadQuantOptions& options) {
  QuantWeight out;
  static_cast<WeightSpec&>(out) = load_quant_spec(plain, options);
  const bool fp4 = options.method == Method::kFp4;
  out.codebook = fp4 ? kFp4Codebook : kNf4Codebook;
  const int64_t count = plain.out_features * plain.in_features;
  const int64_t block = options.block_size, blocks = (count + block - 1) / block;
  std::vector<float> absmax(blocks);
  out.codes.resize(count);
  parallel_for(blocks, 4096, [&](int64_t first, int64_t last) {
    std::vector<float> values(block);
    for (int64_t b = first; b < last; ++b) {
      const int64_t begin = b * block, length = std::min(block, count - begin);
      widen(plain, begin, length, values.data());
      const float most = largest_magnitude(values.data(), length);
      absmax[b] = most;
      // An all-zero block gets the code of zero.
      const float reciprocal = most > 0 ? 1.0f / most : 0.0f;
      for (int64_t i = 0; i < length; ++i) values[i] *= reciprocal;
      (fp4 ? fp4_codes : nf4_codes)(values.data(), length, out.codes.data() + begin);
    }
  });
  if (options.double_quant) double_quantize(absmax);
  const int64_t groups = out.groups();
  out.scales.resize(out.out_features * groups);
  for (int64_t at = 0; at < out.out_features * groups; ++at) {
    const int64_t n = at / groups, g = at % groups;
    out.scales[at] = absmax[(n * out.in_features + g * out.group_size) / block];
  }
  return out;
}

QuantWeight quantize_int8(const QuantWeight& plain, const LoadQuantOptions& options) {
  QuantWeight out;
  static_cast<WeightSpec&>(out) = load_quant_spec(plain, options);
  const int64_t n = plain.out_features, k = plain.in_features;
  out.codes.resize(n * k);
  out.zeros.assign(n, 128);
  out.scales.resize(n);
  parallel_for(n, 64, [&](int64_t first, int64_t last) {
    std::vector<float> row(k);
    for (int64_t r = first; r < last; ++r) {
      widen(plain, r * k, k, row.data());
      for (float& value : row) value = f16_to_float(float_to_f16(value));  // the tool casts to half precision first
      const float most = largest_magnitude(row.data(), k);
      const float scale = most > 0 ? 127.0f / most : 0.0f;
      uint8_t* codes = out.codes.data() + r * k;
      for (int64_t i = 0; i < k; ++i) {  // a product that is no number is 0, as on a GPU; then the scale is none either
        const float rounded = std::nearbyint(row[i] * scale);
        codes[i] = static_cast<uint8_t>(rounded == rounded ? rounded + 128.0f : 128.0f);
      }
      out.scales[r] = most * kInt8Scale;
    }
  });
  return out;
}

}  // namespace

WeightSpec load_quant_spec(const WeightSpec& plain, const LoadQuantOptions& options) {
  WeightSpec out = plain;
  out.scale_type = DType::kF32;
  if (options.method == Method::kInt8) {
    out.format = WeightFormat::kIntGroup;
    out.bits = 8;
    out.group_size = plain.in_features;
    out.symmetric = true;
    out.value_type = DType::kF32;
    out.source = "int8, quantized while loading from " + plain.source;
    return out;
  }
  out.format = WeightFormat::kCodebook;
  out.bits = 4;
  out.group_size = std::gcd(plain.in_features, options.block_size);
  out.source = std::string(options.method == Method::kFp4 ? "fp4" : "nf4") + (options.double_quant ? ", double quantized" : "") +
               ", quantized while loading from " + plain.source;
  return out;
}

Result<QuantWeight> quantize_on_load(const QuantWeight& plain, const LoadQuantOptions& options) {
  return options.method == Method::kInt8 ? quantize_int8(plain, options) : quantize_codebook(plain, options);
}

bool can_quantize_on_device(const WeightSpec& plain, const LoadQuantOptions& options) {
  return options.method == Method::kInt8 || plain.in_features % options.block_size == 0;
}

QuantWeight quantize_on_device(QuantWeight plain, const LoadQuantOptions& options) {
  QuantWeight out;
  static_cast<WeightSpec&>(out) = load_quant_spec(plain, options);
  out.stored.layout = StoredCodes::Layout::kFloats;
  out.stored.data = static_cast<const uint8_t*>(plain.dense);
  out.stored.type = plain.value_type;
  if (options.method == Method::kInt8) {
    out.zeros.assign(plain.out_features, 128);
  } else {
    const bool fp4 = options.method == Method::kFp4;
    out.codebook = fp4 ? kFp4Codebook : kNf4Codebook;
    out.rule = fp4 ? fp4_rule() : nf4_rule();
    if (options.double_quant) {  // it takes the mean of all scales
      out.scales = block_scales(plain, options.block_size);
      double_quantize(out.scales);
    }
  }
  out.dense_owned = std::move(plain.dense_owned);
  return out;
}

bool is_skipped(const std::string& module, const LoadQuantOptions& options) {
  if (options.skip.empty()) return module == "lm_head" || module.find("embed") != std::string::npos;
  for (const std::string& name : options.skip) {
    if (name.empty()) continue;
    for (size_t at = module.find(name); at != std::string::npos; at = module.find(name, at + 1)) {
      const bool begins = at == 0 || module[at - 1] == '.';
      const bool ends = at + name.size() == module.size() || module[at + name.size()] == '.';
      if (begins && ends) return true;
    }
  }
  return false;
}

}  // namespace nbl

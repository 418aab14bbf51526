#include "kernels/cpu/weight.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace nbl {
namespace cpu {

namespace {

int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

std::string describe(const WeightSpec& spec) {
  const std::string matrix =
      spec.source + " [" + std::to_string(spec.out_features) + ", " + std::to_string(spec.in_features) + "], ";
  if (spec.format != WeightFormat::kFloat)
    return matrix + std::to_string(spec.bits) + " bits, groups of " + std::to_string(spec.group_size);
  const DType type = spec.value_type;
  return matrix + (type == DType::kF16 ? "float16" : type == DType::kBF16 ? "bfloat16" : type == DType::kF32 ? "float32" : dtype_name(type));
}

int32_t code_of(const WeightSpec& spec) {
  switch (spec.format) {
    case WeightFormat::kCodebook:
      return kCodebook4;
    case WeightFormat::kIntGroup:
      return spec.bits == 2 ? kInt2 : spec.bits == 3 ? kInt3 : spec.bits == 4 ? kInt4 : kInt8;
    case WeightFormat::kFloat:
      break;
  }
  return spec.value_type == DType::kF16 ? kF16 : spec.value_type == DType::kBF16 ? kBf16 : kF32;
}

int32_t scale_type_of(DType type) {
  return type == DType::kF16 ? kScaleF16 : type == DType::kBF16 ? kScaleBf16 : kScaleF32;
}

int64_t value_bytes(int32_t code) { return code == kF32 ? 4 : 2; }

// Columns that stand together in a panel.
int64_t chunk_columns(int32_t code) { return code == kInt2 || code == kInt3 ? 16 : 8; }

// Bytes of 16 rows by one column.
int64_t column_bytes(int32_t code) {
  switch (code) {
    case kInt2:
      return 4;
    case kInt3:
      return 6;
    case kInt8:
      return 16;
    case kF16:
    case kBf16:
    case kF32:
      return kPanel * value_bytes(code);
    default:
      return 8;
  }
}

void cut_into_blocks(const WeightSpec& spec, Layout* layout) {
  const int64_t k = spec.in_features;
  if (layout->split) {
    layout->block = std::min<int64_t>(round_up(k, 8), kMaxBlock);
    layout->panel.blocks = (k + layout->block - 1) / layout->block;
    layout->last_block = round_up(k - (layout->panel.blocks - 1) * layout->block, 8);
    layout->positions = (layout->panel.blocks - 1) * layout->block + layout->last_block;
    return;
  }
  if (spec.format == WeightFormat::kFloat) {
    layout->block = std::min<int64_t>(k, kMaxBlock);
    layout->panel.blocks = (k + layout->block - 1) / layout->block;
    layout->last_block = k - (layout->panel.blocks - 1) * layout->block;
    layout->positions = k;
    return;
  }
  const int64_t group = std::min(spec.group_size, k);
  const int64_t pieces = (group + kMaxBlock - 1) / kMaxBlock;
  const int64_t unit = chunk_columns(layout->code), block = round_up((group + pieces - 1) / pieces, unit);
  const int64_t groups = (k + group - 1) / group;
  const int64_t rest = k - (groups - 1) * group;  // columns of the last group
  const int64_t rest_blocks = (rest + block - 1) / block;
  layout->block = block;
  layout->blocks_per_group = pieces;
  layout->panel.blocks = (groups - 1) * pieces + rest_blocks;
  layout->last_block = round_up(rest - (rest_blocks - 1) * block, unit);
  layout->positions = (layout->panel.blocks - 1) * block + layout->last_block;
  layout->in_order = groups == 1 || pieces * block == group;
}

// Where column p of k_order stands.
int64_t position_of(const Layout& layout, int64_t group_size, int64_t p) {
  if (layout.in_order) return p;
  return p / group_size * layout.blocks_per_group * layout.block + p % group_size;
}

struct Row {
  const QuantWeight* part;
  int64_t n;
};

// Packs one part, whose first row is row `begin` of the whole.
struct Packer {
  const QuantWeight* part;
  int64_t begin;
  const Layout* layout;
  uint8_t* data;
  uint8_t* low;  // a split head: the lower bytes, the slack of each row
  float* slack;

  void panel(int64_t index, uint8_t* codes) const {
    for (int r = 0; r < kPanel; ++r) {
      const Row source = {part, index * kPanel + r - begin};
      if (source.n < 0 || source.n >= part->out_features) continue;  // of another part, or padding
      uint8_t* out = data + place_of_panel(index) * layout->panel_bytes;
      if (layout->split) {
        split_row(source, index, r);
        continue;
      }
      if (layout->code >= kF16) {
        dense_row(source, r, out);
        continue;
      }
      spread_codes(source, codes);
      switch (layout->code) {
        case kInt2:
          few_bits_row(codes, r, 64, out);
          break;
        case kInt3:
          few_bits_row(codes, r, 96, out);
          break;
        case kInt8:
          byte_row(codes, r, out);
          break;
        default:
          nibble_row(codes, r, out);
          break;
      }
      side_row(source, r, out);
    }
  }

  int64_t place_of_panel(int64_t index) const {
    const int64_t each = layout->alternating;
    return each == 0 ? index : index < each ? 2 * index : 2 * (index - each) + 1;
  }

  // The codes of a row at their positions; padding holds whatever, its activations are zero.
  void spread_codes(const Row& source, uint8_t* codes) const {
    const QuantWeight& w = *source.part;
    const uint8_t* from = w.codes.data() + source.n * w.in_features;
    if (layout->in_order) {
      std::memcpy(codes, from, static_cast<size_t>(w.in_features));
    } else {
      for (int64_t p = 0; p < w.in_features; p += w.group_size) {
        const int64_t count = std::min(w.group_size, w.in_features - p);
        std::memcpy(codes + position_of(*layout, w.group_size, p), from + p, static_cast<size_t>(count));
      }
    }
  }

  // Calls work(codes of a block, their number, where the block's codes go in a panel).
  template <typename Work>
  void each_block(const uint8_t* codes, uint8_t* out, Work work) const {
    for (int64_t b = 0; b < layout->panel.blocks; ++b)
      work(codes + b * layout->block, b + 1 < layout->panel.blocks ? layout->block : layout->last_block,
           out + place_of_block(&layout->panel, b).codes);
  }

  void byte_row(const uint8_t* row, int r, uint8_t* panel) const {
    each_block(row, panel, [r](const uint8_t* codes, int64_t count, uint8_t* out) {
      for (int64_t k = 0; k < count; k += 4) std::memcpy(out + 16 * k + 4 * r, codes + k, 4);
    });
  }

  void nibble_row(const uint8_t* row, int r, uint8_t* panel) const {
    each_block(row, panel, [r](const uint8_t* codes, int64_t count, uint8_t* out) {
      for (int64_t k = 0; k < count; k += 8) {
        uint32_t low, high;
        std::memcpy(&low, codes + k, 4);
        std::memcpy(&high, codes + k + 4, 4);
        const uint32_t both = (low & 0x0f0f0f0fu) | (high & 0x0f0f0f0fu) << 4;
        std::memcpy(out + 8 * k + 4 * r, &both, 4);
      }
    });
  }

  void few_bits_row(const uint8_t* row, int r, int64_t chunk, uint8_t* panel) const {
    each_block(row, panel, [r, chunk](const uint8_t* codes, int64_t count, uint8_t* out) {
      for (int64_t k = 0; k < count; k += 16, out += chunk)
        for (int j = 0; j < 4; ++j) {
          uint8_t two = 0;
          for (int i = 0; i < 4; ++i) {
            const uint8_t code = codes[k + 4 * i + j];
            two = static_cast<uint8_t>(two | (code & 3) << 2 * i);
            const int bit = 4 * r + j;
            if (chunk == 96 && (code & 4)) out[64 + 8 * i + bit / 8] |= static_cast<uint8_t>(1 << bit % 8);
          }
          out[4 * r + j] = two;
        }
    });
  }

  // The scales and zeros of a row.
  void side_row(const Row& source, int r, uint8_t* panel) const {
    const QuantWeight& w = *source.part;
    const int64_t groups = w.groups();
    for (int64_t b = 0; b < layout->panel.blocks; ++b) {
      const int64_t group = b / layout->blocks_per_group;
      const BlockPlace place = place_of_block(&layout->panel, b);
      const float scale = w.scales[source.n * groups + group];
      if (layout->scale_type == kScaleF32) {
        std::memcpy(panel + place.scales + 4 * r, &scale, 4);
      } else {
        const uint16_t half = layout->scale_type == kScaleF16 ? float_to_f16(scale) : float_to_bf16(scale);
        std::memcpy(panel + place.scales + 2 * r, &half, 2);
      }
      if (layout->panel.zero_bytes > 0)
        panel[place.zeros + r] =
            w.zeros.empty() ? static_cast<uint8_t>(1 << (w.bits - 1)) : w.zeros[source.n * groups + group];
    }
  }

  // A row of a head as 16-bit integers. The scale is rounded up to bf16, which has room for 256 times any
  // other.
  void split_row(const Row& source, int64_t index, int r) const {
    const QuantWeight& w = *source.part;
    uint8_t* high_panel = data + index * layout->panel_bytes;
    uint8_t* low_panel = low + index * layout->panel_bytes;
    const uint8_t* from =
        static_cast<const uint8_t*>(w.dense) + source.n * w.in_features * dtype_bytes(w.value_type);
    double lost = 0, size = 0;  // squares of what view() alone leaves out, and of the row
    float values[kMaxBlock];
    for (int64_t b = 0; b < layout->panel.blocks; ++b) {
      const int64_t start = b * layout->block, count = std::min(layout->block, w.in_features - start);
      widen(w.value_type, from + start * dtype_bytes(w.value_type), count, values);
      for (int64_t i = 0; i < count; ++i) size += static_cast<double>(values[i]) * values[i];
      // A value that is not finite makes the whole row NaN, as it would be in a product.
      const float nothing = largest_magnitude(values, count) * 0.0f;
      if (nothing != 0.0f) std::fill(values, values + count, 0.0f);
      const float scale = round_up_to_bf16(largest_magnitude(values, count) / 32767.0f) + nothing;
      const float inverse = scale > 0 ? 1.0f / scale : 0.0f;
      alignas(16) uint8_t high_bytes[kMaxBlock] = {}, low_bytes[kMaxBlock] = {};
      int32_t squares = 0;
      for (int64_t i = 0; i < count; ++i) {
        // Adding 1.5 * 2^23 leaves the rounded integer in the lower bits.
        const int32_t rounded =
            static_cast<int32_t>(float_to_bits(values[i] * inverse + 12582912.0f) - 0x4b400000u);
        const int32_t q = std::min(std::max(rounded, -32767), 32767) + 32768;
        const int32_t rest = (q & 255) - 128;
        high_bytes[i] = static_cast<uint8_t>(q >> 8);
        low_bytes[i] = static_cast<uint8_t>(q);
        squares += rest * rest;
      }
      const BlockPlace place = place_of_block(&layout->panel, b);
      for (int64_t i = 0; i < count; i += 4) {
        std::memcpy(high_panel + place.codes + 16 * i + 4 * r, high_bytes + i, 4);
        std::memcpy(low_panel + place.codes + 16 * i + 4 * r, low_bytes + i, 4);
      }
      lost += static_cast<double>(scale) * scale * squares;
      const uint16_t low_scale = float_to_bf16(scale), high_scale = float_to_bf16(256 * scale);
      std::memcpy(high_panel + place.scales + 2 * r, &high_scale, 2);
      std::memcpy(low_panel + place.scales + 2 * r, &low_scale, 2);
    }
    // A little more, for the rounding of both sums in float32.
    slack[index * kPanel + r] = static_cast<float>(1.01 * std::sqrt(lost) + 2e-5 * std::sqrt(size));
  }

  static float round_up_to_bf16(float value) {
    const float rounded = bf16_to_float(static_cast<uint16_t>(float_to_bits(value) >> 16));
    return rounded < value ? bits_to_float(float_to_bits(rounded) + 0x10000u) : rounded;
  }

  void dense_row(const Row& source, int r, uint8_t* out) const {
    const QuantWeight& w = *source.part;
    const int64_t size = value_bytes(layout->code);
    const uint8_t* from = static_cast<const uint8_t*>(w.dense) + source.n * w.in_features * size;
    // Byte copies, because the mapping of a checkpoint need not be aligned.
    if (size == 2) {
      for (int64_t k = 0; k < w.in_features; ++k) std::memcpy(out + (k * kPanel + r) * 2, from + 2 * k, 2);
    } else {
      for (int64_t k = 0; k < w.in_features; ++k) std::memcpy(out + (k * kPanel + r) * 4, from + 4 * k, 4);
    }
  }
};

Status check_data(const QuantWeight& w) {
  const int64_t n = w.out_features, k = w.in_features;
  if (w.format == WeightFormat::kFloat) {
    if (!w.dense) return error(Code::kArgument, "%s: no values were given", describe(w).c_str());
    return {};
  }
  const auto is = [](size_t size, int64_t expected) { return static_cast<int64_t>(size) == expected; };
  if (!is(w.codes.size(), n * k) || !is(w.scales.size(), n * w.groups()) ||
      (w.format == WeightFormat::kIntGroup && !w.symmetric && !is(w.zeros.size(), n * w.groups())))
    return error(Code::kArgument, "%s: codes, scales or zeros do not have the sizes the shape asks for",
                 describe(w).c_str());
  if (w.permuted && !is(w.k_order.size(), k))
    return error(Code::kArgument, "%s: permuted, but k_order has %lld entries", describe(w).c_str(),
                 static_cast<long long>(w.k_order.size()));
  for (int32_t column : w.k_order)
    if (column < 0 || column >= k)
      return error(Code::kArgument, "%s: k_order names column %d", describe(w).c_str(), column);
  return {};
}

}  // namespace

Status check_spec(const WeightSpec& spec) {
  if (spec.out_features <= 0 || spec.in_features <= 0 || spec.out_features > (int64_t{1} << 31) ||
      spec.in_features > (int64_t{1} << 31))
    return error(Code::kUnsupported, "%s: the CPU backend packs matrices of 1 .. 2^31 rows and columns",
                 describe(spec).c_str());
  if (spec.format == WeightFormat::kFloat) {
    if (spec.value_type != DType::kF16 && spec.value_type != DType::kBF16 && spec.value_type != DType::kF32)
      return error(Code::kUnsupported, "%s: float weights must be F16, BF16 or F32, not %s",
                   describe(spec).c_str(), dtype_name(spec.value_type));
    return {};
  }
  if (spec.group_size <= 0)
    return error(Code::kUnsupported, "%s: the group size must be positive", describe(spec).c_str());
  if (spec.format == WeightFormat::kIntGroup && (spec.bits < 2 || spec.bits > 8))
    return error(Code::kUnsupported, "%s: the CPU backend has integer weights of 2 .. 8 bits",
                 describe(spec).c_str());
  return {};
}

Layout layout_of(const std::vector<WeightSpec>& parts, WeightRole role, CpuPrecision precision) {
  Layout layout;
  const WeightSpec& spec = parts.front();
  layout.code = code_of(spec);
  layout.scale_type = scale_type_of(spec.scale_type);
  layout.split =
      role == WeightRole::kHead && spec.format == WeightFormat::kFloat && precision != CpuPrecision::kFp32;
  if (layout.split) {
    layout.code = kInt8;
    layout.scale_type = kScaleBf16;
  }
  layout.columns = spec.in_features;
  for (const WeightSpec& part : parts) layout.rows += part.out_features;
  layout.panels = (layout.rows + kPanel - 1) / kPanel;
  if (role == WeightRole::kGateUp && parts.size() == 2 && spec.out_features == parts.back().out_features && spec.out_features % kPanel == 0)
    layout.alternating = spec.out_features / kPanel;
  cut_into_blocks(spec, &layout);
  layout.panel.block_bytes = layout.block * column_bytes(layout.code);
  if (spec.format != WeightFormat::kFloat || layout.split) layout.panel.scale_bytes = kPanel * (layout.scale_type == kScaleF32 ? 4 : 2);
  if (spec.format == WeightFormat::kIntGroup && !spec.symmetric) layout.panel.zero_bytes = kPanel;
  layout.panel_bytes = place_of_block(&layout.panel, layout.panel.blocks - 1).codes + layout.last_block * column_bytes(layout.code);
  layout.slack_bytes = layout.split ? layout.panels * kPanel * 4 : 0;
  return layout;
}

bool can_follow(const WeightSpec& first, const WeightSpec& part) {
  return part.format == first.format && part.in_features == first.in_features && part.bits == first.bits &&
         part.group_size == first.group_size && part.value_type == first.value_type &&
         part.scale_type == first.scale_type && part.permuted == first.permuted;
}

bool CpuWeight::same_input(const CpuWeight& other) const {
  return integers_ == other.integers_ && columns_ == other.columns_ && view_.block == other.view_.block &&
         view_.shape.blocks == other.view_.shape.blocks && view_.last_block == other.view_.last_block &&
         order_ == other.order_ && spec().outlier_threshold == other.spec().outlier_threshold;
}

// The table's values as 16-bit integers around 32768, the largest at 32767 from it.
void CpuWeight::make_integer_codebook() {
  float top = 0;
  for (float value : codebook_) top = std::max(top, std::fabs(value));
  for (size_t i = 0; i < codebook_.size(); ++i) {
    const auto code =
        static_cast<int32_t>(std::lrint(top > 0 ? codebook_[i] / top * 32767.0f : 0.0f)) + 32768;
    high_bytes_[i] = static_cast<uint8_t>(code >> 8);
    low_bytes_[i] = static_cast<uint8_t>(code & 255);
  }
  view_.high_bytes = high_bytes_.data();
  view_.low_bytes = low_bytes_.data();
  view_.factor = top / 32767.0f * 256.0f;
  view_.zero = 128.0f;
}

Result<std::shared_ptr<const PackedWeight>> CpuWeight::pack(std::vector<WeightSpec> specs, const Parts& next,
                                                            WeightRole role, CpuPrecision precision,
                                                            const Kernels& kernels, Pool& pool,
                                                            Arena& arena) {
  NBL_ASSIGN_OR_RETURN(const QuantWeight* part, next(0));
  NBL_RETURN_IF_ERROR(check_data(*part));
  // What only the data tell: whether zeros are needed, where columns stand, and the codebook.
  for (WeightSpec& spec : specs) spec.symmetric = part->symmetric;
  const std::vector<int32_t> k_order = part->k_order;
  const WeightSpec first = *part;
  const Layout layout = layout_of(specs, role, precision);
  WeightSpec whole = first;
  whole.out_features = layout.rows;
  std::shared_ptr<CpuWeight> weight(new CpuWeight(whole));
  weight->codebook_ = part->codebook;
  const int64_t plane_bytes = round_up(layout.plane_bytes(), 64);
  weight->memory_ = arena.allocate(plane_bytes * (layout.split ? 2 : 1) + layout.slack_bytes);
  if (!weight->memory_)
    return error(Code::kNoMemory, "%s: no memory for %lld bytes of packed weights", describe(first).c_str(),
                 static_cast<long long>(layout.bytes()));

  uint8_t* data = weight->memory_.get();
  Packer packer{part, 0, &layout, data, data + plane_bytes, reinterpret_cast<float*>(data + 2 * plane_bytes)};
  const int64_t scratch = round_up(layout.positions + 64, 64);
  std::vector<uint8_t> codes(static_cast<size_t>(scratch * pool.threads()));
  for (size_t i = 0; i < specs.size(); ++i) {
    if (i > 0) {
      packer.begin += part->out_features;
      NBL_ASSIGN_OR_RETURN(part, next(i));
      NBL_RETURN_IF_ERROR(check_data(*part));
      packer.part = part;
      if (!can_follow(first, *part) || part->out_features != specs[i].out_features)
        return error(Code::kArgument, "%s: matrices of different formats cannot be fused",
                     describe(*part).c_str());
      if (part->k_order != k_order || part->codebook != weight->codebook_ ||
          (first.symmetric && !part->symmetric))
        return error(Code::kState,
                     "%s: the matrices to fuse order their columns or place their zeros differently; pack "
                     "them one by one",
                     describe(*part).c_str());
    }
    const int64_t first_panel = packer.begin / kPanel;
    const int64_t panels = (packer.begin + part->out_features + kPanel - 1) / kPanel - first_panel;
    pool.run([&](int thread, int threads) {
      if (i == 0 && specs.size() > 1) {
        // Each worker touches first the panels that it will read: their pages are then near it.
        const int64_t last = layout.panels * (thread + 1) / threads * layout.panel_bytes;
        for (int64_t at = layout.panels * thread / threads * layout.panel_bytes; at < last; at += 4096)
          data[at] = 0;
        pool.barrier();
      }
      for (int64_t p = panels * thread / threads; p < panels * (thread + 1) / threads; ++p)
        packer.panel(first_panel + p, codes.data() + scratch * thread);
    });
  }

  weight->columns_ = layout.columns;
  weight->positions_ = layout.positions;
  weight->bytes_ = layout.bytes();
  weight->integers_ =
      layout.split || (precision != CpuPrecision::kFp32 &&
                       (first.format == WeightFormat::kIntGroup ||
                        (first.format == WeightFormat::kCodebook && kernels.codebook_integers)));
  if (first.permuted || !layout.in_order) {
    weight->order_.assign(static_cast<size_t>(layout.positions), -1);
    for (int64_t p = 0; p < layout.columns; ++p)
      weight->order_[static_cast<size_t>(position_of(layout, first.group_size, p))] =
          k_order.empty() ? static_cast<int32_t>(p) : k_order[static_cast<size_t>(p)];
  }
  WeightView& view = weight->view_;
  view.data = data;
  view.codebook = weight->codebook_.data();
  view.panel_bytes = layout.panel_bytes;
  view.shape = layout.panel;
  view.rows = layout.rows;
  view.alternating = layout.alternating;
  view.block = layout.block;
  view.last_block = layout.last_block;
  view.code = layout.code;
  view.scale_type = layout.scale_type;
  view.zero = first.format == WeightFormat::kIntGroup ? static_cast<float>(1 << (first.bits - 1)) : 0.0f;
  view.rounding = precision != CpuPrecision::kFp32 || layout.code >= kF16 ? kNoRounding
                  : first.value_type == DType::kF16                       ? kRoundF16
                  : first.value_type == DType::kBF16                      ? kRoundBf16
                                                                          : kNoRounding;
  if (weight->integers_ && first.format == WeightFormat::kCodebook) weight->make_integer_codebook();
  if (layout.split) {
    view.zero = 127.5f;
    weight->low_ = view;
    weight->low_.data = packer.low;
    weight->low_.zero = 128.0f;
    weight->low_.adds = 1;
    weight->slack_ = packer.slack;
  }
  static const char* const kNames[] = {"int4", "int8", "int2", "int3", "codebook4", "f16", "bf16", "f32"};
  const char* input = !weight->integers_ ? "f32" : precision == CpuPrecision::kFastest8 ? "a8" : "a16";
  weight->kernel_ = std::string("p16 ") + (layout.split ? "int16 planes" : kNames[layout.code]) + " " +
                    input + " " + kernels.name;
  return std::shared_ptr<const PackedWeight>(std::move(weight));
}

}  // namespace cpu
}  // namespace nbl

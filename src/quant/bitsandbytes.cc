// bitsandbytes (formats.md 4): NF4 and FP4 blocks of the flattened matrix, and int8 rows.
//
//   X.weight              the packed bytes, two codes each, the first in the HIGH nibble; any storage dtype
//   X.weight.absmax       float32 [blocks], or uint8 codes with nested_absmax, nested_quant_map (double quantization)
//   X.weight.quant_map    float32 [16]
//   X.weight.quant_state.bitsandbytes__nf4 | __fp4   JSON: quant_type, blocksize, dtype, shape, nested_offset
//
//   X.weight int8 [N, K], X.SCB float32 [N]: W = int8 * SCB / 127
#include <algorithm>
#include <cstring>
#include <numeric>

#include "base/parallel.h"
#include "quant/codebooks.h"
#include "quant/formats.h"

namespace nbl {
namespace {

// ---- 4 bits

const TensorView* quant_state(const ModuleSource& source) {
  const TensorView* state = source.find(".weight.quant_state.bitsandbytes__nf4");
  return state ? state : source.find(".weight.quant_state.bitsandbytes__fp4");
}

bool matches4(const ModuleSource& source) { return quant_state(source) != nullptr && source.find(".weight") != nullptr; }

struct State4 {
  bool fp4 = false;
  int64_t block_size = 64;
  DType type = DType::kF32;
  bool nested = false;
  int64_t nested_block = 256;
  float nested_offset = 0;
};

Result<State4> read_state(const ModuleSource& source) {
  const TensorView& view = *quant_state(source);
  const std::string_view text(reinterpret_cast<const char*>(view.data), static_cast<size_t>(view.bytes));
  NBL_ASSIGN_OR_RETURN(const Json json, parse_json(text, view.name));
  State4 state;
  NBL_ASSIGN_OR_RETURN(const std::string type, json_str(json, "quant_type", ""));
  if (type != "nf4" && type != "fp4") {
    return error(Code::kUnsupported, "%s has the quant_type \"%s\", expected nf4 or fp4", view.name.c_str(), type.c_str())
        .with("tensor", view.name);
  }
  state.fp4 = type == "fp4";
  NBL_ASSIGN_OR_RETURN(state.block_size, json_i64(json, "blocksize", 64));
  if (state.block_size < 16 || state.block_size > 65536 || (state.block_size & (state.block_size - 1)) != 0) {
    return error(Code::kFormat, "%s has the blocksize %lld, expected a power of two from 16 to 65536", view.name.c_str(),
                 static_cast<long long>(state.block_size));
  }
  NBL_ASSIGN_OR_RETURN(const std::string dtype, json_str(json, "dtype", "float32"));
  state.type = dtype == "float16" ? DType::kF16 : dtype == "bfloat16" ? DType::kBF16 : DType::kF32;
  if (state.type == DType::kF32 && dtype != "float32") {
    return error(Code::kUnsupported, "%s has the dtype \"%s\", expected float16, bfloat16 or float32", view.name.c_str(), dtype.c_str());
  }
  const Json shape = json.value("shape", Json());
  if (shape != Json{source.out_features, source.in_features}) {
    return error(Code::kFormat, "%s says the matrix is %s, expected %s", view.name.c_str(), to_text(shape).c_str(),
                 shape_text({source.out_features, source.in_features}).c_str())
        .with("tensor", view.name);
  }
  state.nested = source.find(".weight.nested_absmax") != nullptr;
  NBL_ASSIGN_OR_RETURN(state.nested_block, json_i64(json, "nested_blocksize", 256));
  NBL_ASSIGN_OR_RETURN(const double offset, json_f64(json, "nested_offset", 0));
  state.nested_offset = static_cast<float>(offset);
  if (state.nested_block < 1) return error(Code::kFormat, "%s has a nested_blocksize below 1", view.name.c_str());
  return state;
}

WeightSpec codebook_spec(int64_t n, int64_t k, int64_t block_size, DType type, std::string source) {
  WeightSpec out;
  out.format = WeightFormat::kCodebook;
  out.out_features = n;
  out.in_features = k;
  out.bits = 4;
  // Blocks run over the flattened matrix. Cut into pieces of gcd(K, block) none of them crosses a row.
  out.group_size = std::gcd(k, block_size);
  out.value_type = type;
  out.scale_type = DType::kF32;
  out.source = std::move(source);
  return out;
}

Result<WeightSpec> spec4(const ModuleSource& source) {
  NBL_ASSIGN_OR_RETURN(const State4 state, read_state(source));
  const int64_t count = source.out_features * source.in_features;
  const int64_t blocks = (count + state.block_size - 1) / state.block_size;
  const TensorView& weight = *source.find(".weight");
  if (weight.bytes != (count + 1) / 2) {
    const int64_t item = dtype_bytes(weight.dtype);
    if (weight.bytes != ((count + 1) / 2 + item - 1) / item * item) {
      return shape_error(weight, std::to_string((count + 1) / 2) + " bytes of packed codes", source);
    }
  }
  const TensorView* absmax = source.find(".weight.absmax");
  if (!absmax) return missing_tensor(source, ".weight.absmax");
  if (absmax->elements() != blocks) return shape_error(*absmax, shape_text({blocks}), source);
  if (state.nested) {
    const TensorView& nested = *source.find(".weight.nested_absmax");
    const TensorView* map = source.find(".weight.nested_quant_map");
    if (!map) return missing_tensor(source, ".weight.nested_quant_map");
    if (map->elements() != 256) return shape_error(*map, "[256]", source);
    if (nested.elements() != (blocks + state.nested_block - 1) / state.nested_block) {
      return shape_error(nested, shape_text({(blocks + state.nested_block - 1) / state.nested_block}), source);
    }
    if (absmax->dtype != DType::kU8) return shape_error(*absmax, "U8 codes, as double quantization stores", source);
  }
  return codebook_spec(source.out_features, source.in_features, state.block_size, state.type,
                       std::string("bitsandbytes ") + (state.fp4 ? "fp4" : "nf4") + (state.nested ? ", double quantized" : ""));
}

Result<std::vector<float>> read_absmax(const ModuleSource& source, const State4& state) {
  const TensorView& absmax = *source.find(".weight.absmax");
  if (!state.nested) return floats_of(absmax);
  NBL_ASSIGN_OR_RETURN(const std::vector<float> nested, floats_of(*source.find(".weight.nested_absmax")));
  NBL_ASSIGN_OR_RETURN(const std::vector<float> map, floats_of(*source.find(".weight.nested_quant_map")));
  std::vector<float> out(absmax.elements());
  parallel_for(absmax.elements(), 1 << 18, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const float product = map[absmax.data[i]] * nested[i / state.nested_block];  // two roundings, not a fused one
      out[i] = product + state.nested_offset;
    }
  });
  return out;
}

// Gives each piece of gcd(K, block) columns the scale of the block it lies in.
void spread_scales(const std::vector<float>& absmax, int64_t block_size, QuantWeight& weight) {
  const int64_t groups = weight.groups();
  weight.scales.resize(weight.out_features * groups);
  parallel_for(weight.out_features, (1 << 18) / groups + 1, [&](int64_t first, int64_t last) {
    for (int64_t n = first; n < last; ++n) {
      for (int64_t g = 0; g < groups; ++g) {
        weight.scales[n * groups + g] = absmax[(n * weight.in_features + g * weight.group_size) / block_size];
      }
    }
  });
}

// The scales as they are stored, where every block lies within a row; false where they are not.
bool keep_scales(const ModuleSource& source, const State4& state, QuantWeight& weight) {
  const TensorView& absmax = *source.find(".weight.absmax");
  if (state.block_size != weight.group_size) return false;
  StoredScales& scales = weight.stored_scales;
  scales.by_rows = true;
  scales.type = absmax.dtype;
  if (state.nested) {
    const TensorView& nested = *source.find(".weight.nested_absmax");
    const TensorView& map = *source.find(".weight.nested_quant_map");
    if (nested.dtype != DType::kF32 || map.dtype != DType::kF32) return false;
    scales.map = map.data;
    scales.nested = nested.data;
    scales.nested_block = state.nested_block;
    scales.offset = state.nested_offset;
  } else if (!is_float(absmax.dtype) || absmax.dtype == DType::kF64) {
    return false;
  }
  scales.data = absmax.data;
  return true;
}

Result<QuantWeight> load4(const ModuleSource& source) {
  NBL_ASSIGN_OR_RETURN(const WeightSpec facts, spec4(source));
  NBL_ASSIGN_OR_RETURN(const State4 state, read_state(source));
  QuantWeight weight;
  static_cast<WeightSpec&>(weight) = facts;
  weight.codebook = state.fp4 ? kFp4Codebook : kNf4Codebook;
  if (const TensorView* map = source.find(".weight.quant_map"); map && map->elements() == 16) {
    NBL_ASSIGN_OR_RETURN(const std::vector<float> stored, floats_of(*map));
    for (int i = 0; i < 16; ++i) {
      if (std::abs(stored[i] - weight.codebook[i]) <= 1e-6f) continue;
      return error(Code::kUnsupported, "%s holds another codebook than %s: entry %d is %g, expected %g", map->name.c_str(),
                   state.fp4 ? "FP4" : "NF4", i, stored[i], weight.codebook[i])
          .with("tensor", map->name);
    }
  }
  const int64_t count = facts.out_features * facts.in_features;
  const StoredCodes codes{StoredCodes::Layout::kRows, source.find(".weight")->data};
  if (source.keep_stored && facts.in_features % 2 == 0) {
    weight.stored = codes;
  } else {
    weight.codes.resize(count);
    unpack_codes(codes, 1, count, 4, weight.codes.data());  // rows may begin within a byte
  }
  if (source.keep_stored && weight.stored.data != nullptr && keep_scales(source, state, weight)) return weight;
  NBL_ASSIGN_OR_RETURN(std::vector<float> absmax, read_absmax(source, state));
  if (state.block_size == facts.group_size) {  // K is a multiple of it: no block crosses a row
    weight.scales = std::move(absmax);
  } else {
    spread_scales(absmax, state.block_size, weight);
  }
  return weight;
}

// ---- 8 bits

bool matches8(const ModuleSource& source) {
  const TensorView* weight = source.find(".weight");
  return weight && weight->dtype == DType::kI8 && source.find(".SCB") != nullptr;
}

WeightSpec int8_spec(int64_t n, int64_t k, DType type, std::string source) {
  WeightSpec out;
  out.format = WeightFormat::kIntGroup;
  out.out_features = n;
  out.in_features = k;
  out.bits = 8;
  out.group_size = k;
  out.value_type = type;
  out.scale_type = DType::kF32;
  out.symmetric = true;
  out.source = std::move(source);
  return out;
}

Result<WeightSpec> spec8(const ModuleSource& source) {
  const TensorView& weight = *source.find(".weight");
  const TensorView& scb = *source.find(".SCB");
  if (weight.shape != std::vector<int64_t>{source.out_features, source.in_features}) {
    return shape_error(weight, shape_text({source.out_features, source.in_features}), source);
  }
  if (scb.elements() != source.out_features) return shape_error(scb, shape_text({source.out_features}), source);
  if (const TensorView* format = source.find(".weight_format"); format && format->bytes == 1 && format->data[0] != 0) {
    return error(Code::kUnsupported, "%s is %d: a tiled layout of bitsandbytes before 0.45; save the model again with a newer version",
                 format->name.c_str(), format->data[0])
        .with("tensor", format->name);
  }
  return int8_spec(source.out_features, source.in_features, DType::kF32, "bitsandbytes int8");
}

Result<QuantWeight> load8(const ModuleSource& source) {
  NBL_ASSIGN_OR_RETURN(const WeightSpec facts, spec8(source));
  QuantWeight weight;
  static_cast<WeightSpec&>(weight) = facts;
  const StoredCodes codes{StoredCodes::Layout::kRows, source.find(".weight")->data, 0, 0x80};  // signed + 128
  take_codes(codes, source.keep_stored, weight);
  weight.zeros.assign(facts.out_features, 128);
  NBL_ASSIGN_OR_RETURN(weight.scales, floats_of(*source.find(".SCB")));
  for (float& scale : weight.scales) scale *= kInt8Scale;
  return weight;
}

}  // namespace

const Format kBitsandbytes4 = {"bitsandbytes 4 bit", matches4, spec4, load4};
const Format kBitsandbytes8 = {"bitsandbytes int8", matches8, spec8, load8};

}  // namespace nbl

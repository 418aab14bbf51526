// The checkpoint formats: one row for each in formats.cc, one file for each that does the work.
#pragma once

#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "checkpoint/checkpoint.h"
#include "quant/quant_config.h"
#include "quant/quant_weight.h"

namespace nbl {

// What a format's functions get: where the tensors are, and what the configuration says of this module.
struct ModuleSource {
  const Checkpoint& checkpoint;
  std::string module;             // "model.layers.0.self_attn.q_proj"
  const QuantConfig& config;
  int64_t out_features;           // what the model expects
  int64_t in_features;
  std::vector<std::string>* warnings;  // may be null
  bool keep_stored = false;       // load() leaves codes, scales and zeros as they are stored, where it has a view for them

  const TensorView* find(std::string_view suffix) const {
    return checkpoint.find(module + std::string(suffix));
  }
};

struct Format {
  const char* name;
  // Whether the module's tensors are of this format (formats.md, section 0).
  bool (*matches)(const ModuleSource& source);
  // Checks every shape against the model's; reads no weights.
  Result<WeightSpec> (*spec)(const ModuleSource& source);
  Result<QuantWeight> (*load)(const ModuleSource& source);
};

// In the order in which they are tried.
extern const Format* const kFormats[];
extern const int kFormatCount;

// One line for each format's file.
extern const Format kAwqGemm;
extern const Format kAwqGemv;
extern const Format kAwqGemvFast;
extern const Format kMarlin;
extern const Format kGptq;
extern const Format kPackQuantized;
extern const Format kIntQuantized;
extern const Format kBitsandbytes4;
extern const Format kBitsandbytes8;
extern const Format kFloat;

// "TENSOR is [1, 2], expected [3, 4] for N outputs ..." with file and tensor in the detail.
Status shape_error(const TensorView& tensor, const std::string& expected, const ModuleSource& source);
Status missing_tensor(const ModuleSource& source, std::string_view suffix);
// Refuses scales of any type but F16, BF16 and F32.
Status check_scale_type(const TensorView& scales, const ModuleSource& source);
// The inputs of a group by the scales [groups, N], where all groups are equally long.
Result<int64_t> group_size_by(const TensorView& scales, const ModuleSource& source);
// The same where the last group may have fewer: as the configuration says, if that fits.
Result<int64_t> group_size_of(const TensorView& scales, int64_t groups, int64_t said, const ModuleSource& source);
// Integer codes in groups of inputs, a weight rounded to the type of its scales; `name` says what wrote them.
WeightSpec int_group_spec(const ModuleSource& source, int bits, int64_t group_size, DType scale_type, std::string name);
// The group of each input, K of them; null: there is no such tensor.
Status check_group_index(const TensorView* index, const ModuleSource& source);
// Empty where it is k / group_size: absent, all zero with several groups, or negative entries mean the same.
std::vector<int32_t> group_index(const TensorView* index, int64_t groups, int64_t group_size);
// Sorts the inputs by group (stable), so that position / group_size is the group of every position. A group has its size of
// places, the last one maybe fewer; an input for which its group has none left is an error.
Status sort_by_group(const TensorView& index, QuantWeight& weight);
// Word `index` of little-endian words, which may be unaligned.
inline uint32_t word_at(const uint8_t* words, int64_t index) {
  uint32_t word;
  std::memcpy(&word, words + 4 * index, 4);
  return word;
}
// The plain codes of a stored matrix: out[n * K + k], one to a byte.
void unpack_codes(const StoredCodes& stored, int64_t n, int64_t k, int bits, uint8_t* out);
// Codes of 5 to 7 bits are kept as 8-bit ones: what they and their zeros are raised by, so that the middle of their range is that of 8
// bits. 0 for every other width.
inline uint8_t raise_of(int64_t bits) { return bits > 4 && bits < 8 ? static_cast<uint8_t>(128 - (1 << (bits - 1))) : 0; }
// The codes of a weight as they are stored, or plain.
void take_codes(const StoredCodes& stored, bool keep_stored, QuantWeight& weight);
// [groups, N] of a float type as out[n * groups + g].
Result<std::vector<float>> transposed_scales(const TensorView& scales, int64_t n, int64_t groups);
// Any float tensor as float32 values.
Result<std::vector<float>> floats_of(const TensorView& tensor);

}  // namespace nbl

// The tables of bitsandbytes' 4-bit types and its quantizer, in plain IEEE arithmetic (formats.md 4.2 to 4.4).
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "quant/quant_weight.h"

namespace nbl {

extern const std::array<float, 16> kNf4Codebook;
extern const std::array<float, 16> kFp4Codebook;

// Codes of values that were divided by their block's largest magnitude.
void nf4_codes(const float* x, int64_t count, uint8_t* codes);
void fp4_codes(const float* x, int64_t count, uint8_t* codes);

// The same as steps over values with their signs: for devices that quantize themselves.
const QuantizationRule& nf4_rule();
const QuantizationRule& fp4_rule();

// Replaces block scales by what bitsandbytes' double quantization makes of them: 8-bit codes of a dynamic map in blocks
// of 256, less their mean.
void double_quantize(std::vector<float>& absmax);

}  // namespace nbl

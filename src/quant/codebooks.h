// The tables of bitsandbytes' 4-bit types and its quantizer, in plain IEEE arithmetic (formats.md 4.2 to 4.4).
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace nbl {

extern const std::array<float, 16> kNf4Codebook;
extern const std::array<float, 16> kFp4Codebook;

// Code of x, which was divided by its block's largest magnitude.
uint8_t nf4_code(float x);
uint8_t fp4_code(float x);

// Replaces block scales by what bitsandbytes' double quantization makes of them: 8-bit codes of a dynamic map in blocks
// of 256, less their mean.
void double_quantize(std::vector<float>& absmax);

}  // namespace nbl

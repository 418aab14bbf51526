// Activations of one step on their way into a matrix: gathered, quantized and interleaved as isa.h's ActView
// says.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/memory.h"
#include "kernels/cpu/weight.h"

namespace nbl {
namespace cpu {

// Room for m tokens of any matrix whose inputs have at most `positions` positions in `blocks` blocks.
struct ActBuffer {
  int8_t* codes = nullptr;  // shares its memory with values
  float* values = nullptr;
  float* scales = nullptr;
  float* sums = nullptr;

  void carve(Carver& carver, int64_t m, int64_t positions, int64_t blocks) {
    values = carver.take<float>(m * positions);
    codes = reinterpret_cast<int8_t*>(values);
    scales = carver.take<float>(m * blocks);
    sums = carver.take<float>(m * blocks);
  }
  ActView view(int64_t m, int planes) const { return {m, planes, codes, scales, sums, values}; }
};

// How many planes a matrix wants for a step of m tokens; 0: float32 values.
int planes_for(const CpuWeight& weight, CpuPrecision precision, int64_t m);

// Packs one tile. rows[i] is the input x[columns] of the tile's token i. Meanwhile the memory fetches what is ahead.
void pack_tile(const Kernels& kernels, const CpuWeight& weight, int planes, int64_t m, int64_t tile,
               const float* const* rows, const ActBuffer& out, Ahead* ahead);

}  // namespace cpu
}  // namespace nbl

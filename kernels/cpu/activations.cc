#include "kernels/cpu/activations.h"

namespace nbl {
namespace cpu {

namespace {

// x at positions start .. start+length-1, readable up to the next multiple of 16 with zeros behind `length`.
const float* block_input(const CpuWeight& weight, const float* x, int64_t start, int64_t length,
                         float* scratch) {
  const int64_t readable = (length + 15) / 16 * 16;
  const int32_t* order = weight.order();
  if (!order && readable == length && start + length <= weight.columns()) return x + start;
  const int64_t columns = weight.columns();
  for (int64_t i = 0; i < length; ++i) {
    const int64_t column = order ? order[start + i] : start + i;
    scratch[i] = column >= 0 && column < columns ? x[column] : 0.0f;
  }
  std::fill(scratch + length, scratch + readable, 0.0f);
  return scratch;
}

}  // namespace

int planes_for(const CpuWeight& weight, CpuPrecision precision, int64_t m) {
  if (!weight.takes_integers()) return 0;
  if (precision == CpuPrecision::kFastest8 || (precision == CpuPrecision::kFast8 && m > kTile)) return 1;
  return 2;
}

void pack_tile(const Kernels& kernels, const CpuWeight& weight, int planes, int64_t m, int64_t tile,
               const float* const* rows, const ActBuffer& out, Ahead* ahead) {
  alignas(64) float scratch[kMaxBlock + 16];
  const WeightView& view = weight.view();
  const int64_t first = tile * kTile, width = std::min<int64_t>(kTile, m - first);
  for (int64_t b = 0; b < view.shape.blocks; ++b) {
    const int64_t start = b * view.block, length = b + 1 < view.shape.blocks ? view.block : view.last_block;
    fetch(ahead, length / 16);
    for (int64_t i = 0; i < width; ++i) {
      const float* x = block_input(weight, rows[i], start, length, scratch);
      if (planes > 0) {
        int8_t* codes = out.codes + (start * m + first * length) * planes + 4 * i;
        const int64_t at = b * m + first + i;
        kernels.quantize(x, length, planes, codes, 4 * width, length * width, out.scales + at, out.sums + at);
      } else {
        float* values = out.values + start * m + first * length + i;
        if (width == 1) {
          std::memcpy(values, x, static_cast<size_t>(length) * sizeof(float));
        } else {
          for (int64_t k = 0; k < length; ++k) values[k * width] = x[k];
        }
      }
    }
  }
}

}  // namespace cpu
}  // namespace nbl

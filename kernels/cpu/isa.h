// The table of inner loops that one instruction set offers, and the plain structs they work on.
//
// One thing to know: files built with instruction-set flags include only <immintrin.h>, <stdint.h>,
// <string.h>, the .inl files of this folder and this header. Nothing here is an inline function, or it is static, so
// that no AVX-512 copy of one can be kept by the linker for callers on older machines.
//
// Weights stand in panels of 16 output rows ("P16"). K is cut into blocks of `block` columns, one scale and zero for
// each row and block. A block has at most 128 columns, a multiple of 8 (int2 and int3: of 16); the last may be shorter.
// Four blocks are a unit: their scales [4][16], their zeros [4][16], zeros up to a multiple of 64 bytes, then their codes,
// and behind them the next unit. So a thread reads one forward stream, which is what memory gives fastest.
//   int4, codebook  64 bytes = 16 rows x 8 k: byte 4r+j has q[r][8c+j] low and q[r][8c+4+j] high
//   int8            64 bytes = 16 rows x 4 k: byte 4r+j is q[r][4c+j]
//   int2            64 bytes = 16 rows x 16 k: byte 4r+j has q[r][16c+4i+j] in its bits 2i and 2i+1
//   int3            such 64 bytes of the lower two bits, then 32: bit 4r+j of the i-th eight is the third bit
//                   of q[r][16c+4i+j]
//   f16, bf16, f32  16 values = 16 rows x 1 k
#pragma once

#include <stdint.h>

#include "kernels/cpu/ahead.h"

namespace nbl {
namespace cpu {

constexpr int kPanel = 16;      // rows of a panel, and lanes of every vector in the kernels
constexpr int kMaxBlock = 128;  // columns of a block at most
constexpr int kTile = 8;        // tokens of an activation tile
constexpr int kKeyBlock = 256;  // positions of one softmax block

enum PanelCode : int32_t { kInt4, kInt8, kInt2, kInt3, kCodebook4, kF16, kBf16, kF32 };
enum ScaleType : int32_t { kScaleF16, kScaleBf16, kScaleF32 };
enum Rounding : int32_t { kNoRounding, kRoundF16, kRoundBf16 };

constexpr int64_t kUnit = 4;  // blocks

// What the bytes of a panel are.
struct PanelShape {
  int64_t blocks;
  int64_t block_bytes;  // codes of every block but the last
  int64_t scale_bytes;  // 16 scales; 0: there are none
  int64_t zero_bytes;   // 16 zeros, a byte each; 0: all are the same
};

// Scales and zeros of a unit of `count` blocks.
static inline int64_t side_bytes(const PanelShape* shape, int64_t count) {
  return (count * (shape->scale_bytes + shape->zero_bytes) + 63) / 64 * 64;
}

// Where a block's parts begin, in bytes behind the beginning of the panel.
struct BlockPlace {
  int64_t scales, zeros, codes;
};
static inline BlockPlace place_of_block(const PanelShape* shape, int64_t block) {
  const int64_t unit = block / kUnit, within = block % kUnit, left = shape->blocks - unit * kUnit;
  const int64_t count = left < kUnit ? left : kUnit;
  const int64_t begin = unit * (side_bytes(shape, kUnit) + kUnit * shape->block_bytes);
  return {begin + within * shape->scale_bytes, begin + count * shape->scale_bytes + within * shape->zero_bytes,
          begin + side_bytes(shape, count) + within * shape->block_bytes};
}

// A packed matrix W[rows, K] as the loops see it.
struct WeightView {
  const uint8_t* data;    // [panels][panel_bytes]
  const float* codebook;  // [16], codebook only
  // Codebooks over integer activations: value = factor * (256 * high + low - 32768) / 256
  // (Kernels::codebook_integers).
  const uint8_t* high_bytes;  // [16]
  const uint8_t* low_bytes;   // [16]
  float factor;
  int64_t panel_bytes;
  PanelShape shape;
  int64_t rows;
  int64_t alternating;  // panels of each of two matrices that stand in turns, so that one thread meets the same rows of both;
                        // 0: rows are in order
  int64_t block;        // columns of every block but the last
  int64_t last_block;
  int32_t code;        // PanelCode
  int32_t scale_type;  // ScaleType
  float zero;          // of every row and block, where the panels have none
  int32_t rounding;    // Rounding of the dequantized value, where the float path is to follow it
  int32_t adds;        // 1: products are added to y, 0: y is overwritten
};

// The first row of a panel.
static inline int64_t row_of_panel(const WeightView* w, int64_t panel) {
  return kPanel * (w->alternating ? panel / 2 + panel % 2 * w->alternating : panel);
}

// Activations x[m, K] packed for a WeightView's blocks: tiles of 8 tokens (the last one narrower), blocks
// outermost. With L the length of block b and w the width of a tile:
//   codes   block b at b*block*m*planes, tile t at t*8*L*planes more, plane p at p*L*w more,
//           then [L/4][w] of 4 bytes
//   values  block b at b*block*m, tile t at t*8*L more, then [L][w]
struct ActView {
  int64_t m;
  int32_t planes;  // 2: x = scale * (256 * plane0 + plane1); 1: x = scale * plane0; 0: values
  const int8_t* codes;
  const float* scales;  // [blocks][m]
  const float* sums;    // [blocks][m], sum over the block of the integers that stand for x
  const float* values;
};

// softmax(q K^T) V of up to 8 query rows that share one key/value head, over positions first..last of each
// row.
struct AttendView {
  const float* q;      // [rows][head_dim], already scaled
  const void* keys;    // [position/16][head_dim][16]
  const void* values;  // [position][value_stride]
  int64_t rows;        // 1..8
  int64_t head_dim;
  int64_t value_stride;  // head_dim rounded up to 16
  int32_t half;          // 1: keys and values are f16, 0: f32
  int64_t first[kTile];  // visible positions of each row: first .. last-1
  int64_t last[kTile];
  int64_t begin, end;  // positions to look at in this call
  float* scores;       // [8][kKeyBlock], scratch
  float* out;          // [rows][value_stride], sum of weights * values (not yet divided)
  float* maximum;      // [rows], largest score seen; -inf when none
  float* total;        // [rows], sum of exp(score - maximum)
  Ahead* ahead;        // what is read next, or null
};

struct Kernels {
  const char* name;
  // Whether codebooks are multiplied as 16-bit integers: faster than as floats where dot products of bytes
  // are one instruction.
  int32_t codebook_integers;
  // y[t * ldy + n] for tokens t of `a` and rows n of panels first .. last-1. scratch: [m + 8][32] floats.
  void (*linear)(const WeightView* w, const ActView* a, int64_t first, int64_t last, float* y, int64_t ldy,
                 float* scratch);
  // One block of one token: x[round_up(length, 16)] with zeros behind `length`; length a multiple of 4.
  // Four codes (a dword) go to out[k/4 * stride]; the low plane is `plane` bytes behind. sum is of the
  // integers.
  void (*quantize)(const float* x, int64_t length, int32_t planes, int8_t* out, int64_t stride, int64_t plane,
                   float* scale, float* sum);
  void (*rms_norm)(const float* x, const float* weight, float epsilon, int64_t n, float* out);
  // out = silu(gate) * up, or gelu_tanh(gate) * up
  void (*silu_mul)(const float* gate, const float* up, int64_t n, float* out);
  void (*gelu_tanh_mul)(const float* gate, const float* up, int64_t n, float* out);
  void (*attend)(const AttendView* view);
  // The first i >= first with y[i] + factor * bound[i] > threshold, or n.
  int64_t (*next_above)(const float* y, const float* bound, float factor, float threshold, int64_t first,
                        int64_t n);
  void (*to_f16)(const float* x, int64_t n, uint16_t* out);
  void (*from_f16)(const uint16_t* x, int64_t n, float* out);
};

extern const Kernels kGenericKernels;
extern const Kernels kAvx2Kernels;
extern const Kernels kAvxVnniKernels;
extern const Kernels kAvx512VnniKernels;

}  // namespace cpu
}  // namespace nbl

// The one layout of weights on the GPU: strips of 16 output rows, cut along K into records, codes next to their scales.
//
//   strip s, record r of a matrix [N, K]: rows 16s .. 16s+15, columns columns()*r .. ; a strip is contiguous for all of K
//   record = codes, then for each group of the record: scales of rows 0, 8, 1, 9, ..., zeros of the same (int formats only)
//
// The codes lie in the order in which the 32 lanes of a warp need them as operand A of mma.m16n8k16. Lane 4g+t works on
// rows g and g+8 and, in each block of 32 columns, on columns 8t .. 8t+7: so that its part of x is 16 contiguous bytes.
// The first mma of a block takes columns 8t+{0,1} and 8t+{2,3} as the fragment's {2t,2t+1} and {2t+8,2t+9}, the second
// 8t+{4,5} and 8t+{6,7}: the same permutation on both operands, which a sum over K does not see.
//
//   codes     columns  bytes of codes  a lane's bytes                                               where
//   kInt2     128      512             u32 [2 halves of 64 columns][2 rows], 16 codes each          16 * lane
//   kInt3     128      768             the low two bits as kInt2; then u32 [2 rows], one bit each   512 + 8 * lane
//   kInt4     128      1024            u32 [2 blocks][2 rows], for columns 0..63 and 64..127        512 * half + 16 * lane
//   kCode4    128      1024            as kInt4, but the codes of a word in their natural order
//   kInt8     128      2048            u32 [2 rows][2], for each of the 4 blocks                    512 * block + 16 * lane
//   kHalf     64       2048            f16 [8], for each block and row                              512 * (2*block + row) + 16 * lane
//
// In a word of kInt4 the nibbles from the lowest are columns 8t + {0,2,4,6,1,3,5,7}: masking with 0x000f000f gives two
// neighbours in the two halves of a register. kInt2 and the low plane of kInt3 do the same with two bits: bits 2p and
// 16+2p of a word are the column pair p % 4 of block p / 4 of that half. In the high plane of kInt3 bits high_bit_place(b, p) and
// 16 more belong to the column pair p of block b: in the same bytes, and two bits apart, as the low bits.
//
// N is padded to 16 and K to 128. What a padded column holds does not matter: x is zero there.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define NBL_HD __host__ __device__ __forceinline__
#else
#define NBL_HD inline
#endif

namespace nbl::cuda {

enum class Codes : uint8_t { kInt2, kInt3, kInt4, kInt8, kCode4, kHalf };

constexpr float kCodeUnit = 16777216.f;  // 2^24: codes are multiplied as f16 of 2^-24 each (tile_math.cuh)
constexpr int kStripRows = 16;
constexpr int kColumnAlign = 128;  // of K, and of the rows of x

NBL_HD constexpr int record_columns(Codes codes) { return codes == Codes::kHalf ? 64 : 128; }
NBL_HD constexpr int code_bytes(Codes codes) {
  switch (codes) {
    case Codes::kInt2: return 512;
    case Codes::kInt3: return 768;
    case Codes::kInt4: case Codes::kCode4: return 1024;
    case Codes::kInt8: case Codes::kHalf: return 2048;
  }
  return 0;
}
NBL_HD constexpr bool has_zeros(Codes codes) { return codes != Codes::kHalf && codes != Codes::kCode4; }

NBL_HD constexpr int high_bit_place(int block, int pair) { return block % 2 * 8 + pair * 2 + block / 2; }  // kInt3

// A matrix on the device, as kernels see it.
struct Tiles {
  const unsigned char* data = nullptr;  // [strips][records][record_bytes]
  int64_t rows = 0;                     // N, not padded
  int strips = 0;
  int records = 0;                      // of a strip: padded K / columns
  int record_bytes = 0;
  int group = 0;                        // columns that share a scale: 32, 64 or 128; 0 for kHalf
  int group_bytes = 0;                  // bytes of one group's scales and zeros
  Codes codes = Codes::kHalf;
  bool wide_scales = false;             // float32 scales; else f16
  bool interleaved = false;             // gate and up: strip s holds gate rows 8s.. in its rows 0..7, up rows in 8..15
  const unsigned int* code_pairs = nullptr;  // kCode4: [256] half2, the values of both codes of a byte
  const float* row_scale = nullptr;     // [N padded] kHalf: a power of two, or null when all are 1
  const int32_t* k_order = nullptr;     // [K padded] position -> column of x, null when the identity
  const int32_t* k_place = nullptr;     // [K] the inverse of k_order
};

// Where an element of x stands: rows of `pitch` elements, or blocked for the matrix units of sm_90 (matmul_wgmma.cu).
//
// Blocked: [rows / 64][pitch / 64][64 rows][64 columns], each block as wgmma reads its operand B with 128-byte swizzling:
// in a row of 128 bytes, 16-byte chunk c stands at c ^ (row % 8). In 32 columns, column 8t + 4j + 2h + i stands at
// 16j + 8h + 2t + i: there the fragment of mma j has the columns that the codes of lane t belong to.
struct ActivationLayout {
  int64_t pitch;  // columns, padded
  bool blocked;
  NBL_HD ActivationLayout(int64_t columns, bool in_blocks = false) : pitch(columns), blocked(in_blocks) {}
  NBL_HD int64_t at(int64_t row, int64_t column) const {
    if (!blocked) return row * pitch + column;
    const int r = static_cast<int>(row & 63), c = static_cast<int>(column & 63);
    const int place = (c & 32) | (c >> 2 & 1) << 4 | (c >> 1 & 1) << 3 | (c >> 3 & 3) << 1 | (c & 1);
    return ((row >> 6) * (pitch >> 6) + (column >> 6)) * 4096 + r * 64 + ((place >> 3 ^ (r & 7)) << 3) + (place & 7);
  }
};

inline constexpr int group_bytes(Codes codes, bool wide_scales) {
  return codes == Codes::kHalf ? 0 : kStripRows * ((wide_scales ? 4 : 2) + (has_zeros(codes) ? 1 : 0));
}
inline constexpr int64_t pad_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

}  // namespace nbl::cuda

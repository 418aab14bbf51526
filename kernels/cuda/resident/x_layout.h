// How x, the input of a matrix, lies in the resident kernel's shared memory, 128 columns at a time: in f16 for values, as the digits
// of fixed-point numbers for integer codes (record_product.cuh).
//
//   f16      [column]
//   digits   [half of 64 columns][digit][t][4 words of 4 columns]
//
// Digits are signed bytes to the base 256, the most significant first. Of the columns 8t .. 8t+7 of the two blocks of 32 that a half
// is, words have, from their lowest byte:
//
//   kInt8          word 2j + b: columns 4j .. 4j+3 of block b
//   kInt4          word 2j + b: columns 2j, 4+2j, 1+2j, 5+2j of block b, as the nibbles j of its codes (tile.h)
//   kInt2, kInt3   word p: columns 2p of block 0, 2p of block 1, 2p+1 of block 0, 2p+1 of block 1, times 4^(3-p)
//
// Beside the digits stand, in words, the factor of a unit, a float, then the sum over each of its groups in the unit of the products:
// an integer, or with three digits a float that is 1/256 of it.
#pragma once

#include "kernels/cuda/weights/tile.h"

namespace nbl::cuda {

constexpr int kUnitColumns = 128;  // a record of codes; a warp finds so many at once, four of them a lane

// Digits that a matrix of such codes takes, 0: f16. Codes of two bits lie in four places of a byte, worth 1, 4, 16 and 64; x is
// multiplied by 64, 16, 4 and 1 for them, so that all have one sum. That takes 6 bits more.
NBL_HD constexpr int x_digits(Codes codes) {
  return codes == Codes::kInt2 || codes == Codes::kInt3 ? 3 : codes == Codes::kInt4 || codes == Codes::kInt8 ? 2 : 0;
}
NBL_HD constexpr int x_unit_bytes(Codes codes) { return x_digits(codes) > 0 ? kUnitColumns * x_digits(codes) : kUnitColumns * 2; }
// Of a unit whose groups have 1, 2 or 4 blocks of 32 columns: 1 + 4 / group_blocks, rounded up for loads of 8 and 16 bytes. Without a
// division, since staging asks for it between a row's arrival and its products.
NBL_HD constexpr int x_factor_words(int group_blocks) { return group_blocks == 4 ? 2 : group_blocks == 2 ? 4 : 8; }
// What products are multiplied by, beside scales and factors.
NBL_HD constexpr float product_unit(Codes codes) {
  return codes == Codes::kInt4 ? 1.f / 16 : x_digits(codes) == 3 ? 256.f / 64 : 1.f;
}

}  // namespace nbl::cuda

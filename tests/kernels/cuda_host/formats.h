// The formats of records (kernels/cuda/tile.h) that the tests go over, and where x stands for each.
#pragma once

#include <ostream>

#include "kernels/cuda/resident/record_product.cuh"

namespace nbl::cuda {

struct HostFormat {
  const char* name;
  Codes codes;
  int group_blocks;  // of 32 columns, that share a scale; 0: no scales
};
inline void PrintTo(const HostFormat& format, std::ostream* out) { *out << format.name; }
inline constexpr HostFormat kHostFormats[] = {
    {"int4_128", Codes::kInt4, 4},   {"int4_64", Codes::kInt4, 2},   {"int4_32", Codes::kInt4, 1},   {"int2_128", Codes::kInt2, 4},
    {"int2_64", Codes::kInt2, 2},    {"int2_32", Codes::kInt2, 1},   {"int3_128", Codes::kInt3, 4},  {"int3_64", Codes::kInt3, 2},
    {"int3_32", Codes::kInt3, 1},    {"int8_128", Codes::kInt8, 4},  {"int8_64", Codes::kInt8, 2},   {"int8_32", Codes::kInt8, 1},
    {"code4_128", Codes::kCode4, 4}, {"code4_64", Codes::kCode4, 2}, {"code4_32", Codes::kCode4, 1}, {"half", Codes::kHalf, 0},
};

// Where column c of x stands in shared memory, as a half: XOrder's table, written once more.
inline int place_of_column(XOrder order, int c) {
  const int block = c / 32, t = c % 32 / 8, pair = c % 8 / 2;
  int word = block * 16 + t * 4 + pair;
  if (order == XOrder::kSplit) {
    constexpr int kAt[4] = {0, 2, 1, 3};
    word = block * 16 + t * 4 + kAt[pair];
  } else if (order == XOrder::kPaired) {
    word = block / 2 * 32 + t * 8 + pair * 2 + block % 2;
  }
  return 2 * word + c % 2;
}

}  // namespace nbl::cuda

// The formats of records (kernels/cuda/weights/tile.h) that the tests go over, and where x stands for each.
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

// Where the digits of column c of a unit stand: x_layout.h's tables, written once more.
struct DigitPlace {
  int word, byte;  // of the first digit; the next one's word is 16 further
  int times;       // what x is multiplied by
};
inline DigitPlace digit_place(Codes codes, int c) {
  const int half = c / 64, block = c / 32 % 2, t = c % 32 / 8, i = c % 8, digits = x_digits(codes);
  int word, byte, times = 1;
  if (codes == Codes::kInt8) {
    word = 2 * (i / 4) + block, byte = i % 4;
  } else if (codes == Codes::kInt4) {
    constexpr int kWord[8] = {0, 0, 1, 1, 0, 0, 1, 1}, kByte[8] = {0, 2, 0, 2, 1, 3, 1, 3};
    word = 2 * kWord[i] + block, byte = kByte[i];
  } else {
    word = i / 2, byte = 2 * (i % 2) + block, times = 64 >> i / 2 * 2;
  }
  return {(half * digits * 4 + t) * 4 + word, byte, times};
}
inline void put_digits_of(unsigned char* unit, Codes codes, int c, int number) {
  const DigitPlace place = digit_place(codes, c);
  for (int digit = x_digits(codes) - 1; digit >= 0; --digit) {
    const int low = (number + 128 & 255) - 128;
    unit[4 * (place.word + 16 * digit) + place.byte] = static_cast<unsigned char>(low);
    number = (number - low) / 256;
  }
}
inline int number_at(const unsigned char* unit, Codes codes, int c) {
  const DigitPlace place = digit_place(codes, c);
  int number = 0;
  for (int digit = 0; digit < x_digits(codes); ++digit) {
    number = number * 256 + static_cast<signed char>(unit[4 * (place.word + 16 * digit) + place.byte]);
  }
  return number;
}
// Of a group: what stands in its factors.
inline uint32_t sum_word(Codes codes, double sum) {  // of x, in units of its factor
  if (x_digits(codes) == 3) return float_to_bits(static_cast<float>(sum * 64 / 256));
  return static_cast<uint32_t>(static_cast<int>(codes == Codes::kInt4 ? sum * 16 : sum));
}

}  // namespace nbl::cuda

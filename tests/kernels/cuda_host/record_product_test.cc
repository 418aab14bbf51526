// What a consumer warp of the resident kernel does with a record (kernels/cuda/resident/record_product.cuh), run on the host
// by 32 lanes and compared with the same in double. The record is written here as tile.h says it lies.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "kernels/cuda_host/formats.h"

namespace nbl::cuda {
namespace {

int code_bits(Codes codes) { return codes == Codes::kInt2 ? 2 : codes == Codes::kInt3 ? 3 : codes == Codes::kInt8 ? 8 : 4; }

// A record of 16 rows as numbers.
struct PlainRecord {
  int columns, groups;
  std::vector<uint32_t> codes;  // [16][columns]; of kHalf the bits of an f16
  std::vector<float> scales;    // [16][groups], values that f16 has
  std::vector<int> zeros;       // [16][groups]

  PlainRecord(Codes format, int group_columns, std::mt19937& random)
      : columns(format == Codes::kHalf ? 64 : 128), groups(group_columns == 0 ? 0 : columns / group_columns), codes(16 * columns),
        scales(16 * groups), zeros(16 * groups) {
    std::normal_distribution<float> normal;
    for (uint32_t& code : codes) code = format == Codes::kHalf ? float_to_f16(normal(random)) : random() % (1u << code_bits(format));
    for (float& scale : scales) scale = f16_to_float(float_to_f16(normal(random) * 0.01f));
    for (int& zero : zeros) zero = static_cast<int>(random() % (1u << code_bits(format)));
  }
  uint32_t code(int row, int column) const { return codes[row * columns + column]; }
  int group_of(int column) const { return column * groups / columns; }
};

void put_u32(std::vector<unsigned char>& bytes, int at, uint32_t word) { std::memcpy(&bytes[at], &word, 4); }

// The bytes of the codes: the table of tile.h, lane by lane.
std::vector<unsigned char> code_bytes_of(Codes format, const PlainRecord& record) {
  std::vector<unsigned char> bytes(code_bytes(format));
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4, t = lane % 4;
    for (int r = 0; r < 2; ++r) {
      const int row = g + 8 * r;
      // Column 8t + i of a block.
      const auto code = [&](int block, int i) { return record.code(row, 32 * block + 8 * t + i); };
      switch (format) {
        case Codes::kInt2:
        case Codes::kInt3:
          for (int half = 0; half < 2; ++half) {
            uint32_t word = 0;
            for (int p = 0; p < 8; ++p) {
              for (int i = 0; i < 2; ++i) word |= (code(2 * half + p / 4, 2 * (p % 4) + i) & 3u) << (2 * p + 16 * i);
            }
            put_u32(bytes, 16 * lane + 8 * half + 4 * r, word);
          }
          if (format == Codes::kInt3) {
            uint32_t word = 0;
            for (int j = 0; j < 16; ++j) {
              for (int i = 0; i < 2; ++i) word |= (code(j / 4, 2 * (j % 4) + i) >> 2) << (8 * (j / 4 % 2) + 2 * (j % 4) + j / 8 + 16 * i);
            }
            put_u32(bytes, 512 + 8 * lane + 4 * r, word);
          }
          break;
        case Codes::kInt4:
        case Codes::kCode4:
          for (int block = 0; block < 4; ++block) {
            constexpr int kOfInt4[8] = {0, 2, 4, 6, 1, 3, 5, 7};
            uint32_t word = 0;
            for (int i = 0; i < 8; ++i) word |= code(block, format == Codes::kInt4 ? kOfInt4[i] : i) << (4 * i);
            put_u32(bytes, 512 * (block / 2) + 16 * lane + 8 * (block % 2) + 4 * r, word);
          }
          break;
        case Codes::kInt8:
          for (int block = 0; block < 4; ++block) {
            for (int i = 0; i < 8; ++i) bytes[512 * block + 16 * lane + 8 * r + i] = static_cast<unsigned char>(code(block, i));
          }
          break;
        case Codes::kHalf:
          for (int block = 0; block < 2; ++block) {
            for (int i = 0; i < 8; i += 2) {
              put_u32(bytes, 512 * (2 * block + r) + 16 * lane + 2 * i, code(block, i) | code(block, i + 1) << 16);
            }
          }
          break;
      }
    }
  }
  return bytes;
}

// Behind the codes, a group at a time: scales of the rows 0, 8, 1, 9, ..., then their zeros.
void append_groups(std::vector<unsigned char>& bytes, Codes format, bool wide, const PlainRecord& record) {
  for (int group = 0; group < record.groups; ++group) {
    for (int i = 0; i < 16; ++i) {
      const float scale = record.scales[(i / 2 + i % 2 * 8) * record.groups + group];
      const uint32_t bits = wide ? float_to_bits(scale) : float_to_f16(scale);
      for (int byte = 0; byte < (wide ? 4 : 2); ++byte) bytes.push_back(static_cast<unsigned char>(bits >> 8 * byte));
    }
    if (!has_zeros(format)) continue;
    for (int i = 0; i < 16; ++i) bytes.push_back(static_cast<unsigned char>(record.zeros[(i / 2 + i % 2 * 8) * record.groups + group]));
  }
}

template <Codes kFormat, int kGroupBlocks, bool kWide>
struct Case {
  static constexpr Codes format = kFormat;
  static constexpr int group_blocks = kGroupBlocks;
  static constexpr bool wide = kWide;
};
template <typename Format>
class RecordProducts : public ::testing::Test {};
template <Codes C, bool kWide>
using Groups = std::tuple<Case<C, 1, kWide>, Case<C, 2, kWide>, Case<C, 4, kWide>>;
template <typename... Tuples>
struct Types {
  template <typename... T>
  static ::testing::Types<T...> list(std::tuple<T...>);
  using type = decltype(list(std::tuple_cat(Tuples{}...)));
};
using AllCases = Types<Groups<Codes::kInt2, false>, Groups<Codes::kInt3, false>, Groups<Codes::kInt4, false>, Groups<Codes::kInt8, false>,
                       Groups<Codes::kCode4, false>, Groups<Codes::kInt2, true>, Groups<Codes::kInt3, true>, Groups<Codes::kInt4, true>,
                       Groups<Codes::kInt8, true>, Groups<Codes::kCode4, true>, std::tuple<Case<Codes::kHalf, 0, false>>>::type;
struct CaseName {
  template <typename C>
  static std::string GetName(int) {
    for (const HostFormat& format : kHostFormats) {
      if (format.codes == C::format && format.group_blocks == C::group_blocks) return std::string(format.name) + (C::wide ? "_wide" : "");
    }
    return "?";
  }
};
TYPED_TEST_SUITE(RecordProducts, AllCases, CaseName);

TYPED_TEST(RecordProducts, AreThoseOfTheNumbersInThem) {
  using C = TypeParam;
  constexpr Codes kFormat = C::format;
  constexpr int kGroupBlocks = C::group_blocks, kGroupColumns = 32 * kGroupBlocks;
  using Product = RecordProduct<kFormat, kGroupBlocks, C::wide>;
  constexpr int kDigits = x_digits(kFormat);
  std::mt19937 random(static_cast<int>(kFormat) * 10 + kGroupBlocks);
  std::normal_distribution<float> normal;
  float values[16];  // of the codes of kCode4
  for (float& v : values) v = f16_to_float(float_to_f16(normal(random)));
  std::vector<uint32_t> pairs(256 * 32);
  for (int i = 0; i < 256 * 32; ++i)
    pairs[i] = float_to_f16(values[i / 32 % 16]) | static_cast<uint32_t>(float_to_f16(values[i / 32 / 16])) << 16;

  // Records of a strip, with any x and codes, and the largest.
  constexpr int kRecords = 2 * Product::kAtOnce + 3, kLargest = 3;
  double expected[16] = {}, size[16] = {};
  std::vector<unsigned char> bytes;
  alignas(16) unsigned char x[(kRecords + 3) * Product::kXBytes] = {};
  alignas(16) uint32_t factors[kRecords * 8] = {};
  for (int number = 0; number < kRecords; ++number) {
    PlainRecord record(kFormat, kGroupColumns, random);
    if (number == kLargest && has_zeros(kFormat)) record.codes.assign(record.codes.size(), (1u << code_bits(kFormat)) - 1);
    const std::vector<unsigned char> codes = code_bytes_of(kFormat, record);
    bytes.insert(bytes.end(), codes.begin(), codes.end());
    append_groups(bytes, kFormat, C::wide, record);
    ASSERT_EQ(bytes.size(), static_cast<size_t>((number + 1) * Product::kRecordBytes));
    unsigned char* record_x = x + number * Product::kXBytes;
    uint32_t* record_factors = factors + number * Product::kFactorWords;
    std::vector<double> plain_x(record.columns);
    const float factor = std::exp(normal(random));
    if (kDigits > 0) record_factors[0] = float_to_bits(factor);
    std::vector<double> sums(record.groups + 1);
    for (int c = 0; c < record.columns; ++c) {
      if (kDigits == 0) {
        const __half value(normal(random));
        reinterpret_cast<__half*>(record_x)[c] = value;
        plain_x[c] = __half2float(value);
        continue;
      }
      const int times = digit_place(kFormat, c).times;
      const int most = 32511 * times, integer = number == kLargest ? most : static_cast<int>(random() % (2 * most + 1)) - most;
      put_digits_of(record_x, kFormat, c, integer);
      plain_x[c] = static_cast<double>(integer) / times * factor;
      sums[record.group_of(c)] += static_cast<double>(integer) / times;
    }
    for (int group = 0; kDigits > 0 && group < record.groups; ++group) record_factors[1 + group] = sum_word(kFormat, sums[group]);
    for (int row = 0; row < 16; ++row) {
      for (int c = 0; c < record.columns; ++c) {
        const int at = record.groups == 0 ? 0 : row * record.groups + record.group_of(c);
        const uint32_t code = record.code(row, c);
        const double weight = kFormat == Codes::kHalf ? f16_to_float(static_cast<uint16_t>(code))
                              : kFormat == Codes::kCode4
                                  ? static_cast<double>(record.scales[at]) * values[code]
                                  : static_cast<double>(record.scales[at]) * (static_cast<int>(code) - record.zeros[at]);
        expected[row] += weight * plain_x[c];
        // What is added up: the product of codes and that of zeros are taken apart.
        size[row] +=
            std::abs(plain_x[c]) * (has_zeros(kFormat) ? std::abs(record.scales[at]) * (code + record.zeros[at]) : std::abs(weight));
      }
    }
  }
  // Behind the last x stands something else, which does not matter even where it is no number.
  std::fill(x + kRecords * Product::kXBytes, x + sizeof x, static_cast<unsigned char>(0x7f));
  alignas(16) const unsigned char zeros[512] = {};
  float row_sums[32];
  cuda_host::run_ctas(1, 32, cuda_host::Turns::kAscending, [&](int, int lane) {
    LaneSums sums;
    const int offset = Product::x_offset(lane);
    constexpr int kAtOnce = Product::kAtOnce;
    const auto lane_x = [&](int number) { return offset < 0 ? zeros : x + number * Product::kXBytes + offset; };
    const auto record = [&](int number) { return bytes.data() + number * Product::kRecordBytes; };
    const auto lane_factors = [&](int number) { return factors + number * Product::kFactorWords; };
    // As many as go together, with codes and x that are at hand and with others; then two, then one. Codes at hand may go when `after`
    // says so.
    typename Product::Input input;
    Product::template load<kAtOnce>(input, lane_x(0), lane_factors(0), lane);
    LaneCodes<kFormat> codes[kAtOnce];
    for (int i = 0; i < kAtOnce; ++i) codes[i].load(record(i), lane);
    int wanted = 0;
    Product::add(record(0), codes, pairs.data(), input, lane, sums, [&](int i) {
      EXPECT_EQ(i, wanted++);
      for (uint32_t& word : codes[i].w) word = 0x99999999u;
    });
    EXPECT_EQ(wanted, kAtOnce);
    int number = kAtOnce;
    Product::template add<kAtOnce>(record(number), pairs.data(), lane_x(number), lane_factors(number), lane, sums);
    number += kAtOnce;
    Product::template add<2>(record(number), pairs.data(), lane_x(number), lane_factors(number), lane, sums);
    number += 2;
    Product::template add<1>(record(number), pairs.data(), lane_x(number), lane_factors(number), lane, sums);
    row_sums[lane] = Product::row_sum(sums, lane);
  });
  for (int row = 0; row < 16; ++row) {
    const double found = row_sums[row % 8 * 4 + (row < 8 ? 0 : Product::kSecondRow)] * static_cast<double>(product_unit(kFormat));
    EXPECT_NEAR(found, expected[row], size[row] * 1e-6) << "row " << row;
  }
}

}  // namespace
}  // namespace nbl::cuda

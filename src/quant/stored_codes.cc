// The plain meaning of stored codes, on the host (quant_weight.h has the layouts).
#include <algorithm>
#include <cstring>

#include "base/parallel.h"
#include "quant/formats.h"

namespace nbl {
namespace {

constexpr int64_t kGrain = 1 << 20;  // codes that are worth a thread

void unpack_along_inputs(const uint8_t* words, int64_t n, int64_t k, int bits, uint8_t* out) {
  const uint32_t mask = (1u << bits) - 1;
  constexpr int64_t kColumns = 64;  // at a time: the reads of a block of columns share cache lines
  parallel_for((n + kColumns - 1) / kColumns, kGrain / (kColumns * k) + 1, [&](int64_t first, int64_t last) {
    for (int64_t column = first * kColumns; column < std::min(n, last * kColumns); ++column) {
      uint64_t held = 0;
      int have = 0;
      int64_t word_row = 0;
      uint8_t* row_out = out + column * k;
      for (int64_t row = 0; row < k; ++row) {
        if (have < bits) {
          held |= static_cast<uint64_t>(word_at(words, word_row++ * n + column)) << have;
          have += 32;
        }
        row_out[row] = held & mask;
        held >>= bits;
        have -= bits;
      }
    }
  });
}

void unpack_along_outputs(const uint8_t* words, int64_t n, int64_t k, uint32_t places, uint8_t* out) {
  constexpr int64_t kBlock = 64;  // columns at a time: the writes of a block stay in the cache
  parallel_for((k + kBlock - 1) / kBlock, kGrain / (kBlock * n) + 1, [&](int64_t first, int64_t last) {
    for (int64_t column0 = first * kBlock; column0 < std::min(k, last * kBlock); column0 += kBlock) {
      const int64_t column1 = std::min(k, column0 + kBlock);
      for (int64_t c = 0; c < n / 8; ++c) {
        for (int64_t column = column0; column < column1; ++column) {
          const uint32_t word = word_at(words, column * (n / 8) + c);
          for (int j = 0; j < 8; ++j) out[(8 * c + j) * k + column] = word >> 4 * (places >> 4 * j & 15) & 15;
        }
      }
    }
  });
}

void unpack_nibbles(const StoredCodes& stored, int64_t count, uint8_t* out) {
  const int first_shift = stored.low_first ? 0 : 4;
  parallel_for(count / 2, kGrain / 2, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      out[2 * i] = stored.data[i] >> first_shift & 15;
      out[2 * i + 1] = stored.data[i] >> (4 - first_shift) & 15;
    }
  });
  if (count % 2 != 0) out[count - 1] = stored.data[count / 2] >> first_shift & 15;
}

void unpack_bytes(const StoredCodes& stored, int64_t count, uint8_t* out) {
  parallel_for(count, kGrain, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) out[i] = stored.data[i] ^ stored.flip;
  });
}

}  // namespace

void take_codes(const StoredCodes& stored, bool keep_stored, QuantWeight& weight) {
  if (keep_stored) {
    weight.stored = stored;
    return;
  }
  weight.codes.resize(weight.out_features * weight.in_features);
  unpack_codes(stored, weight.out_features, weight.in_features, weight.bits, weight.codes.data());
}

void unpack_codes(const StoredCodes& stored, int64_t n, int64_t k, int bits, uint8_t* out) {
  switch (stored.layout) {
    case StoredCodes::Layout::kNone: case StoredCodes::Layout::kFloats: return;
    case StoredCodes::Layout::kAlongInputs: return unpack_along_inputs(stored.data, n, k, bits, out);
    case StoredCodes::Layout::kAlongOutputs: return unpack_along_outputs(stored.data, n, k, stored.places, out);
    case StoredCodes::Layout::kRows:
      return bits == 4 ? unpack_nibbles(stored, n * k, out) : unpack_bytes(stored, n * k, out);
    case StoredCodes::Layout::kRandom: {
      const uint64_t mask = 0x0101010101010101ull * ((1u << bits) - 1);
      parallel_for((n * k + 7) / 8, kGrain, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) {
          const uint64_t eight = random_codes(stored.seed, static_cast<uint64_t>(i)) & mask;
          std::memcpy(out + 8 * i, &eight, static_cast<size_t>(std::min<int64_t>(8, n * k - 8 * i)));
        }
      });
      return;
    }
  }
}

Result<std::vector<float>> transposed_scales(const TensorView& scales, int64_t n, int64_t groups) {
  NBL_ASSIGN_OR_RETURN(const std::vector<float> stored, floats_of(scales));
  std::vector<float> out(n * groups);
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t row = 0; row < n; ++row) out[row * groups + g] = stored[g * n + row];
  }
  return out;
}

}  // namespace nbl

// What the packing kernels read: the rows of some strips as they lie in the staging memory on the device.
#pragma once

#include "kernels/cuda/check.h"
#include "kernels/cuda/weights/tile.h"
#include "quant/quant_weight.h"

namespace nbl::cuda {

constexpr int kMostParts = 3;  // of a fused matrix

// Consecutive rows of one part, in the staging memory.
struct PackPiece {
  int first, rows;                       // which rows of the run of strips; of an interleaved one: all rows 8i .. 8i + 7 of its half
  const uint8_t* codes;                  // kNone: plain codes, or float values
  StoredCodes::Layout layout;
  int64_t pitch;                         // words or bytes from one line to the next
  uint32_t places;
  uint8_t flip;
  bool low_first;
  uint64_t seed;
  int64_t row0;                          // its first row's number in the part
  DType float_type;                      // of kFloats
  float* magnitudes;                     // [rows][groups] of kFloats: found on the device
  const uint8_t* scales;
  DType scale_type;
  int64_t scale_row, scale_group;        // elements from one row to the next, from one group to the next
  float scale_factor;
  const float* scale_map;                // of double quantization; else null
  const float* nested;                   // [first_nested ..]
  int64_t first_nested, nested_block;
  float scale_offset;
  const uint8_t* zeros;
  StoredCodes::Layout zero_layout;                    // kNone: bytes [rows][groups]; kAlongOutputs
  int64_t zero_pitch;
};

struct PackSource {
  PackPiece pieces[kMostParts];
  int piece_count;
  bool interleaved;
  int64_t rows;           // valid rows of the run; rows beyond are padding
  int64_t k;
  int bits, groups;
  int group_size;         // as the checkpoint has it; >= the record's group
  const int32_t* k_order; // of stored codes; null: the identity
  DType value_type;       // of float values
  QuantizationRule rule;  // of kFloats
};

// Makes the tiles of strips first_strip .. first_strip + strips - 1 from `source`, which begins with the first of their rows.
Status pack_on_device(const Tiles& tiles, const PackSource& source, int first_strip, int strips, cudaStream_t stream);

}  // namespace nbl::cuda

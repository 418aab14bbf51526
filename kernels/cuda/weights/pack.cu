// Packing on the GPU: rows of a checkpoint's own codes, of plain codes or of float values become tiles (tile.h). Float values
// that are to be quantized are quantized here. One thread per (strip, record, lane) writes that lane's words.
#include <cuda_fp16.h>

#include <algorithm>

#include "kernels/cuda/weights/pack.h"

namespace nbl::cuda {
namespace {

using Layout = StoredCodes::Layout;

// The piece that a row of the run belongs to, and its number in there; null for padding.
__device__ __forceinline__ const PackPiece* piece_of(const PackSource& s, int64_t& row) {
  if (row >= s.rows) return nullptr;
  if (s.interleaved) {
    const PackPiece* piece = &s.pieces[row / 8 % 2];
    row = row / 16 * 8 + row % 8;
    return piece;
  }
  for (int i = 0; i < s.piece_count; ++i) {
    if (row < s.pieces[i].first + s.pieces[i].rows) {
      row -= s.pieces[i].first;
      return &s.pieces[i];
    }
  }
  return nullptr;
}

__device__ __forceinline__ uint32_t nibble_along_outputs(const uint8_t* words, int64_t pitch, uint32_t places, int64_t row, int64_t line) {
  return reinterpret_cast<const uint32_t*>(words)[line * pitch + row / 8] >> 4 * (places >> 4 * (row % 8) & 15) & 15;
}

__device__ __forceinline__ float value_at(const void* values, DType type, int64_t at) {
  if (type == DType::kF32) return static_cast<const float*>(values)[at];
  if (type == DType::kF16) return __half2float(static_cast<const __half*>(values)[at]);
  return __uint_as_float(static_cast<uint32_t>(static_cast<const uint16_t*>(values)[at]) << 16);
}

// A value of kFloats as the rule compares it: that of 8 bits sees halves only.
__device__ __forceinline__ float value_to_quantize(const PackSource& s, const PackPiece* p, int64_t row, int64_t k) {
  const float v = value_at(p->codes, p->float_type, row * p->pitch + k);
  return s.bits == 8 ? __half2float(__float2half_rn(v)) : v;
}

__device__ __forceinline__ uint32_t quantized(const PackSource& s, const PackPiece* p, int64_t row, int64_t k) {
  const float most = p->magnitudes[row * s.groups + k / s.group_size], v = value_to_quantize(s, p, row, k);
  if (s.bits == 8) return static_cast<uint32_t>(__float2int_rn(__fmul_rn(v, most > 0 ? __fdiv_rn(127.f, most) : 0.f)) + 128);
  const float x = __fmul_rn(v, most > 0 ? __fdiv_rn(1.f, most) : 0.f);
  int below = 0;
#pragma unroll
  for (int i = 0; i < 15; ++i) below += x > s.rule.steps[i];
  return s.rule.code[below];
}

// The largest magnitude of every group of a piece that is to be quantized. One warp a group.
__global__ void find_magnitudes(const __grid_constant__ PackSource s) {
  const PackPiece& p = s.pieces[blockIdx.y];
  const int64_t id = (blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x) / 32;
  if (p.layout != Layout::kFloats || id >= static_cast<int64_t>(p.rows) * s.groups) return;
  const int64_t row = id / s.groups, first = id % s.groups * s.group_size, last = min(first + s.group_size, s.k);
  unsigned most = 0;  // compared as integers, as the host does: a value that is no number is the largest
  for (int64_t k = first + threadIdx.x % 32; k < last; k += 32) most = max(most, __float_as_uint(value_to_quantize(s, &p, row, k)) & 0x7fffffffu);
  for (int step = 16; step > 0; step /= 2) most = max(most, __shfl_xor_sync(~0u, most, step));
  if (threadIdx.x % 32 == 0) p.magnitudes[id] = __uint_as_float(most);
}

__device__ __forceinline__ float scale_at(const PackPiece* p, int64_t row, int64_t group) {
  const int64_t at = row * p->scale_row + group * p->scale_group;
  if (p->scale_map == nullptr) return __fmul_rn(value_at(p->scales, p->scale_type, at), p->scale_factor);
  const float nested = p->nested[(p->row0 * p->scale_row + at) / p->nested_block - p->first_nested];
  return __fadd_rn(__fmul_rn(p->scale_map[p->scales[at]], nested), p->scale_offset);  // two roundings, not a fused one
}

__device__ __forceinline__ uint32_t code_at(const PackSource& s, const PackPiece* p, int64_t row, int64_t column) {
  if (p == nullptr || column >= s.k) return 0;
  if (p->layout == Layout::kNone) return p->codes[row * p->pitch + column];
  const int64_t k = s.k_order != nullptr ? s.k_order[column] : column;
  switch (p->layout) {
    case Layout::kAlongInputs: {
      const uint32_t* words = reinterpret_cast<const uint32_t*>(p->codes) + row;
      const int64_t word = k * s.bits / 32;
      const int shift = static_cast<int>(k * s.bits % 32);
      uint32_t code = words[word * p->pitch] >> shift;
      if (shift + s.bits > 32) code |= words[(word + 1) * p->pitch] << (32 - shift);
      return code & ((1u << s.bits) - 1);
    }
    case Layout::kAlongOutputs: return nibble_along_outputs(p->codes, p->pitch, p->places, row, k);
    case Layout::kRows: {
      if (s.bits == 8) return p->codes[row * p->pitch + k] ^ p->flip;
      const uint32_t two = p->codes[row * p->pitch + k / 2];
      return (k % 2 != 0) != p->low_first ? two & 15 : two >> 4;
    }
    case Layout::kFloats: return quantized(s, p, row, k);
    case Layout::kRandom: {
      const uint64_t at = static_cast<uint64_t>((p->row0 + row) * s.k + column);
      return static_cast<uint32_t>(random_codes(p->seed, at / 8) >> 8 * (at % 8)) & ((1u << s.bits) - 1);
    }
    default: return 0;
  }
}

// One thread packs one lane of one record.
__global__ void pack_quantized(Tiles t, const __grid_constant__ PackSource s, int first_strip, int strips) {
  const int64_t id = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (id >= static_cast<int64_t>(strips) * t.records * 32) return;
  const int lane = id % 32, g = lane >> 2, q4 = lane & 3;
  const int record = id / 32 % t.records;
  const int strip = static_cast<int>(id / 32 / t.records);
  unsigned char* out = const_cast<unsigned char*>(t.data) +
                       (static_cast<int64_t>(first_strip + strip) * t.records + record) * t.record_bytes;
  const int64_t column0 = static_cast<int64_t>(record) * 128;
  for (int r = 0; r < 2; ++r) {
    int64_t row = strip * 16 + g + 8 * r;
    const PackPiece* piece = piece_of(s, row);
    uint32_t high = 0;
    for (int b = 0; b < 4; ++b) {
      uint32_t c[8];
      for (int i = 0; i < 8; ++i) c[i] = code_at(s, piece, row, column0 + 32 * b + 8 * q4 + i);
      uint32_t* words = reinterpret_cast<uint32_t*>(out);
      if (t.codes == Codes::kInt4 || t.codes == Codes::kCode4) {
        uint32_t w = 0;
        for (int i = 0; i < 8; ++i) {
          const int place = t.codes == Codes::kCode4 ? i : i / 2 + i % 2 * 4;
          w |= (c[i] & 15u) << (4 * place);
        }
        words[b / 2 * 128 + lane * 4 + b % 2 * 2 + r] = w;
      } else if (t.codes == Codes::kInt8) {
        words[b * 128 + lane * 4 + r * 2] = c[0] | c[1] << 8 | c[2] << 16 | c[3] << 24;
        words[b * 128 + lane * 4 + r * 2 + 1] = c[4] | c[5] << 8 | c[6] << 16 | c[7] << 24;
      } else {  // kInt2 and the low plane of kInt3: half a word
        uint32_t w = b % 2 ? words[lane * 4 + b / 2 * 2 + r] : 0u;
        for (int p = 0; p < 4; ++p) {
          const int place = 2 * (p + b % 2 * 4);
          w |= (c[2 * p] & 3u) << place | (c[2 * p + 1] & 3u) << (16 + place);
          high |= ((c[2 * p] >> 2 & 1u) | (c[2 * p + 1] >> 2 & 1u) << 16) << high_bit_place(b, p);
        }
        words[lane * 4 + b / 2 * 2 + r] = w;
      }
    }
    if (t.codes == Codes::kInt3) reinterpret_cast<uint32_t*>(out + 512)[lane * 2 + r] = high;
  }
  if (lane >= 16) return;
  // Scales and zeros of row `lane`: stored as pairs (row g, row g+8), so that a lane reads both at once.
  const int place = lane % 8 * 2 + lane / 8;
  int64_t row = strip * 16 + lane;
  const PackPiece* piece = piece_of(s, row);
  for (int j = 0; j < 128 / t.group; ++j) {
    unsigned char* meta = out + code_bytes(t.codes) + j * t.group_bytes;
    const int64_t group = (column0 + j * t.group) / s.group_size;
    const bool valid = piece != nullptr && group < s.groups;
    // An infinite one becomes NaN, which nothing behind it takes for a number; activations beyond f16 are cut to its largest.
    const float stored = valid ? scale_at(piece, row, group) : 0.f, scale = fmaf(stored, 0.f, stored);
    if (t.wide_scales) reinterpret_cast<float*>(meta)[place] = scale;
    else reinterpret_cast<__half*>(meta)[place] = __float2half_rn(scale);
    if (!has_zeros(t.codes)) continue;
    uint32_t zero = 0;
    if (valid && piece->zero_layout == Layout::kNone) zero = piece->zeros[row * piece->zero_pitch + group];
    else if (valid) zero = nibble_along_outputs(piece->zeros, piece->zero_pitch, piece->places, row, group);
    meta[(t.wide_scales ? 64 : 32) + place] = static_cast<unsigned char>(zero);
  }
}

// The power of two by which a row is divided so that its largest value lies in [1, 2): f16 then loses nothing of a bf16
// row but what is 2^24 times smaller than its largest value. One warp a row.
__global__ void row_scales(float* row_scale, const __grid_constant__ PackSource s, int64_t padded_rows) {
  const int64_t place = (blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x) / 32;
  if (place >= padded_rows) return;
  int64_t row = place;
  const PackPiece* piece = piece_of(s, row);
  float largest = 0;
  for (int64_t i = threadIdx.x % 32; piece != nullptr && i < s.k; i += 32) {
    largest = fmaxf(largest, fabsf(value_at(piece->codes, s.value_type, row * s.k + i)));
  }
  for (int step = 16; step > 0; step /= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, step));
  if (threadIdx.x % 32 == 0) {
    const bool usable = largest > 1e-30f && largest < 1e30f;
    row_scale[place] = usable ? __uint_as_float(__float_as_uint(largest) & 0x7f800000u) : 1.f;
  }
}

__global__ void pack_values(Tiles t, const __grid_constant__ PackSource s, int first_strip, int strips) {
  const int64_t id = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (id >= static_cast<int64_t>(strips) * t.records * 32) return;
  const int lane = id % 32, g = lane >> 2, q4 = lane & 3;
  const int record = id / 32 % t.records;
  const int strip = static_cast<int>(id / 32 / t.records);
  __half* out = reinterpret_cast<__half*>(const_cast<unsigned char*>(t.data) +
                                          (static_cast<int64_t>(first_strip + strip) * t.records + record) * t.record_bytes);
  for (int r = 0; r < 2; ++r) {
    int64_t row = strip * 16 + g + 8 * r;
    const float scale = t.row_scale != nullptr ? 1.f / t.row_scale[first_strip * 16 + row] : 1.f;
    const PackPiece* piece = piece_of(s, row);
    for (int b = 0; b < 2; ++b) {
      for (int i = 0; i < 8; ++i) {
        const int64_t column = static_cast<int64_t>(record) * 64 + 32 * b + 8 * q4 + i;
        const float v = piece != nullptr && column < s.k ? value_at(piece->codes, s.value_type, row * s.k + column) * scale : 0.f;
        out[(2 * b + r) * 256 + lane * 8 + i] = __float2half_rn(v);
      }
    }
  }
}

}  // namespace

Status pack_on_device(const Tiles& t, const PackSource& source, int first_strip, int strips, cudaStream_t stream) {
  const int64_t threads = static_cast<int64_t>(strips) * t.records * 32;
  const unsigned blocks = static_cast<unsigned>((threads + 127) / 128);
  if (t.codes == Codes::kHalf) {
    if (t.row_scale != nullptr) {
      row_scales<<<strips * 4, 128, 0, stream>>>(const_cast<float*>(t.row_scale) + first_strip * kStripRows, source, strips * kStripRows);
      NBL_LAUNCHED("row_scales");
    }
    pack_values<<<blocks, 128, 0, stream>>>(t, source, first_strip, strips);
    NBL_LAUNCHED("pack_values");
    return {};
  }
  int64_t groups_to_find = 0;
  for (const PackPiece& piece : source.pieces) {
    if (piece.layout == Layout::kFloats) groups_to_find = std::max(groups_to_find, static_cast<int64_t>(piece.rows) * source.groups);
  }
  if (groups_to_find > 0) {
    find_magnitudes<<<dim3(static_cast<unsigned>((groups_to_find + 3) / 4), source.piece_count), 128, 0, stream>>>(source);
    NBL_LAUNCHED("find_magnitudes");
  }
  pack_quantized<<<blocks, 128, 0, stream>>>(t, source, first_strip, strips);
  NBL_LAUNCHED("pack_quantized");
  return {};
}

}  // namespace nbl::cuda

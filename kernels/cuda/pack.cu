// Packing on the GPU: rows of a checkpoint's own codes, of plain codes or of float values become tiles (tile.h). Float values
// that are to be quantized are quantized here.
//
// For a run of strips the host copies what they are made of, untouched, into page-locked staging memory: of every part its
// rows of codes (in the layouts of quant_weight.h a rectangle of words), of scales and of zeros, one after another. One
// thread per (strip, record, lane) then writes that lane's words. The bound is the bus, or the host's copying.
#include <algorithm>
#include <cstring>

#include <cuda_fp16.h>

#include "base/parallel.h"
#include "kernels/cuda/weight.h"

namespace nbl::cuda {
namespace {

constexpr int64_t kStagingBytes = 24 << 20;
constexpr int64_t kCopyGrain = 3 << 20;  // bytes that are worth a thread
constexpr int kMostParts = 3;
constexpr int64_t kPieceBytes = 2048;    // of a piece whatever its rows: the map of its scales, a nested scale more, alignment
using Layout = StoredCodes::Layout;

// Consecutive rows of one part, in the staging memory.
struct Piece {
  int first, rows;                       // which rows of the run of strips; of an interleaved one: all rows 8i .. 8i + 7 of its half
  const uint8_t* codes;                  // kNone: plain codes, or float values
  Layout layout;
  int64_t pitch;                         // words or bytes from one line to the next
  uint32_t places;
  uint8_t flip;
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
  Layout zero_layout;                    // kNone: bytes [rows][groups]; kAlongOutputs
  int64_t zero_pitch;
};

struct Source {
  Piece pieces[kMostParts];
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

// The piece that a row of the run belongs to, and its number in there; null for padding.
__device__ __forceinline__ const Piece* piece_of(const Source& s, int64_t& row) {
  if (row >= s.rows) return nullptr;
  if (s.interleaved) {
    const Piece* piece = &s.pieces[row / 8 % 2];
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
__device__ __forceinline__ float value_to_quantize(const Source& s, const Piece* p, int64_t row, int64_t k) {
  const float v = value_at(p->codes, p->float_type, row * p->pitch + k);
  return s.bits == 8 ? __half2float(__float2half_rn(v)) : v;
}

__device__ __forceinline__ uint32_t quantized(const Source& s, const Piece* p, int64_t row, int64_t k) {
  const float most = p->magnitudes[row * s.groups + k / s.group_size], v = value_to_quantize(s, p, row, k);
  if (s.bits == 8) return static_cast<uint32_t>(__float2int_rn(__fmul_rn(v, most > 0 ? __fdiv_rn(127.f, most) : 0.f)) + 128);
  const float x = __fmul_rn(v, most > 0 ? __fdiv_rn(1.f, most) : 0.f);
  int below = 0;
#pragma unroll
  for (int i = 0; i < 15; ++i) below += x > s.rule.steps[i];
  return s.rule.code[below];
}

// The largest magnitude of every group of a piece that is to be quantized. One warp a group.
__global__ void find_magnitudes(const __grid_constant__ Source s) {
  const Piece& p = s.pieces[blockIdx.y];
  const int64_t id = (blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x) / 32;
  if (p.layout != Layout::kFloats || id >= static_cast<int64_t>(p.rows) * s.groups) return;
  const int64_t row = id / s.groups, first = id % s.groups * s.group_size, last = min(first + s.group_size, s.k);
  unsigned most = 0;  // compared as integers, as the host does: a value that is no number is the largest
  for (int64_t k = first + threadIdx.x % 32; k < last; k += 32) most = max(most, __float_as_uint(value_to_quantize(s, &p, row, k)) & 0x7fffffffu);
  for (int step = 16; step > 0; step /= 2) most = max(most, __shfl_xor_sync(~0u, most, step));
  if (threadIdx.x % 32 == 0) p.magnitudes[id] = __uint_as_float(most);
}

__device__ __forceinline__ float scale_at(const Piece* p, int64_t row, int64_t group) {
  const int64_t at = row * p->scale_row + group * p->scale_group;
  if (p->scale_map == nullptr) return __fmul_rn(value_at(p->scales, p->scale_type, at), p->scale_factor);
  const float nested = p->nested[(p->row0 * p->scale_row + at) / p->nested_block - p->first_nested];
  return __fadd_rn(__fmul_rn(p->scale_map[p->scales[at]], nested), p->scale_offset);  // two roundings, not a fused one
}

__device__ __forceinline__ uint32_t code_at(const Source& s, const Piece* p, int64_t row, int64_t column) {
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
      return k % 2 != 0 ? two & 15 : two >> 4;
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
__global__ void pack_quantized(Tiles t, const __grid_constant__ Source s, int first_strip, int strips) {
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
    const Piece* piece = piece_of(s, row);
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
          high |= (c[2 * p] >> 2 & 1u) << (4 * b + p) | (c[2 * p + 1] >> 2 & 1u) << (16 + 4 * b + p);
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
  const Piece* piece = piece_of(s, row);
  for (int j = 0; j < 128 / t.group; ++j) {
    unsigned char* meta = out + code_bytes(t.codes) + j * t.group_bytes;
    const int64_t group = (column0 + j * t.group) / s.group_size;
    const bool valid = piece != nullptr && group < s.groups;
    const float scale = valid ? scale_at(piece, row, group) : 0.f;
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
__global__ void row_scales(float* row_scale, const __grid_constant__ Source s, int64_t padded_rows) {
  const int64_t place = (blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x) / 32;
  if (place >= padded_rows) return;
  int64_t row = place;
  const Piece* piece = piece_of(s, row);
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

__global__ void pack_values(Tiles t, const __grid_constant__ Source s, int first_strip, int strips) {
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
    const Piece* piece = piece_of(s, row);
    for (int b = 0; b < 2; ++b) {
      for (int i = 0; i < 8; ++i) {
        const int64_t column = static_cast<int64_t>(record) * 64 + 32 * b + 8 * q4 + i;
        const float v = piece != nullptr && column < s.k ? value_at(piece->codes, s.value_type, row * s.k + column) * scale : 0.f;
        out[(2 * b + r) * 256 + lane * 8 + i] = __float2half_rn(v);
      }
    }
  }
}

constexpr int64_t kAlign = 256;

int64_t total_rows(const std::vector<WeightSpec>& parts) {
  int64_t rows = 0;
  for (const WeightSpec& part : parts) rows += part.out_features;
  return rows;
}

// The group that a record can hold for this spec, 0 when none can.
int record_group(const WeightSpec& spec) {
  if (spec.groups() == 1 || spec.group_size % 128 == 0) return 128;
  if (spec.group_size % 64 == 0) return 64;
  return spec.group_size % 32 == 0 ? 32 : 0;
}

Codes codes_of(const WeightSpec& spec) {
  if (spec.format == WeightFormat::kCodebook) return Codes::kCode4;
  if (spec.bits == 2) return Codes::kInt2;
  if (spec.bits == 3) return Codes::kInt3;
  return spec.bits == 4 ? Codes::kInt4 : Codes::kInt8;
}

// A rectangle of bytes to be copied into the staging memory.
struct Copy {
  unsigned char* to;
  const unsigned char* from;
  int64_t line_bytes, lines, from_pitch;  // lines stand without gaps in `to`
};

// Bytes first .. last - 1 of a rectangle, counted as they stand in `to`.
void copy_bytes(const Copy& copy, int64_t first, int64_t last) {
  if (copy.from_pitch == copy.line_bytes && first < last) {
    std::memcpy(copy.to + first, copy.from + first, last - first);
    return;
  }
  while (first < last) {
    const int64_t line = first / copy.line_bytes, at = first % copy.line_bytes, count = std::min(copy.line_bytes - at, last - first);
    std::memcpy(copy.to + first, copy.from + line * copy.from_pitch + at, count);
    first += count;
  }
}

// By several threads, the same number of bytes each: what takes long is that the system looks up the file's pages.
void copy_all(const std::vector<Copy>& copies) {
  int64_t bytes = 0;
  for (const Copy& copy : copies) bytes += copy.lines * copy.line_bytes;
  if (bytes == 0) return;
  parallel_for(bytes, kCopyGrain, [&](int64_t first, int64_t last) {
    int64_t before = 0;
    for (const Copy& copy : copies) {
      const int64_t all = copy.lines * copy.line_bytes;
      copy_bytes(copy, std::max<int64_t>(first - before, 0), std::min(last - before, all));
      before += all;
    }
  });
}

// Bytes of staging memory for one row of a part.
int64_t row_bytes(const QuantWeight& w, bool dequantized) {
  if (dequantized) return w.in_features * 4;
  if (w.format == WeightFormat::kFloat) return w.in_features * dtype_bytes(w.value_type);
  int64_t codes = w.in_features;
  if (w.stored.layout == Layout::kRandom) codes = 0;
  else if (w.stored.layout == Layout::kFloats) codes = w.in_features * dtype_bytes(w.stored.type) + w.groups() * 4;
  else if (w.stored.layout != Layout::kNone) codes = (w.in_features * w.bits + 31) / 32 * 4;
  return codes + w.groups() * 5;
}

}  // namespace

TilePlan plan_tiles(const std::vector<WeightSpec>& parts, WeightRole role) {
  TilePlan plan;
  const WeightSpec& spec = parts.front();
  Tiles& t = plan.tiles;
  t.rows = total_rows(parts);
  t.strips = static_cast<int>(pad_up(t.rows, kStripRows) / kStripRows);
  plan.in_features = spec.in_features;
  plan.padded_k = pad_up(spec.in_features, kColumnAlign);
  t.interleaved = role == WeightRole::kGateUp && parts.size() == 2 && parts[0].out_features == parts[1].out_features &&
                  parts[0].out_features % 8 == 0;
  t.group = spec.format == WeightFormat::kFloat ? 0 : record_group(spec);
  plan.dequantized = spec.format != WeightFormat::kFloat && t.group == 0;
  t.codes = t.group == 0 ? Codes::kHalf : codes_of(spec);
  for (const WeightSpec& part : parts) t.wide_scales |= t.group != 0 && part.scale_type != DType::kF16;
  t.group_bytes = group_bytes(t.codes, t.wide_scales);
  t.record_bytes = code_bytes(t.codes) + (t.group != 0 ? 128 / t.group * t.group_bytes : 0);
  t.records = static_cast<int>(plan.padded_k / record_columns(t.codes));
  plan.code_bytes = static_cast<int64_t>(t.strips) * t.records * t.record_bytes;
  plan.total_bytes = pad_up(plan.code_bytes, kAlign);
  const auto take = [&](int64_t bytes) {
    const int64_t at = plan.total_bytes;
    plan.total_bytes += pad_up(bytes, kAlign);
    return at;
  };
  if (spec.permuted) plan.order_at = take(2 * plan.padded_k * 4);
  if (t.codes == Codes::kCode4) plan.pairs_at = take(1024);
  if (t.codes == Codes::kHalf && (plan.dequantized || spec.value_type != DType::kF16)) plan.row_scale_at = take(t.strips * 64);
  return plan;
}

std::string CudaWeight::kernel() const {
  const Tiles& t = tiles();
  static const char* const names[] = {"int2", "int3", "int4", "int8", "code4", "f16"};
  std::string text = std::string("tile16 ") + names[static_cast<int>(t.codes)];
  if (t.group != 0) text += " g" + std::to_string(t.group) + (t.wide_scales ? " f32-scales" : " f16-scales");
  return text + " mma.m16n8k16";
}

std::string CudaWeight::reason() const {
  const WeightSpec& s = spec();
  if (plan_.dequantized) return "dequantized to f16: no tile holds groups of " + std::to_string(s.group_size);
  if (s.format == WeightFormat::kFloat && s.value_type != DType::kF16) {
    return std::string(dtype_name(s.value_type)) + " as f16 with a power of two a row";
  }
  if (s.format == WeightFormat::kIntGroup && s.bits > 4 && s.bits < 8) return "codes of " + std::to_string(s.bits) + " bits in bytes";
  if (tiles().wide_scales && s.format == WeightFormat::kIntGroup) return std::string(dtype_name(s.scale_type)) + " scales do not fit f16";
  return "codes and scales as they are stored";
}

Result<std::unique_ptr<Packer>> Packer::create(int device) {
  std::unique_ptr<Packer> packer(new Packer);
  packer->device_ = device;
  NBL_ASSIGN_OR_RETURN(packer->stream_, Stream::create(device));
  for (cudaEvent_t& event : packer->done_) NBL_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  return Result<std::unique_ptr<Packer>>(std::move(packer));
}

Packer::~Packer() {
  DeviceScope scope(device_);
  for (cudaEvent_t event : done_) {
    if (event != nullptr) cudaEventDestroy(event);
  }
}

Status Packer::begin_load(int64_t packed_bytes) {
  auto arena = std::make_shared<Arena>();
  NBL_ASSIGN_OR_RETURN(arena->buffer, DeviceBuffer::allocate(device_, packed_bytes, "the model's weights", stream_.get()));
  NBL_RETURN_IF_ERROR(ensure_staging());
  arena_ = std::move(arena);
  return {};
}

void Packer::end_load() {
  arena_ = nullptr;
  cudaStreamSynchronize(stream_.get());  // a load that failed may have left copies under way
  for (int i = 0; i < 2; ++i) {
    host_[i] = {};
    staging_[i] = {};
    busy_[i] = false;
  }
}

Status Packer::ensure_staging() {
  for (int i = 0; i < 2; ++i) {
    if (staging_[i].bytes() > 0) continue;
    NBL_ASSIGN_OR_RETURN(host_[i], PinnedBuffer::allocate(kStagingBytes));
    NBL_ASSIGN_OR_RETURN(staging_[i], DeviceBuffer::allocate(device_, kStagingBytes, "packing", stream_.get()));
  }
  return {};
}

// Turns to the other half of the staging memory and waits until what it was used for has been done.
Status Packer::next_slot() {
  slot_ ^= 1;
  if (busy_[slot_]) NBL_CUDA(cudaEventSynchronize(done_[slot_]));
  busy_[slot_] = false;
  return {};
}

Status Packer::upload(void* to, const void* from, int64_t bytes) {
  NBL_RETURN_IF_ERROR(ensure_staging());
  constexpr int64_t kLine = 64 << 10;
  for (int64_t done = 0; done < bytes;) {
    NBL_RETURN_IF_ERROR(next_slot());
    const int64_t now = std::min(kStagingBytes, bytes - done), lines = now / kLine;
    auto* host = host_[slot_].as<unsigned char>();
    const auto* source = static_cast<const unsigned char*>(from) + done;
    copy_all({{host, source, kLine, lines, kLine}, {host + lines * kLine, source + lines * kLine, now - lines * kLine, 1, 0}});
    NBL_CUDA(cudaMemcpyAsync(static_cast<unsigned char*>(to) + done, host, static_cast<size_t>(now), cudaMemcpyHostToDevice, stream_.get()));
    NBL_CUDA(cudaEventRecord(done_[slot_], stream_.get()));
    busy_[slot_] = true;
    done += now;
  }
  NBL_CUDA(cudaStreamSynchronize(stream_.get()));
  return {};
}

// From the memory of the load, or of its own.
Result<std::shared_ptr<CudaWeight>> Packer::allocate(WeightSpec spec, const TilePlan& plan) {
  std::shared_ptr<Arena> memory = arena_;
  if (memory == nullptr || memory->used + plan.total_bytes > memory->buffer.bytes()) {
    memory = std::make_shared<Arena>();
    NBL_ASSIGN_OR_RETURN(memory->buffer, DeviceBuffer::allocate(device_, plan.total_bytes, "a weight", stream_.get()));
  }
  unsigned char* data = memory->buffer.as<unsigned char>() + memory->used;
  memory->used += plan.total_bytes;
  return std::make_shared<CudaWeight>(std::move(spec), plan, device_, std::move(memory), data);
}

Status Packer::upload_extra(const std::vector<const QuantWeight*>& parts, CudaWeight& weight) {
  const QuantWeight& first = *parts.front();
  const TilePlan& plan = weight.plan_;
  Tiles& t = weight.plan_.tiles;
  if (plan.order_at > 0) {
    std::vector<int32_t> order(plan.padded_k), place(plan.padded_k);
    for (int64_t i = 0; i < plan.padded_k; ++i) order[i] = static_cast<int32_t>(i < first.in_features && !first.k_order.empty() ? first.k_order[i] : i);
    for (int64_t i = 0; i < plan.padded_k; ++i) place[order[i]] = static_cast<int32_t>(i);
    auto* at = reinterpret_cast<int32_t*>(weight.data_ + plan.order_at);
    NBL_CUDA(cudaMemcpyAsync(at, order.data(), order.size() * 4, cudaMemcpyHostToDevice, stream_.get()));
    NBL_CUDA(cudaMemcpyAsync(at + plan.padded_k, place.data(), place.size() * 4, cudaMemcpyHostToDevice, stream_.get()));
    t.k_order = at;
    t.k_place = at + plan.padded_k;
    NBL_CUDA(cudaStreamSynchronize(stream_.get()));  // the vectors go out of scope
  }
  if (plan.pairs_at > 0) {
    uint32_t pairs[256];
    for (int i = 0; i < 256; ++i) {
      pairs[i] = float_to_f16(first.codebook[i & 15]) | static_cast<uint32_t>(float_to_f16(first.codebook[i >> 4])) << 16;
    }
    NBL_CUDA(cudaMemcpyAsync(weight.data_ + plan.pairs_at, pairs, sizeof(pairs), cudaMemcpyHostToDevice, stream_.get()));
    t.code_pairs = reinterpret_cast<const unsigned int*>(weight.data_ + plan.pairs_at);
    NBL_CUDA(cudaStreamSynchronize(stream_.get()));
  }
  if (plan.row_scale_at > 0) t.row_scale = reinterpret_cast<const float*>(weight.data_ + plan.row_scale_at);
  return {};
}

// Lays the pieces of a run of strips out in the staging memory and collects what must be copied there.
struct Packer::Chunk {
  unsigned char *host, *device;
  int64_t used = 0;
  std::vector<Copy> copies;

  // Place for `lines` of `line_bytes` each, to be copied from `from`; where they will stand on the device.
  const uint8_t* add(const void* from, int64_t line_bytes, int64_t lines, int64_t from_pitch) {
    copies.push_back({host + used, static_cast<const unsigned char*>(from), line_bytes, lines, from_pitch});
    return skip(line_bytes * lines);
  }
  const uint8_t* skip(int64_t bytes) {
    const uint8_t* at = device + used;
    used += pad_up(bytes, 16);
    return at;
  }
  void add_codes(const QuantWeight& w, int64_t row, Piece& piece);
  void add_scales(const QuantWeight& w, int64_t row, Piece& piece);
  void add_zeros(const QuantWeight& w, int64_t row, Piece& piece);
  void add_values(const QuantWeight& w, bool dequantized, int64_t row, Piece& piece);
};

void Packer::Chunk::add_codes(const QuantWeight& w, int64_t row, Piece& piece) {
  const int64_t n = w.out_features, k = w.in_features;
  const StoredCodes& stored = w.stored;
  piece.layout = stored.layout;
  piece.places = stored.places;
  piece.flip = stored.flip;
  piece.seed = stored.seed;
  piece.row0 = row;
  switch (stored.layout) {
    case Layout::kNone:
      piece.pitch = k;
      piece.codes = add(w.codes.data() + row * k, k, piece.rows, k);
      return;
    case Layout::kRows:
      piece.pitch = k * w.bits / 8;
      piece.codes = add(stored.data + row * piece.pitch, piece.pitch, piece.rows, piece.pitch);
      return;
    case Layout::kAlongInputs:
      piece.pitch = piece.rows;
      piece.codes = add(stored.data + row * 4, piece.rows * 4, (k * w.bits + 31) / 32, n * 4);
      return;
    case Layout::kAlongOutputs:
      piece.pitch = piece.rows / 8;
      piece.codes = add(stored.data + row / 8 * 4, piece.rows / 2, k, n / 2);
      return;
    case Layout::kFloats: {
      const int64_t bytes = k * dtype_bytes(stored.type);
      piece.pitch = k;
      piece.float_type = stored.type;
      piece.codes = add(stored.data + row * bytes, bytes, piece.rows, bytes);
      piece.magnitudes = reinterpret_cast<float*>(const_cast<uint8_t*>(skip(piece.rows * w.groups() * 4)));
      return;
    }
    case Layout::kRandom: piece.codes = nullptr; return;
  }
}

void Packer::Chunk::add_scales(const QuantWeight& w, int64_t row, Piece& piece) {
  const int64_t groups = w.groups();
  const StoredScales& stored = w.stored_scales;
  piece.scale_type = stored.data != nullptr ? stored.type : DType::kF32;
  piece.scale_factor = 1;
  if (stored.data != nullptr && !stored.by_rows) {
    const int64_t size = dtype_bytes(stored.type);
    piece.scale_row = 1;
    piece.scale_group = piece.rows;
    piece.scales = add(stored.data + row * size, piece.rows * size, groups, w.out_features * size);
    return;
  }
  piece.scale_row = groups;
  piece.scale_group = 1;
  if (w.stored.layout == Layout::kFloats && w.scales.empty()) {
    piece.scales = reinterpret_cast<const uint8_t*>(piece.magnitudes);
    piece.scale_factor = w.bits == 8 ? kInt8Scale : 1;
    return;
  }
  const int64_t line = groups * dtype_bytes(piece.scale_type);
  const auto* from = stored.data != nullptr ? stored.data : reinterpret_cast<const uint8_t*>(w.scales.data());
  piece.scales = add(from + row * line, line, piece.rows, line);
  if (stored.map == nullptr) return;
  piece.scale_offset = stored.offset;
  piece.nested_block = stored.nested_block;
  piece.first_nested = row * groups / stored.nested_block;
  const int64_t nested = ((row + piece.rows) * groups - 1) / stored.nested_block - piece.first_nested + 1;
  piece.scale_map = reinterpret_cast<const float*>(add(stored.map, 1024, 1, 1024));
  piece.nested = reinterpret_cast<const float*>(add(stored.nested + piece.first_nested * 4, nested * 4, 1, nested * 4));
}

void Packer::Chunk::add_zeros(const QuantWeight& w, int64_t row, Piece& piece) {
  const int64_t groups = w.groups();
  piece.zero_layout = w.stored_zeros.layout;
  if (piece.zero_layout == Layout::kAlongOutputs) {
    piece.places = w.stored_zeros.places;  // the same as the codes'
    piece.zero_pitch = piece.rows / 8;
    piece.zeros = add(w.stored_zeros.data + row / 8 * 4, piece.rows / 2, groups, w.out_features / 2);
  } else {
    piece.zero_pitch = groups;
    piece.zeros = add(w.zeros.data() + row * groups, groups, piece.rows, groups);
  }
}

void Packer::Chunk::add_values(const QuantWeight& w, bool dequantized, int64_t row, Piece& piece) {
  const int64_t k = w.in_features;
  if (!dequantized) {
    const int64_t bytes = k * dtype_bytes(w.value_type);
    piece.codes = add(static_cast<const unsigned char*>(w.dense) + row * bytes, bytes, piece.rows, bytes);
    return;
  }
  auto* values = reinterpret_cast<float*>(host + used);
  parallel_for(piece.rows, (1 << 18) / k + 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      for (int64_t p = 0; p < k; ++p) values[i * k + p] = weight_value(w, row + i, p);
    }
  });
  piece.codes = skip(piece.rows * k * 4);
}

Status Packer::pack_strips(const std::vector<const QuantWeight*>& parts, CudaWeight& weight, int strip, int count) {
  NBL_RETURN_IF_ERROR(next_slot());
  const QuantWeight& first = *parts.front();
  const Tiles& t = weight.plan_.tiles;
  const bool values = t.codes == Codes::kHalf, dequantized = weight.plan_.dequantized;
  Chunk chunk{host_[slot_].as<unsigned char>(), staging_[slot_].as<unsigned char>()};
  const int64_t row0 = static_cast<int64_t>(strip) * kStripRows;
  Source source{};
  source.interleaved = t.interleaved;
  source.rows = std::min<int64_t>(static_cast<int64_t>(count) * kStripRows, t.rows - row0);
  source.k = first.in_features;
  source.bits = first.bits;
  source.groups = static_cast<int>(first.groups());
  source.group_size = static_cast<int>(first.group_size);
  source.k_order = t.k_order;
  source.value_type = dequantized ? DType::kF32 : first.value_type;
  int64_t part_row = 0;  // where the part's rows begin in the matrix
  for (const QuantWeight* part : parts) {
    const int64_t begin = t.interleaved ? row0 / 2 : std::max<int64_t>(row0 - part_row, 0);
    const int64_t end = t.interleaved ? begin + source.rows / 2 : std::min(row0 + source.rows - part_row, part->out_features);
    if (end > begin) {
      Piece& piece = source.pieces[source.piece_count++];
      piece.first = static_cast<int>(part_row + begin - row0);
      piece.rows = static_cast<int>(end - begin);
      if (values) {
        chunk.add_values(*part, dequantized, begin, piece);
      } else {
        if (part->stored.layout == Layout::kFloats) source.rule = part->rule;
        chunk.add_codes(*part, begin, piece);
        chunk.add_scales(*part, begin, piece);
        if (has_zeros(t.codes)) chunk.add_zeros(*part, begin, piece);
      }
    }
    part_row += part->out_features;
  }
  copy_all(chunk.copies);
  NBL_CUDA(cudaMemcpyAsync(chunk.device, chunk.host, static_cast<size_t>(chunk.used), cudaMemcpyHostToDevice, stream_.get()));
  const int64_t threads = static_cast<int64_t>(count) * t.records * 32;
  const unsigned blocks = static_cast<unsigned>((threads + 127) / 128);
  if (!values) {
    int64_t groups_to_find = 0;
    for (const Piece& piece : source.pieces) {
      if (piece.layout == Layout::kFloats) groups_to_find = std::max(groups_to_find, static_cast<int64_t>(piece.rows) * source.groups);
    }
    if (groups_to_find > 0) {
      find_magnitudes<<<dim3(static_cast<unsigned>((groups_to_find + 3) / 4), source.piece_count), 128, 0, stream_.get()>>>(source);
      NBL_LAUNCHED("find_magnitudes");
    }
    pack_quantized<<<blocks, 128, 0, stream_.get()>>>(t, source, strip, count);
    NBL_LAUNCHED("pack_quantized");
  } else {
    if (t.row_scale != nullptr) {
      row_scales<<<count * 4, 128, 0, stream_.get()>>>(const_cast<float*>(t.row_scale) + row0, source, count * 16);
      NBL_LAUNCHED("row_scales");
    }
    pack_values<<<blocks, 128, 0, stream_.get()>>>(t, source, strip, count);
    NBL_LAUNCHED("pack_values");
  }
  NBL_CUDA(cudaEventRecord(done_[slot_], stream_.get()));
  busy_[slot_] = true;
  return {};
}

Status Packer::pack_into(const std::vector<const QuantWeight*>& parts, CudaWeight& weight) {
  NBL_RETURN_IF_ERROR(ensure_staging());
  NBL_RETURN_IF_ERROR(upload_extra(parts, weight));
  const TilePlan& plan = weight.plan_;
  // Of fused parts the widest row decides; every piece of a run may need a little more.
  int64_t widest = 0;
  for (const QuantWeight* part : parts) widest = std::max(widest, row_bytes(*part, plan.dequantized));
  const int64_t strip_bytes = kStripRows * widest, usable = kStagingBytes - kMostParts * kPieceBytes;
  if (strip_bytes > usable) {
    return error(Code::kUnsupported, "a matrix with %lld inputs is wider than the packer's staging memory",
                 static_cast<long long>(parts.front()->in_features));
  }
  const int step = static_cast<int>(std::min<int64_t>(usable / std::max<int64_t>(strip_bytes, 1), plan.tiles.strips));
  for (int strip = 0; strip < plan.tiles.strips; strip += step) {
    NBL_RETURN_IF_ERROR(pack_strips(parts, weight, strip, std::min(step, plan.tiles.strips - strip)));
  }
  NBL_CUDA(cudaStreamSynchronize(stream_.get()));
  return {};
}

Result<std::shared_ptr<const PackedWeight>> Packer::pack(const std::vector<const QuantWeight*>& parts, WeightRole role) {
  std::vector<WeightSpec> specs(parts.size());
  for (size_t i = 0; i < parts.size(); ++i) specs[i] = *parts[i];
  const QuantWeight& first = *parts.front();
  if (parts.size() > kMostParts) return error(Code::kUnsupported, "%zu matrices cannot share one packed weight", parts.size());
  for (const QuantWeight* part : parts) {
    if (part->k_order != first.k_order) {
      return error(Code::kState, "matrices with different act-order permutations cannot share one packed weight; pack them one by one");
    }
    if (part->format == WeightFormat::kCodebook && part->codebook != first.codebook) {
      return error(Code::kState, "matrices with different codebooks cannot share one packed weight; pack them one by one");
    }
  }
  WeightSpec spec = first;
  const TilePlan plan = plan_tiles(specs, role);
  spec.out_features = plan.tiles.rows;
  NBL_ASSIGN_OR_RETURN(std::shared_ptr<CudaWeight> weight, allocate(std::move(spec), plan));
  weight->plan_.tiles.data = weight->data_;
  const Status status = pack_into(parts, *weight);
  if (!status.ok()) {
    cudaStreamSynchronize(stream_.get());  // nothing may still be written into memory that is given back
    return status;
  }
  return std::shared_ptr<const PackedWeight>(std::move(weight));
}

}  // namespace nbl::cuda

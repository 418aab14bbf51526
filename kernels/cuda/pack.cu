// Packing on the GPU: rows of plain codes (one byte each) or plain values become tiles (tile.h).
//
// The host copies whole rows, already in the order in which the matrix stores them, into page-locked staging memory:
//   codes u8 [rows][K] | scales f32 [rows][groups] | zeros u8 [rows][groups]        (quantized)
//   values of 2 or 4 bytes [rows][K]                                              (float)
// and one thread per (strip, record, lane) writes that lane's words. The bound is the bus: one byte a weight.
#include <algorithm>
#include <cstring>

#include <cuda_fp16.h>

#include "kernels/cuda/weight.h"

namespace nbl::cuda {
namespace {

constexpr int64_t kStagingBytes = 24 << 20;

struct Source {
  const uint8_t* codes;   // [rows][K]
  const float* scales;    // [rows][groups]
  const uint8_t* zeros;   // [rows][groups]
  int64_t k;
  int groups;             // of a row
  int group_size;         // as the checkpoint has it; >= the record's group
  int64_t rows;           // valid rows of this piece; rows beyond are padding
};

__device__ __forceinline__ uint32_t code_at(const Source& s, int64_t row, int64_t column) {
  return row < s.rows && column < s.k ? s.codes[row * s.k + column] : 0u;
}

// One thread packs one lane of one record.
__global__ void pack_quantized(Tiles t, Source s, int first_strip, int strips) {
  const int64_t id = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (id >= static_cast<int64_t>(strips) * t.records * 32) return;
  const int lane = id % 32, g = lane >> 2, q4 = lane & 3;
  const int record = id / 32 % t.records;
  const int strip = static_cast<int>(id / 32 / t.records);
  unsigned char* out = const_cast<unsigned char*>(t.data) +
                       (static_cast<int64_t>(first_strip + strip) * t.records + record) * t.record_bytes;
  const int64_t column0 = static_cast<int64_t>(record) * 128;
  for (int r = 0; r < 2; ++r) {
    const int64_t row = strip * 16 + g + 8 * r;
    uint32_t high = 0;
    for (int b = 0; b < 4; ++b) {
      uint32_t c[8];
      for (int i = 0; i < 8; ++i) c[i] = code_at(s, row, column0 + 32 * b + 8 * q4 + i);
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
  const int64_t row = strip * 16 + lane;
  for (int j = 0; j < 128 / t.group; ++j) {
    unsigned char* meta = out + code_bytes(t.codes) + j * t.group_bytes;
    const int64_t group = (column0 + j * t.group) / s.group_size;
    const bool valid = row < s.rows && group < s.groups;
    const float scale = valid ? s.scales[row * s.groups + group] : 0.f;
    if (t.wide_scales) reinterpret_cast<float*>(meta)[place] = scale;
    else reinterpret_cast<__half*>(meta)[place] = __float2half_rn(scale);
    if (has_zeros(t.codes)) meta[(t.wide_scales ? 64 : 32) + place] = valid ? s.zeros[row * s.groups + group] : 0;
  }
}

__device__ __forceinline__ float value_at(const void* values, DType type, int64_t at) {
  if (type == DType::kF32) return static_cast<const float*>(values)[at];
  if (type == DType::kF16) return __half2float(static_cast<const __half*>(values)[at]);
  return __uint_as_float(static_cast<uint32_t>(static_cast<const uint16_t*>(values)[at]) << 16);
}

// The power of two by which a row is divided so that its largest value lies in [1, 2): f16 then loses nothing of a bf16
// row but what is 2^24 times smaller than its largest value. One warp a row.
__global__ void row_scales(float* row_scale, const void* values, DType type, int64_t k, int64_t rows, int64_t padded_rows) {
  const int64_t row = (blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x) / 32;
  if (row >= padded_rows) return;
  float largest = 0;
  for (int64_t i = threadIdx.x % 32; row < rows && i < k; i += 32) largest = fmaxf(largest, fabsf(value_at(values, type, row * k + i)));
  for (int step = 16; step > 0; step /= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, step));
  if (threadIdx.x % 32 == 0) {
    const bool usable = largest > 1e-30f && largest < 1e30f;
    row_scale[row] = usable ? __uint_as_float(__float_as_uint(largest) & 0x7f800000u) : 1.f;
  }
}

__global__ void pack_values(Tiles t, const void* values, DType type, int64_t k, int64_t rows, int first_strip, int strips) {
  const int64_t id = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (id >= static_cast<int64_t>(strips) * t.records * 32) return;
  const int lane = id % 32, g = lane >> 2, q4 = lane & 3;
  const int record = id / 32 % t.records;
  const int strip = static_cast<int>(id / 32 / t.records);
  __half* out = reinterpret_cast<__half*>(const_cast<unsigned char*>(t.data) +
                                          (static_cast<int64_t>(first_strip + strip) * t.records + record) * t.record_bytes);
  for (int b = 0; b < 2; ++b) {
    for (int r = 0; r < 2; ++r) {
      const int64_t row = strip * 16 + g + 8 * r;
      const float scale = t.row_scale != nullptr ? 1.f / t.row_scale[first_strip * 16 + row] : 1.f;
      for (int i = 0; i < 8; ++i) {
        const int64_t column = static_cast<int64_t>(record) * 64 + 32 * b + 8 * q4 + i;
        const float v = row < rows && column < k ? value_at(values, type, row * k + column) * scale : 0.f;
        out[(2 * b + r) * 256 + lane * 8 + i] = __float2half_rn(v);
      }
    }
  }
}

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

// Which row of which part stands in row `row` of the packed matrix.
struct RowPlace {
  int part;
  int64_t row;
};
RowPlace row_place(const std::vector<const QuantWeight*>& parts, bool interleaved, int64_t row) {
  if (interleaved) return {static_cast<int>(row / 8 % 2), row / 16 * 8 + row % 8};
  int part = 0;
  while (row >= parts[part]->out_features) row -= parts[part++]->out_features;
  return {part, row};
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
  plan.total_bytes = plan.code_bytes;
  if (spec.permuted) plan.total_bytes += 2 * plan.padded_k * 4;
  if (t.codes == Codes::kCode4) plan.total_bytes += 1024;
  if (t.codes == Codes::kHalf && (plan.dequantized || spec.value_type != DType::kF16)) plan.total_bytes += t.strips * 64;
  return plan;
}

std::string CudaWeight::kernel() const {
  const Tiles& t = tiles();
  static const char* const names[] = {"int2", "int3", "int4", "int8", "code4", "f16"};
  std::string text = std::string("tile16 ") + names[static_cast<int>(t.codes)];
  if (t.group != 0) text += " g" + std::to_string(t.group) + (t.wide_scales ? " f32-scales" : " f16-scales");
  if (plan_.dequantized) text += " (dequantized: no tile holds groups of " + std::to_string(spec().group_size) + ")";
  return text + " mma.m16n8k16";
}

Result<std::unique_ptr<Packer>> Packer::create(int device) {
  std::unique_ptr<Packer> packer(new Packer);
  packer->device_ = device;
  NBL_ASSIGN_OR_RETURN(packer->stream_, Stream::create(device));
  for (int i = 0; i < 2; ++i) {
    NBL_ASSIGN_OR_RETURN(packer->host_[i], PinnedBuffer::allocate(kStagingBytes));
    NBL_ASSIGN_OR_RETURN(packer->staging_[i], DeviceBuffer::allocate(device, kStagingBytes, "packing", packer->stream_.get()));
    NBL_CUDA(cudaEventCreateWithFlags(&packer->done_[i], cudaEventDisableTiming));
  }
  return Result<std::unique_ptr<Packer>>(std::move(packer));
}

Packer::~Packer() {
  DeviceScope scope(device_);
  for (cudaEvent_t event : done_) {
    if (event != nullptr) cudaEventDestroy(event);
  }
}

Status Packer::upload_extra(const std::vector<const QuantWeight*>& parts, CudaWeight& weight) {
  const QuantWeight& first = *parts.front();
  Tiles& t = weight.plan_.tiles;
  const int64_t padded_k = weight.plan_.padded_k;
  std::vector<int32_t> order, place;
  if (!first.k_order.empty()) {
    order.assign(padded_k, 0);
    place.assign(padded_k, 0);
    for (int64_t i = 0; i < padded_k; ++i) order[i] = static_cast<int32_t>(i < first.in_features ? first.k_order[i] : i);
    for (int64_t i = 0; i < padded_k; ++i) place[order[i]] = static_cast<int32_t>(i);
  }
  uint32_t pairs[256];
  const bool coded = t.codes == Codes::kCode4;
  if (coded) {
    for (int i = 0; i < 256; ++i) {
      pairs[i] = float_to_f16(first.codebook[i & 15]) | static_cast<uint32_t>(float_to_f16(first.codebook[i >> 4])) << 16;
    }
  }
  const int64_t order_bytes = static_cast<int64_t>(order.size()) * 4;
  const bool scaled_rows = t.codes == Codes::kHalf && (weight.plan_.dequantized || first.value_type != DType::kF16);
  const int64_t bytes = 2 * order_bytes + (coded ? 1024 : 0) + (scaled_rows ? static_cast<int64_t>(t.strips) * 64 : 0);
  if (bytes == 0) return {};
  NBL_ASSIGN_OR_RETURN(weight.extra_, DeviceBuffer::allocate(device_, bytes, "a weight's tables", stream_.get()));
  unsigned char* at = weight.extra_.as<unsigned char>();
  if (order_bytes > 0) {
    NBL_CUDA(cudaMemcpyAsync(at, order.data(), order_bytes, cudaMemcpyHostToDevice, stream_.get()));
    NBL_CUDA(cudaMemcpyAsync(at + order_bytes, place.data(), order_bytes, cudaMemcpyHostToDevice, stream_.get()));
    t.k_order = reinterpret_cast<const int32_t*>(at);
    t.k_place = reinterpret_cast<const int32_t*>(at + order_bytes);
    at += 2 * order_bytes;
  }
  if (coded) {
    NBL_CUDA(cudaMemcpyAsync(at, pairs, sizeof(pairs), cudaMemcpyHostToDevice, stream_.get()));
    t.code_pairs = reinterpret_cast<const unsigned int*>(at);
    at += sizeof(pairs);
  }
  if (scaled_rows) t.row_scale = reinterpret_cast<const float*>(at);
  NBL_CUDA(cudaStreamSynchronize(stream_.get()));  // the vectors above go out of scope
  return {};
}

Status Packer::pack_strips(const std::vector<const QuantWeight*>& parts, CudaWeight& weight, int strip, int count, int slot) {
  const QuantWeight& first = *parts.front();
  const Tiles& t = weight.plan_.tiles;
  const int64_t k = first.in_features, groups = first.groups();
  const int64_t row0 = static_cast<int64_t>(strip) * kStripRows;
  const int64_t rows = std::min<int64_t>(static_cast<int64_t>(count) * kStripRows, t.rows - row0);
  const int64_t threads = static_cast<int64_t>(count) * t.records * 32;
  const unsigned blocks = static_cast<unsigned>((threads + 127) / 128);
  if (busy_[slot]) NBL_CUDA(cudaEventSynchronize(done_[slot]));
  unsigned char* host = host_[slot].as<unsigned char>();
  unsigned char* device = staging_[slot].as<unsigned char>();
  if (t.codes == Codes::kHalf) {
    const DType type = weight.plan_.dequantized ? DType::kF32 : first.value_type;
    const int64_t row_bytes = k * dtype_bytes(type);
    for (int64_t i = 0; i < rows; ++i) {
      const RowPlace from = row_place(parts, t.interleaved, row0 + i);
      if (weight.plan_.dequantized) {
        float* out = reinterpret_cast<float*>(host + i * row_bytes);
        for (int64_t p = 0; p < k; ++p) out[p] = weight_value(*parts[from.part], from.row, p);
      } else {
        std::memcpy(host + i * row_bytes, static_cast<const unsigned char*>(parts[from.part]->dense) + from.row * row_bytes, row_bytes);
      }
    }
    NBL_CUDA(cudaMemcpyAsync(device, host, rows * row_bytes, cudaMemcpyHostToDevice, stream_.get()));
    if (t.row_scale != nullptr) {
      row_scales<<<count * 4, 128, 0, stream_.get()>>>(const_cast<float*>(t.row_scale) + row0, device, type, k, rows, count * 16);
      NBL_LAUNCHED("row_scales");
    }
    pack_values<<<blocks, 128, 0, stream_.get()>>>(t, device, type, k, rows, strip, count);
    NBL_LAUNCHED("pack_values");
  } else {
    const int64_t scales_at = pad_up(rows * k, 16), zeros_at = scales_at + rows * groups * 4;
    const bool zeros = has_zeros(t.codes);
    for (int64_t i = 0; i < rows; ++i) {
      const RowPlace from = row_place(parts, t.interleaved, row0 + i);
      const QuantWeight& part = *parts[from.part];
      std::memcpy(host + i * k, part.codes.data() + from.row * k, k);
      std::memcpy(host + scales_at + i * groups * 4, part.scales.data() + from.row * groups, groups * 4);
      if (zeros) std::memcpy(host + zeros_at + i * groups, part.zeros.data() + from.row * groups, groups);
    }
    const int64_t bytes = zeros_at + (zeros ? rows * groups : 0);
    NBL_CUDA(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream_.get()));
    const Source source{device, reinterpret_cast<const float*>(device + scales_at), device + zeros_at, k,
                        static_cast<int>(groups), static_cast<int>(first.group_size), rows};
    pack_quantized<<<blocks, 128, 0, stream_.get()>>>(t, source, strip, count);
    NBL_LAUNCHED("pack_quantized");
  }
  NBL_CUDA(cudaEventRecord(done_[slot], stream_.get()));
  busy_[slot] = true;
  return {};
}

Result<std::shared_ptr<const PackedWeight>> Packer::pack(const std::vector<const QuantWeight*>& parts, WeightRole role) {
  std::vector<WeightSpec> specs(parts.size());
  for (size_t i = 0; i < parts.size(); ++i) specs[i] = *parts[i];
  const QuantWeight& first = *parts.front();
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
  auto weight = std::make_shared<CudaWeight>(std::move(spec), plan, device_);
  NBL_ASSIGN_OR_RETURN(weight->data_, DeviceBuffer::allocate(device_, plan.code_bytes, "a weight", stream_.get()));
  weight->plan_.tiles.data = weight->data_.as<unsigned char>();
  NBL_RETURN_IF_ERROR(upload_extra(parts, *weight));
  const int64_t element = weight->tiles().codes != Codes::kHalf ? 1 : plan.dequantized ? 4 : dtype_bytes(first.value_type);
  const int64_t strip_bytes = kStripRows * (first.in_features * element + first.groups() * 5) + 16;
  if (strip_bytes > kStagingBytes) {
    return error(Code::kUnsupported, "a matrix with %lld inputs is wider than the packer's staging memory",
                 static_cast<long long>(first.in_features));
  }
  const int step = static_cast<int>(kStagingBytes / strip_bytes);
  int slot = 0;
  for (int strip = 0; strip < plan.tiles.strips; strip += step, slot ^= 1) {
    NBL_RETURN_IF_ERROR(pack_strips(parts, *weight, strip, std::min(step, plan.tiles.strips - strip), slot));
  }
  NBL_CUDA(cudaStreamSynchronize(stream_.get()));
  return std::shared_ptr<const PackedWeight>(std::move(weight));
}

}  // namespace nbl::cuda

// The host's side of packing. For a run of strips it copies what they are made of, untouched, into page-locked staging memory:
// of every part its rows of codes (in the layouts of quant_weight.h a rectangle of words), of scales and of zeros, one after
// another. The copy engine brings that over and kernels make tiles of it (pack.cu), while the host fills the other half. The
// bound is the bus, or the host's copying.
#include <algorithm>
#include <cstring>

#include "base/parallel.h"
#include "kernels/cuda/weights/pack.h"
#include "kernels/cuda/weights/weight.h"

namespace nbl::cuda {
namespace {

constexpr int64_t kStagingBytes = 24 << 20;
constexpr int64_t kCopyGrain = 3 << 20;  // bytes that are worth a thread
constexpr int64_t kPieceBytes = 2048;    // of a piece whatever its rows: the map of its scales, a nested scale more, alignment
using Layout = StoredCodes::Layout;

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

// Of the matrix that stored codes are of.
int64_t stored_rows(const QuantWeight& w) { return w.stored_rows > 0 ? w.stored_rows : w.out_features; }

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
    NBL_CUDA(
        cudaMemcpyAsync(static_cast<unsigned char*>(to) + done, host, static_cast<size_t>(now), cudaMemcpyHostToDevice, stream_.get()));
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
    std::vector<int32_t> order(plan.padded_k), place(plan.padded_k, -1);
    for (int64_t i = 0; i < plan.padded_k; ++i)
      order[i] = static_cast<int32_t>(i < first.in_features && !first.k_order.empty() ? first.k_order[i] : i);
    for (int64_t i = 0; i < plan.padded_k; ++i) {
      // Kernels wait until every place of a row has been written: one that no column has would be waited for without end.
      if (order[i] < 0 || order[i] >= plan.padded_k || place[order[i]] >= 0) {
        return error(Code::kInternal, "the inputs of %s are in an order that is no permutation: column %d twice, or not one of %lld",
                     first.source.c_str(), order[i], static_cast<long long>(first.in_features));
      }
      place[order[i]] = static_cast<int32_t>(i);
    }
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
  void add_codes(const QuantWeight& w, int64_t row, PackPiece& piece);
  void add_scales(const QuantWeight& w, int64_t row, PackPiece& piece);
  void add_zeros(const QuantWeight& w, int64_t row, PackPiece& piece);
  void add_values(const QuantWeight& w, bool dequantized, int64_t row, PackPiece& piece);
};

void Packer::Chunk::add_codes(const QuantWeight& w, int64_t row, PackPiece& piece) {
  const int64_t n = stored_rows(w), k = w.in_features;
  const StoredCodes& stored = w.stored;
  if (stored.layout != Layout::kNone) row += w.stored_first;
  piece.layout = stored.layout;
  piece.places = stored.places;
  piece.flip = stored.flip;
  piece.low_first = stored.low_first;
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

void Packer::Chunk::add_scales(const QuantWeight& w, int64_t row, PackPiece& piece) {
  const int64_t groups = w.groups();
  const StoredScales& stored = w.stored_scales;
  piece.scale_type = stored.data != nullptr ? stored.type : DType::kF32;
  piece.scale_factor = 1;
  if (stored.data != nullptr) row += w.stored_first;
  if (stored.data != nullptr && !stored.by_rows) {
    const int64_t size = dtype_bytes(stored.type);
    piece.scale_row = 1;
    piece.scale_group = piece.rows;
    piece.scales = add(stored.data + row * size, piece.rows * size, groups, stored_rows(w) * size);
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

void Packer::Chunk::add_zeros(const QuantWeight& w, int64_t row, PackPiece& piece) {
  const int64_t groups = w.groups();
  piece.zero_layout = w.stored_zeros.layout;
  if (piece.zero_layout == Layout::kAlongOutputs) {
    piece.places = w.stored_zeros.places;  // the same as the codes'
    piece.zero_pitch = piece.rows / 8;
    piece.zeros = add(w.stored_zeros.data + (w.stored_first + row) / 8 * 4, piece.rows / 2, groups, stored_rows(w) / 2);
  } else {
    piece.zero_pitch = groups;
    piece.zeros = add(w.zeros.data() + row * groups, groups, piece.rows, groups);
  }
}

void Packer::Chunk::add_values(const QuantWeight& w, bool dequantized, int64_t row, PackPiece& piece) {
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
  PackSource source{};
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
      PackPiece& piece = source.pieces[source.piece_count++];
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
  NBL_RETURN_IF_ERROR(pack_on_device(t, source, strip, count, stream_.get()));
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

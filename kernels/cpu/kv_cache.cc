#include "kernels/cpu/kv_cache.h"

#include <algorithm>

namespace nbl {
namespace cpu {

int64_t KvShape::bytes() const {
  int64_t bytes = 0;
  if (__builtin_mul_overflow(positions, (head_dim + value_stride()) * element(), &bytes)) return -1;
  if (__builtin_mul_overflow(bytes, layers, &bytes) || __builtin_mul_overflow(bytes, heads, &bytes))
    return -1;
  return bytes;
}

Result<KvShape> CpuKvCache::shape_of(const DecoderConfig& config, const KvOptions& options) {
  if (options.type != DType::kF16 && options.type != DType::kF32)
    return error(Code::kUnsupported, "the CPU backend keeps keys and values as F16 or F32, not %s",
                 dtype_name(options.type));
  if (options.capacity < 1)
    return error(Code::kArgument, "a cache needs room for at least one position, not %lld",
                 static_cast<long long>(options.capacity));
  KvShape shape;
  shape.layers = config.num_hidden_layers;
  shape.heads = config.num_key_value_heads;
  shape.head_dim = config.head_dim;
  shape.half = options.type == DType::kF16;
  shape.positions =
      options.capacity > (int64_t{1} << 60) ? options.capacity : (options.capacity + 15) / 16 * 16;
  return shape;
}

Result<std::unique_ptr<KvCache>> CpuKvCache::create(const DecoderConfig& config, const KvOptions& options) {
  NBL_ASSIGN_OR_RETURN(const KvShape shape, shape_of(config, options));
  std::unique_ptr<CpuKvCache> cache(new CpuKvCache());
  cache->shape_ = shape;
  cache->capacity_ = options.capacity;
  if (shape.bytes() < 0 || !cache->memory_.allocate(shape.bytes(), false))
    return error(Code::kNoMemory,
                 "no memory for the keys and values of %lld positions; ask for a shorter context",
                 static_cast<long long>(options.capacity));
  return std::unique_ptr<KvCache>(std::move(cache));
}

void CpuKvCache::truncate(int64_t length) { length_ = std::clamp<int64_t>(length, 0, length_); }

}  // namespace cpu
}  // namespace nbl

// Keys and values of one sequence on the GPU, reserved when it is made: f16 or int8 [layers][2][kv_heads][capacity][head_dim],
// the f16 scales of int8 [layers][2][kv_heads][capacity], then the ids of the sequence, which penalties look at.
#pragma once

#include <algorithm>

#include "kernels/backend.h"
#include "kernels/cuda/check.h"

namespace nbl::cuda {

class CudaKvCache final : public KvCache {
 public:
  // `data` has bytes_for() bytes.
  CudaKvCache(DeviceBuffer data, const DecoderConfig& c, const KvOptions& options)
      : data_(std::move(data)), capacity_(options.capacity), is_int8_(options.type == DType::kI8),
        values_(value_count(c, options.capacity)), rows_(row_count(c, options.capacity)) {}
  int64_t length() const override { return length_; }
  int64_t capacity() const override { return capacity_; }
  int64_t bytes() const override { return data_.bytes(); }
  void truncate(int64_t length) override {
    length_ = std::min(length_, std::max<int64_t>(length, 0));
    recorded_ = std::min(recorded_, length_);
  }
  void grow(int64_t count) { length_ += count; }
  void* data() const { return data_.as<void>(); }
  void* scales() const { return is_int8_ ? data_.as<unsigned char>() + values_ : nullptr; }  // null: f16

  // Ids of the sequence in device memory, [capacity + 1]: one that was drawn and not run stands behind the last position.
  int32_t* history() const { return reinterpret_cast<int32_t*>(data_.as<unsigned char>() + tensor_bytes(values_, rows_, is_int8_)); }
  int64_t recorded() const { return recorded_; }  // so many of them are there
  void set_recorded(int64_t count) { recorded_ = count; }

  static int64_t bytes_for(const DecoderConfig& c, const KvOptions& options) {
    return tensor_bytes(value_count(c, options.capacity), row_count(c, options.capacity), options.type == DType::kI8) +
           (options.capacity + 1) * 4;
  }

 private:
  static int64_t row_count(const DecoderConfig& c, int64_t capacity) { return c.num_hidden_layers * 2 * c.num_key_value_heads * capacity; }
  static int64_t value_count(const DecoderConfig& c, int64_t capacity) { return row_count(c, capacity) * c.head_dim; }
  static int64_t tensor_bytes(int64_t values, int64_t rows, bool is_int8) { return is_int8 ? values + rows * 2 : values * 2; }

  DeviceBuffer data_;
  int64_t capacity_;
  bool is_int8_;
  int64_t values_, rows_;
  int64_t length_ = 0;
  int64_t recorded_ = 0;
};

}  // namespace nbl::cuda

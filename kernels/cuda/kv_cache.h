// Keys and values of one sequence on the GPU: f16 [layers][2][kv_heads][capacity][head_dim], reserved when it is made.
#pragma once

#include "kernels/backend.h"
#include "kernels/cuda/check.h"

namespace nbl::cuda {

class CudaKvCache final : public KvCache {
 public:
  CudaKvCache(DeviceBuffer data, int64_t capacity) : data_(std::move(data)), capacity_(capacity) {}
  int64_t length() const override { return length_; }
  int64_t capacity() const override { return capacity_; }
  int64_t bytes() const override { return data_.bytes(); }
  void truncate(int64_t length) override {
    if (length < length_) length_ = length > 0 ? length : 0;
  }
  void grow(int64_t count) { length_ += count; }
  void* data() const { return data_.as<void>(); }

  static int64_t bytes_for(const DecoderConfig& c, int64_t capacity) {
    return c.num_hidden_layers * 2 * c.num_key_value_heads * capacity * c.head_dim * 2;
  }

 private:
  DeviceBuffer data_;
  int64_t capacity_;
  int64_t length_ = 0;
};

}  // namespace nbl::cuda

// Every CUDA call of this folder goes through NBL_CUDA: it turns a failure into a Status, and lets a test make the n-th
// call fail. A launch is followed by NBL_LAUNCHED.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <utility>

#include "base/status.h"

namespace nbl::cuda {

// What a failure means to the caller: kNoDeviceMemory, kDeviceLost (the context is gone: the process must be restarted
// to use this GPU again) or kDevice.
Status failed(cudaError_t error, const char* call);

// Fault injection for tests: the n-th call from now (1 = the next) fails with `error`, or with cudaErrorMemoryAllocation when
// it allocates; 0 turns it off. calls() counts the calls made so far.
void fail_call(int64_t n, cudaError_t error = cudaErrorUnknown);
int64_t calls();
bool fault_due();
cudaError_t fault_error();

// The architectures this build has kernels for, as NIBBLE_CUDA_ARCHITECTURES had them: "80-virtual 90-real".
const char* built_architectures();

// Makes `device` current and puts the caller's device back: callers move between threads and may use CUDA themselves.
class DeviceScope {
 public:
  explicit DeviceScope(int device);
  ~DeviceScope();
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;
  const Status& status() const { return status_; }

 private:
  int previous_ = -1;
  Status status_;
};

// Device memory with one owner. Freed on its own device, on whatever thread.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(DeviceBuffer&& other) noexcept { swap(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    swap(other);
    return *this;
  }
  ~DeviceBuffer();

  // kNoDeviceMemory says how much was needed, how much is free, and what to do. The memory is zeroed on `stream`.
  static Result<DeviceBuffer> allocate(int device, int64_t bytes, const char* what, cudaStream_t stream);

  template <typename T>
  T* as() const { return static_cast<T*>(data_); }
  int64_t bytes() const { return bytes_; }

 private:
  void swap(DeviceBuffer& other) {
    std::swap(device_, other.device_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }
  int device_ = 0;
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

// Page-locked host memory: copies from it are asynchronous and run at the bus's speed.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  PinnedBuffer(PinnedBuffer&& other) noexcept { swap(other); }
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept {
    swap(other);
    return *this;
  }
  ~PinnedBuffer();
  static Result<PinnedBuffer> allocate(int64_t bytes);
  template <typename T>
  T* as() const { return static_cast<T*>(data_); }
  int64_t bytes() const { return bytes_; }

 private:
  void swap(PinnedBuffer& other) {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

// A stream that does not wait for the legacy default stream, nor make it wait.
class Stream {
 public:
  Stream() = default;
  Stream(Stream&& other) noexcept { std::swap(device_, other.device_), std::swap(stream_, other.stream_); }
  Stream& operator=(Stream&& other) noexcept {
    std::swap(device_, other.device_), std::swap(stream_, other.stream_);
    return *this;
  }
  ~Stream();
  static Result<Stream> create(int device, bool urgent = false);  // urgent: its kernels go before those of other streams
  cudaStream_t get() const { return stream_; }

 private:
  int device_ = 0;
  cudaStream_t stream_ = nullptr;
};

// A point in a stream that the host can wait for and measure from.
class Event {
 public:
  Event() = default;
  Event(Event&& other) noexcept { std::swap(event_, other.event_); }
  Event& operator=(Event&& other) noexcept {
    std::swap(event_, other.event_);
    return *this;
  }
  ~Event();
  static Result<Event> create();
  cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace nbl::cuda

#define NBL_CUDA(call)                                                                                  \
  do {                                                                                                  \
    if (cudaError_t nbl_error_ = ::nbl::cuda::fault_due() ? ::nbl::cuda::fault_error() : (call); nbl_error_ != cudaSuccess) \
      return ::nbl::cuda::failed(nbl_error_, #call);                                                    \
  } while (0)

#define NBL_LAUNCHED(kernel)                                                                            \
  do {                                                                                                  \
    cudaError_t nbl_error_ = cudaGetLastError();                                                        \
    if (nbl_error_ == cudaSuccess && ::nbl::cuda::fault_due()) nbl_error_ = ::nbl::cuda::fault_error(); \
    if (nbl_error_ != cudaSuccess) return ::nbl::cuda::failed(nbl_error_, "launch of " kernel);         \
  } while (0)

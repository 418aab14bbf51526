#include "kernels/cuda/check.h"

#include <atomic>

namespace nbl::cuda {
namespace {

std::atomic<int64_t> call_count{0};
std::atomic<int64_t> fault_at{0};  // the value of call_count that fails; 0: none
std::atomic<cudaError_t> injected_error{cudaErrorUnknown};

// After one of these every further call in the process fails: the context cannot be saved.
bool context_is_lost(cudaError_t error) {
  switch (error) {
    case cudaErrorIllegalAddress: case cudaErrorLaunchFailure: case cudaErrorLaunchTimeout: case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction: case cudaErrorMisalignedAddress: case cudaErrorInvalidAddressSpace: case cudaErrorInvalidPc:
    case cudaErrorECCUncorrectable: case cudaErrorAssert: case cudaErrorDevicesUnavailable: case cudaErrorContextIsDestroyed:
      return true;
    default: return false;
  }
}

}  // namespace

Status failed(cudaError_t error_code, const char* call) {
  cudaGetLastError();  // an error that does not stick must not be met again by the next check
  if (error_code == cudaErrorMemoryAllocation) return error(Code::kNoDeviceMemory, "%s: the GPU has no memory left", call);
  if (context_is_lost(error_code)) {
    return error(Code::kDeviceLost, "%s: %s (%s); this GPU cannot be used any more by this process, the CPU still can", call,
                 cudaGetErrorString(error_code), cudaGetErrorName(error_code));
  }
  return error(Code::kDevice, "%s: %s (%s)", call, cudaGetErrorString(error_code), cudaGetErrorName(error_code));
}

void fail_call(int64_t n, cudaError_t error) {
  injected_error = error;
  fault_at = n > 0 ? call_count + n : 0;
}
cudaError_t fault_error() { return injected_error; }
int64_t calls() { return call_count; }
bool fault_due() {
  const int64_t now = ++call_count;
  return now == fault_at.load(std::memory_order_relaxed);
}

DeviceScope::DeviceScope(int device) {
  if (cudaGetDevice(&previous_) != cudaSuccess) previous_ = -1;
  status_ = [&]() -> Status {
    NBL_CUDA(cudaSetDevice(device));
    return {};
  }();
}
DeviceScope::~DeviceScope() {
  if (previous_ >= 0) cudaSetDevice(previous_);
}

Result<DeviceBuffer> DeviceBuffer::allocate(int device, int64_t bytes, const char* what, cudaStream_t stream) {
  DeviceBuffer buffer;
  buffer.device_ = device;
  if (bytes <= 0) return buffer;
  const cudaError_t result = fault_due() ? cudaErrorMemoryAllocation : cudaMalloc(&buffer.data_, static_cast<size_t>(bytes));
  if (result == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    Status status = error(Code::kNoDeviceMemory,
                          "cuda:%d: %s needs %lld bytes, %zu of %zu are free; take a smaller context or batch, free other "
                          "sessions, or load the model on the CPU",
                          device, what, static_cast<long long>(bytes), free, total);
    return status.with("needed", bytes).with("free", static_cast<int64_t>(free)).with("total", static_cast<int64_t>(total));
  }
  if (result != cudaSuccess) return failed(result, "cudaMalloc");
  buffer.bytes_ = bytes;
  NBL_CUDA(cudaMemsetAsync(buffer.data_, 0, static_cast<size_t>(bytes), stream));
  return buffer;
}
DeviceBuffer::~DeviceBuffer() {
  if (data_ == nullptr) return;
  DeviceScope scope(device_);
  cudaFree(data_);
}

Result<PinnedBuffer> PinnedBuffer::allocate(int64_t bytes) {
  PinnedBuffer buffer;
  NBL_CUDA(cudaMallocHost(&buffer.data_, static_cast<size_t>(bytes > 0 ? bytes : 1)));
  buffer.bytes_ = bytes;
  return buffer;
}
PinnedBuffer::~PinnedBuffer() {
  if (data_ != nullptr) cudaFreeHost(data_);
}

Result<Stream> Stream::create(int device, bool urgent) {
  Stream stream;
  stream.device_ = device;
  int least = 0, greatest = 0;
  NBL_CUDA(cudaDeviceGetStreamPriorityRange(&least, &greatest));
  NBL_CUDA(cudaStreamCreateWithPriority(&stream.stream_, cudaStreamNonBlocking, urgent ? greatest : least));
  return stream;
}
Stream::~Stream() {
  if (stream_ == nullptr) return;
  DeviceScope scope(device_);
  cudaStreamDestroy(stream_);
}

Result<Event> Event::create() {
  Event event;
  NBL_CUDA(cudaEventCreateWithFlags(&event.event_, cudaEventDefault));
  return event;
}
Event::~Event() {
  if (event_ != nullptr) cudaEventDestroy(event_);
}

}  // namespace nbl::cuda

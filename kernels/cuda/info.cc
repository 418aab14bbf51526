// Which GPUs there are. NVML is opened by name: it knows memory and load without making a context on the device.
#include <dlfcn.h>

#include <cstdio>

#include "kernels/backend.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/matmul/cublas.h"

#ifndef NIBBLE_CUDA_ARCHITECTURE_LIST
#define NIBBLE_CUDA_ARCHITECTURE_LIST ""
#endif

namespace nbl {
namespace {

struct NvmlMemory {
  unsigned long long total, free, used;
};
struct NvmlUtilization {
  unsigned int gpu, memory;
};

// The few functions of nvml.h that are used; all null where the library is missing.
struct Nvml {
  int (*init)() = nullptr;
  int (*by_bus)(const char* bus, void** device) = nullptr;
  int (*memory)(void* device, NvmlMemory* out) = nullptr;
  int (*utilization)(void* device, NvmlUtilization* out) = nullptr;

  Nvml() {
    void* file = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (file == nullptr) return;
    init = reinterpret_cast<decltype(init)>(dlsym(file, "nvmlInit_v2"));
    by_bus = reinterpret_cast<decltype(by_bus)>(dlsym(file, "nvmlDeviceGetHandleByPciBusId_v2"));
    memory = reinterpret_cast<decltype(memory)>(dlsym(file, "nvmlDeviceGetMemoryInfo"));
    utilization = reinterpret_cast<decltype(utilization)>(dlsym(file, "nvmlDeviceGetUtilizationRates"));
    if (init == nullptr || init() != 0) by_bus = nullptr;
  }
  void* find(const char* bus) const {
    void* device = nullptr;
    return by_bus != nullptr && by_bus(bus, &device) == 0 ? device : nullptr;
  }
};
const Nvml& nvml() {
  static const Nvml opened;
  return opened;
}

}  // namespace

const char* cuda::built_architectures() { return NIBBLE_CUDA_ARCHITECTURE_LIST; }

int cuda_device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();
  return 0;
}

Result<CudaDevice> cuda_device(int index) {
  const int count = cuda_device_count();
  if (index < 0 || index >= count) {
    return error(Code::kArgument, "cuda:%d does not exist; this machine has %d usable CUDA devices", index, count);
  }
  cudaDeviceProp properties;
  NBL_CUDA(cudaGetDeviceProperties(&properties, index));
  CudaDevice device;
  device.name = properties.name;
  device.total_bytes = static_cast<int64_t>(properties.totalGlobalMem);
  device.sm_major = properties.major;
  device.sm_minor = properties.minor;
  char bus[32];
  std::snprintf(bus, sizeof(bus), "%08x:%02x:%02x.0", properties.pciDomainID, properties.pciBusID, properties.pciDeviceID);
  device.pci_bus = bus;
  NvmlMemory memory{};
  void* handle = nvml().find(bus);
  if (handle != nullptr && nvml().memory != nullptr && nvml().memory(handle, &memory) == 0) {
    device.free_bytes = static_cast<int64_t>(memory.free);
    device.used_bytes = static_cast<int64_t>(memory.used);
    NvmlUtilization load{};
    if (nvml().utilization != nullptr && nvml().utilization(handle, &load) == 0) device.utilization_percent = static_cast<int>(load.gpu);
  } else {
    cuda::DeviceScope scope(index);
    NBL_RETURN_IF_ERROR(scope.status());
    size_t free = 0, total = 0;
    NBL_CUDA(cudaMemGetInfo(&free, &total));
    device.free_bytes = static_cast<int64_t>(free);
    device.used_bytes = static_cast<int64_t>(total - free);
  }
  return device;
}

std::string cuda_build_info() {
  int runtime = 0, driver = 0;
  if (cudaRuntimeGetVersion(&runtime) != cudaSuccess || cudaDriverGetVersion(&driver) != cudaSuccess) cudaGetLastError();
  char text[1024];
  const std::string cublas = cuda_device_count() > 0 ? cuda::Cublas::file() : std::string();
  std::snprintf(text, sizeof(text),
                "{\"built\":true,\"runtime\":\"%d.%d\",\"driver\":\"%d.%d\",\"architectures\":\"%s\",\"cublas\":%s%s%s}", runtime / 1000,
                runtime % 1000 / 10, driver / 1000, driver % 1000 / 10, NIBBLE_CUDA_ARCHITECTURE_LIST, cublas.empty() ? "" : "\"",
                cublas.empty() ? "null" : cublas.c_str(), cublas.empty() ? "" : "\"");
  return text;
}

}  // namespace nbl

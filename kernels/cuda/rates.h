// The rates of a device that `bench` tells beside what it measured.
#pragma once

#include "kernels/backend.h"
#include "kernels/cuda/device_traits.h"
#include "kernels/cuda/matmul/cublas.h"

namespace nbl::cuda {

// Takes up to half of the free memory for the time of the call. Without cuBLAS no rate of products is measured.
Result<DeviceRates> measure_rates(const DeviceTraits& traits, int64_t free_bytes);

}  // namespace nbl::cuda

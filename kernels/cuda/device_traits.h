// What the host code decides by: the device, and what was asked of it.
#pragma once

#include <string>

#include "kernels/backend.h"

namespace nbl::cuda {

struct DeviceTraits {
  int device = 0;
  int multiprocessors = 0;
  int sm = 0;            // 90
  int shared_optin = 0;  // bytes of shared memory a CTA may have
  int cluster_slots[9] =
      {};  // CTAs of one a multiprocessor that run at once in clusters of so many; 0: no clusters
  bool early_launch = false;  // a kernel may begin while the one in front of it still runs: launch.h
  std::string name;
  CudaKernel kernel = CudaKernel::kAuto;  // which was asked for
};

// kUnsupported for devices that are older than every kernel.
Status check_capability(const DeviceTraits& traits);

}  // namespace nbl::cuda

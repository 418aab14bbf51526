// nbl_device_*: the GPUs of this machine.
#include "api/guard.h"
#include "api/impl.gen.h"
#include "kernels/backend.h"

namespace nbl::impl {

int32_t device_count() noexcept { return cuda_device_count(); }

Status device_i64(int32_t device, nbl_prop prop, int64_t* value) {
  NBL_ASSIGN_OR_RETURN(const CudaDevice facts, cuda_device(device));
  switch (prop) {
    case NBL_PROP_DEVICE_TOTAL_BYTES: *value = facts.total_bytes; return {};
    case NBL_PROP_DEVICE_FREE_BYTES: *value = facts.free_bytes; return {};
    case NBL_PROP_DEVICE_USED_BYTES: *value = facts.used_bytes; return {};
    case NBL_PROP_DEVICE_SM_MAJOR: *value = facts.sm_major; return {};
    case NBL_PROP_DEVICE_SM_MINOR: *value = facts.sm_minor; return {};
    case NBL_PROP_DEVICE_UTILIZATION:
      if (facts.utilization_percent < 0)
        return error(Code::kUnsupported, "the utilization is not known: NVML (libnvidia-ml.so.1) is not there");
      *value = facts.utilization_percent;
      return {};
  }
  return error(Code::kArgument, "%d is no property of a device", prop).with("prop", prop);
}

Status device_name(int32_t device, std::string& out) {
  NBL_ASSIGN_OR_RETURN(const CudaDevice facts, cuda_device(device));
  out = facts.name;
  return {};
}

}  // namespace nbl::impl

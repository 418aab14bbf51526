// Which of the tables in isa.h this machine can run.
#pragma once

#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/isa.h"

namespace nbl {
namespace cpu {

// The best one for kAuto; kUnsupported, naming what there is, for a forced one that the machine lacks.
Result<const Kernels*> select_kernels(CpuIsa isa);
// All that run here, worst first.
std::vector<const Kernels*> runnable_kernels();

}  // namespace cpu
}  // namespace nbl

// The inner loops in portable C++: correct everywhere, and what every other instruction set is compared with.
#include <cstdint>
#include <cstring>

#include "base/dtype.h"
#include "kernels/cpu/isa.h"

namespace nbl {
namespace cpu {
namespace {
// clang-format off: each builds on the ones before it
#include "kernels/cpu/vec_generic.inl"
#include "kernels/cpu/linear_int.inl"
#include "kernels/cpu/one_token.inl"
#include "kernels/cpu/kernels.inl"
// clang-format on
}  // namespace

const Kernels kGenericKernels = NBL_KERNELS("generic", 0);

}  // namespace cpu
}  // namespace nbl

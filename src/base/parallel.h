// parallel_for for work at load time: short-lived threads, no pool. Kernels have their own.
#pragma once

#include <cstdint>
#include <functional>

namespace nbl {

// Calls body(first, last) over pieces of [0, count) of at least `grain` each, on up to hardware_concurrency() threads,
// the caller's among them. When the system gives no thread, the caller does the work alone. `body` may throw
// bad_alloc; the first one comes out of here.
void parallel_for(int64_t count, int64_t grain, const std::function<void(int64_t first, int64_t last)>& body);

}  // namespace nbl

// How fast this machine reads memory now: the bound of a decode step, which reads every weight once a token.
//
// Virtual machines share their memory with neighbours and change by a factor of two within seconds, so a share of the
// bandwidth means something only beside a probe of the same run.
#pragma once

#include <cstdint>

namespace bandwidth {

// Reads a buffer of `bytes` that no cache holds with `threads` threads; the best of `passes`, in bytes a second.
double probe(int threads, int64_t bytes = int64_t{1} << 30, int passes = 5);

// Cores this process may run on.
int usable_cores();

}  // namespace bandwidth

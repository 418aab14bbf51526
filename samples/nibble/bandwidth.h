// How fast this machine reads memory now: the bound of a decode step, which reads every weight once a token.
//
// Virtual machines share their memory with neighbours and change by a factor of two within seconds, so a share of the
// bandwidth means something only beside probes right before and after. One pass over the buffer may be a tenth faster than
// the next: a probe gives the middle one, as what it is compared with is an average over many tokens.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace bandwidth {

class Buffer;

class Probe {
 public:
  explicit Probe(int threads);
  ~Probe();
  // All threads read their own part of a gigabyte, which no cache holds, several times; the median, in bytes a second.
  double run();

 private:
  std::vector<std::unique_ptr<Buffer>> parts_;  // one for each thread
};

// Cores this process may run on.
int usable_cores();

}  // namespace bandwidth

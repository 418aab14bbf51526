// EventCount: a number that grows by one whenever something has happened, and that threads wait on.
//
// A waiter first looks again and again, because where every thread has a core the event is microseconds away.
// Then it sleeps in the kernel: on a crowded machine the event is as far away as the next turn of the thread
// that will raise it, and a waiter that kept looking would hold the core on which that thread could run.
#pragma once

#include <atomic>
#include <cstdint>

namespace nbl {
namespace cpu {

// For loops that look at something again and again: leaves the core to the other thread on it, if there is one.
inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

class EventCount {
 public:
  uint32_t value() const { return value_.load(std::memory_order_acquire); }

  // What was written before is visible to whoever returns from wait() because of it.
  void raise();
  // Returns when value() is no longer `seen`; sleeps after `spin_us` microseconds of looking. False if it
  // slept.
  bool wait(uint32_t seen, int64_t spin_us);

 private:
  alignas(64) std::atomic<uint32_t> value_{0};
  std::atomic<int32_t> sleepers_{0};
};

}  // namespace cpu
}  // namespace nbl

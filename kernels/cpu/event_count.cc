#include "kernels/cpu/event_count.h"

#include <chrono>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#include <thread>
#endif

namespace nbl {
namespace cpu {

namespace {

constexpr int kLooks = 64;  // between two looks at the clock

static_assert(sizeof(std::atomic<uint32_t>) == 4, "the kernel looks at the number itself");

// Sleeps while `number` is `seen`; may return early.
void sleep_while(std::atomic<uint32_t>* number, uint32_t seen) {
#if defined(__linux__)
  syscall(SYS_futex, number, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
#else
  (void)number;
  (void)seen;
  std::this_thread::yield();
#endif
}

void wake_all(std::atomic<uint32_t>* number) {
#if defined(__linux__)
  syscall(SYS_futex, number, FUTEX_WAKE_PRIVATE, INT32_MAX, nullptr, nullptr, 0);
#else
  (void)number;
#endif
}

}  // namespace

// Either the waiter's announcement comes first, and it is woken, or the new value does, and it does not
// sleep.
void EventCount::raise() {
  value_.fetch_add(1, std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) > 0) wake_all(&value_);
}

bool EventCount::wait(uint32_t seen, int64_t spin_us) {
  if (spin_us > 0) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(spin_us);
    do {
      for (int i = 0; i < kLooks; ++i) {
        if (value() != seen) return true;
        relax();
      }
    } while (std::chrono::steady_clock::now() < until);
  }
  sleepers_.fetch_add(1, std::memory_order_seq_cst);
  while (value_.load(std::memory_order_seq_cst) == seen) sleep_while(&value_, seen);
  sleepers_.fetch_sub(1, std::memory_order_relaxed);
  return false;
}

}  // namespace cpu
}  // namespace nbl

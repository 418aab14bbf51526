// Pool: the backend's threads. A job is one function that all of them run at once, meeting at barriers.
//
// One job runs at a time; callers wait for their turn in the order they came, so that several sessions of one
// model share the cores instead of fighting for them. The caller is thread 0 of its own job. Whoever waits,
// at a barrier or for the next job, spins for a while and then sleeps (event_count.h).
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "kernels/cpu/event_count.h"

namespace nbl {
namespace cpu {

class Pool {
 public:
  // Starts threads - 1 workers, or as many as the system allows.
  Pool(int threads, bool spin);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return threads_; }
  // False in a process that was forked from the one which made it: the workers stayed there, and a job would never end.
  bool has_workers() const;

  // Calls job(thread, threads) on every thread and returns when all have. `job` must not throw.
  template <typename Job>
  void run(Job&& job) {
    run_job([](void* context, int thread,
               int threads) { (*static_cast<std::remove_reference_t<Job>*>(context))(thread, threads); },
            const_cast<void*>(static_cast<const void*>(&job)));
  }
  // Within a job: returns when every thread has come here. What they wrote before is visible to all after. While it waits, a
  // thread calls meanwhile(), which does something short, as long as that returns true.
  template <typename Meanwhile>
  void barrier(Meanwhile&& meanwhile) {
    if (threads_ == 1) return;
    const uint32_t passed = passed_.value();
    if (arrive()) return;
    while (passed_.value() == passed && meanwhile()) {
    }
    wait_passed(passed);
  }
  void barrier() {
    barrier([] { return false; });
  }

 private:
  using Function = void (*)(void* context, int thread, int threads);
  void run_job(Function function, void* context);
  void work(int thread);
  bool arrive();                      // at the barrier; true: as the last one, all may go on
  void wait_passed(uint32_t passed);  // until more barriers than `passed` have been

  int threads_ = 1;
  std::vector<std::thread> workers_;
  int64_t process_ = 0;  // where they run

  // Whose turn it is.
  std::mutex turn_mutex_;
  std::condition_variable turn_changed_;
  uint64_t next_ticket_ = 0, now_serving_ = 0;

  // The job. It begins when `begun_` is raised, and ends when every thread has met the others once more.
  Function function_ = nullptr;
  void* context_ = nullptr;
  std::atomic<bool> stop_{false};
  EventCount begun_;

  alignas(64) std::atomic<int> arrived_{0};  // threads that wait at the barrier
  EventCount passed_;                        // barriers that all have reached

  // How long a thread spins at a barrier: the longest time while that is enough, ever shorter while threads
  // have to sleep all the same, because others want the cores.
  const int32_t most_spin_us_;
  std::atomic<int32_t> spin_us_;
};

// Physical cores that this process may use: its affinity mask without hyperthread siblings, capped by its
// cgroup.
int usable_cores();

}  // namespace cpu
}  // namespace nbl

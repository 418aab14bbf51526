// Pool: the backend's threads. A job is one function that all of them run at once, meeting at barriers.
//
// One job runs at a time; callers wait for their turn in the order they came, so that several sessions of one
// model share the cores instead of fighting for them. The caller is thread 0 of its own job. Workers spin for
// a while when a job has ended, because the next token's is near, and then sleep.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

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

  // Calls job(thread, threads) on every thread and returns when all have. `job` must not throw.
  template <typename Job>
  void run(Job&& job) {
    run_job([](void* context, int thread,
               int threads) { (*static_cast<std::remove_reference_t<Job>*>(context))(thread, threads); },
            const_cast<void*>(static_cast<const void*>(&job)));
  }
  // Within a job: returns when every thread has come here. What they wrote before is visible to all after.
  void barrier();

 private:
  using Function = void (*)(void* context, int thread, int threads);
  void run_job(Function function, void* context);
  void work(int thread);
  bool wait_for_job(uint64_t seen);
  void wait_a_little(int* turns) const;

  int threads_ = 1;
  const bool spin_;
  std::vector<std::thread> workers_;

  // Whose turn it is.
  std::mutex turn_mutex_;
  std::condition_variable turn_changed_;
  uint64_t next_ticket_ = 0, now_serving_ = 0;

  // The job. `generation_` grows with each one; workers that sleep wait for `wake_`.
  Function function_ = nullptr;
  void* context_ = nullptr;
  alignas(64) std::atomic<uint64_t> generation_{0};
  alignas(64) std::atomic<int> running_{0};  // workers that have not finished the job
  std::atomic<bool> stop_{false};
  std::atomic<int> sleeping_{0};
  std::mutex sleep_mutex_;
  std::condition_variable wake_;

  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};
};

// Physical cores that this process may use: its affinity mask without hyperthread siblings, capped by its
// cgroup.
int usable_cores();

}  // namespace cpu
}  // namespace nbl

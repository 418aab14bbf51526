#include "kernels/cpu/pool.h"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <string>
#include <system_error>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace nbl {
namespace cpu {

namespace {

constexpr int kSpins = 1024;  // at a barrier before the core is offered to others
constexpr auto kStayAwake = std::chrono::microseconds(1000);  // after a job: sampling a token is shorter

inline void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

}  // namespace

Pool::Pool(int threads, bool spin) : spin_(spin) {
  threads = std::max(1, threads);
  workers_.reserve(static_cast<size_t>(threads - 1));
  for (int i = 1; i < threads; ++i) {
    try {
      workers_.emplace_back([this, i] { work(i); });
    } catch (const std::system_error&) {
      break;  // the system allows no more: fewer threads give the same results
    }
    ++threads_;
  }
}

Pool::~Pool() {
  stop_.store(true);
  {
    std::lock_guard<std::mutex> lock(sleep_mutex_);
    generation_.fetch_add(1);
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void Pool::run_job(Function function, void* context) {
  {
    std::unique_lock<std::mutex> lock(turn_mutex_);
    const uint64_t ticket = next_ticket_++;
    turn_changed_.wait(lock, [&] { return now_serving_ == ticket; });
  }
  if (threads_ > 1) {
    function_ = function;
    context_ = context;
    running_.store(threads_ - 1, std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_seq_cst);
    if (sleeping_.load(std::memory_order_seq_cst) > 0) {
      { std::lock_guard<std::mutex> lock(sleep_mutex_); }
      wake_.notify_all();
    }
  }
  function(context, 0, threads_);
  for (int turns = 0; running_.load(std::memory_order_acquire) > 0;) wait_a_little(&turns);
  {
    std::lock_guard<std::mutex> lock(turn_mutex_);
    ++now_serving_;
  }
  turn_changed_.notify_all();
}

void Pool::work(int thread) {
  for (uint64_t seen = 0;; ++seen) {
    if (!wait_for_job(seen)) return;
    function_(context_, thread, threads_);
    running_.fetch_sub(1, std::memory_order_release);
  }
}

// Returns when job number seen + 1 is there; false when the pool ends.
bool Pool::wait_for_job(uint64_t seen) {
  if (spin_) {
    const auto until = std::chrono::steady_clock::now() + kStayAwake;
    do {
      for (int i = 0; i < 256; ++i) {
        if (generation_.load(std::memory_order_acquire) > seen) return !stop_.load();
        relax();
      }
    } while (std::chrono::steady_clock::now() < until);
  }
  std::unique_lock<std::mutex> lock(sleep_mutex_);
  sleeping_.fetch_add(1, std::memory_order_seq_cst);
  wake_.wait(lock, [&] { return generation_.load(std::memory_order_seq_cst) > seen; });
  sleeping_.fetch_sub(1, std::memory_order_relaxed);
  return !stop_.load();
}

void Pool::wait_a_little(int* turns) const {
  // A host with more runnable threads than cores must be able to run the one that is waited for.
  if (++*turns > (spin_ ? kSpins : 64)) {
    sched_yield();
  } else {
    relax();
  }
}

void Pool::barrier() {
  if (threads_ == 1) return;
  const uint32_t phase = phase_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) == threads_ - 1) {
    arrived_.store(0, std::memory_order_relaxed);
    phase_.store(phase + 1, std::memory_order_release);
    return;
  }
  for (int turns = 0; phase_.load(std::memory_order_acquire) == phase;) wait_a_little(&turns);
}

namespace {

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// cgroup v2's "quota period", or v1's two files; 0 when nothing limits.
int cgroup_cores() {
  double quota = -1, period = 0;
  const std::string both = first_line("/sys/fs/cgroup/cpu.max");
  const size_t space = both.find(' ');
  const auto number = [](const std::string& text) {
    double value = 0;
    for (char c : text) {
      if (c < '0' || c > '9') return -1.0;
      value = value * 10 + (c - '0');
    }
    return text.empty() ? -1.0 : value;
  };
  if (space != std::string::npos) {
    quota = number(both.substr(0, space));
    period = number(both.substr(space + 1));
  } else {
    quota = number(first_line("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"));
    period = number(first_line("/sys/fs/cgroup/cpu/cpu.cfs_period_us"));
  }
  return quota > 0 && period > 0 ? std::max(1, static_cast<int>(quota / period + 0.5)) : 0;
}

}  // namespace

int usable_cores() {
  int cores = 0;
#if defined(__linux__)
  cpu_set_t mask;
  if (sched_getaffinity(0, sizeof mask, &mask) == 0) {
    std::vector<std::string> seen;  // the sibling lists met, one for each physical core
    for (int i = 0; i < CPU_SETSIZE; ++i) {
      if (!CPU_ISSET(i, &mask)) continue;
      std::string siblings =
          first_line("/sys/devices/system/cpu/cpu" + std::to_string(i) + "/topology/thread_siblings_list");
      if (siblings.empty()) siblings = std::to_string(i);
      if (std::find(seen.begin(), seen.end(), siblings) == seen.end()) seen.push_back(std::move(siblings));
    }
    cores = static_cast<int>(seen.size());
  }
#endif
  if (cores == 0) cores = static_cast<int>(std::thread::hardware_concurrency());
  const int limit = cgroup_cores();
  if (limit > 0) cores = std::min(cores, limit);
  return std::max(1, cores);
}

}  // namespace cpu
}  // namespace nbl

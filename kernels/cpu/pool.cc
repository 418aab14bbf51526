#include "kernels/cpu/pool.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <string>

namespace nbl {
namespace cpu {

namespace {

// Microseconds at a barrier. Sleeping and being woken takes some ten of them, and a thread that wakes late makes the others
// wait at the next barrier, so it is for when a core has been taken away, not for a thread that is a little slower.
constexpr int32_t kLeastSpin = 4, kMostSpin = 200;
constexpr int32_t kJobSpin = 1000;  // for the next job: sampling a token is shorter

}  // namespace

Pool::Pool(int threads, bool spin) : most_spin_us_(spin ? kMostSpin : kLeastSpin), spin_us_(most_spin_us_) {
  threads = std::max(1, threads);
  process_ = getpid();
  workers_.reserve(static_cast<size_t>(threads - 1));
  for (int i = 1; i < threads; ++i) {
    try {
      workers_.emplace_back([this, i] { work(i); });
    } catch (...) {
      break;  // the system allows no more, or there is no memory for one: fewer threads give the same results
    }
    ++threads_;
  }
}

bool Pool::has_workers() const { return workers_.empty() || process_ == getpid(); }

Pool::~Pool() {
  stop_.store(true);
  begun_.raise();
  for (std::thread& worker : workers_) worker.join();
}

void Pool::run_job(Function function, void* context) {
  {
    std::unique_lock<std::mutex> lock(turn_mutex_);
    const uint64_t ticket = next_ticket_++;
    turn_changed_.wait(lock, [&] { return now_serving_ == ticket; });
  }
  function_ = function;
  context_ = context;
  if (threads_ > 1) begun_.raise();
  function(context, 0, threads_);
  barrier();
  {
    std::lock_guard<std::mutex> lock(turn_mutex_);
    ++now_serving_;
  }
  turn_changed_.notify_all();
}

void Pool::work(int thread) {
  for (uint32_t jobs = 0;; ++jobs) {
    const int32_t spin = spin_us_.load(std::memory_order_relaxed);
    begun_.wait(jobs, spin > kLeastSpin ? kJobSpin : 0);
    if (stop_.load()) return;
    function_(context_, thread, threads_);
    barrier();
  }
}

bool Pool::arrive() {
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) < threads_ - 1) return false;
  arrived_.store(0, std::memory_order_relaxed);
  passed_.raise();
  return true;
}

void Pool::wait_passed(uint32_t passed) {
  const int32_t spin = spin_us_.load(std::memory_order_relaxed);
  const bool enough = passed_.wait(passed, spin);
  spin_us_.store(enough ? std::min(spin + 1, most_spin_us_) : std::max(spin / 2, kLeastSpin), std::memory_order_relaxed);
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

#include "bandwidth.h"

#include <sched.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <new>
#include <thread>

namespace bandwidth {
namespace {

using Vector = uint64_t __attribute__((vector_size(64)));

// Sums so that no compiler may leave the reads out; four sums, so that the adds do not wait for one another.
// ThreadSanitizer is not ready yet when the loader chooses a clone.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_THREAD__)
__attribute__((target_clones("avx512f", "avx2", "default")))
#endif
uint64_t read_all(const Vector* data, int64_t count) {
  Vector sums[4] = {};
  for (int64_t i = 0; i + 4 <= count; i += 4) {
    for (int lane = 0; lane < 4; ++lane) sums[lane] += data[i + lane];
  }
  uint64_t total = 0;
  for (const Vector& sum : sums) total += sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7];
  return total;
}

}  // namespace

// Memory in huge pages where the system has them, as the library keeps weights: small pages alone would read slower.
class Buffer {
 public:
  explicit Buffer(int64_t vectors) : count_(vectors), mapped_(static_cast<size_t>(vectors) * sizeof(Vector) + kHugePage) {
    base_ = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base_ == MAP_FAILED) throw std::bad_alloc();
    data_ = reinterpret_cast<Vector*>((reinterpret_cast<uintptr_t>(base_) + kHugePage - 1) / kHugePage * kHugePage);
    madvise(data_, static_cast<size_t>(vectors) * sizeof(Vector), MADV_HUGEPAGE);
  }
  ~Buffer() { munmap(base_, mapped_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  // By the thread that reads it, so that its pages are near; the first time only.
  const Vector* filled() {
    if (!filled_) std::fill(data_, data_ + count_, Vector{1});
    filled_ = true;
    return data_;
  }
  int64_t count() const { return count_; }

 private:
  static constexpr size_t kHugePage = size_t{2} << 20;
  const int64_t count_;
  const size_t mapped_;
  void* base_;
  Vector* data_;
  bool filled_ = false;
};

namespace {

// Every thread waits here before a pass, so that all read at the same time.
class Gate {
 public:
  explicit Gate(int threads) : threads_(threads) {}
  void pass() {
    const int generation = generation_.load();
    if (waiting_.fetch_add(1) + 1 == threads_) {
      waiting_ = 0;
      generation_ = generation + 1;
    } else {
      while (generation_.load() == generation) std::this_thread::yield();
    }
  }

 private:
  const int threads_;
  std::atomic<int> waiting_{0}, generation_{0};
};

}  // namespace

int usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

Probe::Probe(int threads) {
  constexpr int64_t kBytes = int64_t{1} << 30;
  threads = std::max(1, threads);
  for (int i = 0; i < threads; ++i) parts_.push_back(std::make_unique<Buffer>(kBytes / threads / static_cast<int64_t>(sizeof(Vector))));
}

Probe::~Probe() = default;

double Probe::run() {
  constexpr int kPasses = 7;
  const int threads = static_cast<int>(parts_.size());
  Gate gate(threads);
  std::atomic<uint64_t> sink{0};
  std::vector<double> seconds;
  const auto work = [&](int thread) {
    const Vector* own = parts_[thread]->filled();
    for (int pass = 0; pass < kPasses; ++pass) {
      gate.pass();
      const auto start = std::chrono::steady_clock::now();
      sink += read_all(own, parts_[thread]->count());
      gate.pass();
      const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start;
      if (thread == 0) seconds.push_back(passed.count());
    }
  };
  std::vector<std::thread> others;
  for (int i = 1; i < threads; ++i) others.emplace_back(work, i);
  work(0);
  for (std::thread& thread : others) thread.join();
  std::nth_element(seconds.begin(), seconds.begin() + kPasses / 2, seconds.end());
  return static_cast<double>(parts_[0]->count() * threads) * sizeof(Vector) / seconds[kPasses / 2];
}

}  // namespace bandwidth

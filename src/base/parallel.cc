#include "base/parallel.h"

#include <algorithm>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace nbl {

void parallel_for(int64_t count, int64_t grain, const std::function<void(int64_t, int64_t)>& body) {
  const int64_t cores = std::max<int64_t>(1, std::thread::hardware_concurrency());
  const int64_t pieces = std::min(cores, std::max<int64_t>(1, count / std::max<int64_t>(1, grain)));
  std::exception_ptr problem;
  std::mutex mutex;
  const auto run = [&](int64_t piece) {
    try {
      body(count * piece / pieces, count * (piece + 1) / pieces);
    } catch (...) {
      std::lock_guard<std::mutex> lock(mutex);
      if (!problem) problem = std::current_exception();
    }
  };
  std::vector<std::thread> threads;
  threads.reserve(pieces);
  int64_t started = 1;
  try {
    for (; started < pieces; ++started) threads.emplace_back(run, started);
  } catch (...) {
    // No more threads to be had, or no memory for one: the rest is done here. Those that run are joined below.
  }
  run(0);
  for (int64_t piece = started; piece < pieces; ++piece) run(piece);
  for (std::thread& thread : threads) thread.join();
  if (problem) std::rethrow_exception(problem);
}

}  // namespace nbl

// The threads of a few CTAs, on one thread of the host. Each is a fiber that runs until it waits for others: at an exchange
// of its warp or a barrier of its CTA. Which of them goes first between two meetings is the test's choice, so that what
// misses a barrier reads, in one of the orders, what is not written yet.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>

namespace nbl::cuda_host {

enum class Turns { kAscending, kDescending };

// Runs body(cta, thread) for all CTAs and threads 0 .. threads - 1, which are whole warps. Throws what one of them throws,
// and std::logic_error when all that are left wait for one that has ended.
void run_ctas(int ctas, int threads, Turns turns, const std::function<void(int, int)>& body);

// Called by the running thread:
int thread_index();            // in its CTA
void meet_threads(int count);  // waits for threads 0 .. count - 1 of its CTA
void let_others_run();         // goes on at its next turn
// Shows `bytes` (at most 32) to the warp and gives back what lane l showed at [32 * l]; valid until the next exchange but one.
const unsigned char* exchange(const void* value, size_t bytes);

template <typename T>
T from_lane(T value, int lane) {
  const unsigned char* shown = exchange(&value, sizeof value);
  T result;
  std::memcpy(&result, shown + 32 * lane, sizeof result);
  return result;
}

}  // namespace nbl::cuda_host

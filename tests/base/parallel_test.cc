// parallel_for does all of its work, or tells that memory has run out: it never ends the process with a thread that runs.
#include "base/parallel.h"

#include <atomic>
#include <new>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "support/watched_new.h"

namespace {
thread_local int fail_in = -1;  // the allocation of this thread so many from now fails, as all after it; negative: none does
}  // namespace

bool nbl::testing::may_allocate() noexcept {
  if (fail_in == 0) return false;
  if (fail_in > 0) --fail_in;
  return true;
}

namespace nbl {
namespace {

TEST(ParallelFor, WithoutMemoryForAThreadTheCallerDoesTheWork) {
  std::vector<std::atomic<int>> visits(1000);
  int refused = 0, done = 0;
  for (int fail_at = 0; fail_at < 100; ++fail_at) {
    for (auto& count : visits) count = 0;
    const std::function<void(int64_t, int64_t)> body = [&visits](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) ++visits[i];
    };
    bool finished = true;
    fail_in = fail_at;
    try {
      parallel_for(1000, 1, body);
    } catch (const std::bad_alloc&) {
      finished = false;
    }
    fail_in = -1;
    ++(finished ? done : refused);
    for (auto& count : visits) ASSERT_EQ(count, finished ? 1 : 0) << "allocation " << fail_at;
  }
  EXPECT_EQ(refused, 1);  // the list of threads itself
  EXPECT_EQ(done, 99);
}

TEST(ParallelFor, WhatAPieceThrowsComesOutWhenAllHaveEnded) {
  std::atomic<int> pieces{0};
  EXPECT_THROW(parallel_for(1000, 1,
                            [&](int64_t, int64_t) {
                              ++pieces;
                              throw std::bad_alloc();
                            }),
               std::bad_alloc);
  EXPECT_GE(pieces, 1);
  EXPECT_LE(pieces, static_cast<int>(std::thread::hardware_concurrency()));
}

}  // namespace
}  // namespace nbl

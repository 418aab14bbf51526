// The thread pool: every thread runs every job, barriers hold, and callers take turns.
#include "kernels/cpu/pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

namespace nbl {
namespace {

TEST(Pool, RunsEveryJobOnEveryThread) {
  for (bool spin : {true, false}) {
    cpu::Pool pool(4, spin);
    std::vector<int> runs(4);
    for (int job = 0; job < 200; ++job)
      pool.run([&](int thread, int threads) { runs[static_cast<size_t>(thread)] += threads == 4; });
    for (int count : runs) EXPECT_EQ(count, 200);
  }
}

TEST(Pool, NobodyPassesABarrierAlone) {
  cpu::Pool pool(3, true);
  std::atomic<int> arrived{0};
  std::atomic<bool> early{false};
  pool.run([&](int, int threads) {
    for (int round = 1; round <= 300; ++round) {
      arrived.fetch_add(1);
      pool.barrier();
      if (arrived.load() < round * threads) early = true;
      pool.barrier();
    }
  });
  EXPECT_FALSE(early.load());
  EXPECT_EQ(arrived.load(), 900);
}

// A waiting thread works as long as there is work, goes on with the others in the middle of it, and waits on when it has none.
TEST(Pool, WhoWaitsDoesSomethingMeanwhile) {
  cpu::Pool pool(3, true);
  for (const int work : {0, 1, 1 << 30}) {
    std::atomic<bool> begun{work == 0}, early{false};
    std::atomic<int> arrived{0}, most{0};
    pool.run([&](int thread, int threads) {
      for (int round = 1; round <= 100; ++round) {
        // The last to come waits until another thread works, in the first round.
        while (thread == 0 && !begun.load()) std::this_thread::yield();
        arrived.fetch_add(1);
        int done = 0;
        pool.barrier([&] {
          begun = true;
          return ++done < work;
        });
        if (done > most.load()) most = done;
        if (arrived.load() < round * threads) early = true;
        pool.barrier();
      }
    });
    EXPECT_FALSE(early.load());
    EXPECT_EQ(arrived.load(), 300);
    EXPECT_TRUE(begun.load());
    EXPECT_LE(most.load(), std::max(work, 1));
  }
}

TEST(Pool, CallersTakeTurns) {
  cpu::Pool pool(2, true);
  std::atomic<int> inside{0}, most{0}, done{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; ++c)
    callers.emplace_back([&] {
      for (int i = 0; i < 50; ++i)
        pool.run([&](int thread, int) {
          if (thread != 0) return;
          const int now = inside.fetch_add(1) + 1;
          if (now > most.load()) most = now;
          inside.fetch_sub(1);
          done.fetch_add(1);
        });
    });
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(most.load(), 1);
  EXPECT_EQ(done.load(), 200);
}

}  // namespace
}  // namespace nbl

// Portions: every piece of every round is done once, by whoever has time for it.
#include "kernels/cpu/portions.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "kernels/cpu/pool.h"

namespace nbl {
namespace {

std::vector<int64_t> all_of(cpu::Portions& portions, uint64_t round, int64_t count, int thread) {
  std::vector<int64_t> pieces;
  for (int64_t piece; (piece = portions.take(round, count, thread)) >= 0;) pieces.push_back(piece);
  return pieces;
}

TEST(Portions, AreContiguousAndTheSameInEveryRound) {
  cpu::Portions portions(3);
  for (uint64_t round = 0; round < 9; ++round) {
    // Each takes its first piece before anybody is done.
    EXPECT_EQ(portions.take(round, 10, 0), 0);
    EXPECT_EQ(portions.take(round, 10, 1), 3);
    EXPECT_EQ(portions.take(round, 10, 2), 6);
    EXPECT_EQ(portions.take(round, 10, 0), 1);
    EXPECT_EQ(portions.take(round, 10, 0), 2);
    EXPECT_EQ(portions.take(round, 10, 0), 9);  // from the end of the one that has most left
    EXPECT_EQ(all_of(portions, round, 10, 1), (std::vector<int64_t>{4, 5, 8, 7}));
    EXPECT_EQ(portions.take(round, 10, 2), -1);
  }
}

TEST(Portions, OneThatNeverComesIsDoneByTheOthers) {
  cpu::Portions portions(4);
  for (uint64_t round = 0; round < 100; ++round) {
    const int64_t count = static_cast<int64_t>(round * 7 % 23);
    std::vector<int> done(static_cast<size_t>(count));
    for (int64_t piece : all_of(portions, round, count, static_cast<int>(round % 4))) ++done[static_cast<size_t>(piece)];
    EXPECT_EQ(done, std::vector<int>(static_cast<size_t>(count), 1));
  }
}

// Threads that run far apart: up to kSlots rounds, as far as a step lets them.
TEST(Portions, EveryPieceIsDoneOnceWhateverTheThreadsDo) {
  constexpr int kThreads = 4, kSteps = 400, kMost = 61;
  cpu::Pool pool(kThreads, true);
  cpu::Portions portions(kThreads);
  std::vector<std::atomic<int>> done(static_cast<size_t>(cpu::Portions::kSlots * kMost));
  std::atomic<int> wrong{0};
  pool.run([&](int thread, int) {
    for (int step = 0; step < kSteps; ++step) {
      for (int i = 0; i < cpu::Portions::kSlots; ++i) {
        const auto round = static_cast<uint64_t>(step * cpu::Portions::kSlots + i);
        const int64_t count = static_cast<int64_t>(round * 17 % kMost);
        if ((step + i + thread) % 5 == 0) std::this_thread::yield();
        for (int64_t piece; (piece = portions.take(round, count, thread)) >= 0;) done[static_cast<size_t>(i * kMost + piece)].fetch_add(1);
      }
      pool.barrier();
      if (thread == 0) {
        for (int i = 0; i < cpu::Portions::kSlots; ++i) {
          const int64_t count = static_cast<int64_t>((step * cpu::Portions::kSlots + i) * 17 % kMost);
          for (int64_t piece = 0; piece < kMost; ++piece)
            wrong += done[static_cast<size_t>(i * kMost + piece)].exchange(0) != (piece < count);
        }
      }
      pool.barrier();
    }
  });
  EXPECT_EQ(wrong.load(), 0);
}

}  // namespace
}  // namespace nbl

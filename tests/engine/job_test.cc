#include "engine/job.h"

#include <gtest/gtest.h>

namespace nbl {
namespace {

TEST(Job, GivesProgressAndResult) {
  auto job = Job::start([](Job::Context& context) {
    context.stage("counting");
    context.progress(3, 4);
    context.memory(100);
    context.memory(50);
    context.result(Json{{"answer", 42}});
    return Status();
  });
  ASSERT_TRUE(job.ok());
  EXPECT_TRUE((*job)->wait(-1).ok());
  uint64_t done, total;
  (*job)->progress(&done, &total);
  EXPECT_EQ(done, 3u);
  EXPECT_EQ(total, 4u);
  EXPECT_EQ((*job)->stage(), "counting");
  EXPECT_EQ((*job)->peak_memory(), 100u);
  EXPECT_EQ((*(*job)->result())["answer"], 42);
  EXPECT_EQ((*job)->take_model().status().code(), Code::kState);
}

TEST(Job, CancelReachesTheWork) {
  std::atomic<bool> running{false};
  auto job = Job::start([&](Job::Context& context) {
    running = true;
    while (!context.cancelled()) std::this_thread::yield();
    return Status(Code::kCancelled, "cancelled");
  });
  ASSERT_TRUE(job.ok());
  EXPECT_EQ((*job)->wait(0).code(), Code::kPending);
  EXPECT_EQ((*job)->result().status().code(), Code::kState);
  while (!running) std::this_thread::yield();
  (*job)->cancel();
  EXPECT_EQ((*job)->wait(-1).code(), Code::kCancelled);
}

TEST(Job, AnExceptionBecomesAStatus) {
  auto job = Job::start([](Job::Context&) -> Status { throw std::bad_alloc(); });
  ASSERT_TRUE(job.ok());
  EXPECT_EQ((*job)->wait(-1).code(), Code::kNoMemory);
}

TEST(Job, ReleasingARunningJobCancelsAndJoins) {
  std::atomic<bool> ended{false};
  {
    auto job = Job::start([&](Job::Context& context) {
      while (!context.cancelled()) std::this_thread::yield();
      ended = true;
      return Status(Code::kCancelled, "cancelled");
    });
    ASSERT_TRUE(job.ok());
  }
  EXPECT_TRUE(ended);
}

}  // namespace
}  // namespace nbl

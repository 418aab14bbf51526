// A job whose work finds no memory fails; it does not end the process, however little is left for telling so.
#include "engine/job.h"

#include <atomic>
#include <new>
#include <stdexcept>

#include <gtest/gtest.h>

#include "support/watched_new.h"

namespace {
std::atomic<bool> exhausted{false};
}  // namespace

bool nbl::testing::may_allocate() noexcept { return !exhausted.load(); }

namespace nbl {
namespace {

TEST(JobMemory, AJobThatFindsNoneFails) {
  auto job = Job::start([](Job::Context&) -> Status {
    exhausted = true;
    throw std::bad_alloc();
  });
  ASSERT_TRUE(job.ok());
  const Status status = (*job)->wait(-1);
  exhausted = false;
  EXPECT_EQ(status.code(), Code::kNoMemory);
  EXPECT_NE(status.message().find("out of memory"), std::string::npos);
}

TEST(JobMemory, NorDoesAnotherFaultNeedAny) {
  auto job = Job::start([](Job::Context&) -> Status {
    static const std::logic_error fault("a fault");
    exhausted = true;
    throw fault;
  });
  ASSERT_TRUE(job.ok());
  const Status status = (*job)->wait(-1);
  exhausted = false;
  EXPECT_EQ(status.code(), Code::kNoMemory);
}

}  // namespace
}  // namespace nbl

// A decode step allocates nothing: counted here, where operator new is replaced for the whole process.
#include <atomic>
#include <cstdlib>
#include <new>

#include "api_fixture.h"

namespace {
std::atomic<bool> counting{false};
std::atomic<int64_t> allocations{0};

void* counted(std::size_t size) {
  if (counting.load(std::memory_order_relaxed)) allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* memory = std::malloc(size ? size : 1)) return memory;
  throw std::bad_alloc();
}
}  // namespace

void* operator new(std::size_t size) { return counted(size); }
void* operator new[](std::size_t size) { return counted(size); }
// std::stable_sort asks for its buffer so.
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  if (counting.load(std::memory_order_relaxed)) allocations.fetch_add(1, std::memory_order_relaxed);
  return std::malloc(size ? size : 1);
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

namespace {

TEST(Allocation, ADecodeStepTakesNoMemory) {
  auto session = api::session();
  ASSERT_EQ(nbl_session_append_text(session.get(), "Once upon a time", NBL_NTS, NBL_TOKENIZE_ADD_SPECIAL, nullptr), NBL_OK);
  ASSERT_EQ(nbl_session_set_f64(session.get(), NBL_OPT_TEMPERATURE, 0.8, nullptr), NBL_OK);
  ASSERT_EQ(nbl_session_set_i64(session.get(), NBL_OPT_TOP_K, 40, nullptr), NBL_OK);
  ASSERT_EQ(nbl_session_set_i64(session.get(), NBL_OPT_IGNORE_EOS, 1, nullptr), NBL_OK);
  ASSERT_EQ(nbl_session_begin(session.get(), 200, nullptr), NBL_OK);
  char buffer[256];
  size_t length = 0;
  nbl_token id = 0;
  for (int i = 0; i < 20; ++i) ASSERT_EQ(nbl_session_next(session.get(), &id, buffer, sizeof buffer, &length, nullptr), NBL_OK);
  allocations = 0;
  counting = true;
  for (int i = 0; i < 100; ++i) {
    if (nbl_session_next(session.get(), &id, buffer, sizeof buffer, &length, nullptr) != NBL_OK) break;
  }
  counting = false;
  EXPECT_EQ(allocations.load(), 0);
}

}  // namespace

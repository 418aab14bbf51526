// Memory: a decode step takes none, and a call that gets none fails without harm. Operator new is replaced for the whole
// process; only the allocations of this thread are made to fail.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>
#include <string>
#include <vector>

#include "api_fixture.h"

namespace {
std::atomic<bool> counting{false};
std::atomic<int64_t> allocations{0};
thread_local int64_t fail_in = -1;  // the allocation so many from now fails; negative: none does

void* counted(std::size_t size) {
  if (fail_in >= 0 && fail_in-- == 0) throw std::bad_alloc();
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

std::vector<nbl_token> tokens_of(nbl_session* session) {
  std::vector<nbl_token> ids(4096);
  size_t count = 0;
  EXPECT_EQ(nbl_session_tokens(session, 0, ids.data(), ids.size(), &count, nullptr), NBL_OK);
  ids.resize(count);
  return ids;
}

// Every call of a conversation, with the allocation `fail_at` of each made to fail in turn: it tells NO_MEMORY, and the
// session goes on from a sequence that is right.
TEST(Allocation, ACallThatGetsNoMemoryDoesNoHarm) {
  nbl_config* made = nullptr;
  ASSERT_EQ(nbl_config_create(&made, nullptr), NBL_OK);
  const api::Owned<nbl_config> config(made);
  ASSERT_EQ(nbl_config_set_str(made, NBL_OPT_LOGITS, "all", NBL_NTS, nullptr), NBL_OK);
  auto reference = api::session();
  api::generate(reference.get(), "Once upon a time", 12);
  const std::vector<nbl_token> expected = tokens_of(reference.get());
  const std::vector<nbl_token> prompt(expected.begin(), expected.end() - 12);

  enum Call { kCreate, kAppendText, kAppend, kBegin, kNext, kScore, kCalls };
  for (const bool all_logits : {false, true}) {
    for (int call = 0; call < kCalls; ++call) {
      bool failed = true;
      for (int64_t fail_at = 0; failed; ++fail_at) {
        ASSERT_LT(fail_at, 5000);
        SCOPED_TRACE("call " + std::to_string(call) + ", allocation " + std::to_string(fail_at) + (all_logits ? ", all logits" : ""));
        const nbl_config* options = all_logits ? made : nullptr;
        api::Owned<nbl_session> session;
        if (call != kCreate) session = api::session(options);
        if (call > kAppend) {
          ASSERT_EQ(nbl_session_append(session.get(), prompt.data(), prompt.size(), nullptr), NBL_OK);
        }
        if (call == kNext) {
          ASSERT_EQ(nbl_session_begin(session.get(), 4, nullptr), NBL_OK);
        }
        nbl_status status = NBL_OK;
        nbl_error* error = nullptr;
        nbl_session* created = nullptr;
        char buffer[64];
        float log_probability[2];
        size_t length = 0;
        fail_in = fail_at;
        switch (call) {
          case kCreate: status = nbl_session_create(api::model(), options, &created, &error); break;
          case kAppendText: status = nbl_session_append_text(session.get(), "Once upon a time", NBL_NTS, NBL_TOKENIZE_ADD_SPECIAL, &error); break;
          case kAppend: status = nbl_session_append(session.get(), prompt.data(), prompt.size(), &error); break;
          case kBegin: status = nbl_session_begin(session.get(), 4, &error); break;
          case kNext:
            for (int i = 0; i < 4 && status == NBL_OK; ++i) status = nbl_session_next(session.get(), nullptr, buffer, sizeof buffer, &length, &error);
            break;
          case kScore: status = nbl_session_score(session.get(), expected.data() + prompt.size(), 2, log_probability, &error); break;
        }
        failed = fail_in < 0;
        fail_in = -1;
        nbl_error_release(error);
        ASSERT_EQ(status, failed ? NBL_E_NO_MEMORY : NBL_OK) << nbl_status_name(status);
        if (created != nullptr) session.reset(created);
        if (!session) session = api::session(options);
        ASSERT_EQ(nbl_session_set_f64(session.get(), NBL_OPT_TEMPERATURE, 0, nullptr), NBL_OK);

        const std::vector<nbl_token> kept = tokens_of(session.get());
        ASSERT_LE(kept.size(), expected.size());
        ASSERT_TRUE(std::equal(kept.begin(), kept.end(), expected.begin()));
        if (kept.size() < prompt.size()) {
          const std::vector<nbl_token> rest(prompt.begin() + static_cast<int64_t>(kept.size()), prompt.end());
          ASSERT_EQ(nbl_session_append(session.get(), rest.data(), rest.size(), nullptr), NBL_OK);
        }
        ASSERT_EQ(nbl_session_begin(session.get(), 2, nullptr), NBL_OK);
        while (nbl_session_next(session.get(), nullptr, buffer, sizeof buffer, &length, nullptr) == NBL_OK) {
        }
        const std::vector<nbl_token> found = tokens_of(session.get());
        ASSERT_GE(found.size(), prompt.size() + 2);
        ASSERT_TRUE(std::equal(found.begin(), found.end(), expected.begin()));
      }
    }
  }
}

}  // namespace

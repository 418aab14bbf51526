// Memory: a decode step takes none, and a call that gets none fails without harm. Operator new is replaced for the whole
// process; only the allocations of this thread are made to fail.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <new>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "api_fixture.h"

namespace {
std::atomic<bool> counting{false};
std::atomic<int64_t> allocations{0};
thread_local int64_t fail_in = -1;  // the allocation so many from now fails; negative: none does
thread_local bool fail_on = false;  // and so do all after it
thread_local bool out_of_memory = false;

void* counted(std::size_t size) {
  if ((fail_in >= 0 && fail_in-- == 0) || (out_of_memory && fail_on)) {
    out_of_memory = true;
    throw std::bad_alloc();
  }
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

// For as long as it lives, this thread's allocation number `at` fails; with `on` there is no memory from there on.
class Failing {
 public:
  Failing(int64_t at, bool on) {
    out_of_memory = false;
    fail_on = on;
    fail_in = at;
  }
  ~Failing() { stop(); }
  // Whether an allocation has failed.
  bool stop() {
    fail_in = -1;
    return std::exchange(out_of_memory, false);
  }
};

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

// Every call of a conversation, with the allocation `fail_at` of each made to fail in turn, alone and with all that follow
// it: it tells NO_MEMORY, and the session goes on from a sequence that is right.
TEST(Allocation, ACallThatGetsNoMemoryDoesNoHarm) {
  nbl_config* made = nullptr;
  ASSERT_EQ(nbl_config_create(&made, nullptr), NBL_OK);
  const api::Owned<nbl_config> config(made);
  ASSERT_EQ(nbl_config_set_str(made, NBL_OPT_LOGITS, "all", NBL_NTS, nullptr), NBL_OK);
  auto reference = api::session();
  api::generate(reference.get(), "Once upon a time", 12);
  const std::vector<nbl_token> expected = tokens_of(reference.get());
  const std::vector<nbl_token> prompt(expected.begin(), expected.end() - 12);

  enum Call { kCreate, kAppendText, kAppend, kBegin, kNext, kScore, kDescribe, kCalls };
  for (const bool all_logits : {false, true}) {
    for (int call = 0; call < kCalls; ++call) {
      bool failed = true;
      for (int64_t turn = 0; failed; ++turn) {
        const int64_t fail_at = turn / 2;
        const bool on = turn % 2 != 0;
        ASSERT_LT(fail_at, 5000);
        SCOPED_TRACE("call " + std::to_string(call) + ", allocation " + std::to_string(fail_at) + (on ? " and on" : "") +
                     (all_logits ? ", all logits" : ""));
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
        char* text = nullptr;
        size_t length = 0;
        Failing failing(fail_at, on);
        switch (call) {
          case kCreate: status = nbl_session_create(api::model(), options, &created, &error); break;
          case kAppendText:
            status = nbl_session_append_text(session.get(), "Once upon a time", NBL_NTS, NBL_TOKENIZE_ADD_SPECIAL, &error);
            break;
          case kAppend: status = nbl_session_append(session.get(), prompt.data(), prompt.size(), &error); break;
          case kBegin: status = nbl_session_begin(session.get(), 4, &error); break;
          case kNext:
            for (int i = 0; i < 4 && status == NBL_OK; ++i)
              status = nbl_session_next(session.get(), nullptr, buffer, sizeof buffer, &length, &error);
            break;
          case kScore: status = nbl_session_score(session.get(), expected.data() + prompt.size(), 2, log_probability, &error); break;
          case kDescribe: status = nbl_session_describe(session.get(), &text, &length, &error); break;
        }
        failed = failing.stop();
        nbl_error_release(error);
        nbl_free(text);
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

// Calls that answer with a text, and those that read one: each with every allocation failing in turn.
TEST(Allocation, AnAnswerThatGetsNoMemoryIsAnError) {
  struct Answer {
    char* text = nullptr;
    size_t length = 0;
    nbl_error* error = nullptr;
  };
  using Call = std::function<nbl_status(Answer&)>;
  nbl_config* made = nullptr;
  ASSERT_EQ(nbl_config_create(&made, nullptr), NBL_OK);
  const api::Owned<nbl_config> config(made);
  ASSERT_EQ(nbl_config_set_str(made, NBL_OPT_DEVICE, "cpu", NBL_NTS, nullptr), NBL_OK);
  ASSERT_EQ(nbl_config_add_str(made, NBL_OPT_STOP, "mouse", NBL_NTS, nullptr), NBL_OK);
  const auto session = api::session();
  nbl_model* const model = api::model();
  const std::string& directory = api::model_directory();
  static const char kOptions[] = R"({"temperature": 0.5, "stop_strings": ["a", "b"], "max_memory": {"0": 1000, "cpu": "2GiB"}})";
  static const char kChat[] = R"({"messages": [{"role": "user", "content": "Tell me a story."}], "add_generation_prompt": true})";
  static const char kBroken[] = R"({"messages": [{"role": "user", "content": )";
  const std::vector<std::pair<const char*, Call>> calls = {
      {"build_info", [](Answer& a) { return nbl_build_info(&a.text, &a.length, &a.error); }},
      {"option_describe", [](Answer& a) { return nbl_option_describe(NBL_OPT_CPU_ISA, &a.text, &a.length, &a.error); }},
      {"config_to_json", [&](Answer& a) { return nbl_config_to_json(made, &a.text, &a.length, &a.error); }},
      {"config_merge_json", [&](Answer& a) { return nbl_config_merge_json(made, kOptions, NBL_NTS, &a.error); }},
      {"model_inspect", [&](Answer& a) { return nbl_model_inspect(directory.data(), directory.size(), &a.text, &a.length, &a.error); }},
      {"model_estimate",
       [&](Answer& a) { return nbl_model_estimate(directory.data(), directory.size(), made, &a.text, &a.length, &a.error); }},
      {"model_describe", [&](Answer& a) { return nbl_model_describe(model, &a.text, &a.length, &a.error); }},
      {"session_describe", [&](Answer& a) { return nbl_session_describe(session.get(), &a.text, &a.length, &a.error); }},
      {"chat_render", [&](Answer& a) { return nbl_chat_render(model, kChat, NBL_NTS, &a.text, &a.length, &a.error); }},
      {"chat_render of what is no JSON", [&](Answer& a) { return nbl_chat_render(model, kBroken, NBL_NTS, &a.text, &a.length, &a.error); }},
      {"append_chat", [&](Answer& a) { return nbl_session_append_chat(session.get(), kChat, NBL_NTS, &a.error); }},
      {"device_name", [](Answer& a) { return nbl_device_name(1000, &a.text, &a.length, &a.error); }},
  };
  for (const auto& [name, call] : calls) {
    Answer first;
    const nbl_status expected = call(first);
    const std::string text = api::take(first.text, first.length);
    nbl_error_release(first.error);
    bool failed = true;
    for (int64_t turn = 0; failed; ++turn) {
      // Reading a directory makes many thousands; from the hundredth on it is a growing choice of them.
      const int64_t fail_at = turn / 2 < 100 ? turn / 2 : static_cast<int64_t>(100 * std::pow(1.02, turn / 2 - 100));
      const bool on = turn % 2 != 0;
      SCOPED_TRACE(std::string(name) + ", allocation " + std::to_string(fail_at) + (on ? " and on" : ""));
      Answer answer;
      Failing failing(fail_at, on);
      const nbl_status status = call(answer);
      failed = failing.stop();
      const std::string found = api::take(answer.text, answer.length);
      nbl_error_release(answer.error);
      // An error that finds no memory for its own words is NO_MEMORY's.
      ASSERT_TRUE(failed ? status == NBL_E_NO_MEMORY || status == expected : status == expected) << nbl_status_name(status);
      if (!failed) {
        EXPECT_EQ(found, text);
      }
    }
  }
}

// A load: of its many thousands of allocations the first ones, and a growing choice of the others. What it has read is given back.
TEST(Allocation, ALoadThatGetsNoMemoryIsAnError) {
  nbl_config* made = nullptr;
  ASSERT_EQ(nbl_config_create(&made, nullptr), NBL_OK);
  const api::Owned<nbl_config> config(made);
  ASSERT_EQ(nbl_config_set_str(made, NBL_OPT_DEVICE, "cpu", NBL_NTS, nullptr), NBL_OK);
  const std::string& directory = api::model_directory();
  bool failed = true;
  for (int64_t turn = 0; failed; ++turn) {
    const int64_t fail_at = turn / 2 < 20 ? turn / 2 : static_cast<int64_t>(20 * std::pow(1.05, turn / 2 - 20));
    const bool on = turn % 2 != 0;
    SCOPED_TRACE("allocation " + std::to_string(fail_at) + (on ? " and on" : ""));
    nbl_model* model = nullptr;
    nbl_error* error = nullptr;
    Failing failing(fail_at, on);
    const nbl_status status = nbl_model_load(directory.data(), directory.size(), made, &model, &error);
    failed = failing.stop();
    const api::Owned<nbl_model> owned(model);
    nbl_error_release(error);
    ASSERT_EQ(status, failed ? NBL_E_NO_MEMORY : NBL_OK) << nbl_status_name(status);
    ASSERT_EQ(model != nullptr, !failed);
  }
}

// A batch, at every allocation of every call: no session of it loses or repeats a token.
TEST(Allocation, ABatchThatGetsNoMemoryDoesNoHarm) {
  auto reference = api::session();
  api::generate(reference.get(), "Once upon a time", 6);
  const std::vector<nbl_token> expected = tokens_of(reference.get());
  const std::vector<nbl_token> prompt(expected.begin(), expected.end() - 6);
  enum Call { kCreate, kAdd, kStep, kCalls };
  for (int call = 0; call < kCalls; ++call) {
    bool failed = true;
    for (int64_t turn = 0; failed; ++turn) {
      const int64_t fail_at = turn / 2;
      ASSERT_LT(fail_at, 5000);
      SCOPED_TRACE("call " + std::to_string(call) + ", allocation " + std::to_string(fail_at) + (turn % 2 != 0 ? " and on" : ""));
      api::Owned<nbl_session> sessions[2] = {api::session(), api::session()};
      for (auto& session : sessions) {
        ASSERT_EQ(nbl_session_append(session.get(), prompt.data(), prompt.size(), nullptr), NBL_OK);
        ASSERT_EQ(nbl_session_begin(session.get(), 6, nullptr), NBL_OK);
      }
      nbl_batch* batch = nullptr;
      if (call != kCreate) {
        ASSERT_EQ(nbl_batch_create(api::model(), nullptr, &batch, nullptr), NBL_OK);
      }
      api::Owned<nbl_batch> owned(batch);
      for (auto& session : sessions) {
        if (call == kStep) {
          ASSERT_EQ(nbl_batch_add(batch, session.get(), nullptr), NBL_OK);
        }
      }
      nbl_status status = NBL_OK;
      nbl_error* error = nullptr;
      int64_t active = 0;
      Failing failing(fail_at, turn % 2 != 0);
      switch (call) {
        case kCreate: status = nbl_batch_create(api::model(), nullptr, &batch, &error); break;
        case kAdd: status = nbl_batch_add(batch, sessions[0].get(), &error); break;
        case kStep:
          // Twice: the first tokens are drawn from what the prompts have left, the second ones are computed.
          for (int i = 0; i < 2 && status == NBL_OK; ++i) {
            status = nbl_batch_step(batch, &active, &error);
            for (auto& session : sessions) {
              char buffer[64];
              size_t length = 0;
              if (status == NBL_OK) status = nbl_session_next(session.get(), nullptr, buffer, sizeof buffer, &length, &error);
            }
          }
          break;
      }
      failed = failing.stop();
      nbl_error_release(error);
      ASSERT_EQ(status, failed ? NBL_E_NO_MEMORY : NBL_OK) << nbl_status_name(status);
      if (call == kCreate) owned.reset(batch);
      if (!owned) continue;
      for (auto& session : sessions) nbl_batch_add(owned.get(), session.get(), nullptr);  // STATE where it is in already
      active = 1;
      for (int steps = 0; active > 0 && steps < 20; ++steps) {
        ASSERT_EQ(nbl_batch_step(owned.get(), &active, nullptr), NBL_OK);
        for (auto& session : sessions) {
          char buffer[64];
          size_t length = 0;
          nbl_session_next(session.get(), nullptr, buffer, sizeof buffer, &length, nullptr);
        }
      }
      for (auto& session : sessions) ASSERT_EQ(tokens_of(session.get()), expected);
    }
  }
}

}  // namespace

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "api_fixture.h"

namespace {

TEST(Threads, ManySessionsOfOneModelGiveTheSameTextAsOne) {
  const std::string expected = api::generate(api::session().get(), "Once upon a time", 40);
  std::vector<std::string> found(8);
  std::vector<std::thread> threads;
  for (std::string& text : found) {
    threads.emplace_back([&text] { text = api::generate(api::session().get(), "Once upon a time", 40); });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::string& text : found) EXPECT_EQ(text, expected);
}

TEST(Threads, ASecondCallOnASessionIsBusyNotCorruption) {
  auto session = api::session();
  ASSERT_EQ(nbl_session_set_i64(session.get(), NBL_OPT_IGNORE_EOS, 1, nullptr), NBL_OK);
  std::atomic<bool> stop{false};
  std::atomic<int> busy{0}, odd{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&] {
      while (!stop) {
        char* text = nullptr;
        const nbl_status status = nbl_session_generate(session.get(), "One day", NBL_NTS, 5, &text, nullptr, nullptr);
        if (status == NBL_E_BUSY) {
          ++busy;
        } else if (status != NBL_OK && status != NBL_E_CONTEXT_FULL) {
          ++odd;
        }
        if (status == NBL_OK) nbl_free(text);
        if (status == NBL_E_CONTEXT_FULL) (void)nbl_session_truncate(session.get(), 0, nullptr);
      }
    });
  }
  while (busy < 20 && odd == 0) std::this_thread::yield();
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(odd, 0);
}

TEST(Threads, CancelAtRandomTimesEndsTheCallAndNothingElse) {
  auto session = api::session();
  ASSERT_EQ(nbl_session_set_i64(session.get(), NBL_OPT_IGNORE_EOS, 1, nullptr), NBL_OK);
  std::mt19937 random(5);
  for (int round = 0; round < 20; ++round) {
    ASSERT_EQ(nbl_session_truncate(session.get(), 0, nullptr), NBL_OK);
    ASSERT_EQ(nbl_session_append_text(session.get(), "Once upon a time", NBL_NTS, NBL_TOKENIZE_ADD_SPECIAL, nullptr), NBL_OK);
    ASSERT_EQ(nbl_session_begin(session.get(), 400, nullptr), NBL_OK);
    std::thread canceller([&session, pause = random() % 5000] {
      std::this_thread::sleep_for(std::chrono::microseconds(pause));
      nbl_session_cancel(session.get());
    });
    nbl_status status = NBL_OK;
    char buffer[256];
    size_t length = 0;
    while (status == NBL_OK) status = nbl_session_next(session.get(), nullptr, buffer, sizeof buffer, &length, nullptr);
    canceller.join();
    EXPECT_TRUE(status == NBL_E_CANCELLED || status == NBL_DONE) << nbl_status_name(status);
  }
  EXPECT_FALSE(api::generate(session.get(), " and", 5).empty());
}

TEST(Threads, CancellingALoadEndsIt) {
  for (int round = 0; round < 20; ++round) {
    nbl_job* job = nullptr;
    ASSERT_EQ(nbl_model_load_start(api::model_directory().data(), api::model_directory().size(), nullptr, &job, nullptr), NBL_OK);
    nbl_job_cancel(job);
    const nbl_status status = nbl_job_wait(job, -1, nullptr);
    EXPECT_TRUE(status == NBL_E_CANCELLED || status == NBL_OK) << nbl_status_name(status);
    nbl_job_release(job);
  }
}

// Everything that a model tells, and sessions made of it, while its weights are packed anew again and again.
TEST(Threads, AModelIsReadWhileItMoves) {
  nbl_config* made = nullptr;
  ASSERT_EQ(nbl_config_create(&made, nullptr), NBL_OK);
  const api::Owned<nbl_config> config(made);
  ASSERT_EQ(nbl_config_set_str(made, NBL_OPT_DEVICE, "cpu", NBL_NTS, nullptr), NBL_OK);
  nbl_model* loaded = nullptr;
  ASSERT_EQ(nbl_model_load(api::model_directory().data(), api::model_directory().size(), made, &loaded, nullptr), NBL_OK);
  const api::Owned<nbl_model> model(loaded);
  int64_t layers = 0;
  ASSERT_EQ(nbl_model_i64(loaded, NBL_PROP_LAYERS, &layers, nullptr), NBL_OK);
  const std::string expected = api::generate(api::session().get(), "Once upon a time", 5);

  std::atomic<bool> stop{false};
  std::atomic<int> odd{0};
  std::vector<std::thread> threads;
  threads.emplace_back([&] {
    while (!stop) {
      int64_t value = 0;
      odd += nbl_model_i64(loaded, NBL_PROP_LAYERS, &value, nullptr) != NBL_OK || value != layers;
      odd += nbl_model_i64(loaded, NBL_PROP_FOOTPRINT, &value, nullptr) != NBL_OK || value <= 0;
      char* text = nullptr;
      odd += nbl_model_str(loaded, NBL_PROP_BACKEND_DESCRIPTION, &text, nullptr, nullptr) != NBL_OK;
      nbl_free(text);
      odd += nbl_model_describe(loaded, &text, nullptr, nullptr) != NBL_OK;
      nbl_free(text);
    }
  });
  threads.emplace_back([&] {
    while (!stop) {
      nbl_session* session = nullptr;
      odd += nbl_session_create(loaded, nullptr, &session, nullptr) != NBL_OK;
      const api::Owned<nbl_session> owned(session);
      odd += nbl_session_set_f64(session, NBL_OPT_TEMPERATURE, 0, nullptr) != NBL_OK;
      odd += api::generate(session, "Once upon a time", 5) != expected;
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  });
  for (int moved = 0; moved < 5 && odd == 0;) {
    const nbl_status status = nbl_model_move(loaded, NBL_DEVICE_CPU, nullptr);
    moved += status == NBL_OK;
    odd += status != NBL_OK && status != NBL_E_BUSY;
    std::this_thread::yield();
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(odd, 0);
}

// Neither the tokens of one repetition nor those of one window are run to their end first.
// Python's multiprocessing forks. A model with threads cannot compute there, and says so; it can be released, and one with
// one thread computes.
TEST(Threads, AForkedProcessIsToldAndDoesNotHang) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "ThreadSanitizer ends what is forked from several threads";
#endif
  const auto in_child = [](int64_t threads) {
    nbl_config* config = nullptr;
    nbl_model* model = nullptr;
    nbl_session* session = nullptr;
    EXPECT_EQ(nbl_config_create(&config, nullptr), NBL_OK);
    EXPECT_EQ(nbl_config_set_i64(config, NBL_OPT_N_THREADS, threads, nullptr), NBL_OK);
    EXPECT_EQ(nbl_config_set_str(config, NBL_OPT_DEVICE, "cpu", NBL_NTS, nullptr), NBL_OK);
    EXPECT_EQ(nbl_model_load(api::model_directory().c_str(), NBL_NTS, config, &model, nullptr), NBL_OK);
    nbl_config_release(config);
    EXPECT_EQ(nbl_session_create(model, nullptr, &session, nullptr), NBL_OK);
    api::generate(session, "Once upon a time", 3);
    const pid_t child = fork();
    if (child == 0) {
      alarm(60);
      char* text = nullptr;
      nbl_error* error = nullptr;
      const nbl_status status = nbl_session_generate(session, " and", NBL_NTS, 3, &text, nullptr, &error);
      const bool told = status == NBL_E_STATE && std::strstr(nbl_error_message(error, nullptr), "forked");
      nbl_session_release(session);
      nbl_model_release(model);
      _exit(status == NBL_OK ? 0 : told ? 1 : 2);
    }
    int outcome = 0;
    EXPECT_EQ(waitpid(child, &outcome, 0), child);
    api::generate(session, " and then", 3);
    nbl_session_release(session);
    nbl_model_release(model);
    return WIFEXITED(outcome) ? WEXITSTATUS(outcome) : 100 + WTERMSIG(outcome);
  };
  EXPECT_EQ(in_child(2), 1);
  EXPECT_EQ(in_child(1), 0);
}

TEST(Threads, CancellingAMeasurementEndsIt) {
  nbl_config* made = nullptr;
  ASSERT_EQ(nbl_config_create(&made, nullptr), NBL_OK);
  const api::Owned<nbl_config> config(made);
  ASSERT_EQ(nbl_config_set_i64(made, NBL_OPT_BENCH_DECODE, 1 << 20, nullptr), NBL_OK);
  ASSERT_EQ(nbl_config_set_i64(made, NBL_OPT_PERPLEXITY_WINDOW, 1 << 16, nullptr), NBL_OK);
  std::string text;
  for (int i = 0; i < 50000; ++i) text += "a dog and a cat ";
  for (const bool bench : {true, false}) {
    nbl_job* job = nullptr;
    ASSERT_EQ(bench ? nbl_bench_start(api::model(), made, &job, nullptr)
                    : nbl_perplexity_start(api::model(), made, text.data(), text.size(), &job, nullptr), NBL_OK);
    const api::Owned<nbl_job> owned(job);
    EXPECT_EQ(nbl_job_wait(job, 20, nullptr), NBL_PENDING);
    nbl_job_cancel(job);
    EXPECT_EQ(nbl_job_wait(job, -1, nullptr), NBL_E_CANCELLED);
  }
}

}  // namespace

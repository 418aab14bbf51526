#include "base/log.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>

namespace nbl {
namespace {

constexpr size_t kMostWaiting = 1000;

struct Line {
  int32_t level;
  std::string text;
};

struct Log {
  std::mutex mutex;
  std::condition_variable arrived;
  std::deque<Line> waiting;
  LogCallback callback = nullptr;
  void* user = nullptr;
};

// Never destroyed: threads may still log while the process ends.
Log& the_log() {
  static Log& log = *new Log();
  return log;
}

std::atomic<int32_t> current_level{0};

}  // namespace

void set_log_level(int32_t level) { current_level.store(level, std::memory_order_relaxed); }

void set_log_callback(LogCallback callback, void* user) {
  Log& log = the_log();
  std::lock_guard<std::mutex> lock(log.mutex);
  log.callback = callback;
  log.user = user;
}

bool log_wanted(LogLevel level) { return static_cast<int32_t>(level) <= current_level.load(std::memory_order_relaxed); }

void log_line(LogLevel level, std::string text) {
  if (!log_wanted(level)) return;
  Log& log = the_log();
  std::unique_lock<std::mutex> lock(log.mutex);
  if (log.callback) {
    // Under the lock, so that a callback that has been replaced is not called any more.
    log.callback(static_cast<int32_t>(level), text.data(), text.size(), log.user);
    return;
  }
  if (log.waiting.size() == kMostWaiting) log.waiting.pop_front();
  log.waiting.push_back({static_cast<int32_t>(level), std::move(text)});
  lock.unlock();
  log.arrived.notify_one();
}

bool log_peek(int timeout_ms, int32_t* level, std::string* text) {
  Log& log = the_log();
  std::unique_lock<std::mutex> lock(log.mutex);
  const auto any = [&log] { return !log.waiting.empty(); };
  if (timeout_ms < 0) {
    log.arrived.wait(lock, any);
  } else if (!log.arrived.wait_for(lock, std::chrono::milliseconds(timeout_ms), any)) {
    return false;
  }
  *level = log.waiting.front().level;
  *text = log.waiting.front().text;
  return true;
}

void log_take(const std::string& text) {
  Log& log = the_log();
  std::lock_guard<std::mutex> lock(log.mutex);
  if (!log.waiting.empty() && log.waiting.front().text == text) log.waiting.pop_front();
}

}  // namespace nbl

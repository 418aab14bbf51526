// Job: a long operation on a thread of its own, with progress, cancel and a result. Releasing it cancels and joins.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "base/json.h"
#include "base/status.h"
#include "engine/model.h"

namespace nbl {

class Job {
 public:
  // What the operation sees of its job.
  class Context {
   public:
    explicit Context(Job& job) : job_(job) {}
    bool cancelled() const { return job_.cancel_.load(std::memory_order_relaxed); }
    const std::atomic<bool>* cancel_flag() const { return &job_.cancel_; }
    void progress(uint64_t done, uint64_t total);
    void stage(std::string text);
    void memory(uint64_t bytes);                 // keeps the largest
    void result(Json value);
    void model(std::shared_ptr<Model> model);

   private:
    Job& job_;
  };
  using Work = std::function<Status(Context&)>;

  static Result<std::shared_ptr<Job>> start(Work work);
  ~Job();                                        // cancels and joins

  // kOk when it has succeeded, kPending when timeout_ms passed first (< 0: waits for ever), else its failure.
  Status wait(int timeout_ms) const;
  void cancel() { cancel_.store(true, std::memory_order_relaxed); }
  void progress(uint64_t* done, uint64_t* total) const;
  std::string stage() const;
  uint64_t peak_memory() const;
  Result<Json> result() const;                   // kState while it runs or when it failed
  Result<std::shared_ptr<Model>> take_model();   // once; kState otherwise

 private:
  Job() = default;
  void run(const Work& work);
  Status internal(const char* problem) const noexcept;

  const Status no_memory_{Code::kNoMemory, "out of memory; free other models and sessions, or ask for less"};  // made while there is some
  mutable std::mutex mutex_;
  mutable std::condition_variable finished_;
  bool done_ = false;
  Status status_;
  Json result_;
  bool has_result_ = false;
  std::shared_ptr<Model> model_;
  std::string stage_;
  uint64_t progress_done_ = 0, progress_total_ = 0, memory_ = 0;
  std::atomic<bool> cancel_{false};
  std::thread thread_;
};

}  // namespace nbl

#include "engine/job.h"

#include <new>
#include <system_error>

namespace nbl {

void Job::Context::progress(uint64_t done, uint64_t total) {
  std::lock_guard<std::mutex> lock(job_.mutex_);
  job_.progress_done_ = done;
  job_.progress_total_ = total;
}

void Job::Context::stage(std::string text) {
  std::lock_guard<std::mutex> lock(job_.mutex_);
  job_.stage_ = std::move(text);
}

void Job::Context::memory(uint64_t bytes) {
  std::lock_guard<std::mutex> lock(job_.mutex_);
  job_.memory_ = std::max(job_.memory_, bytes);
}

void Job::Context::result(Json value) {
  std::lock_guard<std::mutex> lock(job_.mutex_);
  job_.result_ = std::move(value);
  job_.has_result_ = true;
}

void Job::Context::model(std::shared_ptr<Model> model) {
  std::lock_guard<std::mutex> lock(job_.mutex_);
  job_.model_ = std::move(model);
}

Result<std::shared_ptr<Job>> Job::start(Work work) {
  std::shared_ptr<Job> job(new Job());
  try {
    // The thread borrows the job, whose destructor joins it.
    job->thread_ = std::thread([raw = job.get(), work = std::move(work)] { raw->run(work); });
  } catch (const std::system_error& problem) {
    return error(Code::kNoMemory, "the system gave no thread for the job: %s", problem.what());
  }
  return job;
}

Job::~Job() {
  cancel();
  if (thread_.joinable()) thread_.join();
}

// Nothing may be thrown here: it would leave the thread and end the process.
Status Job::internal(const char* problem) const noexcept {
  try {
    return Status(Code::kInternal, problem);
  } catch (...) {
    return no_memory_;
  }
}

void Job::run(const Work& work) {
  Context context(*this);
  Status status;
  try {
    status = work(context);
  } catch (const std::bad_alloc&) {
    status = no_memory_;
  } catch (const std::exception& problem) {
    status = internal(problem.what());
  } catch (...) {
    status = internal("an exception of an unknown type");
  }
  std::lock_guard<std::mutex> lock(mutex_);
  status_ = std::move(status);
  done_ = true;
  finished_.notify_all();
}

Status Job::wait(int timeout_ms) const {
  std::unique_lock<std::mutex> lock(mutex_);
  const auto is_done = [this] { return done_; };
  if (timeout_ms < 0) {
    finished_.wait(lock, is_done);
  } else if (!finished_.wait_for(lock, std::chrono::milliseconds(timeout_ms), is_done)) {
    return Status(Code::kPending, "the job is still running");
  }
  return status_;
}

void Job::progress(uint64_t* done, uint64_t* total) const {
  std::lock_guard<std::mutex> lock(mutex_);
  *done = progress_done_;
  *total = progress_total_;
}

std::string Job::stage() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return stage_;
}

uint64_t Job::peak_memory() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return memory_;
}

Result<Json> Job::result() const {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!done_) return error(Code::kState, "the job is still running; wait for it first");
  if (!status_.ok()) return status_;
  if (!has_result_) return error(Code::kState, "this kind of job has no result object");
  return result_;
}

Result<std::shared_ptr<Model>> Job::take_model() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!done_) return error(Code::kState, "the job is still running; wait for it first");
  if (!status_.ok()) return status_;
  if (!model_) return error(Code::kState, "this job holds no model, or its model was taken already");
  return std::move(model_);
}

}  // namespace nbl

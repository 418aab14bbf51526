// nbl_job_* and the measurements that run as jobs.
#include "engine/job.h"

#include "api/guard.h"
#include "api/impl.gen.h"
#include "api/options.h"
#include "engine/measure.h"

namespace nbl::impl {
namespace {

Status start(Job::Work work, nbl_job** out) {
  auto handle = std::make_unique<nbl_job>();
  NBL_ASSIGN_OR_RETURN(handle->job, Job::start(std::move(work)));
  *out = handle.release();
  return {};
}

}  // namespace

Status perplexity_start(nbl_model* m, const nbl_config* c, std::string_view text, nbl_job** out) {
  NBL_ASSIGN_OR_RETURN(const PerplexityOptions options, api::perplexity_options(c));
  return start(
      [model = m->model, options, text = std::string(text)](Job::Context& job) -> Status {
        NBL_ASSIGN_OR_RETURN(Json result, measure_perplexity(model, options, text, job));
        job.result(std::move(result));
        return {};
      },
      out);
}

Status bench_start(nbl_model* m, const nbl_config* c, nbl_job** out) {
  NBL_ASSIGN_OR_RETURN(const BenchOptions options, api::bench_options(c));
  return start(
      [model = m->model, options](Job::Context& job) -> Status {
        NBL_ASSIGN_OR_RETURN(Json result, measure_speed(model, options, job));
        job.result(std::move(result));
        return {};
      },
      out);
}

Status job_wait(nbl_job* j, int32_t timeout_ms) { return j->job->wait(timeout_ms); }

Status job_progress(const nbl_job* j, uint64_t* done, uint64_t* total) {
  j->job->progress(done, total);
  return {};
}

Status job_stage(const nbl_job* j, std::string& out) {
  out = j->job->stage();
  return {};
}

void job_cancel(nbl_job* j) noexcept {
  if (j) j->job->cancel();
}

Status job_take_model(nbl_job* j, nbl_model** out) {
  auto handle = std::make_unique<nbl_model>();
  NBL_ASSIGN_OR_RETURN(handle->model, j->job->take_model());
  *out = handle.release();
  return {};
}

Status job_result(const nbl_job* j, std::string& out) {
  NBL_ASSIGN_OR_RETURN(const Json result, j->job->result());
  out = to_text(result);
  return {};
}

Status job_memory(const nbl_job* j, uint64_t* peak_bytes) {
  *peak_bytes = j->job->peak_memory();
  return {};
}

void job_release(nbl_job* j) noexcept { delete j; }

}  // namespace nbl::impl

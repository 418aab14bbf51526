// Steps that were begun and are not finished: the host launches the next step before it knows what the last one drew, since
// the token is read on the device. Up to kMostInFlight follow one another on the plan's stream; an event ends each.
#include <algorithm>

#include "kernels/cuda/plan/plan.h"
#include "kernels/rope.h"

namespace nbl::cuda {

Status CudaPlan::begin(const Batch& batch) {
  DeviceScope scope(traits_.device);
  NBL_RETURN_IF_ERROR(scope.status());
  abandon();
  NBL_RETURN_IF_ERROR(check(batch));
  for (const BatchSequence& s : batch.sequences) {
    if (s.draw == nullptr) return error(Code::kArgument, "a step that is begun draws for every sequence");
  }
  NBL_RETURN_IF_ERROR(prepare(batch));
  flying_.clear();
  for (const BatchSequence& s : batch.sequences) flying_.push_back({static_cast<CudaKvCache*>(s.cache), s.token_count});
  begun_steps_ = finished_steps_ = 0;
  Status status = upload(batch);
  if (status.ok()) status = fly();
  if (!status.ok()) cudaStreamSynchronize(stream_.get());
  return status;
}

// Launches the prepared step and marks its end.
Status CudaPlan::fly() {
  Flight& flight = flights_[begun_steps_ % kMostInFlight];
  flight.started_ns = now_ns();
  NBL_RETURN_IF_ERROR(launch(nullptr));
  NBL_CUDA(cudaEventRecord(flight.end.get(), stream_.get()));
  ++begun_steps_;
  return {};
}

bool CudaPlan::can_follow() const {
  const int64_t in_flight = begun_steps_ - finished_steps_;
  if (in_flight < 1 || in_flight >= kMostInFlight || !decode_) return false;
  // The frequencies of the oldest step are those of all: no host comes between them.
  const Rope& rope = decoder_->decoder().rope;
  return std::all_of(flying_.begin(), flying_.end(), [&](const Flying& f) {
    const int64_t length = f.cache->length(), next = length + in_flight;
    return next < f.cache->capacity() && rope_stays(rope, length + 1, next + 1);
  });
}

Status CudaPlan::follow() {
  DeviceScope scope(traits_.device);
  NBL_RETURN_IF_ERROR(scope.status());
  if (!can_follow()) return error(Code::kState, "there is no step that another could follow");
  int64_t longest = 0;
  for (const Flying& f : flying_) longest = std::max(longest, f.cache->length());
  choose_splits(longest + begun_steps_ - finished_steps_ + 1);
  return fly();
}

Status CudaPlan::finish(DrawnToken* drawn) {
  DeviceScope scope(traits_.device);
  NBL_RETURN_IF_ERROR(scope.status());
  if (begun_steps_ == finished_steps_) return error(Code::kState, "no step is in flight");
  const Flight& flight = flights_[finished_steps_ % kMostInFlight];
  const Status status = [&]() -> Status {
    NBL_CUDA(cudaEventSynchronize(flight.end.get()));
    return {};
  }();
  if (!status.ok()) {
    abandon();
    return status;
  }
  // The device worked since the host began the step, but not before the step in front of it ended.
  int64_t ns = now_ns() - flight.started_ns;
  float since_last_ms = 0;
  if (finished_steps_ > 0 &&
      cudaEventElapsedTime(&since_last_ms, flights_[(finished_steps_ - 1) % kMostInFlight].end.get(), flight.end.get()) == cudaSuccess) {
    ns = std::min(ns, static_cast<int64_t>(static_cast<double>(since_last_ms) * 1e6));
  }
  for (size_t i = 0; i < flying_.size(); ++i) {
    drawn[i] = {draws_->id(finished_steps_, static_cast<int64_t>(i)), ns};
    flying_[i].cache->grow(flying_[i].count);
    flying_[i].count = 1;
    const bool recorded = drawn[i].id >= 0 && decode_ && draws_->records(static_cast<int64_t>(i));
    if (recorded) flying_[i].cache->set_recorded(flying_[i].cache->length() + 1);
  }
  ++finished_steps_;
  return {};
}

void CudaPlan::abandon() {
  if (begun_steps_ == finished_steps_) return;
  DeviceScope scope(traits_.device);
  cudaStreamSynchronize(stream_.get());
  cudaGetLastError();
  begun_steps_ = finished_steps_;
}

}  // namespace nbl::cuda

#include "engine/batch.h"

#include <algorithm>

#include "engine/clock.h"

namespace nbl {

Result<std::shared_ptr<SessionBatch>> SessionBatch::create(std::shared_ptr<Model> model, const BatchOptions& options) {
  std::shared_ptr<SessionBatch> batch(new SessionBatch());
  batch->model_ = std::move(model);
  batch->options_ = options;
  batch->sessions_.reserve(options.max_sequences);
  batch->stepped_.reserve(options.max_sequences);
  batch->batch_.sequences.reserve(options.max_sequences);
  batch->logits_.resize(options.max_sequences * batch->model_->config().vocab_size);
  batch->drawn_.resize(options.max_sequences);
  return batch;
}

// The plan is made for the longest context among the sessions; a longer one makes a new plan. The model does not move
// while it has sessions.
Status SessionBatch::ensure_plan(int64_t context) {
  if (plan_ && context <= plan_context_) return {};
  std::shared_ptr<const Model::Placement> placement = model_->placement();
  PlanLimits limits;
  limits.max_sequences = limits.max_logit_rows = limits.max_draws = options_.max_sequences;
  // One token a session; a session one of whose steps failed may owe two.
  limits.max_tokens = 2 * options_.max_sequences;
  limits.max_context = context;
  NBL_ASSIGN_OR_RETURN(plan_, placement->backend->compile(placement->decoder, limits));
  placement_ = std::move(placement);
  plan_context_ = context;
  return {};
}

Status SessionBatch::add(std::shared_ptr<Session> session) {
  if (&session->model() != model_.get()) return error(Code::kState, "the session belongs to another model than the batch");
  if (size() >= options_.max_sequences) {
    return error(Code::kState, "the batch is full: it was made for %lld sessions", static_cast<long long>(options_.max_sequences));
  }
  const auto same = [&](const std::shared_ptr<Session>& other) { return other == session; };
  if (std::any_of(sessions_.begin(), sessions_.end(), same)) return error(Code::kState, "the session is in the batch already");
  NBL_RETURN_IF_ERROR(ensure_plan(session->context()));
  sessions_.push_back(std::move(session));
  return {};
}

Status SessionBatch::remove(const Session& session) {
  const auto found =
      std::find_if(sessions_.begin(), sessions_.end(), [&](const std::shared_ptr<Session>& other) { return other.get() == &session; });
  if (found == sessions_.end()) return error(Code::kNotFound, "the session is not in this batch");
  sessions_.erase(found);
  if (sessions_.empty()) {
    plan_.reset();
    placement_.reset();
  }
  return {};
}

namespace {

// Holds every session of a batch while it is stepped, so that a second thread finds them busy.
class Hold {
 public:
  Status take(const std::vector<std::shared_ptr<Session>>& sessions) {
    sessions_ = &sessions;
    for (const std::shared_ptr<Session>& session : sessions) {
      if (!session->try_acquire()) return error(Code::kBusy, "a session of the batch is in use by another thread");
      ++held_;
    }
    return {};
  }
  ~Hold() {
    for (size_t i = 0; i < held_; ++i) (*sessions_)[i]->release();
  }

 private:
  const std::vector<std::shared_ptr<Session>>* sessions_ = nullptr;
  size_t held_ = 0;
};

}  // namespace

Status SessionBatch::step(int64_t* active) {
  Hold hold;
  NBL_RETURN_IF_ERROR(hold.take(sessions_));
  batch_.sequences.clear();
  stepped_.clear();
  for (const std::shared_ptr<Session>& session : sessions_) {
    if (!session->wants_step()) continue;
    if (session->can_draw()) {
      NBL_RETURN_IF_ERROR(session->draw());
    } else {
      stepped_.push_back(session.get());
      batch_.sequences.push_back(session->step_input(*plan_));
    }
  }
  if (!stepped_.empty()) {
    batch_.logits = logits_.data();
    batch_.drawn = drawn_.data();
    const int64_t start = now_ns();
    NBL_RETURN_IF_ERROR(plan_->step(batch_));
    const int64_t ns = now_ns() - start;
    const int64_t vocab_size = model_->config().vocab_size;
    const float* logits = logits_.data();
    for (size_t i = 0; i < stepped_.size(); ++i) {
      if (batch_.sequences[i].draw != nullptr) {
        stepped_[i]->accept_drawn({drawn_[i].id, ns});
      } else {
        NBL_RETURN_IF_ERROR(stepped_[i]->accept_step(logits, ns));
        logits += vocab_size;
      }
    }
  }
  *active = std::count_if(sessions_.begin(), sessions_.end(), [](const std::shared_ptr<Session>& s) { return s->generating(); });
  return {};
}

}  // namespace nbl

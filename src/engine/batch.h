// Batch: steps many sessions of one model together, driven by the host's own loop (no hidden thread).
//
// step() advances every session that is generating and has no token waiting; Session::next() on each then never waits.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/status.h"
#include "engine/session.h"

namespace nbl {

struct BatchOptions {
  int64_t max_sequences = 64;
};

class SessionBatch {
 public:
  static Result<std::shared_ptr<SessionBatch>> create(std::shared_ptr<Model> model, const BatchOptions& options);

  Status add(std::shared_ptr<Session> session);      // kState: another model, already in, or full
  Status remove(const Session& session);             // kNotFound when it is not in
  // One token for each session that is due; *active = sessions whose generation goes on. A session in use by another
  // thread is kBusy and nothing is stepped. A failure ends no session: it is told and may be tried again.
  Status step(int64_t* active);
  int64_t size() const { return static_cast<int64_t>(sessions_.size()); }
  // 0 while it holds no session: it then holds no plan either, and with it no weights.
  int64_t scratch_bytes() const { return plan_ ? plan_->scratch_bytes() : 0; }

 private:
  SessionBatch() = default;
  Status ensure_plan(int64_t context);

  std::shared_ptr<Model> model_;
  BatchOptions options_;
  std::vector<std::shared_ptr<Session>> sessions_;
  std::shared_ptr<const Model::Placement> placement_;  // of plan_; both null without sessions, so that a model that moves
                                                       // leaves nothing behind
  std::unique_ptr<Plan> plan_;
  int64_t plan_context_ = 0;
  Batch batch_;                                      // kept so that a step allocates nothing
  std::vector<Session*> stepped_;
  std::vector<float> logits_;                        // [max_sequences, vocab_size], of sessions that draw on the host
  std::vector<DrawnToken> drawn_;                    // [max_sequences]
};

}  // namespace nbl

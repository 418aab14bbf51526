// Sessions that step together.
#include "engine/batch.h"

#include "engine/session_fixture.h"

namespace nbl {
namespace {

using fake::continuation;

TEST_P(SessionTest, ABatchWithoutSessionsHoldsNoPlan) {
  auto batch = SessionBatch::create(model, {});
  ASSERT_TRUE(batch.ok());
  for (int round = 0; round < 2; ++round) {
    auto session = make(), other = make();
    ASSERT_TRUE((*batch)->add(session).ok());
    ASSERT_TRUE((*batch)->add(other).ok());
    EXPECT_EQ(control.plans, 3);
    ASSERT_TRUE((*batch)->remove(*session).ok());
    EXPECT_EQ(control.plans, 3);
    ASSERT_TRUE(other->append(kPrompt.data(), 5).ok());
    ASSERT_TRUE(other->begin(1).ok());
    int64_t active = 0;
    ASSERT_TRUE((*batch)->step(&active).ok());
    EXPECT_EQ(drain(*other), continuation(kPrompt, 1));
    ASSERT_TRUE((*batch)->remove(*other).ok());
    EXPECT_EQ(control.plans, 2);
    EXPECT_EQ((*batch)->scratch_bytes(), 0);
    EXPECT_TRUE((*batch)->step(&active).ok());
  }
  EXPECT_EQ(control.plans, 0);
}

TEST_P(SessionTest, BatchStepsManySessionsAtOnce) {
  BatchOptions options;
  options.max_sequences = 5;
  auto batch = SessionBatch::create(model, options);
  ASSERT_TRUE(batch.ok());
  std::vector<std::shared_ptr<Session>> sessions;
  std::vector<std::vector<int32_t>> prompts, found(5);
  for (int i = 0; i < 5; ++i) {
    sessions.push_back(make());
    prompts.push_back({i + 1, 2 * i + 1});
    ASSERT_TRUE(sessions[i]->append(prompts[i].data(), 2).ok());
    ASSERT_TRUE((*batch)->add(sessions[i]).ok());
    ASSERT_TRUE(sessions[i]->begin(3 + i).ok());
  }
  EXPECT_EQ((*batch)->add(sessions[0]).code(), Code::kState);
  int64_t active = 5;
  while (active > 0) {
    ASSERT_TRUE((*batch)->step(&active).ok());
    for (int i = 0; i < 5; ++i) {
      const GeneratedToken* token = nullptr;
      if (!sessions[i]->next(&token).ok()) continue;
      found[i].push_back(token->id);
      sessions[i]->take();
    }
    active = std::count_if(sessions.begin(), sessions.end(), [](auto& s) { return s->generating(); });
  }
  EXPECT_EQ(control.largest_batch, 5);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(found[i], continuation(prompts[i], 3 + i));
  EXPECT_TRUE((*batch)->remove(*sessions[2]).ok());
  EXPECT_EQ((*batch)->remove(*sessions[2]).code(), Code::kNotFound);
}

TEST_P(SessionTest, ABatchFindsASessionInUseBusy) {
  auto batch = SessionBatch::create(model, {});
  ASSERT_TRUE(batch.ok());
  auto session = make();
  ASSERT_TRUE(session->append(kPrompt.data(), 5).ok());
  ASSERT_TRUE(session->begin(3).ok());
  ASSERT_TRUE((*batch)->add(session).ok());
  ASSERT_TRUE(session->try_acquire());
  int64_t active = 0;
  EXPECT_EQ((*batch)->step(&active).code(), Code::kBusy);
  session->release();
  EXPECT_TRUE((*batch)->step(&active).ok());
  EXPECT_TRUE(session->try_acquire());  // given back after the step
  session->release();
}

// What a batch draws on the device and what it brings to the host (a session that reads logits) share a step.
TEST_P(SessionTest, ABatchDrawsForSomeAndGivesLogitsToOthers) {
  BatchOptions options;
  options.max_sequences = 3;
  auto batch = SessionBatch::create(model, options);
  ASSERT_TRUE(batch.ok());
  std::vector<std::shared_ptr<Session>> sessions;
  std::vector<std::vector<int32_t>> found(3);
  for (int i = 0; i < 3; ++i) {
    sessions.push_back(make());
    ASSERT_TRUE(sessions[i]->append(kPrompt.data(), 2 + i).ok());
    ASSERT_TRUE((*batch)->add(sessions[i]).ok());
    ASSERT_TRUE(sessions[i]->begin(8).ok());
  }
  for (int round = 0; round < 8; ++round) {
    int64_t active = 0;
    ASSERT_TRUE((*batch)->step(&active).ok());
    for (int i = 0; i < 3; ++i) {
      const GeneratedToken* token = nullptr;
      ASSERT_TRUE(sessions[i]->next(&token).ok());
      found[i].push_back(token->id);
      sessions[i]->take();
      const float* logits = nullptr;
      int64_t rows = 0;
      if (i == 1) {
        ASSERT_TRUE(sessions[i]->logits(&logits, &rows).ok());
        EXPECT_EQ(logits[token->id], 5.0f);
      }
    }
  }
  for (int i = 0; i < 3; ++i) EXPECT_EQ(found[i], continuation({kPrompt.begin(), kPrompt.begin() + 2 + i}, 8));
}

}  // namespace
}  // namespace nbl

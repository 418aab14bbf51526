// What a session keeps when a step, a prompt or a text fails: everything that was there before.
#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/batch.h"
#include "engine/session_fixture.h"

namespace nbl {
namespace {

using fake::continuation;

TEST_P(SessionTest, AFailedStepLosesNothing) {
  auto session = make();
  ASSERT_TRUE(session->append(kPrompt.data(), 5).ok());
  ASSERT_TRUE(session->begin(10).ok());
  std::vector<int32_t> found = drain(*session, 2);
  control.fail_in_steps = 0;
  // A step that ran ahead before is still delivered.
  for (int32_t id : drain(*session)) found.push_back(id);
  EXPECT_LE(found.size(), GetParam() ? 3u : 2u);
  EXPECT_EQ(last.code(), Code::kDevice);
  for (int32_t id : drain(*session)) found.push_back(id);
  EXPECT_EQ(found, continuation(kPrompt, 10));
}

TEST_P(SessionTest, AFailedPrefillKeepsWhatWasComplete) {
  SessionOptions options;
  options.prefill_chunk = 2;
  auto session = make(options);
  control.fail_in_steps = 1;
  EXPECT_EQ(session->append(kPrompt.data(), 5).code(), Code::kDevice);
  EXPECT_EQ(session->tokens(), (std::vector<int32_t>{3, 1}));
  ASSERT_TRUE(session->begin(3).ok());
  EXPECT_EQ(drain(*session), continuation({3, 1}, 3));
}

TEST_P(SessionTest, AFailedPrefillBehindAnAnswerKeepsTheAnswer) {
  auto session = make();
  ASSERT_TRUE(session->append(kPrompt.data(), 5).ok());
  ASSERT_TRUE(session->begin(2).ok());
  std::vector<int32_t> all = kPrompt;
  for (int32_t id : drain(*session)) all.push_back(id);
  control.fail_in_steps = 0;
  EXPECT_FALSE(session->append(kPrompt.data(), 5).ok());
  EXPECT_EQ(session->tokens(), all);
  ASSERT_TRUE(session->begin(2).ok());
  EXPECT_EQ(drain(*session), continuation(all, 2));
}

// What a model computes may be no numbers: then there is no answer, and that is told.
TEST_P(SessionTest, NoTokenIsDrawnFromLogitsThatAreNotFinite) {
  for (const double temperature : {0.0, 1.0}) {
    control.broken_behind = 8;
    auto session = make();
    ASSERT_TRUE(session->append(kPrompt.data(), 5).ok());
    session->generation().sampling.temperature = temperature;
    session->generation().sampling.top_k = 1;
    ASSERT_TRUE(session->begin(10).ok());
    EXPECT_EQ(drain(*session), continuation(kPrompt, 3));
    EXPECT_EQ(last.code(), Code::kNotFinite);
    EXPECT_NE(last.message().find("behind 8 tokens"), std::string::npos) << last.message();
    EXPECT_NE(last.detail().find("\"position\":8"), std::string::npos) << last.detail();
    EXPECT_FALSE(session->generating());
    EXPECT_EQ(session->tokens().size(), 8u);
    for (int again = 0; again < 2; ++again) {
      EXPECT_TRUE(drain(*session).empty());
      EXPECT_EQ(last.code(), Code::kNotFinite);
      ASSERT_TRUE(session->begin(10).ok());
    }
    // They can be looked at, but not as probabilities.
    const float* logits = nullptr;
    int64_t rows = 0;
    EXPECT_TRUE(drain(*session).empty());
    ASSERT_TRUE(session->logits(&logits, &rows).ok());
    EXPECT_TRUE(std::isnan(logits[fake::kVocabulary - 1]));
    int32_t id = 0;
    float log_probability = 0;
    EXPECT_EQ(session->top(1, &id, &log_probability).code(), Code::kNotFinite);
    EXPECT_EQ(session->score(&id, 1, &log_probability).code(), Code::kNotFinite);

    // The session goes on: with more tokens, or with fewer.
    const std::vector<int32_t> held = session->tokens();
    ASSERT_TRUE(session->append(kPrompt.data(), 2).ok());
    ASSERT_TRUE(session->begin(4).ok());
    std::vector<int32_t> longer = held;
    longer.insert(longer.end(), {kPrompt[0], kPrompt[1]});
    EXPECT_EQ(drain(*session), continuation(longer, 4));
    EXPECT_EQ(last.code(), Code::kDone);
    ASSERT_TRUE(session->truncate(6).ok());
    control.broken_behind = -1;
    ASSERT_TRUE(session->begin(4).ok());
    EXPECT_EQ(drain(*session), continuation({held.begin(), held.begin() + 6}, 4));
  }
}

TEST_P(SessionTest, ABrokenSessionDoesNotStopTheOthersOfItsBatch) {
  auto batch = SessionBatch::create(model, {});
  ASSERT_TRUE(batch.ok());
  std::vector<std::shared_ptr<Session>> sessions;
  std::vector<std::vector<int32_t>> prompts = {{1, 2}, {3, 4, 5, 6}, {7, 8}}, found(3);
  control.broken_behind = 7;  // which the second one reaches, and no other
  for (int i = 0; i < 3; ++i) {
    sessions.push_back(make());
    ASSERT_TRUE(sessions[i]->append(prompts[i].data(), static_cast<int64_t>(prompts[i].size())).ok());
    ASSERT_TRUE((*batch)->add(sessions[i]).ok());
    ASSERT_TRUE(sessions[i]->begin(i == 1 ? 20 : 4).ok());
  }
  int64_t active = 3, steps = 0;
  Status told;
  while (active > 0 && ++steps < 30) {
    ASSERT_TRUE((*batch)->step(&active).ok());
    for (int i = 0; i < 3; ++i) {
      const GeneratedToken* token = nullptr;
      const Status status = sessions[i]->next(&token);
      if (i == 1 && status.code() == Code::kNotFinite) told = status;
      if (!status.ok()) continue;
      found[i].push_back(token->id);
      sessions[i]->take();
    }
    active = std::count_if(sessions.begin(), sessions.end(), [](auto& s) { return s->generating(); });
  }
  EXPECT_EQ(found[0], continuation(prompts[0], 4));
  EXPECT_EQ(found[1], continuation(prompts[1], 3));
  EXPECT_EQ(found[2], continuation(prompts[2], 4));
  EXPECT_EQ(told.code(), Code::kNotFinite);
  EXPECT_LE(steps, 5);
}

// Who forbids every token is told so, and may change that.
TEST_P(SessionTest, WhereBiasesForbidAllNothingIsDrawnUntilTheyAreLifted) {
  auto session = make();
  ASSERT_TRUE(session->append(kPrompt.data(), 5).ok());
  ASSERT_TRUE(session->begin(5).ok());
  EXPECT_EQ(drain(*session, 2), continuation(kPrompt, 2));
  for (int32_t id = 0; id < fake::kVocabulary; ++id) session->generation().bias.emplace_back(id, -std::numeric_limits<float>::infinity());
  EXPECT_TRUE(drain(*session).empty());
  EXPECT_EQ(last.code(), Code::kArgument);
  EXPECT_NE(last.message().find("the biases and min_new_tokens"), std::string::npos) << last.message();
  session->generation().bias.clear();
  std::vector<int32_t> whole = kPrompt;
  for (int32_t id : continuation(kPrompt, 2)) whole.push_back(id);
  EXPECT_EQ(drain(*session), continuation(whole, 3));
}

// Memory can end anywhere; the exception passes through the session on its way to the boundary of the library.
TEST_P(SessionTest, NoMemoryForAPrefillKeepsWhatWasComplete) {
  SessionOptions options;
  options.prefill_chunk = 2;
  auto session = make(options);
  ASSERT_TRUE(session->append(kPrompt.data(), 2).ok());
  control.fail_by_throwing = true;
  control.fail_in_steps = 1;
  EXPECT_THROW((void)session->append(kPrompt.data() + 2, 3), std::bad_alloc);
  EXPECT_EQ(session->tokens(), (std::vector<int32_t>{3, 1, 4, 1}));
  EXPECT_EQ(session->counters().prompt_tokens, 4);
  ASSERT_TRUE(session->begin(3).ok());
  EXPECT_EQ(drain(*session), continuation({3, 1, 4, 1}, 3));
}

TEST_P(SessionTest, NoMemoryForAScoreChangesNoOption) {
  auto session = make();
  ASSERT_TRUE(session->append(kPrompt.data(), 2).ok());
  control.fail_by_throwing = true;
  control.fail_in_steps = 0;
  float log_probability[3];
  EXPECT_THROW((void)session->score(kPrompt.data() + 2, 3, log_probability), std::bad_alloc);
  EXPECT_EQ(session->options().logits, SessionOptions::Logits::kLast);
  EXPECT_EQ(session->tokens(), (std::vector<int32_t>{3, 1}));
  ASSERT_TRUE(session->begin(3).ok());
  EXPECT_EQ(drain(*session), continuation({3, 1}, 3));
}

TEST_P(SessionTest, NoMemoryForAStepLosesNothing) {
  auto session = make();
  ASSERT_TRUE(session->append(kPrompt.data(), 5).ok());
  ASSERT_TRUE(session->begin(10).ok());
  std::vector<int32_t> found = drain(*session, 2);
  control.fail_by_throwing = true;
  control.fail_in_steps = 0;
  EXPECT_THROW(drain(*session), std::bad_alloc);
  found.assign(session->tokens().begin() + 5, session->tokens().end());
  for (int32_t id : drain(*session)) found.push_back(id);
  EXPECT_EQ(found, continuation(kPrompt, 10));
}

// Alone and in a batch, with every text of an answer failing in turn: the token is there once, with its text, and the answer
// ends where it should.
TEST_P(SessionTest, NoMemoryForATextLosesNothing) {
  const std::vector<int32_t> expected = continuation(kPrompt, 6);
  std::string letters;
  for (int32_t id : expected) letters += fake::LetterTokenizer::letter(id);
  for (const std::string& stop : {std::string(), letters.substr(3, 2)}) {
    for (const bool batched : {false, true}) {
      bool failed = true;
      for (int fail_in = 0; failed; ++fail_in) {
        SCOPED_TRACE(stop + (batched ? ", batched, " : ", ") + std::to_string(fail_in));
        auto session = make();
        auto batch = SessionBatch::create(model, {});
        ASSERT_TRUE(batch.ok());
        ASSERT_TRUE((*batch)->add(session).ok());
        ASSERT_TRUE(session->append(kPrompt.data(), 5).ok());
        if (!stop.empty()) session->generation().stop_strings = {stop};
        ASSERT_TRUE(session->begin(6).ok());
        control.fail_in_texts = fail_in;
        std::vector<int32_t> ids;
        std::string text;
        failed = false;
        for (bool done = false; !done;) {
          try {
            int64_t active = 0;
            if (batched) {
              ASSERT_TRUE((*batch)->step(&active).ok());
            }
            const GeneratedToken* token = nullptr;
            const Status status = session->next(&token);
            done = status.code() == Code::kDone;
            ASSERT_TRUE(status.ok() || done) << status.message();
            if (done) break;
            ids.push_back(token->id);
            text += token->text;
            session->take();
          } catch (const std::bad_alloc&) {
            ASSERT_FALSE(failed);
            failed = true;
          }
        }
        control.fail_in_texts = -1;
        EXPECT_EQ(ids, expected);  // to the stop string's end as well: the stream is a letter behind
        EXPECT_EQ(text, stop.empty() ? letters : letters.substr(0, 3));
        EXPECT_EQ(session->stop_reason(), stop.empty() ? StopReason::kMaxTokens : StopReason::kStopString);
      }
    }
  }
}

TEST_P(SessionTest, ACancelOutlivesLogitsThatGetNoMemory) {
  auto session = make();
  ASSERT_TRUE(session->append(kPrompt.data(), 5).ok());
  ASSERT_TRUE(session->begin(10).ok());
  std::vector<int32_t> found = drain(*session, 2);
  session->cancel();
  control.fail_by_throwing = true;
  control.fail_in_steps = 0;
  const float* logits = nullptr;
  int64_t rows = 0;
  EXPECT_THROW((void)session->logits(&logits, &rows), std::bad_alloc);
  const GeneratedToken* token = nullptr;
  EXPECT_EQ(session->next(&token).code(), Code::kCancelled);
  ASSERT_TRUE(session->begin(4).ok());
  for (int32_t id : drain(*session)) found.push_back(id);
  EXPECT_EQ(found, continuation(kPrompt, 6));
}

}  // namespace
}  // namespace nbl

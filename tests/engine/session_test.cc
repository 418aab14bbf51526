#include "engine/session.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "engine/batch.h"
#include "engine/fake_model.h"

namespace nbl {
namespace {

using fake::continuation;

// Every test holds for a backend whose logits come to the host and for one that draws and runs ahead.
class SessionTest : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override { control.draws = GetParam(); }
  void TearDown() override { EXPECT_FALSE(control.misused); }
  std::shared_ptr<Session> make(SessionOptions options = {}) {
    auto session = Session::create(model, options);
    EXPECT_TRUE(session.ok()) << session.status().message();
    return *session;
  }
  // Ids until the generation ends.
  std::vector<int32_t> drain(Session& session, int most = 1000) {
    std::vector<int32_t> ids;
    const GeneratedToken* token = nullptr;
    while (most-- > 0) {
      const Status status = session.next(&token);
      if (!status.ok()) {
        last = status;
        return ids;
      }
      ids.push_back(token->id);
      session.take();
    }
    return ids;
  }

  fake::Control control;
  std::shared_ptr<Model> model = fake::make_model(control);
  Status last;
};

INSTANTIATE_TEST_SUITE_P(Draws, SessionTest, ::testing::Bool(), [](const auto& info) { return info.param ? "OnTheDevice" : "OnTheHost"; });

const std::vector<int32_t> kPrompt = {3, 1, 4, 1, 5};

TEST_P(SessionTest, ContinuesByTheModelsRule) {
  auto session = make();
  ASSERT_TRUE(session->append(kPrompt.data(), 5).ok());
  ASSERT_TRUE(session->begin(7).ok());
  EXPECT_EQ(drain(*session), continuation(kPrompt, 7));
  EXPECT_EQ(last.code(), Code::kDone);
  EXPECT_EQ(session->stop_reason(), StopReason::kMaxTokens);
  EXPECT_EQ(session->tokens().size(), 12u);
}

TEST_P(SessionTest, PrefillsInChunksWithTheSameOutcome) {
  SessionOptions options;
  options.prefill_chunk = 2;
  auto session = make(options);
  ASSERT_TRUE(session->append(kPrompt.data(), 5).ok());
  EXPECT_EQ(control.largest_step, 2);
  ASSERT_TRUE(session->begin(3).ok());
  EXPECT_EQ(drain(*session), continuation(kPrompt, 3));
}

TEST_P(SessionTest, TheBackendSaysHowManyTokensToTakeAtATime) {
  auto session = make();
  EXPECT_EQ(session->chunk(), std::min<int64_t>(control.prefill_chunk, session->describe()["context"].get<int64_t>()));
  control.prefill_chunk = 3;
  session = make();
  EXPECT_EQ(session->chunk(), 3);
  ASSERT_TRUE(session->append(kPrompt.data(), 5).ok());
  EXPECT_EQ(control.largest_step, 3);
}

TEST_P(SessionTest, ATokenNotTakenIsGivenAgain) {
  auto session = make();
  ASSERT_TRUE(session->append(kPrompt.data(), 5).ok());
  ASSERT_TRUE(session->begin(2).ok());
  const GeneratedToken *first = nullptr, *again = nullptr;
  ASSERT_TRUE(session->next(&first).ok());
  ASSERT_TRUE(session->next(&again).ok());
  EXPECT_EQ(first->id, again->id);
  session->take();
  EXPECT_EQ(drain(*session).size(), 1u);
}

TEST_P(SessionTest, ASecondPromptContinuesTheFirstAnswer) {
  auto session = make();
  ASSERT_TRUE(session->append(kPrompt.data(), 5).ok());
  ASSERT_TRUE(session->begin(4).ok());
  std::vector<int32_t> all = kPrompt;
  for (int32_t id : drain(*session)) all.push_back(id);
  const std::vector<int32_t> more = {7, 7};
  ASSERT_TRUE(session->append(more.data(), 2).ok());
  all.insert(all.end(), more.begin(), more.end());
  EXPECT_EQ(session->tokens(), all);
  ASSERT_TRUE(session->begin(4).ok());
  EXPECT_EQ(drain(*session), continuation(all, 4));
}

TEST_P(SessionTest, BeginAgainGoesOnWhereItStopped) {
  auto session = make();
  ASSERT_TRUE(session->append(kPrompt.data(), 5).ok());
  ASSERT_TRUE(session->begin(3).ok());
  std::vector<int32_t> found = drain(*session);
  ASSERT_TRUE(session->begin(3).ok());
  for (int32_t id : drain(*session)) found.push_back(id);
  EXPECT_EQ(found, continuation(kPrompt, 6));
}

TEST_P(SessionTest, EndsAtEndOfTextAndIgnoresItWhenTold) {
  const int32_t prompt[] = {1, fake::kEosTrigger};
  auto session = make();
  ASSERT_TRUE(session->append(prompt, 2).ok());
  ASSERT_TRUE(session->begin(5).ok());
  EXPECT_EQ(drain(*session), std::vector<int32_t>{fake::kEos});
  EXPECT_EQ(session->stop_reason(), StopReason::kEos);

  ASSERT_TRUE(session->truncate(2).ok());
  session->generation().ignore_eos = true;
  ASSERT_TRUE(session->begin(5).ok());
  EXPECT_EQ(drain(*session), continuation({1, fake::kEosTrigger}, 5));

  ASSERT_TRUE(session->truncate(2).ok());
  session->generation().ignore_eos = false;
  session->generation().min_new_tokens = 1;
  ASSERT_TRUE(session->begin(1).ok());
  const std::vector<int32_t> found = drain(*session);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_NE(found[0], fake::kEos);
}

TEST_P(SessionTest, StopsAtIdsAndLengths) {
  const std::vector<int32_t> expected = continuation(kPrompt, 10);
  auto session = make();
  ASSERT_TRUE(session->append(kPrompt.data(), 5).ok());
  session->generation().stop_ids = {expected[3]};
  ASSERT_TRUE(session->begin(10).ok());
  EXPECT_EQ(drain(*session).size(), 4u);
  EXPECT_EQ(session->stop_reason(), StopReason::kStopId);

  ASSERT_TRUE(session->truncate(5).ok());
  session->generation().stop_ids.clear();
  session->generation().max_length = 8;  // prompt and answer together
  ASSERT_TRUE(session->begin(-1).ok());
  EXPECT_EQ(drain(*session).size(), 3u);
}

TEST_P(SessionTest, StopStringsAreCutFromTheText) {
  const std::vector<int32_t> expected = continuation(kPrompt, 8);
  std::string text;
  for (int32_t id : expected) text += fake::LetterTokenizer::letter(id);
  auto session = make();
  ASSERT_TRUE(session->append(kPrompt.data(), 5).ok());
  session->generation().stop_strings = {text.substr(3, 2)};
  ASSERT_TRUE(session->begin(8).ok());
  std::string found;
  const GeneratedToken* token = nullptr;
  while (session->next(&token).ok()) {
    found += token->text;
    session->take();
  }
  EXPECT_EQ(found, text.substr(0, text.find(text.substr(3, 2))));
  EXPECT_EQ(session->stop_reason(), StopReason::kStopString);
}

TEST_P(SessionTest, TheContextIsABoundNotACrash) {
  SessionOptions options;
  options.context = 8;
  auto session = make(options);
  ASSERT_TRUE(session->append(kPrompt.data(), 5).ok());
  const Status full = session->append(kPrompt.data(), 5);
  EXPECT_EQ(full.code(), Code::kContextFull);
  EXPECT_NE(full.detail().find("\"context\":8"), std::string::npos);
  ASSERT_TRUE(session->begin(-1).ok());
  EXPECT_EQ(drain(*session), continuation(kPrompt, 3));
  EXPECT_EQ(session->stop_reason(), StopReason::kContext);
  ASSERT_TRUE(session->begin(-1).ok());
  EXPECT_TRUE(drain(*session).empty());
  EXPECT_EQ(last.code(), Code::kDone);
  ASSERT_TRUE(session->truncate(5).ok());  // usable again
  ASSERT_TRUE(session->begin(2).ok());
  EXPECT_EQ(drain(*session), continuation(kPrompt, 2));
}

TEST_P(SessionTest, IdsOutsideTheVocabularyAreRefused) {
  auto session = make();
  for (int32_t bad : {-1, fake::kVocabulary}) {
    const int32_t ids[] = {1, bad};
    EXPECT_EQ(session->append(ids, 2).code(), Code::kArgument);
  }
  EXPECT_TRUE(session->tokens().empty());
}

TEST_P(SessionTest, BeginNeedsAPromptAndNextNeedsBegin) {
  auto session = make();
  EXPECT_EQ(session->begin(1).code(), Code::kState);
  ASSERT_TRUE(session->append(kPrompt.data(), 5).ok());
  const GeneratedToken* token = nullptr;
  EXPECT_EQ(session->next(&token).code(), Code::kState);
}

TEST_P(SessionTest, CancelIsStickyUntilBegin) {
  auto session = make();
  ASSERT_TRUE(session->append(kPrompt.data(), 5).ok());
  ASSERT_TRUE(session->begin(10).ok());
  std::vector<int32_t> found = drain(*session, 3);
  session->cancel();
  const GeneratedToken* token = nullptr;
  EXPECT_EQ(session->next(&token).code(), Code::kCancelled);
  EXPECT_EQ(session->next(&token).code(), Code::kCancelled);
  EXPECT_EQ(session->stop_reason(), StopReason::kCancelled);
  ASSERT_TRUE(session->begin(4).ok());
  for (int32_t id : drain(*session)) found.push_back(id);
  EXPECT_EQ(found, continuation(kPrompt, 7));  // nothing was lost
}

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

TEST_P(SessionTest, TruncateAtRandomIsAlwaysConsistent) {
  std::mt19937 random(1);
  SessionOptions options;
  options.context = 60;
  options.prefill_chunk = 3;
  auto session = make(options);
  std::vector<int32_t> mirror;
  for (int round = 0; round < 300; ++round) {
    const int keep = static_cast<int>(random() % (mirror.size() + 1));
    ASSERT_TRUE(session->truncate(keep).ok());
    mirror.resize(keep);
    if (mirror.size() < 40) {
      std::vector<int32_t> ids(1 + random() % 5);
      for (int32_t& id : ids) id = static_cast<int32_t>(1 + random() % 40);
      ASSERT_TRUE(session->append(ids.data(), static_cast<int64_t>(ids.size())).ok());
      mirror.insert(mirror.end(), ids.begin(), ids.end());
    }
    if (mirror.empty()) continue;
    const int count = static_cast<int>(random() % 4);
    ASSERT_TRUE(session->begin(count).ok());
    const std::vector<int32_t> expected = continuation(mirror, count);
    ASSERT_EQ(drain(*session), expected);
    mirror.insert(mirror.end(), expected.begin(), expected.end());
    ASSERT_EQ(session->tokens(), mirror);
  }
}

// With logits 5 for the right token and -1 for the 96 others: ln p(right) = 5 - ln(e^5 + 96 e^-1).
TEST_P(SessionTest, ScoreIsTheLogProbabilityOfEachId) {
  const double total = std::log(std::exp(5.0) + 96 * std::exp(-1.0));
  SessionOptions options;
  options.prefill_chunk = 4;
  auto session = make(options);
  ASSERT_TRUE(session->append(kPrompt.data(), 5).ok());
  std::vector<int32_t> ids = continuation(kPrompt, 10);
  ids[6] = ids[6] == 9 ? 10 : 9;  // a wrong one; what follows it is wrong too
  std::vector<float> found(10);
  ASSERT_TRUE(session->score(ids.data(), 10, found.data()).ok());
  std::vector<int32_t> sequence = kPrompt;
  for (int i = 0; i < 10; ++i) {
    const bool right = fake::next_token(sequence) == ids[i];
    EXPECT_NEAR(found[i], (right ? 5 : -1) - total, 1e-5) << i;
    sequence.push_back(ids[i]);
  }
  EXPECT_EQ(session->tokens(), sequence);

  auto empty = make(options);
  ASSERT_TRUE(empty->score(kPrompt.data(), 5, found.data()).ok());
  EXPECT_TRUE(std::isnan(found[0]));
}

TEST_P(SessionTest, AllLogitsHaveARowForEachToken) {
  SessionOptions options;
  options.logits = SessionOptions::Logits::kAll;
  options.prefill_chunk = 2;
  auto session = make(options);
  ASSERT_TRUE(session->append(kPrompt.data(), 5).ok());
  const float* logits = nullptr;
  int64_t rows = 0;
  ASSERT_TRUE(session->logits(&logits, &rows).ok());
  ASSERT_EQ(rows, 5);
  std::vector<int32_t> prefix;
  for (int i = 0; i < 5; ++i) {
    prefix.push_back(kPrompt[i]);
    EXPECT_EQ(logits[i * fake::kVocabulary + fake::next_token(prefix)], 5.0f);
  }
}

// A greedy step asks the backend for exact logits at the top only; who reads logits gets all of them exact.
TEST_P(SessionTest, LogitsAreExactWheneverTheyAreRead) {
  auto session = make();
  ASSERT_TRUE(session->append(kPrompt.data(), 5).ok());
  ASSERT_TRUE(session->begin(6).ok());
  const std::vector<int32_t> expected = continuation(kPrompt, 6);
  std::vector<int32_t> found = drain(*session, 3);
  const float* logits = nullptr;
  int64_t rows = 0;
  ASSERT_TRUE(session->logits(&logits, &rows).ok());
  EXPECT_EQ(logits[expected[2]], 5.0f);  // what the third token was drawn from
  EXPECT_EQ(logits[expected[2] == 7 ? 8 : 7], -1.0f);
  for (int32_t id : drain(*session)) found.push_back(id);
  EXPECT_EQ(found, expected);
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

TEST_P(SessionTest, MoveIsRefusedWhileSessionsExist) {
  auto session = make();
  EXPECT_EQ(model->move(BackendKind::kCpu, 0).code(), Code::kBusy);
}

TEST_P(SessionTest, GenerateGivesTheWholeText) {
  auto session = make();
  auto text = session->generate("abc", {}, 5);
  ASSERT_TRUE(text.ok()) << text.status().message();
  std::string expected;
  for (int32_t id : continuation({26, 27, 28}, 5)) expected += fake::LetterTokenizer::letter(id);
  EXPECT_EQ(*text, expected);
}

// ---- running ahead

// Two sessions, one whose plan draws and runs ahead and one the plain way, through the same random calls: whatever a
// caller can see is the same after each.
TEST(RunningAhead, ShowsInNothing) {
  int64_t drawn = 0, followed = 0;
  for (unsigned seed = 1; seed <= 40; ++seed) {
    std::mt19937 random(seed);
    fake::Control controls[2];
    controls[1].draws = true;
    std::shared_ptr<Session> sessions[2];
    for (int i = 0; i < 2; ++i) {
      SessionOptions options;
      options.context = 60;
      options.prefill_chunk = 4;
      auto made = Session::create(fake::make_model(controls[i]), options);
      ASSERT_TRUE(made.ok());
      sessions[i] = *made;
    }
    for (int round = 0; round < 400; ++round) {
      const unsigned what = random() % 16, value = random();
      std::string seen[2];
      for (int i = 0; i < 2; ++i) {
        Session& s = *sessions[i];
        std::string& out = seen[i];
        const GeneratedToken* token = nullptr;
        Status status;
        if (what == 0) {
          std::vector<int32_t> ids(1 + value % 7);
          for (size_t j = 0; j < ids.size(); ++j) ids[j] = static_cast<int32_t>((value >> j) % fake::kVocabulary);
          status = s.append(ids.data(), static_cast<int64_t>(ids.size()));
        } else if (what == 1) {
          status = s.truncate(value % (s.tokens().size() + 1));
        } else if (what == 2) {
          SamplingOptions& sampling = s.generation().sampling;
          sampling.temperature = value % 3 * 4.0;
          sampling.top_k = value / 3 % 2 * 5;
          sampling.repetition_penalty = value / 6 % 2 ? 1 : 1.5;
          sampling.frequency_penalty = value / 12 % 3;
          sampling.seed = value;
        } else if (what == 3) {
          GenerationOptions& options = s.generation();
          options.min_new_tokens = value % 5;
          options.max_length = value % 4 == 0 ? 30 : 0;
          options.stop_ids = {static_cast<int32_t>(value % fake::kVocabulary)};
          options.stop_strings = value % 2 ? std::vector<std::string>{"e", "qz"} : std::vector<std::string>{};
          options.bias = {{static_cast<int32_t>(value % 50), 3.0f}, {fake::kEos, value % 3 ? 0.f : 2.f}};
        } else if (what == 4) {
          const float* logits = nullptr;
          int64_t rows = 0;
          status = s.logits(&logits, &rows);
          if (status.ok())
            out +=
                "logits " + std::to_string(std::max_element(logits, logits + fake::kVocabulary) - logits) + " " + std::to_string(logits[7]);
        } else if (what == 5) {
          s.cancel();
        } else if (what == 6 || what == 7) {
          status = s.begin(value % 5 == 0 ? -1 : value % 40);
        } else if (what == 8 && value % 4 == 0) {
          const int32_t ids[] = {static_cast<int32_t>(value % 90), 5};
          float log_probability[2] = {};
          status = s.score(ids, 2, log_probability);
          out += std::to_string(log_probability[0]) + " " + std::to_string(log_probability[1]);
        } else {
          for (unsigned n = value % 9; n > 0; --n) {
            status = s.next(&token);
            if (!status.ok()) break;
            out += std::to_string(token->id) + token->text + " ";
            if (value % 11 != 0) s.take();
          }
        }
        out += " | " + std::to_string(static_cast<int>(status.code())) + " " + std::to_string(static_cast<int>(s.stop_reason())) +
               (s.generating() ? " generating " : " idle ") + std::to_string(s.counters().prompt_tokens) + " " +
               std::to_string(s.counters().generated_tokens) + " " + std::to_string(s.counters().decode_tokens) + " " +
               std::to_string(s.counters().prefill_tokens) + ":";
        for (int32_t id : s.tokens()) out += " " + std::to_string(id);
      }
      ASSERT_EQ(seen[0], seen[1]) << "seed " << seed << ", round " << round << ", call " << what;
    }
    EXPECT_EQ(controls[0].drawn, 0);
    EXPECT_FALSE(controls[1].misused);
    drawn += controls[1].drawn;
    followed += controls[1].followed;
  }
  EXPECT_GT(drawn, 2000);
  EXPECT_GT(followed, 2000);
}

TEST(RunningAhead, NeverPastTheKnownEnd) {
  fake::Control control;
  control.draws = true;
  auto session = Session::create(fake::make_model(control), {});
  ASSERT_TRUE(session.ok());
  ASSERT_TRUE((*session)->append(kPrompt.data(), 5).ok());
  ASSERT_TRUE((*session)->begin(6).ok());
  const GeneratedToken* token = nullptr;
  while ((*session)->next(&token).ok()) (*session)->take();
  EXPECT_EQ(control.steps, 6);  // the prompt, and five tokens: the first is drawn from the prompt's logits
  EXPECT_EQ(control.followed, 4);
}

TEST(RunningAhead, AFailureOnTheWayLosesNothing) {
  for (int at = 0; at < 6; ++at) {
    fake::Control control;
    control.draws = true;
    auto session = Session::create(fake::make_model(control), {});
    ASSERT_TRUE(session.ok());
    ASSERT_TRUE((*session)->append(kPrompt.data(), 5).ok());
    ASSERT_TRUE((*session)->begin(12).ok());
    std::vector<int32_t> found;
    int failures = 0;
    control.fail_in_steps = at;
    for (;;) {
      const GeneratedToken* token = nullptr;
      const Status status = (*session)->next(&token);
      if (status.code() == Code::kDone) break;
      if (status.ok()) {
        found.push_back(token->id);
        (*session)->take();
      } else {
        EXPECT_EQ(status.code(), Code::kDevice);
        ASSERT_LT(++failures, 2);
      }
    }
    EXPECT_EQ(failures, 1);
    EXPECT_EQ(found, continuation(kPrompt, 12));
    EXPECT_FALSE(control.misused);
  }
}

}  // namespace
}  // namespace nbl

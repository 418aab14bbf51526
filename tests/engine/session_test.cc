// What one session does: prompts, answers, their ends, its context, logits.
#include <cmath>
#include <random>

#include "engine/session_fixture.h"

namespace nbl {
namespace {

using fake::continuation;

INSTANTIATE_TEST_SUITE_P(Draws, SessionTest, ::testing::Bool(), [](const auto& info) { return info.param ? "OnTheDevice" : "OnTheHost"; });

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

}  // namespace
}  // namespace nbl

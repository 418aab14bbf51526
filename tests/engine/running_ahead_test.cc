// Steps that run ahead of the caller, where the plan draws: nobody sees them.
#include <random>

#include "engine/session_fixture.h"

namespace nbl {
namespace {

using fake::continuation;

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

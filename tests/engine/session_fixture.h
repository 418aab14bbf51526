// Sessions of a model whose answers are known (fake_model.h).
#pragma once

#include <gtest/gtest.h>

#include "engine/fake_model.h"
#include "engine/session.h"

namespace nbl {

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

inline const std::vector<int32_t> kPrompt = {3, 1, 4, 1, 5};

}  // namespace nbl

// The embedded model through the public API, for tests.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "nibble.h"

namespace api {

struct Release {
  void operator()(nbl_error* p) const { nbl_error_release(p); }
  void operator()(nbl_config* p) const { nbl_config_release(p); }
  void operator()(nbl_model* p) const { nbl_model_release(p); }
  void operator()(nbl_session* p) const { nbl_session_release(p); }
  void operator()(nbl_batch* p) const { nbl_batch_release(p); }
  void operator()(nbl_job* p) const { nbl_job_release(p); }
};
template <typename T>
using Owned = std::unique_ptr<T, Release>;

inline const std::string& model_directory() {
  static const std::string directory = std::string(NIBBLE_SOURCE_DIR) + "/samples/models/story-6m-awq";
  return directory;
}

// The embedded model, loaded once on the CPU.
inline nbl_model* model() {
  static nbl_model* const loaded = [] {
    nbl_config* config = nullptr;
    nbl_model* out = nullptr;
    nbl_error* error = nullptr;
    EXPECT_EQ(nbl_config_create(&config, nullptr), NBL_OK);
    EXPECT_EQ(nbl_config_set_str(config, NBL_OPT_DEVICE, "cpu", NBL_NTS, nullptr), NBL_OK);
    EXPECT_EQ(nbl_model_load(model_directory().data(), model_directory().size(), config, &out, &error), NBL_OK)
        << nbl_error_message(error, nullptr);
    nbl_config_release(config);
    return out;
  }();
  return loaded;
}

inline Owned<nbl_session> session(const nbl_config* config = nullptr) {
  nbl_session* out = nullptr;
  nbl_error* error = nullptr;
  EXPECT_EQ(nbl_session_create(model(), config, &out, &error), NBL_OK) << nbl_error_message(error, nullptr);
  EXPECT_EQ(nbl_session_set_f64(out, NBL_OPT_TEMPERATURE, 0, nullptr), NBL_OK);
  return Owned<nbl_session>(out);
}

inline std::string take(char* text, size_t length) {
  std::string out(text, length);
  nbl_free(text);
  return out;
}

inline std::string generate(nbl_session* s, const std::string& prompt, int64_t tokens) {
  char* text = nullptr;
  size_t length = 0;
  nbl_error* error = nullptr;
  EXPECT_EQ(nbl_session_generate(s, prompt.data(), prompt.size(), tokens, &text, &length, &error), NBL_OK)
      << nbl_error_message(error, nullptr);
  return take(text, length);
}

}  // namespace api

// GPUs by the public API on a machine that has none that can be used, whether or not CUDA is in the build: every answer
// is a status with a way out, and the CPU goes on. With a GPU, tests/gpu checks the rest.
#include "api/api_fixture.h"

namespace {

std::string taken(nbl_error* error) {
  const std::string message = nbl_error_message(error, nullptr);
  nbl_error_release(error);
  return message;
}

class WithoutGpu : public testing::Test {
 protected:
  void SetUp() override {
    if (nbl_device_count() > 0) GTEST_SKIP() << "this machine has a GPU";
  }
};

nbl_status load_on(const char* device, nbl_model** model, nbl_error** error) {
  nbl_config* raw = nullptr;
  EXPECT_EQ(nbl_config_create(&raw, nullptr), NBL_OK);
  const api::Owned<nbl_config> config(raw);
  EXPECT_EQ(nbl_config_set_str(raw, NBL_OPT_DEVICE, device, NBL_NTS, nullptr), NBL_OK);
  return nbl_model_load(api::model_directory().data(), api::model_directory().size(), raw, model, error);
}

TEST_F(WithoutGpu, ALoadThereSaysWhatIsMissing) {
  nbl_model* model = nullptr;
  nbl_error* error = nullptr;
  const nbl_status status = load_on("cuda:0", &model, &error);
  EXPECT_EQ(model, nullptr);
  const std::string message = taken(error);
  char* text = nullptr;
  size_t length = 0;
  ASSERT_EQ(nbl_build_info(&text, &length, nullptr), NBL_OK);
  if (api::take(text, length).find("\"built\":true") != std::string::npos) {
    EXPECT_EQ(status, NBL_E_DEVICE);
    EXPECT_NE(message.find("driver"), std::string::npos) << message;
  } else {
    EXPECT_EQ(status, NBL_E_UNSUPPORTED);
    EXPECT_NE(message.find("NIBBLE_CUDA=ON"), std::string::npos) << message;
  }
  EXPECT_NE(message.find("cuda:0"), std::string::npos) << message;
  EXPECT_NE(message.find("CPU"), std::string::npos) << message;
}

// On the CPU, by name or because there is nothing else; a kernel that no device has is no value of the option.
TEST_F(WithoutGpu, AKernelOfAGpuIsRefused) {
  for (const char* device : {"cpu", "auto", "ref"}) {
    nbl_config* raw = nullptr;
    ASSERT_EQ(nbl_config_create(&raw, nullptr), NBL_OK);
    const api::Owned<nbl_config> config(raw);
    ASSERT_EQ(nbl_config_set_str(raw, NBL_OPT_DEVICE, device, NBL_NTS, nullptr), NBL_OK);
    nbl_model* model = nullptr;
    nbl_error* error = nullptr;
    ASSERT_EQ(nbl_config_set_str(raw, NBL_OPT_KERNEL, "marlin", NBL_NTS, &error), NBL_E_OPTION_VALUE);
    EXPECT_NE(taken(error).find("resident"), std::string::npos);
    error = nullptr;
    ASSERT_EQ(nbl_config_set_str(raw, NBL_OPT_KERNEL, "resident", NBL_NTS, nullptr), NBL_OK);
    EXPECT_EQ(nbl_model_load(api::model_directory().data(), api::model_directory().size(), raw, &model, &error), NBL_E_UNSUPPORTED)
        << device;
    EXPECT_EQ(model, nullptr);
    const std::string message = taken(error);
    EXPECT_NE(message.find("auto"), std::string::npos) << message;
    ASSERT_EQ(nbl_config_set_str(raw, NBL_OPT_KERNEL, "auto", NBL_NTS, nullptr), NBL_OK);
    EXPECT_EQ(nbl_model_load(api::model_directory().data(), api::model_directory().size(), raw, &model, nullptr), NBL_OK) << device;
    nbl_model_release(model);
  }
}

TEST_F(WithoutGpu, AutoTakesTheCpu) {
  nbl_model* model = nullptr;
  nbl_error* error = nullptr;
  ASSERT_EQ(load_on("auto", &model, &error), NBL_OK) << taken(error);
  char* text = nullptr;
  size_t length = 0;
  ASSERT_EQ(nbl_model_describe(model, &text, &length, nullptr), NBL_OK);
  EXPECT_NE(api::take(text, length).find("\"backend\":\"cpu\""), std::string::npos);
  nbl_model_release(model);
}

TEST_F(WithoutGpu, AMoveThereLeavesTheModelWhereItIs) {
  nbl_model* model = nullptr;
  nbl_error* error = nullptr;
  ASSERT_EQ(load_on("cpu", &model, &error), NBL_OK) << taken(error);
  EXPECT_LT(nbl_model_move(model, 0, &error), NBL_OK);
  EXPECT_NE(taken(error).find("cuda:0"), std::string::npos);
  nbl_session* session = nullptr;
  ASSERT_EQ(nbl_session_create(model, nullptr, &session, nullptr), NBL_OK);
  EXPECT_FALSE(api::generate(session, "Once upon a time", 5).empty());
  nbl_session_release(session);
  nbl_model_release(model);
}

TEST_F(WithoutGpu, DevicesHaveNoFigures) {
  int64_t value = 0;
  nbl_error* error = nullptr;
  EXPECT_LT(nbl_device_i64(0, NBL_PROP_DEVICE_TOTAL_BYTES, &value, &error), NBL_OK);
  EXPECT_NE(taken(error).find("cuda:0"), std::string::npos);
  char* text = nullptr;
  size_t length = 0;
  EXPECT_LT(nbl_device_name(0, &text, &length, nullptr), NBL_OK);
}

}  // namespace

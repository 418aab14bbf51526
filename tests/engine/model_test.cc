// What a Model takes from a directory beside its weights, and what it refuses.
#include "engine/model.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "checkpoint/safetensors.h"
#include "engine/session.h"
#include "support/temporary_checkpoint.h"

namespace nbl {
namespace {

using testing::TemporaryDirectory;

const std::string kStory = NIBBLE_TEST_DATA "/story-6m/";

// The story model, with files of its own beside the weights.
class Directory {
 public:
  Directory() {
    for (const char* name : {"model.safetensors", "tokenizer.json", "tokenizer_config.json"})
      std::filesystem::create_symlink(kStory + name, files.file(name));
    write("config.json", config);
  }
  void write(const std::string& name, const Json& json) const { files.write(name, to_text(json)); }
  Result<std::shared_ptr<Model>> load() const {
    LoadOptions options;
    options.backend = BackendKind::kCpu;
    return Model::load(files.path(), options);
  }

  TemporaryDirectory files;
  const Json config = *read_json_file(kStory + "config.json");
};

// The ids that end an answer: a number, a list, or nothing; an answer that does not end is not what anybody meant.
TEST(Model, TokenIdsOfTheConfigsAreNumbersOrLists) {
  const struct {
    const char *key, *value;
    std::vector<int32_t> ids;  // what ends an answer; none: it is refused
  } cases[] = {
      {"eos_token_id", "7", {7}},         {"eos_token_id", "[7, 9]", {7, 9}}, {"eos_token_id", "null", {0}},
      {"pad_token_id", "-1", {0}},        {"eos_token_id", "\"7\"", {}},      {"eos_token_id", "[7, \"9\"]", {}},
      {"eos_token_id", "2.5", {}},        {"eos_token_id", "true", {}},       {"eos_token_id", "{}", {}},
      {"eos_token_id", "4294967298", {}}, {"eos_token_id", "[[7]]", {}},      {"bos_token_id", "\"<s>\"", {}},
      {"pad_token_id", "{\"id\":0}", {}},
  };
  const Directory directory;
  for (const std::string file : {"config.json", "generation_config.json"}) {
    for (const auto& c : cases) {
      SCOPED_TRACE(file + ": " + c.key + " " + c.value);
      directory.write("config.json", directory.config);
      directory.write("generation_config.json", Json::object());
      Json object = file == "config.json" ? directory.config : Json::object();
      object[c.key] = *parse_json(c.value, "the test");
      directory.write(file, object);
      const auto model = directory.load();
      if (!c.ids.empty()) {
        ASSERT_TRUE(model.ok()) << model.status().message();
        EXPECT_EQ((*model)->eos_ids(), c.ids);
        continue;
      }
      ASSERT_FALSE(model.ok());
      EXPECT_EQ(model.status().code(), Code::kFormat);
      const std::string& message = model.status().message();
      EXPECT_NE(message.find(file + ": \"" + c.key + "\" is " + to_text(object[c.key])), std::string::npos) << message;
      EXPECT_EQ((*Model::inspect(directory.files.path()))["problem"], message);
    }
  }
}

// One scale of the middle of a checkpoint is no number: it loads, as no weight is looked at one by one, and answers nothing.
TEST(Model, ABrokenScaleGivesAnErrorAndNoAnswer) {
  const std::string source = NIBBLE_SOURCE_DIR "/samples/models/story-6m-awq/";
  std::string bytes = *read_text_file(source + "model.safetensors");
  std::vector<TensorView> tensors;
  std::vector<std::pair<std::string, std::string>> metadata;
  const auto* data = reinterpret_cast<const uint8_t*>(bytes.data());
  ASSERT_TRUE(parse_safetensors(data, static_cast<int64_t>(bytes.size()), "story", tensors, metadata).ok());
  const auto broken =
      std::find_if(tensors.begin(), tensors.end(), [](const TensorView& t) { return t.name == "model.layers.3.self_attn.k_proj.scales"; });
  ASSERT_NE(broken, tensors.end());
  ASSERT_EQ(broken->dtype, DType::kF16);
  const uint16_t nan = 0x7e00;
  std::memcpy(bytes.data() + (broken->data - data) + 2 * 17, &nan, 2);
  TemporaryDirectory directory;
  directory.write("model.safetensors", bytes);
  for (const char* name : {"config.json", "tokenizer.json"}) std::filesystem::create_symlink(source + name, directory.file(name));
  LoadOptions options;
  for (const BackendKind kind : {BackendKind::kCpu, BackendKind::kRef}) {
    options.backend = kind;
    const auto model = Model::load(directory.path(), options);
    ASSERT_TRUE(model.ok()) << model.status().message();
    const auto session = Session::create(*model, {});
    ASSERT_TRUE(session.ok()) << session.status().message();
    const auto text = (*session)->generate("Once upon", EncodeOptions(), 5);
    EXPECT_EQ(text.status().code(), Code::kNotFinite) << text.status().message();
    EXPECT_NE(text.status().message().find("hold NaN or infinity: the checkpoint"), std::string::npos) << text.status().message();
  }
}

// A ceiling that a load is refused by is told with what would be needed, in the words of the load.
TEST(Model, AnEstimateTellsWhatALoadWouldSay) {
  LoadOptions options;
  for (const BackendKind kind : {BackendKind::kAuto, BackendKind::kCpu}) {
    if (kind == BackendKind::kAuto && cuda_device_count() > 0) continue;  // it is then no CPU that is taken
    options.backend = kind;
    options.max_memory = {};
    const auto free = Model::estimate(kStory, options, {});
    ASSERT_TRUE(free.ok()) << free.status().message();
    EXPECT_EQ((*free)["loadable"], true);
    EXPECT_FALSE(free->contains("problem"));
    EXPECT_FALSE(free->contains("ceiling_bytes"));

    const int64_t needed = (*free)["weight_bytes"].get<int64_t>() + (*free)["embedding_bytes"].get<int64_t>();
    for (const int64_t ceiling : {needed - 1, needed}) {
      options.max_memory = {{kCpuDevice, ceiling}};
      const auto estimate = Model::estimate(kStory, options, {});
      ASSERT_TRUE(estimate.ok()) << estimate.status().message();
      EXPECT_EQ((*estimate)["total_bytes"], (*free)["total_bytes"]);
      EXPECT_EQ((*estimate)["ceiling_bytes"], ceiling);
      const auto model = Model::load(kStory, options);
      EXPECT_EQ(model.ok(), ceiling == needed);
      EXPECT_EQ((*estimate)["loadable"], model.ok());
      EXPECT_EQ(estimate->value("problem", std::string()), model.status().message());
    }
  }
}

}  // namespace
}  // namespace nbl

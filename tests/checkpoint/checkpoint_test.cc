#include "checkpoint/checkpoint.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>

#include "support/temporary_checkpoint.h"

namespace nbl {
namespace {

using testing::safetensors_bytes;
using testing::tensor;
using testing::TemporaryDirectory;

const std::vector<float> kSix = {1, 2, 3, 4, 5, 6};

std::string problem_of(const TemporaryDirectory& directory, Code code) {
  const auto checkpoint = Checkpoint::open(directory.path());
  EXPECT_FALSE(checkpoint.ok());
  EXPECT_EQ(checkpoint.status().code(), code) << checkpoint.status().message();
  return checkpoint.status().message();
}

TEST(Checkpoint, OpensASingleFile) {
  TemporaryDirectory directory;
  directory.write("config.json", R"({"model_type":"llama"})");
  directory.write("model.safetensors", safetensors_bytes({tensor("b", "F32", {2, 3}, kSix), tensor<uint8_t>("a", "U8", {0}, {})}));
  const auto checkpoint = Checkpoint::open(directory.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  const TensorView* view = (*checkpoint)->find("b");
  ASSERT_TRUE(view);
  EXPECT_EQ(view->shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(std::memcmp(view->data, kSix.data(), 24), 0);
  EXPECT_EQ((*checkpoint)->find("c"), nullptr);
  EXPECT_EQ((*checkpoint)->tensors()[0].name, "a");
}

TEST(Checkpoint, EveryDtypeOfTheFormat) {
  const struct { const char* name; size_t bytes; } types[] = {{"BOOL", 1}, {"U8", 1}, {"I8", 1}, {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"I16", 2},
                                                              {"F16", 2}, {"BF16", 2}, {"I32", 4}, {"F32", 4}, {"I64", 8}, {"F64", 8}};
  TemporaryDirectory directory;
  directory.write("config.json", "{}");
  std::vector<testing::TensorBytes> tensors;
  for (const auto& type : types) tensors.push_back({type.name, type.name, {3}, std::string(3 * type.bytes, '\1')});
  directory.write("model.safetensors", safetensors_bytes(tensors));
  const auto checkpoint = Checkpoint::open(directory.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  EXPECT_EQ((*checkpoint)->tensors().size(), 12u);
}

TEST(Checkpoint, ShardsAndTheirIndexThroughSymlinks) {
  TemporaryDirectory blobs, snapshot;
  blobs.write("one", safetensors_bytes({tensor("a", "F32", {6}, kSix)}));
  blobs.write("two", safetensors_bytes({tensor("b", "F32", {6}, kSix)}));
  blobs.write("config", "{}");
  blobs.write("index", R"({"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}})");
  std::filesystem::create_symlink(blobs.file("one"), snapshot.file("model-00001-of-00002.safetensors"));
  std::filesystem::create_symlink(blobs.file("two"), snapshot.file("model-00002-of-00002.safetensors"));
  std::filesystem::create_symlink(blobs.file("config"), snapshot.file("config.json"));
  std::filesystem::create_symlink(blobs.file("index"), snapshot.file("model.safetensors.index.json"));
  const auto checkpoint = Checkpoint::open(snapshot.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  EXPECT_TRUE((*checkpoint)->find("a") && (*checkpoint)->find("b"));

  TemporaryDirectory folder;
  std::filesystem::create_directory_symlink(snapshot.path(), folder.file("snapshots"));
  EXPECT_NE(problem_of(folder, Code::kNotFound).find("give one of its snapshots/REVISION"), std::string::npos);

  std::filesystem::remove(snapshot.file("model-00002-of-00002.safetensors"));
  EXPECT_NE(problem_of(snapshot, Code::kNotFound).find("model-00002-of-00002"), std::string::npos);
}

// Shards of an earlier save beside the file of a later one.
TEST(Checkpoint, OneWholeFileIsReadAndNotTheIndexBesideIt) {
  TemporaryDirectory directory;
  directory.write("config.json", "{}");
  directory.write("model.safetensors", safetensors_bytes({tensor("a", "F32", {6}, kSix)}));
  directory.write("model-00001-of-00001.safetensors", safetensors_bytes({tensor("b", "F32", {6}, kSix)}));
  directory.write("model.safetensors.index.json", R"({"weight_map":{"b":"model-00001-of-00001.safetensors"}})");
  const auto checkpoint = Checkpoint::open(directory.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  EXPECT_TRUE((*checkpoint)->find("a"));
  EXPECT_FALSE((*checkpoint)->find("b"));
}

TEST(Checkpoint, FindsTheFileOfOldQuantizersAndTheirConfig) {
  TemporaryDirectory directory;
  directory.write("config.json", "{}");
  directory.write("quantize_config.json", R"({"bits":4,"group_size":128})");
  directory.write("gptq_model-4bit-128g.safetensors", safetensors_bytes({tensor("a", "F32", {6}, kSix)}));
  const auto checkpoint = Checkpoint::open(directory.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  EXPECT_EQ((*checkpoint)->quantization_source(), "quantize_config.json");
  EXPECT_EQ((*checkpoint)->quantization_config()["bits"], 4);
}

TEST(Checkpoint, AQuantizationThatIsNoObjectIsAnError) {
  TemporaryDirectory directory;
  directory.write("config.json", R"({"quantization_config":"gptq"})");
  EXPECT_NE(problem_of(directory, Code::kFormat).find("\"quantization_config\" is \"gptq\", expected an object or null"), std::string::npos);
  directory.write("config.json", R"({"quantization_config":null})");
  directory.write("model.safetensors", safetensors_bytes({tensor("a", "F32", {6}, kSix)}));
  EXPECT_TRUE(Checkpoint::open(directory.path()).ok());
}

TEST(Checkpoint, SaysWhatIsMissing) {
  TemporaryDirectory directory;
  EXPECT_NE(problem_of(directory, Code::kNotFound).find("config.json"), std::string::npos);
  directory.write("config.json", "{}");
  directory.write("pytorch_model.bin", "x");
  EXPECT_NE(problem_of(directory, Code::kNotFound).find("pickles (pytorch_model.bin)"), std::string::npos);
  std::filesystem::remove(directory.file("pytorch_model.bin"));
  directory.write("model.Q4_K_M.gguf", "GGUF");
  EXPECT_NE(problem_of(directory, Code::kNotFound).find("GGUF (model.Q4_K_M.gguf)"), std::string::npos);
  directory.write("generation_config.json", "[1]");
  EXPECT_NE(problem_of(directory, Code::kFormat).find("generation_config.json is not an object"), std::string::npos);
  directory.write("config.json", "[1]");
  EXPECT_NE(problem_of(directory, Code::kFormat).find("/config.json is not an object"), std::string::npos);
}

// A pipe would be waited for until somebody writes to it.
TEST(Checkpoint, WhatIsNoFileIsTold) {
  TemporaryDirectory directory;
  ASSERT_EQ(mkfifo(directory.file("config.json").c_str(), 0600), 0);
  EXPECT_NE(problem_of(directory, Code::kIo).find("config.json is not a regular file"), std::string::npos);
  std::filesystem::remove(directory.file("config.json"));
  directory.write("config.json", "{}");
  ASSERT_EQ(mkfifo(directory.file("model.safetensors").c_str(), 0600), 0);
  EXPECT_NE(problem_of(directory, Code::kIo).find("model.safetensors is not a regular file"), std::string::npos);
  std::filesystem::remove(directory.file("model.safetensors"));
  std::filesystem::create_directory(directory.file("model.safetensors"));
  EXPECT_NE(problem_of(directory, Code::kIo).find("model.safetensors is not a regular file"), std::string::npos);
}

TEST(Checkpoint, APathThatIsNoneIsTold) {
  const auto nothing = Checkpoint::open("");
  ASSERT_FALSE(nothing.ok());
  EXPECT_EQ(nothing.status().code(), Code::kNotFound);
  EXPECT_NE(nothing.status().message().find("empty text"), std::string::npos);
  const auto cut = Checkpoint::open(std::string(NIBBLE_TEST_DATA "/story-6m") + '\0' + "x");
  ASSERT_FALSE(cut.ok());
  EXPECT_EQ(cut.status().code(), Code::kArgument) << cut.status().message();
}

// What a clone without git-lfs has in the place of large files.
TEST(Checkpoint, PointersOfGitLfsAreNamed) {
  const std::string pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 456\n";
  TemporaryDirectory directory;
  directory.write("config.json", "{}");
  directory.write("model.safetensors", pointer);
  EXPECT_NE(problem_of(directory, Code::kFormat).find("model.safetensors is a pointer of git-lfs"), std::string::npos);
  directory.write("tokenizer.json", pointer);
  const auto text = read_text_file(directory.file("tokenizer.json"));
  ASSERT_FALSE(text.ok());
  EXPECT_NE(text.status().message().find("git lfs pull"), std::string::npos);
}

// Each header is wrong in one way; the message names what.
TEST(Checkpoint, HostileHeadersAreOrdinaryInput) {
  const std::string data(64, 'x');
  const struct { std::string bytes; const char* expected;
  } cases[] = {
      {"", "too few"},
      {std::string("\xff\xff\xff\xff\xff\xff\xff\x7f", 8), "announces a header"},
      {safetensors_bytes("{\"a\":", ""), "not valid JSON"},
      {safetensors_bytes("[]", ""), "not an object"},
      {safetensors_bytes(R"({"a":{"dtype":"F32","shape":[4]}})", data), "lacks"},
      {safetensors_bytes(R"({"a":{"dtype":"F99","shape":[4],"data_offsets":[0,16]}})", data), "F99"},
      {safetensors_bytes(R"({"a":{"dtype":"F32","shape":[5],"data_offsets":[0,16]}})", data), "expected 20"},
      {safetensors_bytes(R"({"a":{"dtype":"F32","shape":[-4],"data_offsets":[0,16]}})", data), "shape"},
      {safetensors_bytes(R"({"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,16]}})", data), "too large"},
      {safetensors_bytes(R"({"a":{"dtype":"F32","shape":[32],"data_offsets":[0,128]}})", data), "truncated"},
      {safetensors_bytes(R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[16,0]}})", data), "truncated"},
      {safetensors_bytes(R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"b":{"dtype":"F32","shape":[4],"data_offsets":[8,24]}})",
                         data),
       "overlaps a"},
      {safetensors_bytes(R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}})", data),
       "model.safetensors: has 64 bytes of data, expected 16, where the last tensor, a, ends"},
      {safetensors_bytes("{}", data), "has 64 bytes of data, expected 0"},
      {safetensors_bytes(R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"b":{"dtype":"F32","shape":[8],"data_offsets":[32,64]}})",
                         data),
       "tensor b begins at byte 32 of the data, expected 16, the end of a"},
      {safetensors_bytes(R"({"a":{"dtype":"F32","shape":[12],"data_offsets":[16,64]}})", data),
       "tensor a begins at byte 16 of the data, expected 0"},
      {safetensors_bytes(R"({"a":{"dtype":"F32","shape":[16],"data_offsets":[0,64]},"b":{"dtype":"U8","shape":[0],"data_offsets":[32,32]}})",
                         data),
       "tensor b begins at byte 32"},
      {safetensors_bytes(R"({"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1,1],"data_offsets":[0,1]}})", data), "at most 8"},
      {safetensors_bytes(std::string(1000, '[') + std::string(1000, ']'), ""), "nests deeper"},
  };
  for (const auto& c : cases) {
    TemporaryDirectory directory;
    directory.write("config.json", "{}");
    directory.write("model.safetensors", c.bytes);
    EXPECT_NE(problem_of(directory, Code::kFormat).find(c.expected), std::string::npos) << c.expected;
  }
}

// Where a tensor without bytes lies does not matter as long as it is between two others, or at an end.
TEST(Checkpoint, TensorsWithoutBytesLieBetweenOthers) {
  TemporaryDirectory directory;
  directory.write("config.json", "{}");
  directory.write("model.safetensors", safetensors_bytes({tensor<uint8_t>("first", "U8", {0}, {}), tensor("z", "F32", {6}, kSix),
                                                          tensor<uint8_t>("middle", "U8", {0}, {}), tensor("a", "F32", {6}, kSix),
                                                          tensor<uint8_t>("last", "F32", {4, 0}, {})}));
  const auto checkpoint = Checkpoint::open(directory.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  EXPECT_EQ((*checkpoint)->tensors().size(), 5u);
}

TEST(Checkpoint, ATensorInTwoFilesIsAnError) {
  TemporaryDirectory directory;
  directory.write("config.json", "{}");
  directory.write("x.safetensors", safetensors_bytes({tensor("a", "F32", {6}, kSix)}));
  directory.write("y.safetensors", safetensors_bytes({tensor("a", "F32", {6}, kSix)}));
  EXPECT_NE(problem_of(directory, Code::kFormat).find("again in"), std::string::npos);
}

}  // namespace
}  // namespace nbl

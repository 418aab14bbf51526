#include "golden/record.h"

#include <cstring>
#include <stdexcept>

#include "text_file.h"

namespace golden {
namespace {

using Json = nlohmann::ordered_json;

// The tensors of a safetensors file: 8 bytes of header size, a JSON header, the data. F32 and I64 are all that occur.
class Tensors {
 public:
  explicit Tensors(const std::string& path) : path_(path), bytes_(text_file::read(path)) {
    uint64_t header_size = 0;
    if (bytes_.size() < 8) throw std::runtime_error(path_ + " is no safetensors file");
    std::memcpy(&header_size, bytes_.data(), 8);
    if (header_size > bytes_.size() - 8) throw std::runtime_error(path_ + " is shorter than its header says");
    header_ = Json::parse(bytes_.begin() + 8, bytes_.begin() + 8 + static_cast<int64_t>(header_size));
    data_ = 8 + header_size;
  }

  bool has(const std::string& name) const { return header_.contains(name); }
  std::vector<float> floats(const std::string& name) const { return values<float>(name, "F32"); }
  std::vector<int32_t> ids(const std::string& name) const {
    const std::vector<int64_t> wide = values<int64_t>(name, "I64");
    return {wide.begin(), wide.end()};
  }
  int64_t rows(const std::string& name) const {
    const Json& shape = header_.at(name).at("shape");
    return shape.size() > 1 ? shape[0].get<int64_t>() : 1;
  }

 private:
  template <class T>
  std::vector<T> values(const std::string& name, const char* dtype) const {
    const Json& entry = header_.at(name);
    const uint64_t begin = entry.at("data_offsets")[0], end = entry.at("data_offsets")[1];
    if (entry.at("dtype") != dtype || begin > end || data_ + end > bytes_.size()) {
      throw std::runtime_error(path_ + ": tensor " + name + " is not " + dtype + " or not inside the file");
    }
    std::vector<T> out((end - begin) / sizeof(T));
    std::memcpy(out.data(), bytes_.data() + data_ + begin, out.size() * sizeof(T));
    return out;
  }

  std::string path_, bytes_;
  Json header_;
  uint64_t data_ = 0;
};

Prompt numbered_prompt(const Json& entry, const Tensors& tensors, const std::string& number) {
  Prompt prompt;
  prompt.name = number;
  prompt.ids = tensors.ids("input_ids." + number);
  prompt.logits = tensors.floats("logits." + number);
  prompt.rows = tensors.rows("logits." + number);
  prompt.greedy = tensors.ids("greedy." + number);
  prompt.gaps = {entry.value("min_greedy_margin", 0.0f)};
  if (tensors.has("greedy_last_logits." + number)) prompt.last_logits = tensors.floats("greedy_last_logits." + number);
  return prompt;
}

Prompt named_prompt(const Json& entry, const Tensors& tensors) {
  Prompt prompt;
  prompt.name = entry.at("name").get<std::string>();
  prompt.ids = entry.at("ids").get<std::vector<int32_t>>();
  for (const char* kind : {".logits", ".all", ".last"}) {  // the one with the most rows
    if (!tensors.has(prompt.name + kind)) continue;
    prompt.logits = tensors.floats(prompt.name + kind);
    prompt.rows = tensors.rows(prompt.name + kind);
    break;
  }
  prompt.greedy = entry.at("greedy64").get<std::vector<int32_t>>();
  prompt.gaps = entry.at("greedy64_gaps").get<std::vector<float>>();
  prompt.text = entry.value("rendered", entry.value("text", ""));
  if (entry.contains("messages")) prompt.messages = entry["messages"];
  prompt.greedy_text = entry.value("greedy64_text", "");
  return prompt;
}

}  // namespace

Record read_record(const std::string& directory) {
  const Json json = Json::parse(text_file::read(directory + "/golden.json"));
  const Tensors tensors(directory + "/golden.safetensors");
  Record record;
  record.unrounded = json.value("weights", "").find("into float32") != std::string::npos;
  for (const Json& entry : json.at("prompts")) {
    record.prompts.push_back(entry.contains("name") ? named_prompt(entry, tensors)
                                                    : numbered_prompt(entry, tensors, std::to_string(record.prompts.size())));
  }
  if (json.contains("perplexity")) {
    const Json list = json["perplexity"].is_array() ? json["perplexity"] : Json::array({json["perplexity"]});
    for (const Json& entry : list) {
      record.perplexities.push_back({entry.at("text").get<std::string>(), entry.value("characters", int64_t{0}),
                                     entry.at("window").get<int64_t>(), entry.at("perplexity").get<double>()});
    }
  }
  return record;
}

}  // namespace golden

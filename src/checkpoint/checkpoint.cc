#include "checkpoint/checkpoint.h"

#include <dirent.h>
#include <sys/stat.h>

#include <algorithm>
#include <set>

#include "checkpoint/safetensors.h"

namespace nbl {

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

namespace {

bool exists(const std::string& path) {
  struct stat facts;
  return stat(path.c_str(), &facts) == 0;
}

// A file that may be missing: {} then. One that is there but broken is an error.
Result<Json> optional_json(const std::string& path) {
  Result<Json> value = read_json_file(path);
  if (!value.ok() && value.status().code() == Code::kNotFound) return Json::object();
  return value;
}

std::vector<std::string> list_files(const std::string& directory, std::string_view ending) {
  std::vector<std::string> names;
  if (DIR* handle = opendir(directory.c_str())) {
    while (const dirent* entry = readdir(handle)) {
      const std::string name = entry->d_name;
      const bool fits = name.size() > ending.size() && name.compare(name.size() - ending.size(), ending.size(), ending) == 0;
      if (fits && name[0] != '.') names.push_back(name);
    }
    closedir(handle);
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<std::string> list_safetensors(const std::string& directory) { return list_files(directory, ".safetensors"); }

// What a directory without safetensors has instead, with the way out; empty where it has nothing of the kind.
std::string other_weights(const std::string& directory) {
  static constexpr struct {
    const char* ending;
    const char* what;
    const char* way_out;
  } kKinds[] = {
      {".gguf", "GGUF", "fetch the checkpoint that it was made from"},
      {".bin", "PyTorch pickles", "convert them to safetensors"},
      {".pt", "PyTorch pickles", "convert them to safetensors"},
      {".pth", "PyTorch pickles", "convert them to safetensors"},
  };
  for (const auto& kind : kKinds) {
    const std::vector<std::string> files = list_files(directory, kind.ending);
    if (!files.empty()) return "; it has " + std::string(kind.what) + " (" + files[0] + "), which nibble does not read: " + kind.way_out;
  }
  return exists(directory + "/pytorch_model.bin.index.json") ? "; it has the index of PyTorch pickles, which nibble does not read" : "";
}

class DirectoryCheckpoint : public Checkpoint {
 public:
  static Result<std::shared_ptr<const Checkpoint>> open(const std::string& directory);

  const std::string& directory() const override { return directory_; }
  const Json& config() const override { return config_; }
  const Json& generation_config() const override { return generation_config_; }
  const Json& quantization_config() const override { return quantization_config_; }
  const std::string& quantization_source() const override { return quantization_source_; }
  const std::vector<TensorView>& tensors() const override { return tensors_; }
  const std::vector<std::pair<std::string, std::string>>& metadata() const override { return metadata_; }
  int64_t file_bytes() const override { return file_bytes_; }

  const TensorView* find(std::string_view name) const override {
    const auto at = std::lower_bound(tensors_.begin(), tensors_.end(), name,
                                     [](const TensorView& tensor, std::string_view wanted) { return tensor.name < wanted; });
    return at != tensors_.end() && at->name == name ? &*at : nullptr;
  }

  void release(const TensorView& tensor) const override {
    for (const auto& mapping : mappings_) {
      if (mapping->path() == tensor.file) return mapping->release(tensor.data, tensor.bytes);
    }
  }

 private:
  Status read_configs();
  Status find_quantization();
  Result<std::vector<std::string>> weight_files() const;
  Status open_weights();

  std::string directory_;
  Json config_, generation_config_, quantization_config_;
  std::string quantization_source_;
  std::vector<std::shared_ptr<const MappedFile>> mappings_;
  std::vector<TensorView> tensors_;
  std::vector<std::pair<std::string, std::string>> metadata_;
  int64_t file_bytes_ = 0;
};

Status DirectoryCheckpoint::read_configs() {
  if (directory_.empty()) return error(Code::kNotFound, "the directory is an empty text; give the path of a checkpoint's directory");
  if (const size_t at = directory_.find('\0'); at != std::string::npos) {
    return error(Code::kArgument, "the directory has a NUL at offset %zu, which no path has", at).with("offset", static_cast<int64_t>(at));
  }
  struct stat facts;
  if (stat(directory_.c_str(), &facts) != 0) {
    return error(Code::kNotFound, "%s: no such directory", directory_.c_str()).with("file", directory_);
  }
  if (!S_ISDIR(facts.st_mode)) {
    return error(Code::kNotFound, "%s is a file; give the directory that holds config.json and the safetensors files",
                 directory_.c_str())
        .with("file", directory_);
  }
  Result<Json> config = read_json_file(directory_ + "/config.json");
  if (!config.ok() && config.status().code() == Code::kNotFound) {
    return error(Code::kNotFound, "%s has no config.json: %s", directory_.c_str(),
                 exists(directory_ + "/snapshots") ? "it is a model's folder in the Hugging Face cache; give one of its snapshots/REVISION"
                                                   : "it is not a Hugging Face model directory")
        .with("file", directory_ + "/config.json");
  }
  NBL_RETURN_IF_ERROR(config.status());
  if (!config->is_object()) return error(Code::kFormat, "%s/config.json is not an object", directory_.c_str());
  config_ = std::move(config).value();
  NBL_ASSIGN_OR_RETURN(generation_config_, optional_json(directory_ + "/generation_config.json"));
  if (!generation_config_.is_object()) return error(Code::kFormat, "%s/generation_config.json is not an object", directory_.c_str());
  return find_quantization();
}

// config.json decides; older tools wrote files of their own (formats.md 1.1).
Status DirectoryCheckpoint::find_quantization() {
  for (const char* key : {"quantization_config", "compression_config"}) {
    if (config_.contains(key) && !config_[key].is_object() && !config_[key].is_null()) {
      return error(Code::kFormat, "%s/config.json: \"%s\" is %s, expected an object or null", directory_.c_str(), key,
                   to_text(config_[key]).c_str())
          .with("key", key);
    }
    if (config_.contains(key) && config_[key].is_object()) {
      quantization_config_ = config_[key];
      quantization_source_ = "config.json";
      return {};
    }
    for (const char* nested : {"text_config", "llm_config"}) {
      if (config_.contains(nested) && config_[nested].is_object() && config_[nested].contains(key) && config_[nested][key].is_object()) {
        quantization_config_ = config_[nested][key];
        quantization_source_ = std::string("config.json, ") + nested;
        return {};
      }
    }
  }
  for (const char* name : {"quantize_config.json", "quant_config.json", "quantization_config.json"}) {
    NBL_ASSIGN_OR_RETURN(Json value, optional_json(directory_ + "/" + name));
    if (!value.is_object() || value.empty()) continue;
    quantization_config_ = std::move(value);
    quantization_source_ = name;
    return {};
  }
  return {};
}

// model.safetensors (also beside an index, as transformers reads it: shards that an earlier save left), or what the index
// names, or the name that the quantizer left, or the only files there are.
Result<std::vector<std::string>> DirectoryCheckpoint::weight_files() const {
  if (exists(directory_ + "/model.safetensors")) return std::vector<std::string>{"model.safetensors"};
  const std::string index_path = directory_ + "/model.safetensors.index.json";
  if (exists(index_path)) {
    NBL_ASSIGN_OR_RETURN(const Json index, read_json_file(index_path));
    if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
      return error(Code::kFormat, "%s has no weight_map object", index_path.c_str()).with("file", index_path);
    }
    std::set<std::string> names;
    for (const auto& [tensor, file] : index["weight_map"].items()) {
      if (!file.is_string() || file.string().find('/') != std::string::npos) {
        return error(Code::kFormat, "%s places %s in %s, expected a file name", index_path.c_str(), tensor.c_str(), to_text(file).c_str());
      }
      names.insert(file.get<std::string>());
    }
    std::vector<std::string> present;
    std::string missing;
    for (const std::string& name : names) {
      if (exists(directory_ + "/" + name)) {
        present.push_back(name);
      } else {
        missing += (missing.empty() ? "" : ", ") + name;
      }
    }
    if (missing.empty() && !present.empty()) return present;
    // An index that names other files than are there: old quantizers renamed the file and not the index.
    const std::vector<std::string> all = list_safetensors(directory_);
    if (present.empty() && !all.empty()) return all;
    return error(Code::kNotFound, "%s names files that are not there: %s; fetch the missing shards", index_path.c_str(), missing.c_str())
        .with("file", index_path);
  }
  if (quantization_config_.is_object() && quantization_config_.contains("model_file_base_name") &&
      quantization_config_["model_file_base_name"].is_string()) {
    const std::string name = quantization_config_["model_file_base_name"].get<std::string>() + ".safetensors";
    if (name.find('/') == std::string::npos && exists(directory_ + "/" + name)) return std::vector<std::string>{name};
  }
  std::vector<std::string> all = list_safetensors(directory_);
  if (!all.empty()) return all;
  return error(Code::kNotFound, "%s has no .safetensors file%s", directory_.c_str(), other_weights(directory_).c_str())
      .with("file", directory_);
}

Status DirectoryCheckpoint::open_weights() {
  NBL_ASSIGN_OR_RETURN(const std::vector<std::string> names, weight_files());
  for (const std::string& name : names) {
    NBL_ASSIGN_OR_RETURN(SafetensorsFile file, open_safetensors(directory_ + "/" + name));
    file_bytes_ += file.mapping->size();
    mappings_.push_back(std::move(file.mapping));
    std::move(file.tensors.begin(), file.tensors.end(), std::back_inserter(tensors_));
    std::move(file.metadata.begin(), file.metadata.end(), std::back_inserter(metadata_));
  }
  std::sort(tensors_.begin(), tensors_.end(), [](const TensorView& a, const TensorView& b) { return a.name < b.name; });
  for (size_t i = 1; i < tensors_.size(); ++i) {
    if (tensors_[i].name == tensors_[i - 1].name) {
      return error(Code::kFormat, "tensor %s is in %s and again in %s", tensors_[i].name.c_str(), tensors_[i - 1].file.c_str(),
                   tensors_[i].file.c_str())
          .with("tensor", tensors_[i].name);
    }
  }
  return {};
}

Result<std::shared_ptr<const Checkpoint>> DirectoryCheckpoint::open(const std::string& directory) {
  auto checkpoint = std::make_shared<DirectoryCheckpoint>();
  checkpoint->directory_ = directory;
  NBL_RETURN_IF_ERROR(checkpoint->read_configs());
  NBL_RETURN_IF_ERROR(checkpoint->open_weights());
  return std::shared_ptr<const Checkpoint>(std::move(checkpoint));
}

}  // namespace

Result<std::shared_ptr<const Checkpoint>> Checkpoint::open(const std::string& directory) { return DirectoryCheckpoint::open(directory); }

}  // namespace nbl

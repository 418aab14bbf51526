// Checkpoint: a Hugging Face directory, opened. Its tensors are mapped, not read; its JSON files are parsed.
//
// Accepts one model.safetensors, shards with an index, any single *.safetensors (old GPTQ names), and hub cache
// snapshots made of symlinks. Every size and offset in a header is checked before a view is made of it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "base/json.h"
#include "base/status.h"

namespace nbl {

// A tensor inside the mapping; valid as long as the Checkpoint lives. Data may be unaligned for its type.
struct TensorView {
  std::string name;
  DType dtype = DType::kU8;
  std::vector<int64_t> shape;
  const uint8_t* data = nullptr;
  int64_t bytes = 0;
  std::string file;                  // path, for messages

  int64_t elements() const {
    int64_t count = 1;
    for (int64_t extent : shape) count *= extent;
    return count;
  }
};

std::string shape_text(const std::vector<int64_t>& shape);  // "[4096, 512]"

class Checkpoint {
 public:
  static Result<std::shared_ptr<const Checkpoint>> open(const std::string& directory);

  virtual ~Checkpoint() = default;
  virtual const std::string& directory() const = 0;
  virtual const Json& config() const = 0;               // config.json
  virtual const Json& generation_config() const = 0;    // {} when there is none
  // The quantization part, wherever it was found (config.json, nested text_config, quantize_config.json,
  // quant_config.json); null when none. quantization_source() names the file.
  virtual const Json& quantization_config() const = 0;
  virtual const std::string& quantization_source() const = 0;

  virtual const TensorView* find(std::string_view name) const = 0;          // null when absent
  virtual const std::vector<TensorView>& tensors() const = 0;               // sorted by name
  virtual const std::vector<std::pair<std::string, std::string>>& metadata() const = 0;  // __metadata__ of the files
  virtual int64_t file_bytes() const = 0;
  // Tells the system that these pages need not stay in memory: called when a tensor has been repacked.
  virtual void release(const TensorView& tensor) const = 0;
};

}  // namespace nbl

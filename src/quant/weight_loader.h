// WeightLoader: a checkpoint's modules as QuantWeights. Which format a module has is decided by the tensors that are
// there (formats.md, section 0); the configuration only says what tensors cannot, and is cross-checked.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/status.h"
#include "checkpoint/checkpoint.h"
#include "quant/quant_weight.h"

namespace nbl {

// Quantizing while loading, as bitsandbytes does with load_in_4bit / load_in_8bit (float modules only).
struct LoadQuantOptions {
  enum class Method : uint8_t { kNone, kNf4, kFp4, kInt8 };
  Method method = Method::kNone;
  int64_t block_size = 64;
  bool double_quant = false;
  double int8_threshold = -1;        // llm_int8_threshold, for int8 from a checkpoint too: WeightSpec::outlier_threshold
  std::vector<std::string> skip;     // llm_int8_skip_modules; empty: the output head (and what is tied to it)
};

class WeightLoader {
 public:
  static Result<std::unique_ptr<WeightLoader>> open(std::shared_ptr<const Checkpoint> checkpoint, const LoadQuantOptions& options);

  virtual ~WeightLoader() = default;
  virtual const Checkpoint& checkpoint() const = 0;
  // Whether any tensor belongs to the linear module ("model.layers.0.self_attn.q_proj").
  virtual bool has(std::string_view module) const = 0;
  // From shapes and configuration alone; no weight is read. in/out_features > 0 are what the model expects: a module
  // that says otherwise is kFormat naming tensor, found and expected shape.
  virtual Result<WeightSpec> spec(std::string_view module, int64_t out_features, int64_t in_features) const = 0;
  // keep_stored: codes stay as the file packs them (QuantWeight::stored), unless the format has no view for that.
  virtual Result<QuantWeight> load(std::string_view module, int64_t out_features, int64_t in_features, bool keep_stored = false) const = 0;
  // The module's bias as float32; empty when it has none (an all-zero one counts as none).
  virtual Result<std::vector<float>> bias(std::string_view module, int64_t out_features) const = 0;
  // Any float tensor of `elements` values as float32, e.g. "model.norm.weight".
  virtual Result<std::vector<float>> vector(std::string_view tensor, int64_t elements) const = 0;
  // Gives back the file pages of a module that has been packed.
  virtual void release(std::string_view module) const = 0;

  // {"quant_method", "bits", "group_size", "zero_point"/"sym", "version", "modules_to_not_convert", ...}: normalised
  // names, for inspect and describe; {"quant_method": null} when the checkpoint is not quantized.
  virtual Json description() const = 0;
  // What was found odd but could be dealt with: told in the log and in describe.
  virtual const std::vector<std::string>& warnings() const = 0;
};

}  // namespace nbl

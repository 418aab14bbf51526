#include "quant/weight_loader.h"

#include <algorithm>

#include "quant/formats.h"
#include "quant/load_quant.h"
#include "quant/quant_config.h"

namespace nbl {
namespace {

using Method = LoadQuantOptions::Method;

class CheckpointLoader : public WeightLoader {
 public:
  CheckpointLoader(std::shared_ptr<const Checkpoint> checkpoint, const LoadQuantOptions& options, QuantConfig config)
      : checkpoint_(std::move(checkpoint)), options_(options), config_(std::move(config)) {}

  const Checkpoint& checkpoint() const override { return *checkpoint_; }

  bool has(std::string_view module) const override {
    const std::string prefix = std::string(module) + ".";
    const auto& tensors = checkpoint_->tensors();
    const auto at = std::lower_bound(tensors.begin(), tensors.end(), prefix,
                                     [](const TensorView& tensor, const std::string& wanted) { return tensor.name < wanted; });
    return at != tensors.end() && at->name.compare(0, prefix.size(), prefix) == 0;
  }

  Result<WeightSpec> spec(std::string_view module, int64_t n, int64_t k) const override {
    const ModuleSource source = source_of(module, n, k, nullptr);
    NBL_ASSIGN_OR_RETURN(const Format* format, format_of(source));
    NBL_ASSIGN_OR_RETURN(WeightSpec spec, format->spec(source));
    if (quantizes(source.module, spec)) spec = load_quant_spec(spec, options_);
    set_threshold(spec);
    return spec;
  }

  Result<QuantWeight> load(std::string_view module, int64_t n, int64_t k, bool keep_stored) const override {
    ModuleSource source = source_of(module, n, k, &warnings_);
    source.keep_stored = keep_stored;
    NBL_ASSIGN_OR_RETURN(const Format* format, format_of(source));
    NBL_ASSIGN_OR_RETURN(QuantWeight weight, format->load(source));
    if (quantizes(source.module, weight)) {
      if (keep_stored && can_quantize_on_device(weight, options_)) {
        weight = quantize_on_device(std::move(weight), options_);
      } else {
        NBL_ASSIGN_OR_RETURN(weight, quantize_on_load(weight, options_));
      }
    }
    set_threshold(weight);
    return weight;
  }

  Result<std::vector<float>> bias(std::string_view module, int64_t n) const override {
    const std::string name = std::string(module) + ".bias";
    if (!checkpoint_->find(name)) return std::vector<float>();
    NBL_ASSIGN_OR_RETURN(std::vector<float> values, vector(name, n));
    if (std::all_of(values.begin(), values.end(), [](float value) { return value == 0; })) values.clear();
    return values;
  }

  Result<std::vector<float>> vector(std::string_view tensor, int64_t elements) const override {
    const TensorView* view = checkpoint_->find(tensor);
    if (!view) {
      return error(Code::kFormat, "%.*s is missing in %s", static_cast<int>(tensor.size()), tensor.data(), checkpoint_->directory().c_str())
          .with("tensor", tensor);
    }
    if (view->elements() != elements) {
      return error(Code::kFormat, "%s is %s, expected %lld values", view->name.c_str(), shape_text(view->shape).c_str(),
                   static_cast<long long>(elements))
          .with("file", view->file)
          .with("tensor", view->name);
    }
    return floats_of(*view);
  }

  void release(std::string_view module) const override {
    const std::string prefix = std::string(module) + ".";
    for (const TensorView& tensor : checkpoint_->tensors()) {
      if (tensor.name.compare(0, prefix.size(), prefix) == 0) checkpoint_->release(tensor);
    }
  }

  Json description() const override {
    Json out;
    out["quant_method"] = config_.method.empty() ? Json(nullptr) : Json(config_.method);
    if (!config_.method.empty()) {
      if (config_.bits > 0) out["bits"] = config_.bits;
      if (config_.group_size != 0) out["group_size"] = config_.group_size;
      if (!config_.format.empty()) out["version"] = config_.format;
      if (config_.symmetric_known) out["sym"] = config_.symmetric;
      for (const char* key :
           {"zero_point", "desc_act", "modules_to_not_convert", "llm_int8_skip_modules", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant",
            "bnb_4bit_compute_dtype", "llm_int8_threshold", "load_in_4bit", "load_in_8bit"}) {
        if (config_.raw.contains(key) && !config_.raw[key].is_null()) out[key] = config_.raw[key];
      }
    }
    static constexpr const char* kNames[] = {nullptr, "nf4", "fp4", "int8"};
    if (options_.method != Method::kNone) out["load_quant"] = kNames[static_cast<int>(options_.method)];
    return out;
  }

  const std::vector<std::string>& warnings() const override { return warnings_; }

 private:
  ModuleSource source_of(std::string_view module, int64_t n, int64_t k, std::vector<std::string>* warnings) const {
    return {*checkpoint_, std::string(module), config_, n, k, warnings, false};
  }

  // The rows of int8 that bitsandbytes makes are those of LLM.int8.
  void set_threshold(WeightSpec& spec) const {
    if (spec.format == WeightFormat::kIntGroup && spec.source.find("int8") != std::string::npos)
      spec.outlier_threshold = options_.int8_threshold;
  }

  // Float modules that are not on the skip list.
  bool quantizes(const std::string& module, const WeightSpec& spec) const {
    return options_.method != Method::kNone && spec.format == WeightFormat::kFloat && !is_skipped(module, options_);
  }

  Result<const Format*> format_of(const ModuleSource& source) const {
    for (int i = 0; i < kFormatCount; ++i) {
      if (kFormats[i]->matches(source)) return kFormats[i];
    }
    std::string present;
    const std::string prefix = source.module + ".";
    for (const TensorView& tensor : checkpoint_->tensors()) {
      if (tensor.name.compare(0, prefix.size(), prefix) != 0) continue;
      present += (present.empty() ? "" : ", ") + tensor.name.substr(prefix.size()) + " " + dtype_name(tensor.dtype) + " " +
                 shape_text(tensor.shape);
    }
    if (present.empty())
      return error(Code::kFormat, "%s has no tensors in %s", source.module.c_str(), checkpoint_->directory().c_str())
          .with("tensor", source.module);
    std::string known;
    for (int i = 0; i < kFormatCount; ++i) known += (i > 0 ? ", " : "") + std::string(kFormats[i]->name);
    return error(Code::kUnsupported,
                 "%s is stored in a format that is not known here: it has %s (configuration: %s %s); known are %s", source.module.c_str(),
                 present.c_str(), config_.method.c_str(), config_.format.c_str(), known.c_str())
        .with("tensor", source.module);
  }

  std::shared_ptr<const Checkpoint> checkpoint_;
  LoadQuantOptions options_;
  QuantConfig config_;
  mutable std::vector<std::string> warnings_;
};

}  // namespace

Result<std::unique_ptr<WeightLoader>> WeightLoader::open(std::shared_ptr<const Checkpoint> checkpoint, const LoadQuantOptions& options) {
  NBL_ASSIGN_OR_RETURN(QuantConfig config, QuantConfig::read(*checkpoint));
  if (options.method != Method::kNone &&
      (options.block_size < 32 || options.block_size > 4096 || (options.block_size & (options.block_size - 1)) != 0)) {
    return error(Code::kOptionValue, "a block size of %lld is not possible: bitsandbytes has 32, 64, 128, ... 4096",
                 static_cast<long long>(options.block_size));
  }
  return std::unique_ptr<WeightLoader>(new CheckpointLoader(std::move(checkpoint), options, std::move(config)));
}

}  // namespace nbl

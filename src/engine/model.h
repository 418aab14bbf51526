// Model: a checkpoint that has been loaded: weights packed for one backend, tokenizer, chat templates.
//
// Shared by its sessions and immutable but for its placement, which move() replaces as a whole. Any number of threads may
// use one Model at once.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/status.h"
#include "checkpoint/checkpoint.h"
#include "engine/generation_defaults.h"
#include "engine/placement.h"
#include "engine/sampler.h"
#include "kernels/backend.h"
#include "quant/weight_loader.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace nbl {

// Called while loading with bytes done and bytes in all; false stops the load with kCancelled.
using Progress = std::function<bool(uint64_t done, uint64_t total)>;

enum class BackendKind : uint8_t { kAuto, kRef, kCpu, kCuda };

struct LoadOptions {
  BackendKind backend = BackendKind::kAuto;  // auto: the first GPU on which model and session fit, else the CPU
  int device = 0;                            // for kCuda
  MemoryCeilings max_memory;
  CpuOptions cpu;
  CudaKernel kernel = CudaKernel::kAuto;     // of a GPU; the CPU refuses all but kAuto
  LoadQuantOptions load_quant;
  std::string chat_template;                 // replaces the checkpoint's; empty: the checkpoint's own
  GenerationDefaults::SamplingCheck check_sampling = nullptr;
};

struct EstimateOptions {
  int64_t context = 0;                       // positions; 0: the session's default
  DType kv_type = DType::kF16;
  int64_t prefill_chunk = 0;               // as SessionOptions has it
};

class Model : public std::enable_shared_from_this<Model> {
 public:
  static Result<std::shared_ptr<Model>> load(const std::string& directory, const LoadOptions& options,
                                             const Progress& progress = nullptr);
  // Random weights of a named shape and format, for measuring speed: {"shape": "mistral-7b", "format": "awq-g128"}.
  static Result<std::shared_ptr<Model>> synthesize(const Json& request, const LoadOptions& options);
  // A model of ready parts; tokenizer may be null. Tests use it.
  static std::shared_ptr<Model> assemble(std::shared_ptr<const Decoder> decoder, std::shared_ptr<Backend> backend,
                                         std::unique_ptr<Tokenizer> tokenizer, std::vector<int32_t> eos_ids);
  // What a directory holds, without reading weights: architecture, format, sizes, tokenizer, whether it can be loaded.
  static Result<Json> inspect(const std::string& directory, GenerationDefaults::SamplingCheck check = nullptr);
  // Bytes that load() and a session would take, where it would go, and what it would be refused with, without reading weights.
  static Result<Json> estimate(const std::string& directory, const LoadOptions& options, const EstimateOptions& session);

  // {"architecture", "backend", "quantization", "tokenizer", "chat_template", "modules": [{"name", "device", "format",
  // "kernel", "reason", "bytes"}...], "footprint_bytes", "warnings": [...]}
  Json describe() const;
  // Packs the weights anew for another device and lets go of the old ones; kBusy while sessions exist. Whoever reads the
  // model meanwhile sees the old placement until the new one is complete.
  Status move(BackendKind backend, int device);

  // The weights where they lie. Never changed once a model has it: who works with the weights holds one Placement, and
  // with it the backend, for as long as that takes.
  struct Placement {
    std::shared_ptr<Backend> backend;
    std::shared_ptr<const Decoder> decoder;  // packed by this backend
    Json quantization;
    std::vector<std::string> warnings;

    int64_t footprint_bytes() const;       // weights on their device
  };
  std::shared_ptr<const Placement> placement() const;

  const DecoderConfig& config() const { return config_; }
  // Null when the directory has none; tokenizer_status() then says what was looked for.
  const Tokenizer* tokenizer() const { return tokenizer_.get(); }
  const Status& tokenizer_status() const { return tokenizer_status_; }
  // Null when a template is there but cannot be used; chat_status() says why.
  const ChatTemplates* chat() const { return chat_.get(); }
  const Status& chat_status() const { return chat_status_; }
  // From generation_config.json; greedy where it says nothing.
  const SamplingOptions& default_sampling() const { return default_sampling_; }
  const std::vector<int32_t>& eos_ids() const { return eos_ids_; }
  const std::string& directory() const { return directory_; }
  int64_t parameter_count() const { return parameter_count_; }
  int64_t load_ns() const { return load_ns_; }

  // Sessions announce themselves, so that move() knows.
  Status enter();
  void leave();

 private:
  Model() = default;
  Result<std::shared_ptr<const Placement>> place(const LoadOptions& options, const Progress& progress) const;
  Status place_on(BackendKind kind, int device, const LoadOptions& options, const Progress& progress, Placement& placement) const;
  void take_first(std::shared_ptr<const Placement> placement);
  Status open_text(const LoadOptions& options);

  std::string directory_;
  LoadOptions options_;                           // of the load; another device does not change the others
  std::shared_ptr<const Checkpoint> checkpoint_;  // null for a synthesized model
  Json synthesis_;                                // the request of a synthesized model
  DecoderConfig config_;
  std::unique_ptr<Tokenizer> tokenizer_;
  Status tokenizer_status_;
  std::unique_ptr<ChatTemplates> chat_;
  Status chat_status_;
  SamplingOptions default_sampling_;
  std::vector<int32_t> eos_ids_;
  int64_t parameter_count_ = 0;
  int64_t load_ns_ = 0;
  std::mutex mutex_;                              // move() against enter()
  int sessions_ = 0;
  mutable std::mutex placement_mutex_;            // of the pointer only: nobody waits for a move that goes on
  std::shared_ptr<const Placement> placement_;
};

}  // namespace nbl

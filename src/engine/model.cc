#include "engine/model.h"

#include <sys/stat.h>

#include <algorithm>

#include "engine/clock.h"
#include "engine/session.h"
#include "model/build.h"
#include "model/config.h"
#include "model/estimate.h"
#include "model/synthesize.h"
#include "text/family_template.h"

namespace nbl {
namespace {

Result<std::shared_ptr<Backend>> make_backend(BackendKind kind, int device, const LoadOptions& options) {
  std::unique_ptr<Backend> backend;
  if (kind == BackendKind::kCuda) {
    CudaOptions cuda;
    cuda.device = device;
    cuda.kernel = options.kernel;
    NBL_ASSIGN_OR_RETURN(backend, make_cuda_backend(cuda));
    return std::shared_ptr<Backend>(std::move(backend));
  }
  if (options.kernel != CudaKernel::kAuto) {
    return error(Code::kUnsupported,
                 "a kernel of a GPU was asked for, which the CPU cannot run; leave the option kernel at auto, or load on a GPU")
        .with("option", "kernel");
  }
  if (kind == BackendKind::kRef) return std::shared_ptr<Backend>(make_ref_backend());
  NBL_ASSIGN_OR_RETURN(backend, make_cpu_backend(options.cpu));
  return std::shared_ptr<Backend>(std::move(backend));
}

// Whether the weights have room there; on auto a GPU is only taken if it holds a session beside them.
Status check_room(const WeightLoader& loader, const Backend& backend, BackendKind kind, int device, const LoadOptions& options) {
  const bool on_gpu = kind == BackendKind::kCuda;
  return check_room(loader, backend, on_gpu ? device : kCpuDevice, options.max_memory, on_gpu && options.backend == BackendKind::kAuto);
}

// Calls `on` with the device that the options name. On auto every GPU is tried in turn; what none can do (not there, too
// small) leaves the CPU, and the reasons are kept.
Status find_device(const LoadOptions& options, std::vector<std::string>& warnings, const std::function<Status(BackendKind, int)>& on) {
  if (options.backend != BackendKind::kAuto) return on(options.backend, options.device);
  for (int device = 0, count = cuda_device_count(); device < count; ++device) {
    const Status status = on(BackendKind::kCuda, device);
    if (status.ok() || status.code() == Code::kCancelled) return status;
    warnings.push_back("does not run on cuda:" + std::to_string(device) + ": " + status.message());
  }
  return on(BackendKind::kCpu, 0);
}

// Calls `visit` with every matrix of the model.
template <typename Visit>
void for_each_linear(const Decoder& decoder, const Visit& visit) {
  for (const Block& block : decoder.blocks) {
    for (const Linear& linear : block.attention.qkv) visit(linear);
    visit(block.attention.output);
    for (const Linear& linear : block.mlp.gate_up) visit(linear);
    visit(block.mlp.down);
  }
  visit(decoder.head);
}

bool file_exists(const std::string& path) {
  struct stat facts;
  return stat(path.c_str(), &facts) == 0;
}

const char* format_name(WeightFormat format) {
  switch (format) {
    case WeightFormat::kFloat: return "float";
    case WeightFormat::kIntGroup: return "int group";
    case WeightFormat::kCodebook: return "codebook";
  }
  return "?";
}

}  // namespace

Result<std::shared_ptr<Model>> Model::load(const std::string& directory, const LoadOptions& options, const Progress& progress) {
  const int64_t start = now_ns();
  std::shared_ptr<Model> model(new Model());
  model->directory_ = directory;
  model->options_ = options;
  NBL_ASSIGN_OR_RETURN(model->checkpoint_, Checkpoint::open(directory));
  NBL_ASSIGN_OR_RETURN(GenerationDefaults defaults, GenerationDefaults::read(*model->checkpoint_, options.check_sampling));
  NBL_RETURN_IF_ERROR(model->open_text(options));
  model->default_sampling_ = defaults.sampling;
  model->eos_ids_ = std::move(defaults.eos_ids);
  if (model->eos_ids_.empty() && model->tokenizer_ && model->tokenizer_->eos_id() >= 0) model->eos_ids_ = {model->tokenizer_->eos_id()};
  NBL_ASSIGN_OR_RETURN(auto placement, model->place(options, progress));
  model->take_first(std::move(placement));
  model->load_ns_ = now_ns() - start;
  return model;
}

Result<std::shared_ptr<Model>> Model::synthesize(const Json& request, const LoadOptions& options) {
  const int64_t start = now_ns();
  std::shared_ptr<Model> model(new Model());
  model->options_ = options;
  model->synthesis_ = request;
  model->tokenizer_status_ = error(Code::kUnsupported, "a synthesized model has no tokenizer: use token ids");
  model->chat_status_ = model->tokenizer_status_;
  NBL_ASSIGN_OR_RETURN(auto placement, model->place(options, nullptr));
  model->take_first(std::move(placement));
  model->load_ns_ = now_ns() - start;
  return model;
}

std::shared_ptr<Model> Model::assemble(std::shared_ptr<const Decoder> decoder, std::shared_ptr<Backend> backend,
                                       std::unique_ptr<Tokenizer> tokenizer, std::vector<int32_t> eos_ids) {
  std::shared_ptr<Model> model(new Model());
  auto placement = std::make_shared<Placement>();
  placement->decoder = std::move(decoder);
  placement->backend = std::move(backend);
  model->take_first(std::move(placement));
  model->tokenizer_ = std::move(tokenizer);
  model->eos_ids_ = std::move(eos_ids);
  if (!model->tokenizer_) model->tokenizer_status_ = error(Code::kUnsupported, "the model was made without a tokenizer");
  model->chat_status_ = error(Code::kUnsupported, "the model was made without a chat template");
  return model;
}

Result<std::shared_ptr<const Model::Placement>> Model::place(const LoadOptions& options, const Progress& progress) const {
  auto placement = std::make_shared<Placement>();
  NBL_RETURN_IF_ERROR(find_device(options, placement->warnings, [&](BackendKind kind, int device) {
    return place_on(kind, device, options, progress, *placement);
  }));
  return std::shared_ptr<const Placement>(std::move(placement));
}

Status Model::place_on(BackendKind kind, int device, const LoadOptions& options, const Progress& progress, Placement& placement) const {
  NBL_ASSIGN_OR_RETURN(std::shared_ptr<Backend> backend, make_backend(kind, device, options));
  std::shared_ptr<const Decoder> decoder;
  if (checkpoint_) {
    NBL_ASSIGN_OR_RETURN(const std::shared_ptr<const WeightLoader> loader, WeightLoader::open(checkpoint_, options.load_quant));
    NBL_RETURN_IF_ERROR(check_room(*loader, *backend, kind, device, options));
    NBL_ASSIGN_OR_RETURN(decoder, build_decoder(loader, *backend, progress));
    placement.quantization = loader->description();
    placement.warnings.insert(placement.warnings.end(), loader->warnings().begin(), loader->warnings().end());
    if (const std::string warning = layers_not_read(*checkpoint_, decoder->config); !warning.empty()) placement.warnings.push_back(warning);
  } else {
    NBL_ASSIGN_OR_RETURN(decoder, synthesize_decoder(synthesis_, *backend));
    placement.quantization = synthesis_;
  }
  placement.decoder = std::move(decoder);
  placement.backend = std::move(backend);
  return {};
}

// What is the same wherever the weights lie is taken from where they lie first.
void Model::take_first(std::shared_ptr<const Placement> placement) {
  const Decoder& decoder = *placement->decoder;
  config_ = decoder.config;
  parameter_count_ = config_.vocab_size * config_.hidden_size;
  for_each_linear(decoder, [&](const Linear& linear) {
    if (&linear == &decoder.head && config_.tie_word_embeddings) return;
    parameter_count_ += linear.in_features * linear.out_features + static_cast<int64_t>(linear.bias.size());
  });
  placement_ = std::move(placement);
}

std::shared_ptr<const Model::Placement> Model::placement() const {
  std::lock_guard<std::mutex> lock(placement_mutex_);
  return placement_;
}

// A directory without tokenizer files loads for use by token ids. One whose tokenizer cannot be read does so too, but
// the text functions then say why: wrong text would be worse than none.
Status Model::open_text(const LoadOptions& options) {
  auto tokenizer = Tokenizer::open(directory_);
  if (tokenizer.ok()) {
    tokenizer_ = std::move(tokenizer).value();
  } else {
    tokenizer_status_ = tokenizer.status();
  }
  auto chat = options.chat_template.empty() ? ChatTemplates::open(directory_)
                                            : ChatTemplates::from_text(options.chat_template, directory_);
  if (chat.ok() && (*chat)->empty() && tokenizer_) {
    if (const FamilyTemplate* family = family_template(*tokenizer_))
      chat = ChatTemplates::from_text(family->text, directory_, family->name);
  }
  if (chat.ok()) {
    chat_ = std::move(chat).value();
  } else if (!options.chat_template.empty()) {
    return chat.status();  // the user's own template: tell at once
  } else {
    chat_status_ = chat.status();
  }
  return {};
}

int64_t Model::Placement::footprint_bytes() const {
  int64_t bytes = 0;
  for_each_linear(*decoder, [&](const Linear& linear) { bytes += linear.weight->bytes(); });
  if (decoder->embedding.packed) bytes += decoder->embedding.packed->bytes();
  return bytes;
}

Json Model::describe() const {
  const std::shared_ptr<const Placement> placed = placement();
  const DecoderConfig& c = config_;
  Json out;
  out["architecture"] = c.architecture;
  out["model_type"] = c.model_type;
  out["directory"] = directory_;
  out["backend"] = placed->backend->name();
  out["backend_description"] = placed->backend->description();
  out["quantization"] = placed->quantization;
  out["parameters"] = parameter_count_;
  out["footprint_bytes"] = placed->footprint_bytes();
  out["load_seconds"] = static_cast<double>(load_ns_) * 1e-9;
  out["shape"] = {{"num_hidden_layers", c.num_hidden_layers},     {"hidden_size", c.hidden_size},
                  {"intermediate_size", c.intermediate_size},     {"num_attention_heads", c.num_attention_heads},
                  {"num_key_value_heads", c.num_key_value_heads}, {"head_dim", c.head_dim},
                  {"vocab_size", c.vocab_size},                   {"max_position_embeddings", c.max_position_embeddings}};
  out["tokenizer"] = tokenizer_ ? Json(tokenizer_->description()) : Json(nullptr);
  if (!tokenizer_) out["tokenizer_problem"] = tokenizer_status_.message();
  out["chat_template"] = chat_ && !chat_->empty() ? Json(chat_->source()) : Json(nullptr);
  if (!chat_) out["chat_template_problem"] = chat_status_.message();
  out["eos_token_ids"] = eos_ids_;
  Json modules = Json::array();
  for_each_linear(*placed->decoder, [&](const Linear& linear) {
    const WeightSpec& spec = linear.weight->spec();
    Json module;
    module["names"] = linear.names;
    module["device"] = placed->backend->name();
    module["shape"] = {linear.out_features, linear.in_features};
    module["source"] = spec.source;
    module["format"] = format_name(spec.format);
    if (spec.bits > 0) module["bits"] = spec.bits;
    if (spec.group_size > 0) module["group_size"] = spec.group_size;
    module["dtype"] = dtype_name(spec.value_type);
    if (spec.outlier_threshold >= 0) module["int8_threshold"] = spec.outlier_threshold;
    module["kernel"] = linear.weight->kernel();
    if (const std::string reason = linear.weight->reason(); !reason.empty()) module["reason"] = reason;
    module["bytes"] = linear.weight->bytes();
    modules.push_back(std::move(module));
  });
  if (placed->decoder->embedding.packed) {
    modules.push_back({{"names", {"model.embed_tokens"}}, {"device", placed->backend->name()}, {"shape", {c.vocab_size, c.hidden_size}},
                       {"format", "float"}, {"dtype", dtype_name(placed->decoder->embedding.type)}, {"kernel", "rows"},
                       {"bytes", placed->decoder->embedding.packed->bytes()}});
  }
  out["modules"] = std::move(modules);
  out["warnings"] = placed->warnings;
  return out;
}

Status Model::move(BackendKind backend, int device) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (sessions_ > 0) {
    return error(Code::kBusy, "%d sessions of the model exist; release them before moving it", sessions_).with("sessions", sessions_);
  }
  LoadOptions options = options_;
  options.backend = backend;
  options.device = device;
  NBL_ASSIGN_OR_RETURN(std::shared_ptr<const Placement> placement, place(options, nullptr));
  {
    std::lock_guard<std::mutex> swap(placement_mutex_);
    placement_.swap(placement);
  }
  return {};  // the old weights go with `placement`, unless somebody still reads them
}

Status Model::enter() {
  std::lock_guard<std::mutex> lock(mutex_);
  ++sessions_;
  return {};
}

void Model::leave() {
  std::lock_guard<std::mutex> lock(mutex_);
  --sessions_;
}

Result<Json> Model::inspect(const std::string& directory, GenerationDefaults::SamplingCheck check) {
  NBL_ASSIGN_OR_RETURN(const auto checkpoint, Checkpoint::open(directory));
  Json out;
  out["directory"] = directory;
  const Json& config = checkpoint->config();
  out["architectures"] = config.value("architectures", Json::array());
  out["model_type"] = config.value("model_type", Json(nullptr));
  out["file_bytes"] = checkpoint->file_bytes();
  out["tensors"] = checkpoint->tensors().size();
  const auto loader = WeightLoader::open(checkpoint, {});
  out["quantization"] = loader.ok() ? loader.value()->description() : Json{{"problem", loader.status().message()}};
  if (!checkpoint->quantization_source().empty()) out["quantization_source"] = checkpoint->quantization_source();
  if (loader.ok()) out["warnings"] = loader.value()->warnings();
  const auto parsed = read_model_config(config);
  if (loader.ok() && parsed.ok()) {
    if (const std::string warning = layers_not_read(*checkpoint, parsed->decoder); !warning.empty()) out["warnings"].push_back(warning);
  }
  Status problem = loader.ok() ? parsed.status() : loader.status();
  // What the tensors of every module are, which a load would ask first.
  if (problem.ok()) problem = model_matrices(*loader.value(), *make_ref_backend(), *parsed).status();
  if (problem.ok()) problem = GenerationDefaults::read(*checkpoint, check).status();
  out["loadable"] = problem.ok();
  if (!problem.ok()) out["problem"] = problem.message();
  Json files = Json::array();
  for (const char* name : {"tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "tokenizer_config.json",
                           "generation_config.json", "chat_template.jinja"}) {
    if (file_exists(directory + "/" + name)) files.push_back(name);
  }
  out["text_files"] = std::move(files);
  return out;
}

// As a load goes: what has no room on a GPU is estimated for the next device, and a refusal is told beside what would be needed.
Result<Json> Model::estimate(const std::string& directory, const LoadOptions& options, const EstimateOptions& session) {
  NBL_ASSIGN_OR_RETURN(const auto checkpoint, Checkpoint::open(directory));
  NBL_RETURN_IF_ERROR(GenerationDefaults::read(*checkpoint, options.check_sampling).status());
  NBL_ASSIGN_OR_RETURN(const auto loader, WeightLoader::open(checkpoint, options.load_quant));
  NBL_ASSIGN_OR_RETURN(const ModelConfig config, read_model_config(checkpoint->config()));
  Json out;
  std::vector<std::string> warnings;
  Status no_session;  // that could be made there
  const Status status = find_device(options, warnings, [&](BackendKind kind, int device) -> Status {
    out = Json();
    no_session = Status();
    NBL_ASSIGN_OR_RETURN(const std::shared_ptr<Backend> backend, make_backend(kind, device, options));
    const Status room = check_room(*loader, *backend, kind, device, options);
    if (!room.ok() && room.code() != Code::kNoMemory && room.code() != Code::kNoDeviceMemory) return room;
    no_session = check_kv_type(*backend, config.decoder, session.kv_type);
    if (!no_session.ok()) return room;
    NBL_ASSIGN_OR_RETURN(out, estimate_memory(*loader, *backend, session.context, session.kv_type, session.prefill_chunk));
    const auto ceiling = options.max_memory.find(kind == BackendKind::kCuda ? device : kCpuDevice);
    if (ceiling != options.max_memory.end()) out["ceiling_bytes"] = ceiling->second;
    return room;
  });
  NBL_RETURN_IF_ERROR(no_session);
  if (out.is_null()) return status;
  out["loadable"] = status.ok();
  if (!status.ok()) out["problem"] = status.message();
  if (!warnings.empty()) out["warnings"] = warnings;
  return out;
}

}  // namespace nbl

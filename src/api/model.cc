// nbl_model_*, nbl_tokenize and its kin, nbl_chat_render.
#include "engine/model.h"

#include "api/guard.h"
#include "api/impl.gen.h"
#include "api/options.h"
#include "base/log.h"
#include "engine/clock.h"

namespace nbl::impl {
namespace {

Status give_model(std::shared_ptr<Model> model, nbl_model** out) {
  auto handle = std::make_unique<nbl_model>();
  handle->model = std::move(model);
  *out = handle.release();
  return {};
}

// What the log is told of a model that has found its place: what was odd about it, and what lies where.
void log_placed(const std::string& what, const Model& model, int64_t ns) {
  if (!log_wanted(LogLevel::kWarning)) return;
  const auto placement = model.placement();
  for (const std::string& warning : placement->warnings) log_line(LogLevel::kWarning, what + ": " + warning);
  log_line(LogLevel::kInfo, what + ": " + model.config().architecture + ", " + std::to_string(placement->footprint_bytes()) +
                                " bytes of weights on " + placement->backend->name() + ", " + std::to_string(ns / 1000000) + " ms");
}

// A cancel is what was asked for, not a failure.
void log_failed(const std::string& what, const Status& status) {
  log_line(status.code() == Code::kCancelled ? LogLevel::kInfo : LogLevel::kError, what + ": " + status.message());
}

Result<std::shared_ptr<Model>> load(const std::string& dir, const LoadOptions& options, const Progress& progress = {}) {
  Result<std::shared_ptr<Model>> loaded = Model::load(dir, options, progress);
  if (loaded.ok()) {
    log_placed("loaded " + dir, **loaded, (*loaded)->load_ns());
  } else {
    log_failed("loading " + dir, loaded.status());
  }
  return loaded;
}

Result<const Tokenizer*> tokenizer_of(const nbl_model* m) {
  if (const Tokenizer* tokenizer = m->model->tokenizer()) return tokenizer;
  return m->model->tokenizer_status();
}

Result<Json> parse_request(std::string_view request) {
  NBL_ASSIGN_OR_RETURN(Json value, parse_json(request, "the request"));
  return value;
}

}  // namespace

Status model_inspect(std::string_view dir, std::string& out) {
  NBL_ASSIGN_OR_RETURN(const Json facts, Model::inspect(std::string(dir), api::check_sampling));
  out = to_text(facts);
  return {};
}

Status model_estimate(std::string_view dir, const nbl_config* c, std::string& out) {
  NBL_ASSIGN_OR_RETURN(const LoadOptions options, api::load_options(c));
  NBL_ASSIGN_OR_RETURN(const EstimateOptions session, api::estimate_options(c));
  NBL_ASSIGN_OR_RETURN(const Json facts, Model::estimate(std::string(dir), options, session));
  out = to_text(facts);
  return {};
}

Status model_load(std::string_view dir, const nbl_config* c, nbl_model** out) {
  NBL_ASSIGN_OR_RETURN(const LoadOptions options, api::load_options(c));
  NBL_ASSIGN_OR_RETURN(auto model, load(std::string(dir), options));
  return give_model(std::move(model), out);
}

Status model_load_start(std::string_view dir, const nbl_config* c, nbl_job** out) {
  NBL_ASSIGN_OR_RETURN(const LoadOptions options, api::load_options(c));
  auto handle = std::make_unique<nbl_job>();
  NBL_ASSIGN_OR_RETURN(handle->job, Job::start([directory = std::string(dir), options](Job::Context& job) -> Status {
    job.stage("loading");
    const Progress progress = [&job](uint64_t done, uint64_t total) {
      job.progress(done, total);
      return !job.cancelled();
    };
    NBL_ASSIGN_OR_RETURN(auto model, load(directory, options, progress));
    job.memory(static_cast<uint64_t>(model->placement()->footprint_bytes()));
    job.model(std::move(model));
    return {};
  }));
  *out = handle.release();
  return {};
}

Status model_synthesize(std::string_view request, const nbl_config* c, nbl_model** out) {
  NBL_ASSIGN_OR_RETURN(const LoadOptions options, api::load_options(c));
  NBL_ASSIGN_OR_RETURN(const Json value, parse_request(request));
  NBL_ASSIGN_OR_RETURN(auto model, Model::synthesize(value, options));
  log_placed("made of random weights", *model, model->load_ns());
  return give_model(std::move(model), out);
}

void model_release(nbl_model* m) noexcept { delete m; }

Status model_i64(const nbl_model* m, nbl_prop prop, int64_t* value) {
  const Model& model = *m->model;
  const DecoderConfig& config = model.config();
  switch (prop) {
    case NBL_PROP_FOOTPRINT: *value = model.placement()->footprint_bytes(); return {};
    case NBL_PROP_PARAMETERS: *value = model.parameter_count(); return {};
    case NBL_PROP_LAYERS: *value = config.num_hidden_layers; return {};
    case NBL_PROP_HIDDEN: *value = config.hidden_size; return {};
    case NBL_PROP_HEADS: *value = config.num_attention_heads; return {};
    case NBL_PROP_KV_HEADS: *value = config.num_key_value_heads; return {};
    case NBL_PROP_VOCABULARY: *value = config.vocab_size; return {};
    case NBL_PROP_CONTEXT_TRAINED: *value = config.max_position_embeddings; return {};
    case NBL_PROP_LOAD_NS: *value = model.load_ns(); return {};
    case NBL_PROP_EOS_TOKEN: *value = model.eos_ids().empty() ? -1 : model.eos_ids()[0]; return {};
    case NBL_PROP_BOS_TOKEN: *value = model.tokenizer() ? model.tokenizer()->bos_id() : -1; return {};
  }
  return error(Code::kArgument, "%d is no number of a model", prop).with("prop", prop);
}

Status model_str(const nbl_model* m, nbl_prop prop, std::string& out) {
  const Model& model = *m->model;
  switch (prop) {
    case NBL_PROP_ARCHITECTURE: out = model.config().architecture; return {};
    case NBL_PROP_BACKEND: out = model.placement()->backend->name(); return {};
    case NBL_PROP_BACKEND_DESCRIPTION: out = model.placement()->backend->description(); return {};
  }
  return error(Code::kArgument, "%d is no text of a model", prop).with("prop", prop);
}

Status model_describe(const nbl_model* m, std::string& out) {
  out = to_text(m->model->describe());
  return {};
}

Status model_move(nbl_model* m, int32_t device) {
  if (device < NBL_DEVICE_CPU) return error(Code::kArgument, "%d is no device: -1 is the CPU, 0, 1, ... are GPUs", device);
  Model& model = *m->model;
  const int64_t start = now_ns();
  const Status status = model.move(device == NBL_DEVICE_CPU ? BackendKind::kCpu : BackendKind::kCuda, device < 0 ? 0 : device);
  if (status.ok()) {
    log_placed("moved " + model.directory(), model, now_ns() - start);
  } else {
    log_failed("moving " + model.directory(), status);
  }
  return status;
}

Status tokenize(const nbl_model* m, std::string_view text, uint32_t flags, nbl_token* ids, size_t ids_capacity, size_t* ids_count) {
  NBL_RETURN_IF_ERROR(api::check_flags(flags, api::kTokenizeFlags));
  NBL_ASSIGN_OR_RETURN(const Tokenizer* tokenizer, tokenizer_of(m));
  NBL_ASSIGN_OR_RETURN(const std::vector<int32_t> found, tokenizer->encode(text, api::encode_options(flags)));
  return api::fill_array(found.data(), found.size(), ids, ids_capacity, ids_count);
}

Status tokenize_spans(const nbl_model* m, std::string_view text, uint32_t flags, nbl_token* ids, size_t ids_capacity, size_t* ids_count,
                      uint64_t* begin, uint64_t* end) {
  NBL_RETURN_IF_ERROR(api::check_flags(flags, api::kTokenizeFlags));
  NBL_ASSIGN_OR_RETURN(const Tokenizer* tokenizer, tokenizer_of(m));
  std::vector<TokenSpan> spans;
  NBL_ASSIGN_OR_RETURN(const std::vector<int32_t> found, tokenizer->encode(text, api::encode_options(flags), &spans));
  NBL_RETURN_IF_ERROR(api::fill_array(found.data(), found.size(), ids, ids_capacity, ids_count));
  for (size_t i = 0; i < spans.size(); ++i) {
    begin[i] = spans[i].begin;
    end[i] = spans[i].end;
  }
  return {};
}

Status detokenize(const nbl_model* m, const nbl_token* ids, size_t ids_count, uint32_t flags, char* buf, size_t buf_capacity,
                  size_t* buf_len) {
  NBL_RETURN_IF_ERROR(api::check_flags(flags, NBL_DETOKENIZE_SKIP_SPECIAL));
  NBL_ASSIGN_OR_RETURN(const Tokenizer* tokenizer, tokenizer_of(m));
  return api::fill_buffer(tokenizer->decode(ids, ids_count, (flags & NBL_DETOKENIZE_SKIP_SPECIAL) != 0), buf, buf_capacity, buf_len);
}

Status token_bytes(const nbl_model* m, nbl_token id, char* buf, size_t buf_capacity, size_t* buf_len) {
  NBL_ASSIGN_OR_RETURN(const Tokenizer* tokenizer, tokenizer_of(m));
  return api::fill_buffer(tokenizer->token_bytes(id), buf, buf_capacity, buf_len);
}

Status chat_render(const nbl_model* m, std::string_view request, std::string& out) {
  if (!m->model->chat()) return m->model->chat_status();
  NBL_ASSIGN_OR_RETURN(const Json value, parse_request(request));
  NBL_ASSIGN_OR_RETURN(out, m->model->chat()->render(value));
  return {};
}

}  // namespace nbl::impl

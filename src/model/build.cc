#include "model/build.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "quant/weight_rows.h"

namespace nbl {

int64_t LinearPlan::out_features() const { return std::accumulate(part_rows.begin(), part_rows.end(), int64_t{0}); }

LayerPlan plan_layer(const ModelConfig& config, int64_t layer) {
  const DecoderConfig& c = config.decoder;
  const std::string prefix = "model.layers." + std::to_string(layer) + ".";
  const std::string attention = prefix + "self_attn.", mlp = prefix + "mlp.";
  const int64_t q_rows = c.num_attention_heads * c.head_dim, kv_rows = c.num_key_value_heads * c.head_dim;
  LayerPlan plan;
  plan.qkv = {
      WeightRole::kQkv, {attention + "q_proj", attention + "k_proj", attention + "v_proj"}, {q_rows, kv_rows, kv_rows}, c.hidden_size};
  plan.output = {WeightRole::kAttentionOutput, {attention + "o_proj"}, {c.hidden_size}, q_rows};
  plan.gate_up = {WeightRole::kGateUp, {mlp + "gate_proj", mlp + "up_proj"}, {c.intermediate_size, c.intermediate_size}, c.hidden_size};
  plan.down = {WeightRole::kDown, {mlp + "down_proj"}, {c.hidden_size}, c.intermediate_size};
  if (config.joined_projections) plan.qkv.names = {attention + "qkv_proj"}, plan.gate_up.names = {mlp + "gate_up_proj"};
  return plan;
}

namespace {

// Of each part, whether it is a module or some rows of one.
Result<std::vector<WeightSpec>> part_specs(const WeightLoader& loader, const LinearPlan& plan) {
  std::vector<WeightSpec> specs;
  for (size_t i = 0; i < plan.part_rows.size(); ++i) {
    const bool joined = plan.joined();
    const int64_t rows = joined ? plan.out_features() : plan.part_rows[i];
    NBL_ASSIGN_OR_RETURN(WeightSpec spec, loader.spec(plan.names[joined ? 0 : i], rows, plan.in_features));
    spec.out_features = plan.part_rows[i];
    specs.push_back(std::move(spec));
  }
  return specs;
}

}  // namespace

Result<std::vector<MatrixSpecs>> model_matrices(const WeightLoader& loader, const Backend& backend, const ModelConfig& config) {
  const DecoderConfig& c = config.decoder;
  std::vector<MatrixSpecs> matrices;
  const auto add = [&](const LinearPlan& plan) -> Status {
    MatrixSpecs fused;
    fused.role = plan.role;
    NBL_ASSIGN_OR_RETURN(fused.parts, part_specs(loader, plan));
    if (backend.can_fuse(fused.parts)) {
      matrices.push_back(std::move(fused));
    } else {
      for (WeightSpec& spec : fused.parts) matrices.push_back({{std::move(spec)}, plan.role});
    }
    return {};
  };
  for (int64_t layer = 0; layer < c.num_hidden_layers; ++layer) {
    const LayerPlan plan = plan_layer(config, layer);
    for (const LinearPlan* linear : {&plan.qkv, &plan.output, &plan.gate_up, &plan.down}) NBL_RETURN_IF_ERROR(add(*linear));
  }
  LinearPlan head = plan_head(c);
  if (!loader.has("lm_head")) head.names = {"model.embed_tokens"};
  NBL_RETURN_IF_ERROR(add(head));
  return matrices;
}

int64_t packed_bytes(const Backend& backend, const std::vector<MatrixSpecs>& matrices) {
  int64_t bytes = 0;
  for (const MatrixSpecs& matrix : matrices) bytes += backend.packed_bytes(matrix.parts, matrix.role);
  return bytes;
}

std::string layers_not_read(const Checkpoint& checkpoint, const DecoderConfig& c) {
  const std::string next = "model.layers." + std::to_string(c.num_hidden_layers) + ".";
  const auto& tensors = checkpoint.tensors();  // sorted by name
  const auto at = std::lower_bound(tensors.begin(), tensors.end(), next,
                                   [](const TensorView& tensor, const std::string& wanted) { return tensor.name < wanted; });
  if (at == tensors.end() || at->name.compare(0, next.size(), next) != 0) return "";
  return "config.json counts " + std::to_string(c.num_hidden_layers) + " layers (num_hidden_layers), but there is " + at->name +
         ", which is not read: an answer may make no sense";
}

LinearPlan plan_head(const DecoderConfig& c) { return {WeightRole::kHead, {"lm_head"}, {c.vocab_size}, c.hidden_size}; }

namespace {

class Builder {
 public:
  Builder(std::shared_ptr<const WeightLoader> loader, const Backend& backend, const BuildProgress& progress)
      : loader_(std::move(loader)), backend_(backend), progress_(progress) {}

  Result<std::shared_ptr<const Decoder>> build();

 private:
  Status block(int64_t layer, Block& out);
  Result<QuantWeight> load(const std::string& module, int64_t rows, int64_t columns, bool keep_stored) const;
  Status linears(const LinearPlan& plan, std::vector<Linear>& out);
  Status linear(const LinearPlan& plan, Linear& out);
  Result<bool> try_fused(const LinearPlan& plan, std::vector<Linear>& out);
  Status embedding();
  Status head();
  Status norm(const std::string& module, int64_t width, Norm& out);
  static Status about(const LinearPlan& plan, Status refusal);
  Status advance(const std::string& module);
  Status report(uint64_t done);

  std::shared_ptr<const WeightLoader> loader_;
  const Backend& backend_;
  const BuildProgress& progress_;
  ModelConfig config_;
  std::shared_ptr<Decoder> decoder_ = std::make_shared<Decoder>();
  uint64_t done_ = 0;
};

// Tells how far the load is, counted in bytes of the files.
Status Builder::advance(const std::string& module) {
  loader_->release(module);
  const std::string prefix = module + ".";
  const auto& tensors = loader_->checkpoint().tensors();
  auto at = std::lower_bound(tensors.begin(), tensors.end(), prefix,
                             [](const TensorView& tensor, const std::string& wanted) { return tensor.name < wanted; });
  for (; at != tensors.end() && at->name.compare(0, prefix.size(), prefix) == 0; ++at) done_ += static_cast<uint64_t>(at->bytes);
  return report(done_);
}

Status Builder::report(uint64_t done) {
  const uint64_t total = static_cast<uint64_t>(loader_->checkpoint().file_bytes());
  if (progress_ && !progress_(std::min(done, total), total)) return Status(Code::kCancelled, "the load was cancelled");
  return {};
}

// What a backend refuses, with the module that it was given. The loader names the tensor itself.
Status Builder::about(const LinearPlan& plan, Status refusal) {
  if (refusal.code() != Code::kCancelled) refusal.in(plan.names[0]).with("module", plan.names[0]);
  return refusal;
}

// A weight that is not in the files' pages any more gives them back before it is packed.
Result<QuantWeight> Builder::load(const std::string& module, int64_t rows, int64_t columns, bool keep_stored) const {
  NBL_ASSIGN_OR_RETURN(QuantWeight weight, loader_->load(module, rows, columns, keep_stored));
  if (!weight.dense && weight.stored.layout == StoredCodes::Layout::kNone) loader_->release(module);
  return weight;
}

Status Builder::linear(const LinearPlan& plan, Linear& out) {
  const int64_t rows = plan.out_features();
  {
    NBL_ASSIGN_OR_RETURN(const WeightSpec spec, loader_->spec(plan.names[0], rows, plan.in_features));
    NBL_ASSIGN_OR_RETURN(const QuantWeight weight, load(plan.names[0], rows, plan.in_features, backend_.takes_stored({spec})));
    Result<std::shared_ptr<const PackedWeight>> packed = backend_.pack({&weight}, plan.role);
    if (!packed.ok()) return about(plan, packed.status());
    out.weight = std::move(packed).value();
  }
  NBL_ASSIGN_OR_RETURN(out.bias, loader_->bias(plan.names[0], rows));
  out.names = plan.names;
  out.part_rows = plan.part_rows;
  out.in_features = plan.in_features;
  out.out_features = rows;
  return advance(plan.names[0]);
}

// Packs all parts as one matrix if the backend can; false when it cannot.
Result<bool> Builder::try_fused(const LinearPlan& plan, std::vector<Linear>& out) {
  NBL_ASSIGN_OR_RETURN(const std::vector<WeightSpec> specs, part_specs(*loader_, plan));
  if (!backend_.can_fuse(specs)) return false;
  bool keep_stored = backend_.takes_stored(specs);
  QuantWeight whole;  // of which the parts are rows, where they are joined
  std::vector<int64_t> first_rows;
  if (plan.joined()) {
    int64_t at = 0;
    for (const int64_t rows : plan.part_rows) {
      first_rows.push_back(at);
      at += rows;
      keep_stored = keep_stored && rows % 8 == 0;
    }
    NBL_ASSIGN_OR_RETURN(whole, load(plan.names[0], plan.out_features(), plan.in_features, keep_stored));
  }
  Linear linear;
  Status unreadable;  // what the loader said of a part, which then comes back through the backend
  auto packed = backend_.pack_in_turn(
      specs,
      [&](size_t i) -> Result<QuantWeight> {
        if (plan.joined()) return rows_of(whole, first_rows[i], plan.part_rows[i]);
        if (i > 0 && !keep_stored) loader_->release(plan.names[i - 1]);
        Result<QuantWeight> part = load(plan.names[i], plan.part_rows[i], plan.in_features, keep_stored);
        if (!part.ok()) unreadable = part.status();
        return part;
      },
      plan.role);
  NBL_RETURN_IF_ERROR(unreadable);
  if (!packed.ok() && packed.status().code() == Code::kState) return false;  // their k_orders differ
  if (!packed.ok()) return about(plan, packed.status());
  linear.weight = std::move(packed).value();
  linear.names = plan.names;
  linear.part_rows = plan.part_rows;
  linear.in_features = plan.in_features;
  linear.out_features = plan.out_features();
  // Biases stand one after another like the rows; a part without one has zeros if another part has one.
  bool any = false;
  std::vector<float> bias;
  for (size_t i = 0; i < plan.names.size(); ++i) {
    const int64_t rows = plan.joined() ? plan.out_features() : plan.part_rows[i];
    NBL_ASSIGN_OR_RETURN(std::vector<float> part, loader_->bias(plan.names[i], rows));
    any = any || !part.empty();
    part.resize(rows, 0.0f);
    bias.insert(bias.end(), part.begin(), part.end());
  }
  if (any) linear.bias = std::move(bias);
  out.push_back(std::move(linear));
  for (const std::string& name : plan.names) NBL_RETURN_IF_ERROR(advance(name));
  return true;
}

Status Builder::linears(const LinearPlan& plan, std::vector<Linear>& out) {
  NBL_ASSIGN_OR_RETURN(const bool fused, try_fused(plan, out));
  if (fused) return {};
  if (plan.joined()) {
    out.emplace_back();
    return linear(plan, out.back());
  }
  for (size_t i = 0; i < plan.names.size(); ++i) {
    Linear part;
    NBL_RETURN_IF_ERROR(linear({plan.role, {plan.names[i]}, {plan.part_rows[i]}, plan.in_features}, part));
    out.push_back(std::move(part));
  }
  return {};
}

Status Builder::norm(const std::string& module, int64_t width, Norm& out) {
  out.kind = config_.norm_kind;
  out.epsilon = config_.norm_epsilon;
  NBL_ASSIGN_OR_RETURN(out.weight, loader_->vector(module + ".weight", width));
  if (out.kind == Norm::Kind::kLayer) {
    NBL_ASSIGN_OR_RETURN(out.bias, loader_->vector(module + ".bias", width));
  }
  return {};
}

Status Builder::block(int64_t layer, Block& out) {
  const DecoderConfig& c = config_.decoder;
  const std::string prefix = "model.layers." + std::to_string(layer) + ".";
  const LayerPlan plan = plan_layer(config_, layer);
  NBL_RETURN_IF_ERROR(norm(prefix + "input_layernorm", c.hidden_size, out.input_norm));
  NBL_RETURN_IF_ERROR(linears(plan.qkv, out.attention.qkv));
  NBL_RETURN_IF_ERROR(linear(plan.output, out.attention.output));
  if (config_.head_norms) {
    Norm q, k;
    NBL_RETURN_IF_ERROR(norm(prefix + "self_attn.q_norm", c.head_dim, q));
    NBL_RETURN_IF_ERROR(norm(prefix + "self_attn.k_norm", c.head_dim, k));
    out.attention.q_norm.push_back(std::move(q));
    out.attention.k_norm.push_back(std::move(k));
  }
  out.attention.scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
  out.attention.sliding_window = config_.sliding_window[layer];
  out.attention.rotary = config_.rotary[layer];
  NBL_RETURN_IF_ERROR(norm(prefix + "post_attention_layernorm", c.hidden_size, out.post_attention_norm));
  out.mlp.activation = config_.activation;
  NBL_RETURN_IF_ERROR(linears(plan.gate_up, out.mlp.gate_up));
  return linear(plan.down, out.mlp.down);
}

// The rows are read one at a time where they lie in the file, so the matrix is not copied.
Status Builder::embedding() {
  const DecoderConfig& c = config_.decoder;
  const Checkpoint& checkpoint = loader_->checkpoint();
  const TensorView* view = checkpoint.find("model.embed_tokens.weight");
  if (!view)
    return error(Code::kFormat, "model.embed_tokens.weight is missing in %s", checkpoint.directory().c_str())
        .with("tensor", "model.embed_tokens.weight");
  if (view->shape != std::vector<int64_t>{c.vocab_size, c.hidden_size} || !is_float(view->dtype)) {
    return error(Code::kFormat, "%s is %s %s, expected %s of a float type", view->name.c_str(), dtype_name(view->dtype),
                 shape_text(view->shape).c_str(), shape_text({c.vocab_size, c.hidden_size}).c_str())
        .with("file", view->file)
        .with("tensor", view->name);
  }
  if (view->dtype == DType::kF64) {
    NBL_ASSIGN_OR_RETURN(std::vector<float> values, loader_->vector(view->name, view->elements()));
    auto owned = std::make_shared<std::vector<float>>(std::move(values));
    decoder_->embedding = {owned->data(), DType::kF32, nullptr};
    decoder_->keep_alive = owned;
  } else {
    decoder_->embedding = {view->data, view->dtype, nullptr};
    decoder_->keep_alive = loader_;  // which holds the mapping
  }
  NBL_ASSIGN_OR_RETURN(decoder_->embedding.packed, backend_.pack_embedding(decoder_->embedding, c.vocab_size, c.hidden_size));
  return {};
}

// A checkpoint with tied embeddings stores the matrix once; some store it twice all the same: tensors decide.
Status Builder::head() {
  LinearPlan plan = plan_head(config_.decoder);
  if (!loader_->has("lm_head")) {
    if (!loader_->has("model.embed_tokens")) return error(Code::kFormat, "neither lm_head nor model.embed_tokens has tensors");
    plan.names = {"model.embed_tokens"};
    decoder_->config.tie_word_embeddings = true;
  } else {
    decoder_->config.tie_word_embeddings = false;
  }
  return linear(plan, decoder_->head);
}

// What the backend holds for the time of a load goes when this does.
class Loading {
 public:
  explicit Loading(const Backend& backend) : backend_(backend) {}
  ~Loading() { backend_.end_load(); }

 private:
  const Backend& backend_;
};

Result<std::shared_ptr<const Decoder>> Builder::build() {
  const Json& json = loader_->checkpoint().config();
  NBL_ASSIGN_OR_RETURN(config_, read_model_config(json));
  decoder_->config = config_.decoder;
  decoder_->rope = config_.rope;
  NBL_ASSIGN_OR_RETURN(const std::vector<MatrixSpecs> matrices, model_matrices(*loader_, backend_, config_));
  const Loading loading(backend_);
  NBL_RETURN_IF_ERROR(backend_.begin_load(packed_bytes(backend_, matrices)));
  NBL_RETURN_IF_ERROR(embedding());
  decoder_->blocks.resize(config_.decoder.num_hidden_layers);
  for (int64_t layer = 0; layer < config_.decoder.num_hidden_layers; ++layer) NBL_RETURN_IF_ERROR(block(layer, decoder_->blocks[layer]));
  NBL_RETURN_IF_ERROR(norm("model.norm", config_.decoder.hidden_size, decoder_->final_norm));
  NBL_RETURN_IF_ERROR(head());
  NBL_RETURN_IF_ERROR(report(UINT64_MAX));  // norms, headers and tensors of no use here were not counted
  return std::shared_ptr<const Decoder>(std::move(decoder_));
}

}  // namespace

Result<std::shared_ptr<const Decoder>> build_decoder(std::shared_ptr<const WeightLoader> loader, const Backend& backend,
                                                     const BuildProgress& progress) {
  return Builder(std::move(loader), backend, progress).build();
}

}  // namespace nbl

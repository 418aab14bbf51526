#include "model/estimate.h"

#include <algorithm>

#include "model/build.h"
#include "model/config.h"

namespace nbl {
namespace {

// What the parts take: fused where the backend fuses them.
Result<int64_t> bytes_of(const WeightLoader& loader, const Backend& backend, const LinearPlan& plan) {
  std::vector<WeightSpec> specs;
  for (size_t i = 0; i < plan.names.size(); ++i) {
    NBL_ASSIGN_OR_RETURN(WeightSpec spec, loader.spec(plan.names[i], plan.part_rows[i], plan.in_features));
    specs.push_back(std::move(spec));
  }
  if (backend.can_fuse(specs)) return backend.packed_bytes(specs, plan.role);
  int64_t bytes = 0;
  for (const WeightSpec& spec : specs) bytes += backend.packed_bytes({spec}, plan.role);
  return bytes;
}

}  // namespace

Result<Json> estimate_memory(const WeightLoader& loader, const Backend& backend, int64_t context, DType kv_type, int64_t prefill_chunk) {
  NBL_ASSIGN_OR_RETURN(const ModelConfig config, read_model_config(loader.checkpoint().config()));
  const DecoderConfig& c = config.decoder;
  if (context <= 0) context = std::min<int64_t>(4096, c.max_position_embeddings);
  int64_t weights = 0;
  const auto add = [&](const LinearPlan& plan) -> Status {
    NBL_ASSIGN_OR_RETURN(const int64_t bytes, bytes_of(loader, backend, plan));
    weights += bytes;
    return {};
  };
  for (int64_t layer = 0; layer < c.num_hidden_layers; ++layer) {
    const LayerPlan plan = plan_layer(c, layer);
    for (const LinearPlan* linear : {&plan.qkv, &plan.output, &plan.gate_up, &plan.down}) NBL_RETURN_IF_ERROR(add(*linear));
  }
  LinearPlan head = plan_head(c);
  if (!loader.has("lm_head")) head.names = {"model.embed_tokens"};
  NBL_RETURN_IF_ERROR(add(head));

  KvOptions kv{context, kv_type};
  PlanLimits limits;
  limits.max_tokens = std::min(prefill_chunk, context);
  limits.max_context = context;
  Json out;
  out["device"] = backend.name();
  out["context"] = context;
  out["weight_bytes"] = weights;
  out["kv_bytes"] = backend.kv_bytes(c, kv);
  out["kv_bytes_per_token"] = backend.kv_bytes(c, kv) / context;
  out["scratch_bytes"] = backend.plan_bytes(c, limits);
  out["total_bytes"] = weights + backend.kv_bytes(c, kv) + backend.plan_bytes(c, limits);
  return out;
}

}  // namespace nbl

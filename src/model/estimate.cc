#include "model/estimate.h"

#include <algorithm>

#include "model/build.h"
#include "model/config.h"

namespace nbl {

Status about_kv_type(Status refusal) {
  if (refusal.code() == Code::kUnsupported) refusal.in("the option kv_dtype").with("option", "kv_dtype");
  return refusal;
}

Status check_kv_type(const Backend& backend, const DecoderConfig& config, DType type) {
  Decoder shape;
  shape.config = config;
  const auto cache = backend.make_kv_cache(shape, {1, type});
  // A device that is full now may be asked what a model would take.
  return !cache.ok() && cache.status().code() == Code::kUnsupported ? about_kv_type(cache.status()) : Status();
}

Result<Json> estimate_memory(const WeightLoader& loader, const Backend& backend, int64_t context, DType kv_type, int64_t prefill_chunk) {
  NBL_ASSIGN_OR_RETURN(const ModelConfig config, read_model_config(loader.checkpoint().config()));
  const DecoderConfig& c = config.decoder;
  if (context <= 0) context = std::min<int64_t>(4096, c.max_position_embeddings);
  NBL_ASSIGN_OR_RETURN(const std::vector<MatrixSpecs> matrices, model_matrices(loader, backend, config));
  const int64_t weights = packed_bytes(backend, matrices);
  const TensorView* table = loader.checkpoint().find("model.embed_tokens.weight");
  const DType table_type = table == nullptr || table->dtype == DType::kF64 ? DType::kF32 : table->dtype;
  const int64_t embedding = backend.embedding_bytes(table_type, c.vocab_size, c.hidden_size);
  KvOptions kv{context, kv_type};
  PlanLimits limits;
  limits.max_tokens = std::min(prefill_chunk > 0 ? prefill_chunk : backend.prefill_chunk(), context);
  limits.max_context = context;
  limits.max_draws = 1;
  const int64_t kv_bytes = backend.kv_bytes(c, kv), scratch = backend.plan_bytes(c, matrices, limits);
  Json out;
  out["device"] = backend.name();
  out["context"] = context;
  out["weight_bytes"] = weights;
  out["embedding_bytes"] = embedding;
  out["kv_bytes"] = kv_bytes;
  out["kv_bytes_per_token"] = kv_bytes / context;
  out["scratch_bytes"] = scratch;
  out["total_bytes"] = weights + embedding + kv_bytes + scratch;
  if (const int64_t free = backend.free_bytes(); free >= 0) out["free_bytes"] = free;
  return out;
}

}  // namespace nbl

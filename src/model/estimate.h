// How much memory a model will take, from shapes alone.
#pragma once

#include <cstdint>

#include "base/json.h"
#include "base/status.h"
#include "kernels/backend.h"
#include "quant/weight_loader.h"

namespace nbl {

// Whether the backend keeps keys and values in this type: kUnsupported, naming the option.
Status check_kv_type(const Backend& backend, const DecoderConfig& config, DType type);
// What Backend::make_kv_cache tells about a type that it does not have, with the name of the option.
Status about_kv_type(Status refusal);

// {"device", "weight_bytes", "embedding_bytes" (0 where rows are read from the file), "kv_bytes_per_token", "kv_bytes", "scratch_bytes",
// "total_bytes", "context", "free_bytes" of a GPU now}: of the model and one session with `context` positions and chunks of `prefill_chunk`
// (0: the default of sessions).
Result<Json> estimate_memory(const WeightLoader& loader, const Backend& backend, int64_t context, DType kv_type, int64_t prefill_chunk);

}  // namespace nbl

// How much memory a model will take, from shapes alone.
#pragma once

#include <cstdint>

#include "base/json.h"
#include "base/status.h"
#include "kernels/backend.h"
#include "quant/weight_loader.h"

namespace nbl {

// {"device", "weight_bytes", "kv_bytes_per_token", "kv_bytes", "scratch_bytes", "total_bytes", "context"}: of the model and
// one session with `context` positions (0: the default of sessions).
Result<Json> estimate_memory(const WeightLoader& loader, const Backend& backend, int64_t context, DType kv_type, int64_t prefill_chunk);

}  // namespace nbl

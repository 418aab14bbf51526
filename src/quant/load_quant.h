// Quantizing while loading: float weights to what bitsandbytes would have made of them (formats.md 4.3 to 4.5).
#pragma once

#include <string>

#include "base/status.h"
#include "quant/quant_weight.h"
#include "quant/weight_loader.h"

namespace nbl {

WeightSpec load_quant_spec(const WeightSpec& plain, const LoadQuantOptions& options);
// `plain` is a float weight.
Result<QuantWeight> quantize_on_load(const QuantWeight& plain, const LoadQuantOptions& options);
// The same for a backend that quantizes the values itself (StoredCodes::Layout::kFloats). Blocks may not cross rows.
bool can_quantize_on_device(const WeightSpec& plain, const LoadQuantOptions& options);
QuantWeight quantize_on_device(QuantWeight plain, const LoadQuantOptions& options);

// Whether `module` is on the list: the full path, its end after a dot, or one of its segments. An empty list stands
// for the output head.
bool is_skipped(const std::string& module, const LoadQuantOptions& options);

}  // namespace nbl

// Models of random weights, for measuring speed where no checkpoint is at hand.
#pragma once

#include <memory>

#include "base/json.h"
#include "base/status.h"
#include "kernels/backend.h"

namespace nbl {

// {"shape": "mistral-7b" | ... | {config.json's keys}, "format": "awq-g128" | "gptq-g128-actorder" | "gptq3-g128" |
//  "gptq8-g128" | "nf4" | "int8" | "f16" | ...}; `layers` overrides the number of layers. An unknown name is kOptionValue
// with those that are known.
Result<std::shared_ptr<const Decoder>> synthesize_decoder(const Json& request, const Backend& backend);

}  // namespace nbl

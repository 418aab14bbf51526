// Rotary frequencies from config.json: default, linear, dynamic, llama3 and yarn, as transformers computes them
// (modeling_rope_utils.py; yarn: arXiv:2309.00071).
#pragma once

#include "base/json.h"
#include "base/status.h"
#include "model/decoder.h"

namespace nbl {

Result<Rope> read_rope(const Json& config, const DecoderConfig& shape);

}  // namespace nbl

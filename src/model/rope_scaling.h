// Rotary frequencies from config.json: default, linear, dynamic, llama3, yarn and longrope, as transformers computes them
// (modeling_rope_utils.py; yarn: arXiv:2309.00071, longrope: arXiv:2402.13753).
#pragma once

#include "base/json.h"
#include "base/status.h"
#include "model/decoder.h"

namespace nbl {

// partial_rotary_factor: the share of a head's values that turn, where config.json does not tell.
Result<Rope> read_rope(const Json& config, const DecoderConfig& shape, double partial_rotary_factor = 1);

}  // namespace nbl

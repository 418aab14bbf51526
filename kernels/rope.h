// Rotary tables, the one piece of maths that all backends share exactly.
#pragma once

#include <cstdint>

#include "model/decoder.h"

namespace nbl {

// inv_freq[rotary_dim / 2] for a call whose sequence will be `length` positions long: the stored values, or where they are dynamic and
// the sequence grows beyond original_length, those of longrope for long ones, or of the grown base of NTK scaling
//   theta * ((factor * length / original_length) - (factor - 1)) ^ (rotary_dim / (rotary_dim - 2))
// (transformers, modeling_rope_utils.py, _compute_dynamic_ntk_parameters).
void rope_inv_freq(const Rope& rope, int64_t length, float* inv_freq);

// Whether calls of both lengths, the first being the shorter one, have the same frequencies.
bool rope_stays(const Rope& rope, int64_t length, int64_t longer);

// cosine[rotary_dim/2], sine[rotary_dim/2] of one position, attention_factor included. The angle is formed in float32,
// as transformers does.
void rope_tables(const Rope& rope, const float* inv_freq, int64_t position, float* cosine, float* sine);

}  // namespace nbl

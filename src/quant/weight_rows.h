// Some rows of a matrix as a weight of their own: checkpoints join matrices over one input that backends want apart.
#pragma once

#include "quant/quant_weight.h"

namespace nbl {

// Rows first .. first + count - 1, which are multiples of 8 where `whole` has stored codes. Float values stay those of `whole`.
QuantWeight rows_of(const QuantWeight& whole, int64_t first, int64_t count);

}  // namespace nbl

// Llama (arXiv:2302.13971 and its successors): RMS norms, rotary embedding, grouped-query attention, SwiGLU.
// The layout that the others here differ from: biases are taken where tensors are, every layer sees everything.
#include "model/architectures.h"

namespace nbl {

Status configure_llama(const Json&, ModelConfig&) { return {}; }

}  // namespace nbl

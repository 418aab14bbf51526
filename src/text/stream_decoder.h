// The streaming decoder of any tokenizer: what decode() of one more id adds, as whole characters.
#pragma once

#include <memory>

#include "text/tokenizer.h"

namespace nbl {

// The tokenizer must outlive the decoder.
std::unique_ptr<StreamDecoder> make_stream_decoder(const Tokenizer& tokenizer, bool skip_special);

}  // namespace nbl

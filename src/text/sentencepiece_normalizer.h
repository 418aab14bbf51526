// SentencePiece's own normalizer, as a tokenizer.model describes it: the character map, extra spaces, the dummy prefix.
//
// Llama's and Mistral's models change no character and keep all spaces; then the conversion's Prepend and Replace say
// the same. Others (OpenLLaMA) were trained on NFKC text without extra spaces.
#pragma once

#include <memory>

#include "base/status.h"
#include "text/normalizer.h"
#include "text/sentencepiece_model.h"

namespace nbl {

// `metaspaces`: spaces become U+2581, with one in front where the model wants a dummy prefix; else both are left to a
// pre-tokenizer.
Result<std::unique_ptr<Normalizer>> sentencepiece_normalizer(const SentencePieceModel& model, bool add_prefix, bool metaspaces);

}  // namespace nbl

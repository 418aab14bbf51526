// The pipelines that transformers' converters make of checkpoints without a tokenizer.json.
#pragma once

#include <string>

#include "text/sentencepiece_model.h"
#include "text/tokenizer_config.h"
#include "text/tokenizer_json.h"

namespace nbl {

// tokenizer.model or spiece.model with a tokenizer_config.json or added_tokens.json beside it.
Result<PipelineParts> convert_sentencepiece(const SentencePieceModel& model, const TokenizerConfig& config);

// vocab.json and merges.txt: byte-level BPE.
Result<PipelineParts> convert_vocab_and_merges(const std::string& directory, const TokenizerConfig& config);

}  // namespace nbl

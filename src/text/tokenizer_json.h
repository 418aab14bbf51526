// tokenizer.json: reads the file into the steps of a pipeline.
//
// Vocabulary and merges are taken as they stream by: a document of 128,000 keys is never built.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "text/added_tokens.h"
#include "text/normalizer.h"
#include "text/post_processor.h"
#include "text/pre_tokenizer.h"
#include "text/token_decoder.h"
#include "text/token_model.h"

namespace nbl {

struct PipelineParts {
  std::unique_ptr<Normalizer> normalizer;  // may be null
  std::vector<std::unique_ptr<PreTokenizer>> pre_tokenizers;
  std::unique_ptr<TokenModel> model;
  PostProcessor post_processor;
  std::unique_ptr<TokenDecoder> decoder;  // may be null
  AddedTokens added;
};

// The caller names the file in what goes wrong.
Result<PipelineParts> read_tokenizer_json(std::string_view text);

// Adds a token as the `tokenizers` package does: the vocabulary's id if it has the content, else the next free one.
Status add_token(PipelineParts& parts, AddedToken token);

}  // namespace nbl

// A bare tokenizer.model or spiece.model, run by the sentencepiece library.
//
// Nothing is looked for in the text: "<s>" there is spelled out like any text. With a tokenizer_config.json beside the
// model transformers' pipeline decides instead (converters.h).
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "text/tokenizer.h"

namespace nbl {

// `where` names the file in messages, `name` is its last part.
Result<std::unique_ptr<Tokenizer>> open_sentencepiece(std::string_view bytes, const std::string& where, const std::string& name);

}  // namespace nbl

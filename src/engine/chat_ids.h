// A conversation as token ids: rendered by the chat template, then encoded.
#pragma once

#include <cstdint>
#include <vector>

#include "base/json.h"
#include "base/status.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace nbl {

// `request` as ChatTemplates::render takes it. With "spell_special": true, special tokens that stand in what users and
// tools wrote are encoded as the ordinary text they look like, so that nobody can end a turn or begin another one by
// writing its control token.
Result<std::vector<int32_t>> chat_ids(const ChatTemplates& chat, const Tokenizer& tokenizer, const Json& request);

}  // namespace nbl

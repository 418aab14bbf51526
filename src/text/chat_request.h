// What transformers' apply_chat_template does around a template: the variables it sees, and continuing a message.
#pragma once

#include <optional>
#include <string>

#include "base/json.h"
#include "base/status.h"
#include "text/jinja/template.h"

namespace nbl {

// `request` as ChatTemplates::render takes it; `special_tokens`: {"bos_token": "<s>", ...}, only those that are set.
Result<std::string> render_chat(const jinja::Template& chat_template, const Json& request, const Json& special_tokens,
                                std::optional<CivilTime> now = {});

// Whether the request asks to go on with its last message, so that the answer is no message of its own.
bool continues_message(const Json& request);

}  // namespace nbl

// What the four families of steps in tokenizer.json share: a "type" and its fields.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "base/status.h"

namespace nbl {

constexpr int kDeepestStep = 16;   // Sequence in Sequence
constexpr size_t kLargestText = size_t{1} << 30;  // bytes of a text on its way through the pipeline

// The "type" of a step; `family` ("normalizer") is for the message.
Result<std::string> step_type(const Json& step, const char* family);
Status unknown_step(const char* family, const std::string& type);

// A field that must be there; the fallbacks of json.h are for those that need not be.
Result<bool> required_bool(const Json& step, const char* key, const std::string& owner);
Result<std::string> required_str(const Json& step, const char* key, const std::string& owner);
Result<const Json*> required_list(const Json& step, const char* key, const std::string& owner);
// A text of exactly one character.
Result<uint32_t> required_character(const Json& step, const char* key, const std::string& owner);

}  // namespace nbl

// The line of facts under an answer: format, bytes of weights, instruction set, prompt and answer tokens per second.
#pragma once

#include <cstdint>
#include <string>

#include <nlohmann/json.hpp>

#include "client.h"

namespace facts {

// "awq gemm int4 g128": the format that most of a model's weights have. `description` is nbl_model_describe's.
std::string format_of(const nlohmann::ordered_json& description);

struct Speed {
  int64_t prompt_tokens = 0, generated_tokens = 0;
  double prefill_tokens_per_second = 0, decode_tokens_per_second = 0;
  std::string stop_reason;
};
Speed speed_of(nbl_session* session);

// The whole line, and the same as a JSON object.
std::string line(const nlohmann::ordered_json& description, const Speed& speed);
nlohmann::ordered_json object(const nlohmann::ordered_json& description, const Speed& speed);

}  // namespace facts

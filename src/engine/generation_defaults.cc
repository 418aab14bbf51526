#include "engine/generation_defaults.h"

#include <string_view>

namespace nbl {
namespace {

// The ids under a key: a number or a list of numbers; none where it is absent or null.
Result<std::vector<int32_t>> token_ids(const Json& object, const char* key) {
  std::vector<int32_t> ids;
  if (!object.contains(key) || object[key].is_null()) return ids;
  const Json& value = object[key];
  const Json single = Json::array({value});
  for (const Json& id : value.is_array() ? value : single) {
    const bool whole = id.is_number_integer() && !(id.is_number_unsigned() && id.get<uint64_t>() > INT32_MAX);
    if (!whole || id.get<int64_t>() < INT32_MIN) {
      return error(Code::kFormat, "\"%s\" is %s, expected a token id, a list of token ids, or null", key, to_text(value).c_str())
          .with("key", key);
    }
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

// Of the tokens that begin and fill a text nothing is taken from there, but a file that has them wrong is the wrong file.
Status read_eos_ids(const Json& object, std::vector<int32_t>& eos_ids) {
  for (const char* key : {"bos_token_id", "pad_token_id", "eos_token_id"}) {
    NBL_ASSIGN_OR_RETURN(std::vector<int32_t> ids, token_ids(object, key));
    if (std::string_view(key) == "eos_token_id" && !ids.empty()) eos_ids = std::move(ids);
  }
  return {};
}

// As transformers' generate() does without arguments: greedy unless do_sample; temperature 1 and top_k 50 unless said.
Status read_sampling(const Json& generation, SamplingOptions& sampling) {
  NBL_ASSIGN_OR_RETURN(sampling.repetition_penalty, json_f64(generation, "repetition_penalty", 1));
  NBL_ASSIGN_OR_RETURN(const bool do_sample, json_bool(generation, "do_sample", false));
  if (!do_sample) return {};
  NBL_ASSIGN_OR_RETURN(sampling.temperature, json_f64(generation, "temperature", 1));
  NBL_ASSIGN_OR_RETURN(sampling.top_k, json_i64(generation, "top_k", 50));
  if (sampling.top_k == -1) sampling.top_k = 0;  // as other engines write "all"
  NBL_ASSIGN_OR_RETURN(sampling.top_p, json_f64(generation, "top_p", 1));
  NBL_ASSIGN_OR_RETURN(sampling.min_p, json_f64(generation, "min_p", 0));
  NBL_ASSIGN_OR_RETURN(sampling.typical_p, json_f64(generation, "typical_p", 1));
  return {};
}

}  // namespace

Result<GenerationDefaults> GenerationDefaults::read(const Checkpoint& checkpoint, SamplingCheck check) {
  GenerationDefaults defaults;
  NBL_RETURN_IF_ERROR(read_eos_ids(checkpoint.config(), defaults.eos_ids).in("config.json"));
  const Json& generation = checkpoint.generation_config();  // whose ids win
  Status status = read_eos_ids(generation, defaults.eos_ids);
  if (status.ok()) status = read_sampling(generation, defaults.sampling);
  if (status.ok() && check != nullptr) status = check(defaults.sampling);
  NBL_RETURN_IF_ERROR(status.in("generation_config.json"));
  return defaults;
}

}  // namespace nbl

// The option table (generated) and how option values become the engine's structs.
#pragma once

#include <cstdint>
#include <limits>
#include <string_view>

#include "api/handles.h"
#include "base/json.h"
#include "base/status.h"
#include "engine/measure.h"

namespace nbl::api {

enum class OptionType : uint8_t { kI64, kF64, kText, kList };
constexpr double kEndless = std::numeric_limits<double>::infinity();

struct OptionRow {
  nbl_option id;
  const char* name;                // "n_threads"
  OptionType type;
  double min, max;
  const char* default_text;
  const char* const* values;       // what a text may be, ended by null; null: anything
  const char* const* foreign;      // parts of names that other tools use there, in lower case, ended by null; may be null
  const char* foreign_hint;        // what to say to such a name
  const char* const* json_keys;    // further names that merge_json takes; may be null
  const char* applies;
  const char* doc;
};
extern const OptionRow kOptions[];
extern const int kOptionCount;
const char* name_of_status(nbl_status status);

const OptionRow* find_option(nbl_option id);
Result<const OptionRow*> require_option(nbl_option id);

// Each checks type and range, naming the option.
Status check_value(const OptionRow& row, const OptionValue& value);
Status set_value(nbl_config& config, nbl_option id, OptionValue value);
Status add_value(nbl_config& config, nbl_option id, std::string_view value);
Status merge_json(nbl_config& config, const Json& object);
Json to_json(const nbl_config& config);
Json describe_option(const OptionRow& row);

// The engine's structs; `config` may be null.
Result<LoadOptions> load_options(const nbl_config* config);
Result<SessionOptions> session_options(const nbl_config* config);
Result<EstimateOptions> estimate_options(const nbl_config* config);
Result<BatchOptions> batch_options(const nbl_config* config);
Result<BenchOptions> bench_options(const nbl_config* config);
Result<PerplexityOptions> perplexity_options(const nbl_config* config);
// Applies one generation option; kOptionValue for an option of another kind.
Status apply_generation(const OptionRow& row, const OptionValue& value, GenerationOptions& out);
Status apply_generation(const nbl_config* config, GenerationOptions& out);
// Whether what a checkpoint's generation_config.json says is within the ranges of the options.
Status check_sampling(const SamplingOptions& sampling);
// Gives one generation option back what `model` starts with.
Status reset_generation(const OptionRow& row, const Model& model, GenerationOptions& out);

// "auto", "cpu", "ref", "cuda", "cuda:1", "1".
Status parse_device(const std::string& text, BackendKind& kind, int& device);

}  // namespace nbl::api

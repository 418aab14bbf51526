#include "api/options.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>

#include "base/log.h"

namespace nbl::api {
namespace {

const char* type_name(OptionType type) {
  switch (type) {
    case OptionType::kI64: return "a whole number";
    case OptionType::kF64: return "a number";
    case OptionType::kText: return "a text";
    case OptionType::kList: return "a list of texts";
  }
  return "?";
}

Status bad_value(const OptionRow& row, const std::string& problem) {
  return error(Code::kOptionValue, "the option %s %s", row.name, problem.c_str()).with("option", row.name).with("id", row.id);
}

// Without strtod and strtoll: they follow the host's locale.
int64_t i64_of(std::string_view text) {
  int64_t value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}
double f64_of(std::string_view text) {
  double value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}
// Whether the whole text is a number from least to most.
bool whole_number(std::string_view text, int64_t least, int64_t most, int64_t& value) {
  const auto end = text.data() + text.size();
  const auto [stop, problem] = std::from_chars(text.data(), end, value);
  return problem == std::errc() && stop == end && value >= least && value <= most;
}

std::string known_values(const OptionRow& row) {
  std::string names;
  for (const char* const* value = row.values; *value; ++value) names += (names.empty() ? "" : ", ") + std::string(*value);
  return names;
}

// Whether the tools that checkpoints come from call something so, which users then ask for by name.
bool is_foreign(const OptionRow& row, std::string name) {
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; });
  for (const char* const* known = row.foreign; known && *known; ++known) {
    if (name.find(*known) != std::string::npos) return true;
  }
  return false;
}

}  // namespace

const OptionRow* find_option(nbl_option id) {
  const OptionRow* end = kOptions + kOptionCount;
  const OptionRow* found = std::find_if(kOptions, end, [id](const OptionRow& row) { return row.id == id; });
  return found == end ? nullptr : found;
}

Result<const OptionRow*> require_option(nbl_option id) {
  if (const OptionRow* row = find_option(id)) return row;
  return error(Code::kUnknownOption, "this library (nibble %d.%d) knows no option %d", NBL_VERSION_MAJOR, NBL_VERSION_MINOR, id)
      .with("id", id);
}

Status check_value(const OptionRow& row, const OptionValue& value) {
  if (value.index() != static_cast<size_t>(row.type)) return bad_value(row, std::string("takes ") + type_name(row.type));
  if (row.type == OptionType::kText && row.values) {
    const std::string& text = std::get<std::string>(value);
    for (const char* const* known = row.values; *known; ++known) {
      if (text == *known) return {};
    }
    std::string problem = "is \"" + text + "\"";
    if (is_foreign(row, text)) problem += std::string(", ") + row.foreign_hint;
    return bad_value(row, problem + "; known are " + known_values(row));
  }
  if (row.type == OptionType::kText || row.type == OptionType::kList) return {};
  const double number = row.type == OptionType::kI64 ? static_cast<double>(std::get<int64_t>(value)) : std::get<double>(value);
  if (number >= row.min && number <= row.max) return {};  // also refuses NaN
  char text[128];
  if (row.type == OptionType::kI64) {
    std::snprintf(text, sizeof text, "is %lld, expected a whole number from %.0f to %.0f", static_cast<long long>(std::get<int64_t>(value)),
                  row.min, row.max);
  } else {
    std::snprintf(text, sizeof text, "is %g, expected a number from %g to %g", number, row.min, row.max);
  }
  return bad_value(row, text);
}

Status set_value(nbl_config& config, nbl_option id, OptionValue value) {
  NBL_ASSIGN_OR_RETURN(const OptionRow* row, require_option(id));
  NBL_RETURN_IF_ERROR(check_value(*row, value));
  config.values[id] = std::make_shared<const OptionValue>(std::move(value));
  return {};
}

Status add_value(nbl_config& config, nbl_option id, std::string_view value) {
  NBL_ASSIGN_OR_RETURN(const OptionRow* row, require_option(id));
  if (row->type != OptionType::kList) return bad_value(*row, std::string("takes ") + type_name(row->type) + "; it is no list to add to");
  std::vector<std::string> list;
  if (const auto found = config.values.find(id); found != config.values.end()) list = std::get<std::vector<std::string>>(*found->second);
  list.emplace_back(value);
  return set_value(config, id, std::move(list));
}

// ---- JSON

namespace {

const OptionRow* find_by_json_key(const std::string& key) {
  for (int i = 0; i < kOptionCount; ++i) {
    const OptionRow& row = kOptions[i];
    if (key == row.name) return &row;
    for (const char* const* name = row.json_keys; name && *name; ++name) {
      if (key == *name) return &row;
    }
  }
  return nullptr;
}

// Configurations of transformers are full of keys that say nothing here. One that is the end of an option's name was meant for it.
void tell_ignored(const std::string& key) {
  std::string meant;
  const std::string end = "_" + key;
  for (int i = 0; i < kOptionCount; ++i) {
    const std::string_view name = kOptions[i].name;
    if (name.size() > end.size() && name.substr(name.size() - end.size()) == end) meant = name;
  }
  const std::string line = "options: \"" + key + "\" is no option and was ignored";
  if (meant.empty()) {
    log_line(LogLevel::kInfo, line);
  } else {
    log_line(LogLevel::kWarning, line + "; is " + meant + " meant?");
  }
}

Status merge_option(nbl_config& config, const OptionRow& row, const Json& value) {
  const auto wrong = [&] { return bad_value(row, "is " + to_text(value) + ", expected " + type_name(row.type)); };
  switch (row.type) {
    case OptionType::kI64:
      if (value.is_boolean()) return set_value(config, row.id, int64_t{value.get<bool>()});
      if (!value.is_number_integer()) return wrong();
      return set_value(config, row.id, value.get<int64_t>());
    case OptionType::kF64:
      if (!value.is_number()) return wrong();
      return set_value(config, row.id, value.get<double>());
    case OptionType::kText:
      if (!value.is_string()) return wrong();
      return set_value(config, row.id, value.get<std::string>());
    case OptionType::kList: {
      std::vector<std::string> list;
      for (const Json& item : value.is_array() ? value : Json::array({value})) {
        if (item.is_string()) {
          list.push_back(item.get<std::string>());
        } else if (item.is_number_integer()) {
          list.push_back(to_text(item));
        } else {
          return wrong();
        }
      }
      return set_value(config, row.id, std::move(list));
    }
  }
  return {};
}

// device_map: a name, a number, or {"": either}. A model is placed whole.
Status merge_device_map(nbl_config& config, const Json& value) {
  if (value.is_string()) {
    const std::string text = value.get<std::string>();
    const bool any = text == "sequential" || text == "balanced" || text == "balanced_low_0";
    return set_value(config, NBL_OPT_DEVICE, any ? std::string("auto") : text);
  }
  if (value.is_number_integer()) return set_value(config, NBL_OPT_DEVICE, "cuda:" + to_text(value));
  if (value.is_object() && !value.empty()) {
    const Json& first = value.begin().value();
    for (const auto& [module, device] : value.items()) {
      if (device == first) continue;
      return error(Code::kUnsupported, "device_map puts %s on %s and other modules on %s; a model is placed whole: give one device",
                   module.c_str(), to_text(device).c_str(), to_text(first).c_str())
          .with("key", "device_map");
    }
    return merge_device_map(config, first);
  }
  return error(Code::kOptionValue, "\"device_map\" is %s, expected a device name or number", to_text(value).c_str())
      .with("key", "device_map");
}

// max_memory: {0: "30GiB", "cpu": "16GB"}, numbers or texts, as entries DEVICE=BYTES.
Status merge_max_memory(nbl_config& config, const Json& value) {
  if (!value.is_object()) {
    return error(Code::kOptionValue, "\"max_memory\" is %s, expected an object of devices and bytes", to_text(value).c_str())
        .with("key", "max_memory");
  }
  std::vector<std::string> list;
  MemoryCeilings ceilings;
  for (const auto& [device, bytes] : value.items()) {
    list.push_back(device + "=" + (bytes.is_string() ? bytes.get<std::string>() : to_text(bytes)));
    NBL_RETURN_IF_ERROR(add_ceiling(list.back(), ceilings));
  }
  return set_value(config, NBL_OPT_MAX_MEMORY, std::move(list));
}

Result<bool> asked(const Json& object, const char* key) {
  Result<bool> value = json_bool(object, key, false);
  if (!value.ok()) return Status(Code::kOptionValue, value.status().message()).with("key", key);
  return value;
}

// bitsandbytes' way of asking for a quantized load.
Status merge_bitsandbytes(nbl_config& config, const Json& object) {
  NBL_ASSIGN_OR_RETURN(const bool in_8bit, asked(object, "load_in_8bit"));
  NBL_ASSIGN_OR_RETURN(const bool in_4bit, asked(object, "load_in_4bit"));
  if (in_8bit) return set_value(config, NBL_OPT_LOAD_QUANT, std::string("int8"));
  if (!in_4bit) return {};
  const Result<std::string> type = json_str(object, "bnb_4bit_quant_type", "fp4");
  if (!type.ok()) return Status(Code::kOptionValue, type.status().message()).with("key", "bnb_4bit_quant_type");
  return set_value(config, NBL_OPT_LOAD_QUANT, *type);
}

}  // namespace

Status merge_json(nbl_config& config, const Json& object) {
  if (!object.is_object()) return error(Code::kArgument, "the text of options is a JSON %s, expected an object", object.type_name());
  nbl_config merged;
  merged.values = config.values;  // all or nothing
  NBL_RETURN_IF_ERROR(merge_bitsandbytes(merged, object));
  for (const auto& [key, value] : object.items()) {
    if (value.is_null()) continue;
    if (key == "device_map") {
      NBL_RETURN_IF_ERROR(merge_device_map(merged, value));
    } else if (key == "max_memory" && !value.is_array()) {
      NBL_RETURN_IF_ERROR(merge_max_memory(merged, value));
    } else if (key == "do_sample") {
      NBL_ASSIGN_OR_RETURN(const bool samples, asked(object, "do_sample"));
      if (!samples) NBL_RETURN_IF_ERROR(set_value(merged, NBL_OPT_TEMPERATURE, 0.0));
    } else if (key == "quantization_config") {
      if (!value.is_object()) {
        return error(Code::kOptionValue, "\"quantization_config\" is %s, expected an object", to_text(value).c_str()).with("key", key);
      }
      NBL_RETURN_IF_ERROR(merge_json(merged, value));
    } else if (const OptionRow* row = find_by_json_key(key)) {
      NBL_RETURN_IF_ERROR(merge_option(merged, *row, value));
    } else if (key != "load_in_8bit" && key != "load_in_4bit" && key != "bnb_4bit_quant_type") {
      tell_ignored(key);
    }
  }
  config.values = std::move(merged.values);
  return {};
}

Json to_json(const nbl_config& config) {
  Json out = Json::object();
  for (const auto& [id, value] : config.values) {
    if (const OptionRow* row = find_option(id)) std::visit([&](const auto& v) { out[row->name] = v; }, *value);
  }
  return out;
}

Json describe_option(const OptionRow& row) {
  static constexpr const char* kTypes[] = {"i64", "f64", "str", "list"};
  Json out;
  out["name"] = row.name;
  out["id"] = row.id;
  out["type"] = kTypes[static_cast<int>(row.type)];
  if (row.type == OptionType::kI64) out["default"] = i64_of(row.default_text);
  if (row.type == OptionType::kF64) out["default"] = f64_of(row.default_text);
  if (row.type == OptionType::kText) out["default"] = row.default_text;
  if (row.type == OptionType::kList) out["default"] = Json::array();
  if (std::isfinite(row.min)) out["min"] = row.min;
  if (std::isfinite(row.max)) out["max"] = row.max;
  for (const char* const* value = row.values; value && *value; ++value) out["values"].push_back(*value);
  out["for"] = row.applies;
  out["doc"] = row.doc;
  return out;
}

// ---- to the engine's structs

namespace {

// What was set, or the table's default.
class Reader {
 public:
  explicit Reader(const nbl_config* config) : config_(config) {}

  bool has(nbl_option id) const { return config_ && config_->values.count(id) > 0; }
  int64_t i64(nbl_option id) const { return has(id) ? std::get<int64_t>(*config_->values.at(id)) : i64_of(find_option(id)->default_text); }
  double f64(nbl_option id) const { return has(id) ? std::get<double>(*config_->values.at(id)) : f64_of(find_option(id)->default_text); }
  std::string text(nbl_option id) const { return has(id) ? std::get<std::string>(*config_->values.at(id)) : find_option(id)->default_text; }
  std::vector<std::string> list(nbl_option id) const {
    return has(id) ? std::get<std::vector<std::string>>(*config_->values.at(id)) : std::vector<std::string>();
  }

 private:
  const nbl_config* config_;
};

// Position of a text option's value in its list of values, which is in the order of the engine's enum.
template <typename Enum>
Enum enum_of(nbl_option id, const std::string& value) {
  const OptionRow& row = *find_option(id);
  int index = 0;
  while (row.values[index] && value != row.values[index]) ++index;
  return static_cast<Enum>(index);
}

Result<std::vector<int64_t>> numbers_of(nbl_option id, const std::vector<std::string>& texts, int64_t least) {
  constexpr int64_t kMost = 1 << 24;
  std::vector<int64_t> numbers;
  for (const std::string& text : texts) {
    int64_t number = 0;
    if (!whole_number(text, least, kMost, number)) {
      return bad_value(*find_option(id), "has the entry \"" + text + "\", expected a whole number from " + std::to_string(least) + " to " +
                                             std::to_string(kMost));
    }
    numbers.push_back(number);
  }
  return numbers;
}

}  // namespace

Status parse_device(const std::string& text, BackendKind& kind, int& device) {
  device = 0;
  if (text == "auto") return kind = BackendKind::kAuto, Status();
  if (text == "cpu") return kind = BackendKind::kCpu, Status();
  if (text == "ref") return kind = BackendKind::kRef, Status();
  kind = BackendKind::kCuda;
  if (text == "cuda" || text == "gpu") return {};
  const std::string number = text.compare(0, 5, "cuda:") == 0 ? text.substr(5) : text;
  int64_t value = 0;
  if (!whole_number(number, 0, 1023, value)) {
    bool other = text == "disk";  // devices of other tools
    for (const char* name : {"rocm", "hip", "xpu", "mps", "meta"}) other = other || text.compare(0, std::strlen(name), name) == 0;
    return error(other ? Code::kUnsupported : Code::kOptionValue,
                 "the device is \"%s\"; known are auto, cpu, ref, cuda, cuda:0, cuda:1, ...", text.c_str())
        .with("option", "device");
  }
  device = static_cast<int>(value);
  return {};
}

Result<LoadOptions> load_options(const nbl_config* config) {
  const Reader read(config);
  LoadOptions out;
  NBL_RETURN_IF_ERROR(parse_device(read.text(NBL_OPT_DEVICE), out.backend, out.device));
  for (const std::string& text : read.list(NBL_OPT_MAX_MEMORY)) NBL_RETURN_IF_ERROR(add_ceiling(text, out.max_memory));
  out.cpu.threads = static_cast<int>(read.i64(NBL_OPT_N_THREADS));
  out.cpu.isa = enum_of<CpuIsa>(NBL_OPT_CPU_ISA, read.text(NBL_OPT_CPU_ISA));
  out.cpu.precision = enum_of<CpuPrecision>(NBL_OPT_CPU_PRECISION, read.text(NBL_OPT_CPU_PRECISION));
  out.cpu.spin = read.i64(NBL_OPT_SPIN) != 0;
  out.kernel = enum_of<CudaKernel>(NBL_OPT_KERNEL, read.text(NBL_OPT_KERNEL));
  out.load_quant.method = enum_of<LoadQuantOptions::Method>(NBL_OPT_LOAD_QUANT, read.text(NBL_OPT_LOAD_QUANT));
  out.load_quant.block_size = read.i64(NBL_OPT_QUANT_BLOCK);
  out.load_quant.double_quant = read.i64(NBL_OPT_DOUBLE_QUANT) != 0;
  out.load_quant.int8_threshold = read.f64(NBL_OPT_INT8_THRESHOLD);
  out.load_quant.skip = read.list(NBL_OPT_SKIP);
  out.chat_template = read.text(NBL_OPT_CHAT_TEMPLATE);
  out.check_sampling = check_sampling;
  return out;
}

namespace {

DType kv_type_of(const Reader& read) {
  const std::string name = read.text(NBL_OPT_KV_DTYPE);
  return name == "f32" ? DType::kF32 : name == "int8" ? DType::kI8 : DType::kF16;
}

}  // namespace

Result<SessionOptions> session_options(const nbl_config* config) {
  const Reader read(config);
  SessionOptions out;
  out.context = read.i64(NBL_OPT_CONTEXT);
  out.kv_type = kv_type_of(read);
  out.prefill_chunk = read.i64(NBL_OPT_PREFILL_CHUNK);
  out.logits = enum_of<SessionOptions::Logits>(NBL_OPT_LOGITS, read.text(NBL_OPT_LOGITS));
  return out;
}

Result<EstimateOptions> estimate_options(const nbl_config* config) {
  const Reader read(config);
  return EstimateOptions{read.i64(NBL_OPT_CONTEXT), kv_type_of(read), read.i64(NBL_OPT_PREFILL_CHUNK)};
}

Result<BatchOptions> batch_options(const nbl_config* config) { return BatchOptions{Reader(config).i64(NBL_OPT_BATCH_SESSIONS)}; }

Result<BenchOptions> bench_options(const nbl_config* config) {
  const Reader read(config);
  BenchOptions out;
  if (read.has(NBL_OPT_BENCH_PROMPT)) {
    NBL_ASSIGN_OR_RETURN(out.prompt_lengths, numbers_of(NBL_OPT_BENCH_PROMPT, read.list(NBL_OPT_BENCH_PROMPT), 1));
  }
  if (read.has(NBL_OPT_BENCH_BATCH)) {
    NBL_ASSIGN_OR_RETURN(out.batch_sizes, numbers_of(NBL_OPT_BENCH_BATCH, read.list(NBL_OPT_BENCH_BATCH), 1));
  }
  out.decode_tokens = read.i64(NBL_OPT_BENCH_DECODE);
  out.repeats = read.i64(NBL_OPT_BENCH_REPEATS);
  out.context = read.i64(NBL_OPT_CONTEXT);
  return out;
}

Result<PerplexityOptions> perplexity_options(const nbl_config* config) {
  const Reader read(config);
  return PerplexityOptions{read.i64(NBL_OPT_PERPLEXITY_WINDOW), read.i64(NBL_OPT_PERPLEXITY_MAX_WINDOWS)};
}

Status apply_generation(const OptionRow& row, const OptionValue& value, GenerationOptions& out) {
  NBL_RETURN_IF_ERROR(check_value(row, value));
  const auto i64 = [&] { return std::get<int64_t>(value); };
  const auto f64 = [&] { return std::get<double>(value); };
  switch (row.id) {
    case NBL_OPT_TEMPERATURE: out.sampling.temperature = f64(); return {};
    case NBL_OPT_TOP_K: out.sampling.top_k = i64(); return {};
    case NBL_OPT_TOP_P: out.sampling.top_p = f64(); return {};
    case NBL_OPT_MIN_P: out.sampling.min_p = f64(); return {};
    case NBL_OPT_TYPICAL_P: out.sampling.typical_p = f64(); return {};
    case NBL_OPT_REPETITION_PENALTY: out.sampling.repetition_penalty = f64(); return {};
    case NBL_OPT_PRESENCE_PENALTY: out.sampling.presence_penalty = f64(); return {};
    case NBL_OPT_FREQUENCY_PENALTY: out.sampling.frequency_penalty = f64(); return {};
    case NBL_OPT_PENALTY_WINDOW: out.sampling.penalty_window = i64(); return {};
    case NBL_OPT_SEED: out.sampling.seed = static_cast<uint64_t>(i64()); return {};
    case NBL_OPT_MAX_LENGTH: out.max_length = i64(); return {};
    case NBL_OPT_MIN_NEW_TOKENS: out.min_new_tokens = i64(); return {};
    case NBL_OPT_IGNORE_EOS: out.ignore_eos = i64() != 0; return {};
    case NBL_OPT_SKIP_SPECIAL: out.skip_special = i64() != 0; return {};
    case NBL_OPT_STOP: {
      const auto& texts = std::get<std::vector<std::string>>(value);
      if (std::any_of(texts.begin(), texts.end(), [](const std::string& text) { return text.empty(); })) {
        return bad_value(row, "has an empty text, which every answer would end at");
      }
      out.stop_strings = texts;
      return {};
    }
    case NBL_OPT_STOP_IDS: {
      NBL_ASSIGN_OR_RETURN(const std::vector<int64_t> ids, numbers_of(row.id, std::get<std::vector<std::string>>(value), 0));
      out.stop_ids.assign(ids.begin(), ids.end());
      return {};
    }
  }
  return bad_value(row, std::string("is for ") + row.applies + "; a session takes options for generation");
}

Status apply_generation(const nbl_config* config, GenerationOptions& out) {
  if (!config) return {};
  for (const auto& [id, value] : config->values) {
    const OptionRow& row = *find_option(id);
    if (std::strstr(row.applies, "generation")) NBL_RETURN_IF_ERROR(apply_generation(row, *value, out));
  }
  return {};
}

Status check_sampling(const SamplingOptions& sampling) {
  const std::pair<nbl_option, OptionValue> values[] = {
      {NBL_OPT_TEMPERATURE, sampling.temperature}, {NBL_OPT_TOP_K, sampling.top_k},
      {NBL_OPT_TOP_P, sampling.top_p},             {NBL_OPT_MIN_P, sampling.min_p},
      {NBL_OPT_TYPICAL_P, sampling.typical_p},     {NBL_OPT_REPETITION_PENALTY, sampling.repetition_penalty},
  };
  for (const auto& [id, value] : values) NBL_RETURN_IF_ERROR(check_value(*find_option(id), value));
  return {};
}

Status reset_generation(const OptionRow& row, const Model& model, GenerationOptions& out) {
  const SamplingOptions& start = model.default_sampling();
  switch (row.id) {
    case NBL_OPT_TEMPERATURE: out.sampling.temperature = start.temperature; return {};
    case NBL_OPT_TOP_K: out.sampling.top_k = start.top_k; return {};
    case NBL_OPT_TOP_P: out.sampling.top_p = start.top_p; return {};
    case NBL_OPT_MIN_P: out.sampling.min_p = start.min_p; return {};
    case NBL_OPT_TYPICAL_P: out.sampling.typical_p = start.typical_p; return {};
    case NBL_OPT_REPETITION_PENALTY: out.sampling.repetition_penalty = start.repetition_penalty; return {};
  }
  switch (row.type) {
    case OptionType::kI64: return apply_generation(row, i64_of(row.default_text), out);
    case OptionType::kF64: return apply_generation(row, f64_of(row.default_text), out);
    case OptionType::kText: return apply_generation(row, std::string(row.default_text), out);
    case OptionType::kList: return apply_generation(row, std::vector<std::string>(), out);
  }
  return {};
}

}  // namespace nbl::api

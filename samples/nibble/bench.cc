// nibble bench: prefill and decode speed over prompt lengths, beside what the machine reached at best in the same minute.
//
// A decode step reads every weight once and the keys and values of all positions before it, so steps a second times these
// bytes, over the bandwidth, say how far from the machine's limit it is; a long prompt is limited by matrix products in the
// same way. The bandwidth of a CPU is probed here, before and after each repeat, of which the faster counts; the rates of a
// GPU come from the library. --shape measures random weights of a known model's shape: no download needed.
#include <algorithm>
#include <cstdio>
#include <memory>

#include <nlohmann/json.hpp>

#include "bandwidth.h"
#include "commands.h"
#include "facts.h"
#include "model_options.h"
#include "terminal.h"

namespace commands {
namespace {

using Json = nlohmann::ordered_json;

struct BenchFlags {
  LoadFlags load;
  std::vector<std::string> directories;
  std::string shape;
  std::string format = "awq-g128";
  std::vector<int64_t> prompts = {128, 512};
  std::vector<int64_t> batches = {1};
  int64_t decode = 64;
  int64_t repeats = 3;
  bool no_probe = false;
  bool json = false;
  bool csv = false;
};

client::Model synthesize(const BenchFlags& flags) {
  const std::string request = Json{{"shape", flags.shape}, {"format", flags.format}}.dump();
  const client::Config config = flags.load.config();
  return client::make<client::Model>(nbl_model_synthesize, request.data(), request.size(), config.get());
}

struct Rows {
  std::vector<int64_t> prompts, batches;
  int64_t decode;
};

// One row for each prompt length and batch size.
Json measure_rows(const Rows& rows, int64_t repeats, nbl_model* model, const std::string& name) {
  const client::Config config = client::make_config();
  for (const int64_t length : rows.prompts) client::add(config, NBL_OPT_BENCH_PROMPT, std::to_string(length));
  for (const int64_t size : rows.batches) client::add(config, NBL_OPT_BENCH_BATCH, std::to_string(size));
  client::set(config, NBL_OPT_BENCH_DECODE, rows.decode);
  client::set(config, NBL_OPT_BENCH_REPEATS, repeats);
  const auto job = client::make<client::Job>(nbl_bench_start, model, config.get());
  terminal::wait(job.get(), "measuring " + name);
  return Json::parse(client::text_of(nbl_job_result, job.get()));
}

// Steps a second, times what one has to read: all sequences of a batch share one reading of the weights, keys and values are their own.
double decode_bytes_per_second(const Json& result, const Json& row) {
  const double sequences = row["batch"].get<double>();
  return row["decode_tokens_per_second"].get<double>() / sequences *
         (result["weight_bytes_per_token"].get<double>() + sequences * row["kv_bytes_per_token"].get<double>());
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

// The repeats of one row as one: medians, and the best of what is the best of something.
Json together(const std::vector<Json>& repeats) {
  Json row = repeats.front();
  for (auto& [key, value] : row.items()) {
    std::vector<double> values;
    for (const Json& repeat : repeats) values.push_back(repeat[key].get<double>());
    const bool best = key.compare(0, 5, "best_") == 0;
    const double number = best ? *std::max_element(values.begin(), values.end()) : median(values);
    value = value.is_number_float() ? Json(number) : Json(static_cast<int64_t>(number));
  }
  return row;
}

// One row at a time, one repeat at a time, and a probe between them.
Json measure_beside_probes(const std::vector<Rows>& all, int64_t repeats, nbl_model* model, const std::string& name, int threads) {
  bandwidth::Probe probe(threads);
  Json result, rows = Json::array();
  std::vector<double> bandwidths;
  double before = probe.run();
  for (const Rows& some : all) {
    for (const int64_t batch : some.batches) {
      for (const int64_t prompt : some.prompts) {
        std::vector<Json> done;
        for (int64_t i = 0; i < std::max<int64_t>(1, repeats); ++i) {
          result = measure_rows({{prompt}, {batch}, some.decode}, 1, model, name);
          const double after = probe.run();
          Json& row = done.emplace_back(result["rows"][0]);
          row["read_bandwidth_bytes_per_second"] = std::max(before, after);
          row["bandwidth_share"] = decode_bytes_per_second(result, row) / std::max(before, after);
          bandwidths.push_back(std::max(before, after));
          before = after;
        }
        rows.push_back(together(done));
      }
    }
  }
  result["rows"] = std::move(rows);
  result["read_bandwidth_bytes_per_second"] = median(bandwidths);
  return result;
}

// With `probe_threads` the read bandwidth is probed as well.
Json measure(const BenchFlags& flags, nbl_model* model, const std::string& name, int probe_threads) {
  std::vector<Rows> all;
  if (flags.decode > 0) {
    all.push_back({flags.prompts, flags.batches, flags.decode});
  } else {  // as many tokens as the prompt has
    for (const int64_t length : flags.prompts) all.push_back({{length}, flags.batches, length});
  }
  Json result;
  if (probe_threads > 0) {
    result = measure_beside_probes(all, flags.repeats, model, name, probe_threads);
  } else {
    Json rows = Json::array();
    for (const Rows& some : all) {
      result = measure_rows(some, flags.repeats, model, name);
      for (Json& row : result["rows"]) rows.push_back(std::move(row));
    }
    result["rows"] = std::move(rows);
  }
  const Json description = Json::parse(client::text_of(nbl_model_describe, static_cast<const nbl_model*>(model)));
  result["model"] = name;
  result["format"] = facts::format_of(description);
  return result;
}

// Adds what the measured rates allow to say.
void add_shares(Json* result) {
  const double bandwidth = result->value("read_bandwidth_bytes_per_second", 0.0),
               products = result->value("multiply_operations_per_second", 0.0);
  const double operations = (*result)["multiply_operations_per_token"].get<double>();
  for (Json& row : (*result)["rows"]) {
    row["decode_bytes_per_second"] = decode_bytes_per_second(*result, row);
    if (bandwidth > 0 && !row.contains("bandwidth_share"))
      row["bandwidth_share"] = row["decode_bytes_per_second"].get<double>() / bandwidth;
    row["prefill_operations_per_second"] = row["prefill_tokens_per_second"].get<double>() * operations;
    if (products > 0) row["multiply_share"] = row["prefill_tokens_per_second"].get<double>() * operations / products;
  }
}

// What the rows take of the GPU that they ran on.
void add_memory_share(Json* result) {
  const std::string backend = (*result)["backend"].get<std::string>();
  if (backend.compare(0, 5, "cuda:") != 0) return;
  const auto total =
      client::number_of(nbl_device_i64, static_cast<int32_t>(std::stoi(backend.substr(5))), nbl_prop{NBL_PROP_DEVICE_TOTAL_BYTES});
  for (Json& row : (*result)["rows"]) row["memory_share"] = row["memory_bytes"].get<double>() / static_cast<double>(total);
}

// "38 %" of a row, or a dash where the rate was not measured.
std::string share(const Json& row, const char* key) {
  if (!row.contains(key)) return "-";
  char text[16];
  std::snprintf(text, sizeof(text), "%.0f %%", row[key].get<double>() * 100);
  return text;
}

std::string memory(const Json& row) {
  std::string text = terminal::bytes(row["memory_bytes"]);
  if (!row.contains("memory_share")) return text;
  char percent[24];
  std::snprintf(percent, sizeof(percent), " (%.2f %%)", row["memory_share"].get<double>() * 100);
  return text + percent;
}

void print_table(const Json& result) {
  const double bandwidth = result.value("read_bandwidth_bytes_per_second", 0.0),
               products = result.value("multiply_operations_per_second", 0.0);
  std::printf("%s: %s, %s; %s of weights, %s read a token", result["model"].get<std::string>().c_str(),
              result["format"].get<std::string>().c_str(), result.value("description", "").c_str(),
              terminal::bytes(result["weight_bytes"]).c_str(), terminal::bytes(result["weight_bytes_per_token"]).c_str());
  if (bandwidth > 0) std::printf("; read bandwidth now %.1f GB/s", bandwidth * 1e-9);
  if (products > 0) std::printf("; f16 products now %.0f Tflop/s", products * 1e-12);
  std::printf("\n%6s %8s %8s %16s %10s %16s %10s %10s %10s %18s\n", "batch", "prompt", "decode", "prefill tokens/s", "products",
              "decode tokens/s", "GB/s", "bandwidth", "KV", "memory");
  for (const Json& row : result["rows"]) {
    std::printf("%6lld %8lld %8lld %16s %10s %16s %10.1f %10s %10s %18s\n", row["batch"].get<long long>(),
                row["prompt_tokens"].get<long long>(), row["decode_tokens"].get<long long>(),
                terminal::rate(row["prefill_tokens_per_second"]).c_str(), share(row, "multiply_share").c_str(),
                terminal::rate(row["decode_tokens_per_second"]).c_str(), row["decode_bytes_per_second"].get<double>() * 1e-9,
                share(row, "bandwidth_share").c_str(), terminal::bytes(row["kv_bytes"]).c_str(), memory(row).c_str());
  }
}

// The same rows of several models side by side: what a prompt and an answer take.
void print_comparison(const Json& results) {
  for (size_t i = 0; i < results[0]["rows"].size(); ++i) {
    const Json& first = results[0]["rows"][i];
    std::printf("\nbatch %lld, prompt %lld, decode %lld\n%-32s %-36s %12s %12s %16s %16s\n", first["batch"].get<long long>(),
                first["prompt_tokens"].get<long long>(), first["decode_tokens"].get<long long>(), "model", "format", "prompt ms", "weights",
                "decode tokens/s", "memory");
    for (const Json& result : results) {
      const Json& row = result["rows"][i];
      std::printf("%-32s %-36s %12.2f %12s %16s %16s\n", result["model"].get<std::string>().c_str(),
                  result["format"].get<std::string>().c_str(), row["prefill_ns"].get<double>() * 1e-6,
                  terminal::bytes(result["weight_bytes"]).c_str(), terminal::rate(row["decode_tokens_per_second"]).c_str(),
                  memory(row).c_str());
    }
  }
}

// A field of CSV: a quote inside is doubled.
std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) out += c == '"' ? "\"\"" : std::string(1, c);
  return out + "\"";
}

void print_csv(const Json& results) {
  static const char* const of_result[] = {"weight_bytes", "read_bandwidth_bytes_per_second", "multiply_operations_per_second"};
  static const char* const of_row[] = {"batch", "prompt_tokens", "decode_tokens", "prefill_ns", "prefill_tokens_per_second",
                                       "decode_tokens_per_second", "kv_bytes_per_token", "kv_bytes", "memory_bytes", "memory_share",
                                       "bandwidth_share", "multiply_share"};
  std::printf("model,format");
  for (const char* key : of_row) std::printf(",%s", key);
  for (const char* key : of_result) std::printf(",%s", key);
  std::printf("\n");
  for (const Json& result : results) {
    for (const Json& row : result["rows"]) {
      std::printf("%s,%s", quoted(result["model"].get<std::string>()).c_str(), quoted(result["format"].get<std::string>()).c_str());
      for (const char* key : of_row) std::printf(",%s", row.contains(key) ? row[key].dump().c_str() : "");
      for (const char* key : of_result) std::printf(",%s", result.contains(key) ? result[key].dump().c_str() : "");
      std::printf("\n");
    }
  }
}

void run(BenchFlags flags) {
  if (flags.directories.empty() == flags.shape.empty()) throw std::runtime_error("bench needs directories, or --shape (see --help)");
  const int64_t threads_asked = flags.load.threads.value_or(0);
  const int threads = threads_asked > 0 ? static_cast<int>(threads_asked) : bandwidth::usable_cores();
  const bool probes = !flags.no_probe && (flags.load.device == "cpu" || (flags.load.device == "auto" && nbl_device_count() == 0));
  if (flags.directories.empty()) flags.directories.push_back("");
  Json results = Json::array();
  for (const std::string& directory : flags.directories) {
    flags.load.directory = directory;
    const bool synthetic = directory.empty();
    const client::Model model = synthetic ? synthesize(flags) : load(flags.load);
    Json result = measure(flags, model.get(), synthetic ? flags.shape + " " + flags.format : directory, probes ? threads : 0);
    add_memory_share(&result);
    add_shares(&result);
    if (!flags.json && !flags.csv) print_table(result);
    results.push_back(std::move(result));
  }
  if (results.size() > 1 && !flags.json && !flags.csv) print_comparison(results);
  if (flags.json) std::printf("%s\n", results.dump(2).c_str());
  if (flags.csv) print_csv(results);
}

}  // namespace

void add_bench(CLI::App& program) {
  auto flags = std::make_shared<BenchFlags>();
  CLI::App* command = program.add_subcommand("bench", "Measure prefill and decode speed");
  command->footer(program.get_footer() +
                  "\nGB/s, and its share of the bandwidth, counts what a decode step has to read: the weights, and the keys and values of the\n"
                  "positions before it (weight_bytes_per_token and, for each sequence, kv_bytes_per_token with --json).");
  command->add_option("DIR", flags->directories, "Checkpoint directories: several are compared");
  flags->load.add_to(command, false);
  command->add_option("--shape", flags->shape,
                      "Random weights of this shape instead: smollm2-135m, qwen2.5-0.5b, tinyllama-1.1b, mistral-7b, ...");
  command->add_option("--format", flags->format, "Their format: awq-g128, gptq-g128, nf4, fp4, f16, ...")->capture_default_str();
  command->add_option("--prompt", flags->prompts, "Prompt lengths")->delimiter(',')->capture_default_str();
  command->add_option("--decode", flags->decode, "Tokens to generate after each prompt; 0: as many as it has")
      ->check(not_negative)
      ->capture_default_str();
  command->add_option("--batch", flags->batches, "Sequences decoded together")->delimiter(',')->capture_default_str();
  command->add_option("--repeats", flags->repeats, "Measurements of each row; the median is shown")->capture_default_str();
  command->add_flag("--no-probe", flags->no_probe, "Do not measure the read bandwidth of the CPU");
  command->add_flag("--csv", flags->csv, "Comma-separated, for spreadsheets");
  add_json_flag(command, &flags->json);
  command->callback([flags] { run(*flags); });
}

}  // namespace commands

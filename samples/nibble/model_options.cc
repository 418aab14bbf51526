#include "model_options.h"

#include <random>

#include <nlohmann/json.hpp>

#include "terminal.h"

namespace commands {

void LoadFlags::add_to(CLI::App* command, bool with_directory) {
  if (with_directory) command->add_option("DIR", directory, "Checkpoint directory")->required();
  command->add_option("--device", device, "auto, cpu, cuda, cuda:N, or ref: the slow reference")->group("Loading")->capture_default_str();
  command->add_option("--threads", threads, "CPU threads; 0: all physical cores")->group("Loading");
  command->add_option("--isa", isa, "Force an instruction set: generic, avx2, avxvnni, avx512vnni")->group("Loading");
  command->add_option("--precision", precision, "exact16, fp32, fast8, fastest8")->group("Loading");
  command->add_option("--kernel", kernel, "Force kernels of a GPU: resident, launches, tiles, cublas")->group("Loading");
  command->add_option("--load-quant", load_quant, "Quantize a float checkpoint while loading: nf4, fp4, int8")->group("Loading");
  command->add_option("--options", merge_json, "Any options as JSON, by the library's or transformers' names")->group("Loading");
}

client::Config LoadFlags::config() const {
  client::Config out = client::make_config();
  client::set(out, NBL_OPT_DEVICE, device);
  if (threads) client::set(out, NBL_OPT_N_THREADS, *threads);
  if (!isa.empty()) client::set(out, NBL_OPT_CPU_ISA, isa);
  if (!precision.empty()) client::set(out, NBL_OPT_CPU_PRECISION, precision);
  if (!kernel.empty()) client::set(out, NBL_OPT_KERNEL, kernel);
  if (!load_quant.empty()) client::set(out, NBL_OPT_LOAD_QUANT, load_quant);
  if (!merge_json.empty()) client::call(nbl_config_merge_json, out.get(), merge_json.data(), merge_json.size());
  return out;
}

client::Model load(const LoadFlags& flags) {
  const client::Config config = flags.config();
  const auto job = client::make<client::Job>(nbl_model_load_start, flags.directory.data(), flags.directory.size(), config.get());
  terminal::wait(job.get(), "loading " + flags.directory);
  return client::make<client::Model>(nbl_job_take_model, job.get());
}

void SamplingFlags::add_to(CLI::App* command) {
  command->add_option("-t,--temperature", temperature, "0: always the likeliest token")->group("Sampling");
  command->add_option("--top-k", top_k, "Draw from the k likeliest")->group("Sampling");
  command->add_option("--top-p", top_p, "Draw from the likeliest that make up this probability")->group("Sampling");
  command->add_option("--min-p", min_p, "Leave out what is less likely than this share of the likeliest")->group("Sampling");
  command->add_option("--repetition-penalty", repetition_penalty, "Above 1: less repetition")->group("Sampling");
  command->add_option("--seed", seed, "The same seed gives the same answer")->group("Sampling");
  command->add_option("--stop", stop, "Strings that end the answer")->group("Sampling");
  command->add_option("--context", context, "Longest conversation, in tokens")->group("Sampling");
}

client::Session SamplingFlags::make_session(nbl_model* model, const LoadFlags& load) const {
  const client::Config config = load.config();
  const auto set = [&config](nbl_option option, const auto& value) {
    if (value) client::set(config, option, *value);
  };
  set(NBL_OPT_TEMPERATURE, temperature);
  set(NBL_OPT_TOP_K, top_k);
  set(NBL_OPT_TOP_P, top_p);
  set(NBL_OPT_MIN_P, min_p);
  set(NBL_OPT_REPETITION_PENALTY, repetition_penalty);
  // Every run tells another story, unless it was told which.
  const bool told = nlohmann::json::parse(client::text_of(nbl_config_to_json, config.get())).contains("seed");
  if (seed || !told) client::set(config, NBL_OPT_SEED, seed ? *seed : static_cast<int64_t>(std::random_device()()));
  set(NBL_OPT_CONTEXT, context);
  for (const std::string& text : stop) client::add(config, NBL_OPT_STOP, text);
  return client::make<client::Session>(nbl_session_create, model, config.get());
}

std::string not_negative(const std::string& number) { return number[0] == '-' ? "is " + number + ", expected 0 or more" : ""; }

void add_json_flag(CLI::App* command, bool* json) { command->add_flag("--json", *json, "For programs: JSON on standard output"); }

}  // namespace commands

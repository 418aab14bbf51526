// nibble perplexity: how well a model predicts a text.
//
// Protocol: the text is encoded at once without special tokens; non-overlapping windows of --window ids from the start,
// the incomplete tail dropped; each window alone from position 0; perplexity = exp(mean of -ln p over ids 1 .. window-1).
#include <cstdio>
#include <memory>
#include <optional>

#include <nlohmann/json.hpp>

#include "commands.h"
#include "facts.h"
#include "model_options.h"
#include "text_file.h"
#include "terminal.h"

namespace commands {
namespace {

using Json = nlohmann::ordered_json;

struct PerplexityFlags {
  LoadFlags load;
  std::string file;
  int64_t window = 512;
  std::optional<int64_t> max_windows;
  int64_t characters = 0;
  bool json = false;
};

void run(const PerplexityFlags& flags) {
  std::string text = text_file::read(flags.file);
  if (flags.characters > 0) text = text_file::first_characters(text, flags.characters);
  const client::Model model = load(flags.load);
  const client::Config config = client::make_config();
  client::set(config, NBL_OPT_PERPLEXITY_WINDOW, flags.window);
  if (flags.max_windows) client::set(config, NBL_OPT_PERPLEXITY_MAX_WINDOWS, *flags.max_windows);
  const auto job = client::make<client::Job>(nbl_perplexity_start, model.get(), config.get(), text.data(), text.size());
  terminal::wait(job.get(), "scoring " + flags.file);
  Json result = Json::parse(client::text_of(nbl_job_result, job.get()));
  if (flags.json) {
    std::printf("%s\n", result.dump(2).c_str());
    return;
  }
  const Json description = Json::parse(client::text_of(nbl_model_describe, model.get()));
  std::printf("perplexity %.6f (mean NLL %.6f over %lld ids in %lld windows of %lld; %.1f s)\n", result["perplexity"].get<double>(),
              result["mean_nll"].get<double>(), result["scored"].get<long long>(), result["windows"].get<long long>(),
              static_cast<long long>(flags.window), result["seconds"].get<double>());
  std::printf("%s\n", terminal::styled(1, terminal::Style::kDim,
                                       facts::format_of(description) + " | " + description.value("backend_description", ""))
                          .c_str());
}

}  // namespace

void add_perplexity(CLI::App& program) {
  auto flags = std::make_shared<PerplexityFlags>();
  CLI::App* command = program.add_subcommand("perplexity", "Measure how well a model predicts a text");
  flags->load.add_to(command);
  command->add_option("-f,--file", flags->file, "Text file, UTF-8")->required();
  command->add_option("--window", flags->window, "Ids in a window")->capture_default_str();
  command->add_option("--max-windows", flags->max_windows, "Only the first so many windows");
  command->add_option("--characters", flags->characters, "Only the first so many characters of the file")->check(not_negative);
  add_json_flag(command, &flags->json);
  command->callback([flags] { run(*flags); });
}

}  // namespace commands

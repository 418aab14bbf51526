// golden DIR...: runs checkpoints by the public API and compares with what other tools computed for them.
//
// Any directory with golden.json and golden.safetensors will do (record.h), and any directory of such directories. One
// line of figures each and a verdict: ok, FAILED with the reason, or not supported with the library's own words.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "client.h"
#include "facts.h"
#include "golden/comparison.h"
#include "golden/record.h"
#include "text_file.h"

namespace golden {
namespace {

using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

constexpr int kSkipped = 77;  // what CTest takes for "skipped"

struct Options {
  std::vector<std::string> directories;
  std::string model;                   // weights that lie elsewhere than the golden files
  std::string device = "cpu";
  std::vector<std::string> isas;       // empty: the best there is; "all": each that the machine has
  std::string precision = "exact16";
  int64_t threads = 0;
  std::string texts;                   // where the perplexity texts lie; empty: no perplexity
  bool strict = false;
  bool json = false;
};

struct Case {
  std::string directory, isa;
};

bool is_exact(const Options& options) { return options.precision == "fp32" || options.device == "ref"; }

Tolerance tolerance_of(const Options& options, const Record& record) {
  if (is_exact(options)) return record.unrounded ? kFloat32Unrounded : kFloat32;
  return options.precision == "exact16" ? kDefault : kFast;
}

// The figures of one case, and everything that is wrong with it.
struct Report {
  Tolerance tolerance = kFloat32;
  Comparison logits{kFloat32};
  int64_t greedy_steps = 0, greedy_same = 0;
  int64_t texts = 0;
  double load_seconds = 0, perplexity = 0;
  std::string format, kernel, unsupported;
  std::vector<std::string> problems;
};

client::Config load_config(const Options& options, const std::string& isa) {
  client::Config config = client::make_config();
  client::set(config, NBL_OPT_DEVICE, options.device);
  client::set(config, NBL_OPT_CPU_PRECISION, options.precision);
  if (options.threads > 0) client::set(config, NBL_OPT_N_THREADS, options.threads);
  if (!isa.empty()) client::set(config, NBL_OPT_CPU_ISA, isa);
  return config;
}

client::Session make_session(nbl_model* model, const Options& options, int64_t context, bool all_logits) {
  const client::Config config = client::make_config();
  client::set(config, NBL_OPT_CONTEXT, context);
  if (is_exact(options)) client::set(config, NBL_OPT_KV_DTYPE, std::string("f32"));
  if (all_logits) client::set(config, NBL_OPT_LOGITS, std::string("all"));
  client::set(config, NBL_OPT_TEMPERATURE, 0.0);
  client::set(config, NBL_OPT_REPETITION_PENALTY, 1.0);
  client::set(config, NBL_OPT_IGNORE_EOS, int64_t{1});
  return client::make<client::Session>(nbl_session_create, model, config.get());
}

// At least `count` values.
std::vector<float> logits_of(nbl_session* session, size_t count) {
  std::vector<float> logits(count);
  size_t found = 0;
  client::call(nbl_session_logits, session, logits.data(), logits.size(), &found);
  if (found != count)
    throw std::runtime_error("nbl_session_logits gave " + std::to_string(found) + " values, expected " + std::to_string(count));
  return logits;
}

// The prompt's own logits, then those of the expected continuation fed id by id: every decode step is checked, also
// behind one that chose another id.
void check_logits(nbl_model* model, const Options& options, const Prompt& prompt, Report* report) {
  const size_t vocab = prompt.logits.size() / static_cast<size_t>(prompt.rows);
  const bool all = prompt.rows == static_cast<int64_t>(prompt.ids.size()) && prompt.rows > 1;
  const auto context = static_cast<int64_t>(prompt.ids.size() + prompt.greedy.size() + 1);
  const client::Session session = make_session(model, options, context, all);
  client::call(nbl_session_append, session.get(), prompt.ids.data(), prompt.ids.size());
  const std::vector<float> logits = logits_of(session.get(), prompt.logits.size());
  report->logits.add(logits.data(), prompt.logits.data(), prompt.rows, static_cast<int64_t>(vocab));

  const double margin = report->tolerance.margin * report->logits.scale();
  std::vector<float> last(logits.end() - static_cast<int64_t>(vocab), logits.end());
  for (size_t step = 0; step < prompt.greedy.size(); ++step) {
    const auto best = static_cast<nbl_token>(std::max_element(last.begin(), last.end()) - last.begin());
    ++report->greedy_steps;
    report->greedy_same += best == prompt.greedy[step] ? 1 : 0;
    if (best != prompt.greedy[step] && prompt.gap(step) > margin) {
      report->problems.push_back("prompt " + prompt.name + ": greedy step " + std::to_string(step) + " is " + std::to_string(best) +
                                 ", expected " + std::to_string(prompt.greedy[step]) + " by a margin of " +
                                 std::to_string(prompt.gap(step)));
      return;
    }
    if (step + 1 == prompt.greedy.size()) break;
    client::call(nbl_session_append, session.get(), &prompt.greedy[step], size_t{1});
    last = logits_of(session.get(), vocab);
  }
  if (!prompt.last_logits.empty()) report->logits.add(last.data(), prompt.last_logits.data(), 1, static_cast<int64_t>(vocab));
}

// The same continuation by the library's own generation loop, up to the first step whose margin allows another id.
void check_generation(nbl_model* model, const Options& options, const Prompt& prompt, Report* report) {
  const double margin = report->tolerance.margin * report->logits.scale();
  const auto steps = static_cast<int64_t>(prompt.greedy.size());
  const client::Session session = make_session(model, options, static_cast<int64_t>(prompt.ids.size()) + steps + 1, false);
  client::call(nbl_session_append, session.get(), prompt.ids.data(), prompt.ids.size());
  client::call(nbl_session_begin, session.get(), steps);
  nbl_token id = 0;
  std::string piece, text;
  int64_t step = 0;
  for (; client::next(session.get(), &id, &piece); ++step) {
    text += piece;
    if (id == prompt.greedy[static_cast<size_t>(step)]) continue;
    if (prompt.gap(static_cast<size_t>(step)) > margin) {
      report->problems.push_back("prompt " + prompt.name + ": generated step " + std::to_string(step) + " is " + std::to_string(id) +
                                 ", expected " + std::to_string(prompt.greedy[static_cast<size_t>(step)]));
    }
    return;
  }
  if (step != steps) report->problems.push_back("prompt " + prompt.name + ": generation ended after " + std::to_string(step) + " ids");
}

// Where the record has text: it encodes to the expected ids, a conversation renders to the expected text, and the
// continuation decodes to the expected one.
void check_text(nbl_model* model, const Prompt& prompt, Report* report) {
  if (prompt.text.empty()) return;
  ++report->texts;
  std::string text = prompt.text;
  const bool chat = !prompt.messages.is_null();
  if (chat) {
    const std::string request = Json{{"messages", prompt.messages}, {"add_generation_prompt", true}}.dump();
    text = client::text_of(nbl_chat_render, model, request.data(), request.size());
    if (text != prompt.text) report->problems.push_back("prompt " + prompt.name + ": the chat template renders \"" + text + "\"");
  }
  // A rendered conversation has its special tokens in it; to a plain text the tokenizer adds its own.
  if (client::tokenize(model, text, chat ? 0 : uint32_t{NBL_TOKENIZE_ADD_SPECIAL}) != prompt.ids) {
    report->problems.push_back("prompt " + prompt.name + ": the text encodes to other ids");
  }
  std::string decoded(prompt.greedy_text.size() + 64, '\0');
  size_t size = 0;
  client::call(nbl_detokenize, static_cast<const nbl_model*>(model), prompt.greedy.data(), prompt.greedy.size(), uint32_t{0}, &decoded[0],
               decoded.size(), &size);
  decoded.resize(size);
  if (decoded != prompt.greedy_text) report->problems.push_back("prompt " + prompt.name + ": the ids decode to \"" + decoded + "\"");
}

void check_perplexity(nbl_model* model, const Options& options, const Perplexity& expected, Report* report) {
  const fs::path path = fs::path(options.texts) / expected.file;
  if (!fs::exists(path)) return;
  std::string text = text_file::read(path);
  if (expected.characters > 0) text = text_file::first_characters(text, expected.characters);
  const client::Config config = client::make_config();
  client::set(config, NBL_OPT_PERPLEXITY_WINDOW, expected.window);
  const auto job = client::make<client::Job>(nbl_perplexity_start, model, config.get(), text.data(), text.size());
  while (client::call(nbl_job_wait, job.get(), -1) == NBL_PENDING) {
  }
  report->perplexity = Json::parse(client::text_of(nbl_job_result, job.get()))["perplexity"].get<double>();
  if (!(std::fabs(report->perplexity / expected.perplexity - 1) <= report->tolerance.perplexity)) {
    char text_of_problem[128];
    std::snprintf(text_of_problem, sizeof(text_of_problem), "perplexity is %.6f, expected %.6f", report->perplexity, expected.perplexity);
    report->problems.push_back(text_of_problem);
  }
}

void check_figures(Report* report) {
  const Tolerance& tolerance = report->tolerance;
  const Comparison& logits = report->logits;
  const auto fail = [report](const char* format, double value, double limit) {
    char text[160];
    std::snprintf(text, sizeof(text), format, value, limit);
    report->problems.push_back(text);
  };
  // Written so that a NaN fails.
  if (!(logits.relative_rms() <= tolerance.relative_rms))
    fail("relative RMS error %.2e is over %.0e", logits.relative_rms(), tolerance.relative_rms);
  if (!(logits.mean_divergence() <= tolerance.divergence))
    fail("KL divergence %.2e is over %.0e", logits.mean_divergence(), tolerance.divergence);
  if (logits.misses() > 0)
    fail("%.0f rows have another best id although the margin is clear (%.0f allowed)", static_cast<double>(logits.misses()), 0);
  if (logits.rows() >= 300 && logits.same_top1() < tolerance.top1)
    fail("same top-1 %.4f is under %.4f", logits.same_top1(), tolerance.top1);
}

// Null when the library says that it does not do this: only a load may say so.
client::Model timed_load(const std::string& directory, const client::Config& config, Report* report) {
  const auto start = std::chrono::steady_clock::now();
  try {
    client::Model model = client::make<client::Model>(nbl_model_load, directory.data(), directory.size(), config.get());
    report->load_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return model;
  } catch (const client::Error& error) {
    if (error.status() != NBL_E_UNSUPPORTED) throw;
    report->unsupported = error.what();
    return nullptr;
  }
}

Report run_case(const Options& options, const Case& test) {
  Report report;
  try {
    const Record record = read_record(test.directory);
    report.tolerance = tolerance_of(options, record);
    report.logits = Comparison(report.tolerance);
    const std::string& weights = options.model.empty() ? test.directory : options.model;
    const client::Config config = load_config(options, test.isa);
    const client::Model model = timed_load(weights, config, &report);
    if (!model) return report;
    const Json description = Json::parse(client::text_of(nbl_model_describe, model.get()));
    report.format = facts::format_of(description);
    report.kernel = description["modules"][0].value("kernel", "");
    for (const Prompt& prompt : record.prompts) {
      check_logits(model.get(), options, prompt, &report);
      check_generation(model.get(), options, prompt, &report);
      if (!description["tokenizer"].is_null()) check_text(model.get(), prompt, &report);
    }
    for (const Perplexity& expected : record.perplexities) {
      if (!options.texts.empty()) check_perplexity(model.get(), options, expected, &report);
    }
    check_figures(&report);
  } catch (const client::Error& error) {
    report.problems.push_back(std::string(nbl_status_name(error.status())) + ": " + error.what());
  } catch (const std::exception& error) {
    report.problems.push_back(error.what());
  }
  return report;
}

const char* verdict(const Report& report) {
  return !report.problems.empty() ? "FAILED" : !report.unsupported.empty() ? "not supported" : "ok";
}

void print_header() {
  std::printf("%-34s %-13s %9s %9s %9s %7s %9s %10s %8s  %s\n", "directory", "verdict", "max err", "rel RMS", "KL", "top-1", "greedy",
              "perplexity", "load", "format; kernel");
}

void print_line(const std::string& name, const Report& report) {
  if (report.unsupported.empty() && report.logits.rows() > 0) {
    char perplexity[16] = "-";
    if (report.perplexity > 0) std::snprintf(perplexity, sizeof(perplexity), "%.6g", report.perplexity);
    char greedy[32];
    std::snprintf(greedy, sizeof(greedy), "%lld/%lld", static_cast<long long>(report.greedy_same),
                  static_cast<long long>(report.greedy_steps));
    std::printf("%-34s %-13s %9.1e %9.1e %9.1e %7.4f %9s %10s %6.0fms  %s; %s\n", name.c_str(), verdict(report), report.logits.max_error(),
                report.logits.relative_rms(), report.logits.mean_divergence(), report.logits.same_top1(), greedy, perplexity,
                report.load_seconds * 1e3, report.format.c_str(), report.kernel.c_str());
  } else {
    std::printf("%-34s %s%s\n", name.c_str(), verdict(report), report.unsupported.empty() ? "" : (": " + report.unsupported).c_str());
  }
  for (const std::string& problem : report.problems) std::printf("    %s\n", problem.c_str());
  std::fflush(stdout);
}

Json to_json(const Case& test, const Report& report) {
  return {{"directory", test.directory}, {"isa", test.isa}, {"verdict", verdict(report)}, {"problems", report.problems},
          {"not_supported", report.unsupported}, {"rows", report.logits.rows()}, {"max_error", report.logits.max_error()},
          {"relative_rms", report.logits.relative_rms()}, {"kl_divergence", report.logits.mean_divergence()},
          {"same_top1", report.logits.same_top1()}, {"greedy_same", report.greedy_same}, {"greedy_steps", report.greedy_steps},
          {"texts", report.texts}, {"perplexity", report.perplexity}, {"load_seconds", report.load_seconds},
          {"format", report.format}, {"kernel", report.kernel}};
}

// Directories with a record, and those one level below the others.
std::vector<std::string> expand(const std::vector<std::string>& given) {
  std::vector<std::string> out;
  for (const std::string& directory : given) {
    if (fs::exists(fs::path(directory) / "golden.json")) {
      out.push_back(directory);
      continue;
    }
    std::error_code error;
    std::vector<std::string> below;
    for (const auto& entry : fs::directory_iterator(directory, error)) {
      if (fs::exists(entry.path() / "golden.json") && fs::exists(entry.path() / "config.json")) below.push_back(entry.path());
    }
    std::sort(below.begin(), below.end());
    out.insert(out.end(), below.begin(), below.end());
  }
  return out;
}

std::vector<std::string> isas_of(const Options& options) {
  if (options.isas.empty()) return {""};
  if (options.isas != std::vector<std::string>{"all"}) return options.isas;
  return Json::parse(client::text_of(nbl_build_info))["cpu_isas"].get<std::vector<std::string>>();
}

int run(const Options& options) {
  const std::vector<std::string> directories = expand(options.directories);
  if (directories.empty()) {
    std::printf("SKIPPED: no directory with golden.json and config.json is in");
    for (const std::string& directory : options.directories) std::printf(" %s", directory.c_str());
    std::printf("\n");
    return kSkipped;
  }
  int ok = 0, failed = 0, unsupported = 0;
  Json out = Json::array();
  if (!options.json) print_header();
  for (const std::string& directory : directories) {
    for (const std::string& isa : isas_of(options)) {
      const Case test{directory, isa};
      const Report report = run_case(options, test);
      ok += report.problems.empty() && report.unsupported.empty() ? 1 : 0;
      failed += report.problems.empty() ? 0 : 1;
      unsupported += report.unsupported.empty() ? 0 : 1;
      const fs::path path = fs::path(directory).lexically_normal();
      if (options.json) {
        out.push_back(to_json(test, report));
      } else {
        print_line(path.filename().string() + (isa.empty() ? "" : " " + isa), report);
      }
    }
  }
  if (options.json) {
    std::printf("%s\n", out.dump(1).c_str());
  } else {
    std::printf("%d ok, %d failed, %d not supported (%s, %s)\n", ok, failed, unsupported, options.device.c_str(),
                options.precision.c_str());
  }
  return failed > 0 || (options.strict && unsupported > 0) ? 1 : 0;
}

}  // namespace
}  // namespace golden

int main(int argc, char** argv) {
  golden::Options options;
  CLI::App program{"Compare checkpoints run by nibble with what other tools computed for them."};
  program.add_option("DIR", options.directories, "Directories with golden.json, or directories of such")->required();
  program.add_option("--model", options.model, "The weights' directory, where it is not that of golden.json");
  program.add_option("--device", options.device, "cpu, ref or cuda:N")->capture_default_str();
  program.add_option("--isa", options.isas, "Instruction sets to force, one run each; all: every one of this machine");
  program.add_option("--precision", options.precision, "exact16, fp32, fast8 or fastest8")->capture_default_str();
  program.add_option("--threads", options.threads, "Threads; 0: the library's default");
  program.add_option("--texts", options.texts, "Directory of the perplexity texts: measures perplexity too");
  program.add_flag("--strict", options.strict, "What is not supported fails");
  program.add_flag("--json", options.json, "For programs");
  CLI11_PARSE(program, argc, argv);
  return golden::run(options);
}

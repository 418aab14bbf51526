// nibble run: one prompt, one answer, streamed.
#include <cstdio>
#include <iostream>
#include <iterator>
#include <memory>
#include <optional>

#include <unistd.h>

#include "commands.h"
#include "facts.h"
#include "model_options.h"
#include "terminal.h"
#include "text_file.h"

namespace commands {
namespace {

using Json = nlohmann::ordered_json;
using terminal::Style;

struct RunFlags {
  LoadFlags load;
  SamplingFlags sampling;
  std::optional<std::string> prompt;
  std::string system;
  int64_t max_tokens = 256;
  bool raw = false;
  bool json = false;
};

// Standard input is the prompt when there is none on the command line, so that `nibble run DIR < file` works.
std::string prompt_of(const RunFlags& flags) {
  if (flags.prompt && *flags.prompt != "-") return *flags.prompt;
  if (isatty(STDIN_FILENO)) throw CLI::RequiredError("a prompt (as an argument, or on standard input)");
  return {std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()};
}

Json request_of(const RunFlags& flags, const std::string& prompt) {
  Json messages = Json::array();
  if (!flags.system.empty()) messages.push_back({{"role", "system"}, {"content", flags.system}});
  messages.push_back({{"role", "user"}, {"content", prompt}});
  return {{"messages", messages}, {"add_generation_prompt", true}};
}

void run(const RunFlags& flags) {
  const std::string prompt = prompt_of(flags);
  text_file::check_utf8(prompt, "the prompt");
  text_file::check_utf8(flags.system, "the system message");
  const client::Model model = load(flags.load);
  const client::Session session = flags.sampling.make_session(model.get(), flags.load);
  const Json description = Json::parse(client::text_of(nbl_model_describe, model.get()));
  // A model that was made to continue texts has none. One that cannot be read is a fault: the bare text would be another prompt.
  if (!flags.raw && description.contains("chat_template_problem")) {
    throw std::runtime_error(description["chat_template_problem"].get<std::string>() + "; --raw continues the text without it");
  }
  const bool chat = !flags.raw && !description["chat_template"].is_null();

  std::string answer;
  {
    const terminal::Interruptible scope(session.get());
    try {
      if (chat) {
        const std::string request = request_of(flags, prompt).dump();
        client::call(nbl_session_append_chat, session.get(), request.data(), request.size());
      } else {
        client::call(nbl_session_append_text, session.get(), prompt.data(), prompt.size(), uint32_t{NBL_TOKENIZE_ADD_SPECIAL});
        if (!flags.json) std::fputs(terminal::styled(1, Style::kBold, prompt).c_str(), stdout);
      }
      client::call(nbl_session_begin, session.get(), flags.max_tokens);
      nbl_token id = 0;
      std::string piece;
      while (client::next(session.get(), &id, &piece)) {
        answer += piece;
        if (flags.json) continue;
        std::fwrite(piece.data(), 1, piece.size(), stdout);
        std::fflush(stdout);
      }
    } catch (const client::Error& error) {
      if (error.status() != NBL_E_CANCELLED) throw;  // Ctrl-C: what came so far is the answer
    }
  }
  const facts::Speed speed = facts::speed_of(session.get());
  if (flags.json) {
    Json out = facts::object(description, speed);
    out["prompt"] = prompt;
    out["text"] = answer;
    std::printf("%s\n", out.dump(2).c_str());
    return;
  }
  std::printf("\n");
  std::fflush(stdout);
  if (speed.stop_reason == "context full") {
    std::fprintf(stderr, "%s\n", terminal::styled(2, Style::kDim, "[the context is full: --context asks for more]").c_str());
  }
  std::fprintf(stderr, "%s\n", terminal::styled(2, Style::kDim, facts::line(description, speed)).c_str());
}

}  // namespace

void add_run(CLI::App& program) {
  auto flags = std::make_shared<RunFlags>();
  CLI::App* command = program.add_subcommand("run", "Answer one prompt");
  flags->load.add_to(command);
  command->add_option("prompt", flags->prompt, "What to say to the model; standard input when it is left out");
  flags->sampling.add_to(command);
  command->add_option("--system", flags->system, "System message, where the chat template knows one");
  command->add_option("-n,--max-tokens", flags->max_tokens, "Longest answer")->capture_default_str();
  command->add_flag("--raw", flags->raw, "Continue the text as it is, without the chat template");
  add_json_flag(command, &flags->json);
  command->callback([flags] { run(*flags); });
}

}  // namespace commands

// nibble: the command line of the library, written on include/nibble.h alone.
#include <cstdio>
#include <exception>
#include <string>
#include <string_view>

#include "client.h"
#include "commands.h"
#include "terminal.h"

namespace {

// What a shell is told: 1 for a failure, 2 for a command line that cannot be right (as CLI11's own errors are not 1
// either), 130 for Ctrl-C.
int fail(int code, const std::string& message) {
  std::fprintf(stderr, "%s %s\n", terminal::styled(2, terminal::Style::kRed, "nibble:").c_str(), message.c_str());
  return code;
}

// What is odd about a checkpoint, though it could be dealt with; failures come back from the call.
// --options are read twice, for the load and for the session.
void NBL_CALL warn(int32_t level, const char* text, size_t size, void*) {
  static std::string last;
  if (level != NBL_LOG_WARNING || last == std::string_view(text, size)) return;
  last.assign(text, size);
  std::fprintf(stderr, "nibble: %s\n", last.c_str());
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App program{"nibble runs AWQ, GPTQ, bitsandbytes and compressed-tensors checkpoints as they are, on CPUs and NVIDIA GPUs."};
  program.require_subcommand(1);
  program.set_version_flag("--version", std::string("nibble ") + nbl_version());
  program.footer("DIR is a Hugging Face checkpoint directory: config.json, *.safetensors, tokenizer files.");
  commands::add_run(program);
  commands::add_chat(program);
  commands::add_inspect(program);
  commands::add_describe(program);
  commands::add_estimate(program);
  commands::add_tokenize(program);
  commands::add_bench(program);
  commands::add_perplexity(program);
  commands::add_devices(program);
  const auto is_named = [&](const CLI::App* command) { return command->get_name() == argv[1]; };
  if (argc > 1 && argv[1][0] != '-' && program.get_subcommands(is_named).empty()) {
    return fail(2, "\"" + std::string(argv[1]) + "\" is no command; nibble --help lists them");
  }
  nbl_log_callback(warn, nullptr);
  nbl_log_level(NBL_LOG_WARNING);
  try {
    program.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return program.exit(error) == 0 ? 0 : 2;
  } catch (const client::Error& error) {
    return fail(error.status() == NBL_E_CANCELLED ? 130 : 1, error.what());
  } catch (const std::exception& error) {
    return fail(1, error.what());
  }
  if (std::fflush(stdout) != 0 || std::ferror(stdout)) return fail(1, "standard output could not be written");
  return 0;
}

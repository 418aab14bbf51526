// nibble tokenize: the ids of a text, with the piece of text that each stands for.
#include <cstdio>
#include <iostream>
#include <iterator>
#include <memory>
#include <optional>

#include <nlohmann/json.hpp>

#include "commands.h"
#include "model_options.h"

namespace commands {
namespace {

using Json = nlohmann::ordered_json;

struct Flags {
  LoadFlags load;
  std::optional<std::string> text;
  bool no_special = false;
  bool json = false;
};

// A token's bytes need not be whole characters: what is not printable ASCII or valid in the terminal is shown as \xNN.
std::string escaped(const std::string& bytes) {
  std::string out;
  for (const char c : bytes) {
    char buffer[8];
    if (static_cast<unsigned char>(c) >= 0x20 && static_cast<unsigned char>(c) < 0x7f && c != '\\') {
      out += c;
    } else {
      std::snprintf(buffer, sizeof(buffer), "\\x%02x", static_cast<unsigned char>(c));
      out += buffer;
    }
  }
  return out;
}

std::string bytes_of(const nbl_model* model, nbl_token id) {
  std::string bytes(256, '\0');
  size_t size = 0;
  nbl_error* error = nullptr;
  nbl_status status = nbl_token_bytes(model, id, &bytes[0], bytes.size(), &size, &error);
  if (status == NBL_E_BUFFER) {
    nbl_error_release(error);
    error = nullptr;
    bytes.resize(size);
    status = nbl_token_bytes(model, id, &bytes[0], bytes.size(), &size, &error);
  }
  client::checked(status, error);
  bytes.resize(size);
  return bytes;
}

void run(const Flags& flags) {
  std::string text = flags.text.value_or("-");
  if (text == "-") text.assign(std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>());
  const client::Model model = load(flags.load);
  const auto ids = client::tokenize(model.get(), text, flags.no_special ? 0 : uint32_t{NBL_TOKENIZE_ADD_SPECIAL});
  if (flags.json) {
    Json pieces = Json::array();
    for (const nbl_token id : ids) pieces.push_back(escaped(bytes_of(model.get(), id)));
    std::printf("%s\n", Json{{"ids", ids}, {"pieces", pieces}}.dump().c_str());
    return;
  }
  for (const nbl_token id : ids) std::printf("%7d  %s\n", id, escaped(bytes_of(model.get(), id)).c_str());
}

}  // namespace

void add_tokenize(CLI::App& program) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = program.add_subcommand("tokenize", "Show the ids of a text");
  flags->load.add_to(command);
  command->add_option("text", flags->text, "The text; standard input when it is left out");
  command->add_flag("--no-special", flags->no_special, "Do not add the tokenizer's special tokens");
  add_json_flag(command, &flags->json);
  command->callback([flags] { run(*flags); });
}

}  // namespace commands

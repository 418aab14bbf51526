// nibble chat: a conversation by the model's own chat template.
//
// The whole conversation is rendered anew for every turn, and nbl_session_append_chat keeps the part of the cache that is
// the same: a turn costs what it adds.
#include <cstdio>
#include <fstream>
#include <memory>

#include "chat_input.h"
#include "commands.h"
#include "facts.h"
#include "model_options.h"
#include "terminal.h"
#include "text_file.h"

namespace commands {
namespace {

using Json = nlohmann::ordered_json;
using terminal::Style;

struct ChatFlags {
  LoadFlags load;
  SamplingFlags sampling;
  std::string system;
  int64_t max_tokens = 1024;
  bool stats = false;
};

constexpr char kHelp[] =
    "/reset          forget the conversation\n"
    "/system TEXT    set the system message (and forget the conversation)\n"
    "/save FILE      write the conversation as JSON\n"
    "/load FILE      go on with one that was saved\n"
    "/stats          show or hide the line of facts after each answer\n"
    "/quit           leave; so do Ctrl-D, and Ctrl-C twice\n"
    "A line that ends with \\ goes on in the next one; so does everything between two lines of \"\"\".\n"
    "Ctrl-C stops an answer.\n";

class Conversation {
 public:
  Conversation(const ChatFlags& flags, client::Model model)
      : model_(std::move(model)), session_(flags.sampling.make_session(model_.get(), flags.load)), max_tokens_(flags.max_tokens),
        shows_facts_(flags.stats) {
    description_ = Json::parse(client::text_of(nbl_model_describe, model_.get()));
    if (description_["tokenizer"].is_null()) throw std::runtime_error(description_["tokenizer_problem"].get<std::string>());
    if (description_["chat_template"].is_null()) {
      const std::string reason = description_.value("chat_template_problem", "the directory has none");
      throw std::runtime_error("the model has no chat template (" + reason + "); use `nibble run --raw`");
    }
    set_system(flags.system);
  }

  const Json& description() const { return description_; }

  void set_system(const std::string& text) {
    text_file::check_utf8(text, "the system message");
    messages_ = Json::array();
    if (!text.empty()) messages_.push_back({{"role", "system"}, {"content", text}});
  }

  // Forgets the turns, and keeps the system message.
  void reset() {
    const bool has_system = !messages_.empty() && messages_[0]["role"] == "system";
    set_system(has_system ? messages_[0]["content"].get<std::string>() : "");
  }

  // A turn that fails leaves no trace: the message can be sent again.
  void turn(const std::string& message) {
    text_file::check_utf8(message, "the message");
    messages_.push_back({{"role", "user"}, {"content", message}});
    std::string answer;
    try {
      answer = stream();
    } catch (const client::Error&) {
      messages_.erase(messages_.size() - 1);
      throw;
    }
    messages_.push_back({{"role", "assistant"}, {"content", answer}});
    if (shows_facts_)
      std::printf("%s\n", terminal::styled(1, Style::kDim, facts::line(description_, facts::speed_of(session_.get()))).c_str());
  }

  void save(const std::string& path) const {
    std::ofstream file(path);
    file << Json{{"messages", messages_}}.dump(2) << "\n";
    if (!file.flush()) throw std::runtime_error("cannot write " + path);
    std::printf("saved %zu messages in %s\n", messages_.size(), path.c_str());
  }

  void load(const std::string& path) {
    std::ifstream file(path);
    if (!file) throw std::runtime_error("cannot read " + path);
    const Json saved = Json::parse(file, nullptr, false);
    if (!saved.is_object() || !saved.contains("messages") || !saved["messages"].is_array()) {
      throw std::runtime_error(path + " is not a saved conversation: expected {\"messages\": [...]}");
    }
    for (const Json& message : saved["messages"]) {
      const auto is_text = [&message](const char* key) { return message.contains(key) && message[key].is_string(); };
      if (!message.is_object() || !is_text("role") || !is_text("content")) {
        throw std::runtime_error(path + " is not a saved conversation: a message is " + message.dump() +
                                 ", expected {\"role\": \"...\", \"content\": \"...\"}");
      }
    }
    messages_ = saved["messages"];
    std::printf("loaded %zu messages\n", messages_.size());
  }

  void toggle_facts() {
    shows_facts_ = !shows_facts_;
    std::printf("%s\n", shows_facts_ ? facts::line(description_, facts::speed_of(session_.get())).c_str() : "the line of facts is hidden");
  }

 private:
  std::string stream() {
    const terminal::Interruptible scope(session_.get());
    std::string answer;
    try {
      const std::string request = Json{{"messages", messages_}, {"add_generation_prompt", true}}.dump();
      client::call(nbl_session_append_chat, session_.get(), request.data(), request.size());
      client::call(nbl_session_begin, session_.get(), max_tokens_);
      nbl_token id = 0;
      std::string piece;
      while (client::next(session_.get(), &id, &piece)) {
        answer += piece;
        std::fwrite(piece.data(), 1, piece.size(), stdout);
        std::fflush(stdout);
      }
    } catch (const client::Error& error) {
      if (error.status() != NBL_E_CANCELLED) throw;
      std::printf(" %s", terminal::styled(1, Style::kDim, "[stopped]").c_str());
    }
    std::printf("\n");
    if (facts::speed_of(session_.get()).stop_reason == "context full") {
      std::printf("%s\n", terminal::styled(1, Style::kDim, "[the context is full: /reset begins anew]").c_str());
    }
    return answer;
  }

  client::Model model_;
  client::Session session_;
  int64_t max_tokens_;
  bool shows_facts_;
  Json description_;
  Json messages_ = Json::array();
};

// False when the chat is over.
bool command(Conversation& conversation, const std::string& text) {
  const size_t space = text.find(' ');
  const std::string name = text.substr(0, space);
  const std::string argument = space == std::string::npos ? "" : text.substr(space + 1);
  if (name == "/quit" || name == "/exit") return false;
  if (name == "/reset") {
    conversation.reset();
    std::printf("the conversation begins anew\n");
  } else if (name == "/system") {
    conversation.set_system(argument);
    std::printf("the conversation begins anew\n");
  } else if ((name == "/save" || name == "/load") && argument.empty()) {
    std::printf("%s needs a file name\n", name.c_str());
  } else if (name == "/save") {
    conversation.save(argument);
  } else if (name == "/load") {
    conversation.load(argument);
  } else if (name == "/stats") {
    conversation.toggle_facts();
  } else {
    std::fputs(kHelp, stdout);
  }
  return true;
}

void run(const ChatFlags& flags) {
  Conversation conversation(flags, load(flags.load));
  chat::MessageReader reader;
  if (reader.is_interactive()) {
    std::printf("%s\n", terminal::styled(1, Style::kDim, facts::format_of(conversation.description()) + ", " +
                                         conversation.description().value("backend_description", "") + "; /help tells what else there is")
                            .c_str());
  }
  std::string message;
  bool interrupted_before = false;
  for (;;) {
    const chat::Input input = reader.read(&message);
    if (input == chat::Input::kEnd) break;
    if (input == chat::Input::kInterrupted) {
      if (interrupted_before) break;
      std::printf("%s\n", terminal::styled(1, Style::kDim, "Ctrl-C again, Ctrl-D or /quit leaves").c_str());
      interrupted_before = true;
      continue;
    }
    interrupted_before = false;
    if (message.empty()) continue;
    if (message == "exit") break;
    try {
      if (message[0] != '/') {
        conversation.turn(message);
      } else if (!command(conversation, message)) {
        break;
      }
    } catch (const std::exception& error) {  // a full context, a template that refuses: tell, and go on
      std::printf("%s\n", terminal::styled(1, Style::kRed, error.what()).c_str());
    }
  }
}

}  // namespace

void add_chat(CLI::App& program) {
  auto flags = std::make_shared<ChatFlags>();
  CLI::App* command = program.add_subcommand("chat", "Talk with a model; Ctrl-C stops an answer");
  flags->load.add_to(command);
  flags->sampling.add_to(command);
  command->add_option("--system", flags->system, "System message");
  command->add_option("-n,--max-tokens", flags->max_tokens, "Longest answer")->capture_default_str();
  command->add_flag("--stats", flags->stats, "Show the line of facts after each answer");
  command->callback([flags] { run(*flags); });
}

}  // namespace commands

#include "chat_input.h"

#include <cstdlib>
#include <iostream>

#include <unistd.h>

#include "terminal.h"

namespace chat {
namespace {

const std::string kFence = "\"\"\"";

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

}  // namespace

MessageReader::MessageReader() {
  const char* term = std::getenv("TERM");
  interactive_ = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO) && term && std::string(term) != "dumb";
}

Input MessageReader::read_line(bool first, std::string* line) {
  if (!interactive_) return std::getline(std::cin, *line) ? Input::kText : Input::kEnd;
  return first ? editor_.read(terminal::styled(1, terminal::Style::kGreen, "> "), 2, line)
               : editor_.read(terminal::styled(1, terminal::Style::kDim, "... "), 4, line);
}

Input MessageReader::read(std::string* message) {
  message->clear();
  enum class Kind { kLine, kContinued, kBlock } kind = Kind::kLine;
  bool first = true;
  do {
    std::string line;
    const Input input = read_line(first, &line);
    first = false;
    if (input != Input::kText) return input == Input::kEnd && !message->empty() ? Input::kText : input;
    if (kind == Kind::kLine && line.compare(0, kFence.size(), kFence) == 0) {
      kind = Kind::kBlock;
      line.erase(0, kFence.size());
    }
    if (kind == Kind::kBlock) {
      if (ends_with(line, kFence)) {
        kind = Kind::kLine;
        line.erase(line.size() - kFence.size());
      }
      *message += line + "\n";
    } else {
      kind = ends_with(line, "\\") ? Kind::kContinued : Kind::kLine;
      if (kind == Kind::kContinued) line.back() = '\n';
      *message += line;
    }
  } while (kind != Kind::kLine);
  const size_t begin = message->find_first_not_of('\n');
  message->erase(0, begin == std::string::npos ? message->size() : begin);
  while (!message->empty() && message->back() == '\n') message->pop_back();
  return Input::kText;
}

}  // namespace chat

// What a person types in a chat: one line, several lines, or nothing more.
#pragma once

#include <string>

#include "line_editor.h"

namespace chat {

// Messages from standard input: by the line editor on a terminal, line by line from a pipe.
class MessageReader {
 public:
  MessageReader();
  bool is_interactive() const { return interactive_; }

  // A line that ends with a backslash goes on in the next one; everything between two lines of """ is one message.
  Input read(std::string* message);

 private:
  Input read_line(bool first, std::string* line);

  bool interactive_;
  LineEditor editor_;
};

}  // namespace chat

// One line of typing with cursor keys and history, for a terminal.
//
// The line always takes one row and scrolls sideways when it is longer, so nothing breaks when the window is resized:
// the row is drawn anew in its new width. Pasted text keeps its newlines and is one line of input.
#pragma once

#include <string>
#include <vector>

namespace chat {

enum class Input { kText, kEnd, kInterrupted };

class LineEditor {
 public:
  // `prompt` may hold escape sequences; `prompt_width` are the columns that it takes.
  Input read(const std::string& prompt, int prompt_width, std::string* line);

 private:
  enum class Key { kText, kEnter, kEnd, kInterrupt, kSuspend, kNone };
  Key handle(int byte);
  void handle_escape();
  void insert(const std::string& text);
  void recall(int step);
  void draw() const;

  std::vector<std::string> history_;
  std::string text_;        // UTF-8
  size_t cursor_ = 0;       // byte offset, at the start of a character
  size_t recalled_ = 0;     // index into history_; history_.size(): the line being typed
  std::string prompt_;
  int prompt_width_ = 0;
};

}  // namespace chat

// What the commands do to the terminal: colours, the line of progress, and Ctrl-C.
#pragma once

#include <cstdint>
#include <string>

#include "client.h"

namespace terminal {

// "\033[2m" and the like; empty where `stream` (1 or 2) is no terminal, TERM is dumb or NO_COLOR is set.
enum class Style { kDim, kBold, kRed, kGreen, kPlain };
const char* style(int stream, Style style);

// Wraps the text in a style and back.
std::string styled(int stream, Style style, const std::string& text);

// Ctrl-C while one of these lives cancels what it names, and not the program. Outside, Ctrl-C ends the program as ever.
class Interruptible {
 public:
  explicit Interruptible(nbl_session* session);
  explicit Interruptible(nbl_job* job);
  ~Interruptible();
  Interruptible(const Interruptible&) = delete;
  Interruptible& operator=(const Interruptible&) = delete;
};

// Waits for a job, showing "label 42 %" on standard error when that is a terminal and it takes longer than a moment.
// Ctrl-C cancels the job. Throws client::Error when it fails.
void wait(nbl_job* job, const std::string& label);

// 4569904 -> "4.6 MB"
std::string bytes(int64_t count);
// 812.4 -> "812", 8.124 -> "8.12"
std::string rate(double value);

}  // namespace terminal

#include "line_editor.h"

#include <cerrno>
#include <clocale>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <cwchar>

#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

namespace chat {
namespace {

constexpr int control(char letter) { return letter - 'A' + 1; }
constexpr int kEscape = 27, kDelete = 127;
constexpr int kEndOfInput = -1, kResized = -2;

// While one lives, keys come byte by byte and unechoed, and a paste is bracketed.
class RawMode {
 public:
  RawMode() {
    tcgetattr(STDIN_FILENO, &saved_);
    termios raw = saved_;
    raw.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO | ISIG | IEXTEN);
    raw.c_iflag &= ~static_cast<tcflag_t>(IXON | ICRNL);
    raw.c_cc[VMIN] = 1;
    raw.c_cc[VTIME] = 0;
    tcsetattr(STDIN_FILENO, TCSADRAIN, &raw);
    std::fputs("\033[?2004h", stdout);
  }
  ~RawMode() {
    std::fputs("\033[?2004l", stdout);
    std::fflush(stdout);
    tcsetattr(STDIN_FILENO, TCSADRAIN, &saved_);
  }

 private:
  termios saved_;
};

void on_resize(int) {}  // only there so that read() returns

int read_byte() {
  unsigned char byte = 0;
  const ssize_t count = read(STDIN_FILENO, &byte, 1);
  if (count == 1) return byte;
  return count < 0 && errno == EINTR ? kResized : kEndOfInput;
}

// The rest of a UTF-8 character that begins with `first`: drawn half, it would show as a question mark.
std::string read_character(int first) {
  std::string character(1, static_cast<char>(first));
  size_t missing = first >= 0xF0 ? 3 : first >= 0xE0 ? 2 : first >= 0xC0 ? 1 : 0;
  while (missing > 0) {
    const int byte = read_byte();
    if (byte == kEndOfInput) break;
    if (byte == kResized) continue;
    character += static_cast<char>(byte);
    --missing;
  }
  return character;
}

bool continues(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) == 0x80; }

size_t next_character(const std::string& text, size_t at) {
  if (at < text.size()) ++at;
  while (at < text.size() && continues(text[at])) ++at;
  return at;
}

size_t previous_character(const std::string& text, size_t at) {
  if (at > 0) --at;
  while (at > 0 && continues(text[at])) --at;
  return at;
}

// What a character looks like on the row, and its columns. A newline out of a paste is shown as an arrow.
struct Glyph {
  std::string text;
  int width;
};
Glyph glyph_at(const std::string& text, size_t begin, size_t end) {
  const std::string character = text.substr(begin, end - begin);
  if (static_cast<unsigned char>(character[0]) < 0x20) return {character == "\n" ? "\xe2\x86\xb5" : " ", 1};
  wchar_t wide = 0;
  std::mbstate_t state{};
  const size_t used = std::mbrtowc(&wide, character.data(), character.size(), &state);
  if (used == static_cast<size_t>(-1) || used == static_cast<size_t>(-2)) return {"?", 1};
  const int width = wcwidth(wide);
  return width < 0 ? Glyph{"?", 1} : Glyph{character, width};
}

int window_columns() {
  winsize size;
  std::memset(&size, 0, sizeof(size));
  return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

}  // namespace

void LineEditor::insert(const std::string& text) {
  text_.insert(cursor_, text);
  cursor_ += text.size();
}

void LineEditor::recall(int step) {
  if ((step < 0 && recalled_ == 0) || (step > 0 && recalled_ >= history_.size())) return;
  recalled_ += static_cast<size_t>(step);  // unsigned: -1 wraps around, and back
  text_ = recalled_ < history_.size() ? history_[recalled_] : "";
  cursor_ = text_.size();
}

// Drops characters on the left until the cursor fits, and shows as many as fit on the right.
void LineEditor::draw() const {
  const int columns = window_columns() - prompt_width_ - 1;
  int before = 0;
  for (size_t at = 0; at < cursor_; at = next_character(text_, at)) before += glyph_at(text_, at, next_character(text_, at)).width;
  size_t at = 0;
  for (; before > columns && at < cursor_; at = next_character(text_, at)) before -= glyph_at(text_, at, next_character(text_, at)).width;
  std::string row;
  int used = 0;
  while (at < text_.size()) {
    const size_t end = next_character(text_, at);
    const Glyph glyph = glyph_at(text_, at, end);
    if (used + glyph.width > columns) break;
    row += glyph.text;
    used += glyph.width;
    at = end;
  }
  std::printf("\r%s%s\033[K\r\033[%dC", prompt_.c_str(), row.c_str(), prompt_width_ + before);
  std::fflush(stdout);
}

// Cursor keys (ESC [ A and ESC O A), Home, End, Delete, and a bracketed paste (ESC [ 200 ~ ... ESC [ 201 ~).
void LineEditor::handle_escape() {
  const int kind = read_byte();
  if (kind != '[' && kind != 'O') return;
  std::string code;
  int byte = read_byte();
  for (; byte > 0 && (byte < 0x40 || byte > 0x7e); byte = read_byte()) code += static_cast<char>(byte);
  if (byte == '~' && code == "200") {
    static const std::string kPasteEnd = "\033[201~";
    std::string pasted;
    while (pasted.size() < kPasteEnd.size() || pasted.compare(pasted.size() - kPasteEnd.size(), kPasteEnd.size(), kPasteEnd) != 0) {
      const int next = read_byte();
      if (next == kEndOfInput) return;
      if (next >= 0) pasted += next == '\r' ? '\n' : static_cast<char>(next);
    }
    insert(pasted.substr(0, pasted.size() - kPasteEnd.size()));
    return;
  }
  switch (byte == '~' ? code[0] : byte) {
    case 'A': recall(-1); break;
    case 'B': recall(1); break;
    case 'C': cursor_ = next_character(text_, cursor_); break;
    case 'D': cursor_ = previous_character(text_, cursor_); break;
    case 'H': case '1': case '7': cursor_ = 0; break;
    case 'F': case '4': case '8': cursor_ = text_.size(); break;
    case '3': text_.erase(cursor_, next_character(text_, cursor_) - cursor_); break;
    default: break;
  }
}

LineEditor::Key LineEditor::handle(int byte) {
  const size_t before = previous_character(text_, cursor_);
  switch (byte) {
    case '\r': case '\n': return Key::kEnter;
    case kEndOfInput: return Key::kEnd;
    case control('C'): return Key::kInterrupt;
    case control('Z'): return Key::kSuspend;
    case control('D'):
      if (text_.empty()) return Key::kEnd;
      text_.erase(cursor_, next_character(text_, cursor_) - cursor_);
      return Key::kNone;
    case control('H'): case kDelete:
      text_.erase(before, cursor_ - before);
      cursor_ = before;
      return Key::kNone;
    case control('W'): {
      const size_t end = cursor_;
      while (cursor_ > 0 && text_[cursor_ - 1] == ' ') --cursor_;
      while (cursor_ > 0 && text_[cursor_ - 1] != ' ') --cursor_;
      text_.erase(cursor_, end - cursor_);
      return Key::kNone;
    }
    case control('U'):
      text_.erase(0, cursor_);
      cursor_ = 0;
      return Key::kNone;
    case control('K'): text_.erase(cursor_); return Key::kNone;
    case control('A'): cursor_ = 0; return Key::kNone;
    case control('E'): cursor_ = text_.size(); return Key::kNone;
    case control('B'): cursor_ = before; return Key::kNone;
    case control('F'): cursor_ = next_character(text_, cursor_); return Key::kNone;
    case control('P'): recall(-1); return Key::kNone;
    case control('N'): recall(1); return Key::kNone;
    case control('L'): std::fputs("\033[H\033[2J", stdout); return Key::kNone;
    case kEscape: handle_escape(); return Key::kNone;
    default: return byte >= 0x20 || byte == '\t' ? Key::kText : Key::kNone;
  }
}

Input LineEditor::read(const std::string& prompt, int prompt_width, std::string* line) {
  std::setlocale(LC_CTYPE, "C.UTF-8");  // for wcwidth
  prompt_ = prompt;
  prompt_width_ = prompt_width;
  text_.clear();
  cursor_ = 0;
  recalled_ = history_.size();
  struct sigaction resize, previous;
  std::memset(&resize, 0, sizeof(resize));
  resize.sa_handler = on_resize;
  sigaction(SIGWINCH, &resize, &previous);
  Key key = Key::kNone;
  do {
    const RawMode raw;
    do {
      draw();
      const int byte = read_byte();
      key = byte == kResized ? Key::kNone : handle(byte);
      if (key == Key::kText) insert(read_character(byte));
    } while (key == Key::kText || key == Key::kNone);
    cursor_ = text_.size();
    draw();
    std::fputs(key == Key::kInterrupt ? "^C\n" : key == Key::kSuspend ? "^Z\n" : "\n", stdout);
    std::fflush(stdout);
  } while (key == Key::kSuspend && raise(SIGTSTP) == 0);  // behind RawMode: the shell gets its terminal back
  sigaction(SIGWINCH, &previous, nullptr);
  if (key == Key::kEnd && text_.empty()) return Input::kEnd;
  if (key == Key::kInterrupt) return Input::kInterrupted;
  *line = text_;
  if (!text_.empty() && (history_.empty() || history_.back() != text_)) history_.push_back(text_);
  return Input::kText;
}

}  // namespace chat

#include "text/jinja/lexer.h"

#include <algorithm>
#include <cstring>

#include "base/utf8.h"
#include "text/jinja/characters.h"
#include "text/jinja/number.h"
#include "text/jinja/runtime.h"
#include "text/jinja/strings.h"

namespace nbl::jinja {
namespace {

bool is_digit_char(char c) { return c >= '0' && c <= '9'; }

int hex_value(char c) {
  if (is_digit_char(c)) return c - '0';
  const char lower = static_cast<char>(c | 0x20);
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

class Lexer {
 public:
  explicit Lexer(SourceText& source) : source_(source), text_(source.text) {}

  Result<std::vector<Token>> run() {
    while (at_ < text_.size()) NBL_RETURN_IF_ERROR(next_part());
    add(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  // ---- between tags ----

  // Text up to a tag, and the tag.
  Status next_part() {
    const size_t start = at_;
    const size_t tag = find_tag(start);
    if (tag == text_.size()) {
      add_data(text_.substr(start));
      at_ = text_.size();
      return Status();
    }
    const char kind = text_[tag + 1];
    size_t inside = tag + 2;
    const char sign = inside < text_.size() && (text_[inside] == '-' || text_[inside] == '+') ? text_[inside++] : 0;
    add_data(before_tag(text_.substr(start, tag - start), sign, kind != '{'));
    advance_to(inside);
    if (kind == '#') return skip_comment();
    if (kind == '{') return lex_tag(TokenKind::kVariableBegin);
    size_t raw_end = 0;
    if (is_raw_tag(inside, "raw", false, &raw_end)) return lex_raw(raw_end);
    return lex_tag(TokenKind::kBlockBegin);
  }

  size_t find_tag(size_t from) const {
    for (size_t at = text_.find('{', from); at != std::string_view::npos && at + 1 < text_.size(); at = text_.find('{', at + 1)) {
      if (text_[at + 1] == '{' || text_[at + 1] == '%' || text_[at + 1] == '#') return at;
    }
    return text_.size();
  }

  // What is left of the text before a tag.
  std::string_view before_tag(std::string_view text, char sign, bool block) const {
    if (sign == '-') return strip_right(text);
    if (sign == '+' || !block) return text;
    const size_t line = text.rfind('\n') + 1;  // 0 when there is none
    if (line == 0 && !line_starts_) return text;
    return strip(text.substr(line)).empty() ? text.substr(0, line) : text;
  }

  Status skip_comment() {
    const size_t end = text_.find("#}", at_);
    if (end == std::string_view::npos) return at_line(failure("Missing end of comment tag"), line_);
    // The sign belongs to the end unless it is the one of the beginning.
    const char sign = end > at_ ? text_[end - 1] : 0;
    finish_tag(end + 2, sign == '-', sign != '+');
    return Status();
  }

  // Moves behind a closed tag: `-` takes all white space that follows, a block without sign one line end.
  void finish_tag(size_t end, bool strip_all, bool trim_line) {
    size_t after = end;
    if (strip_all) {
      after = text_.size() - strip_left(text_.substr(end)).size();
    } else if (trim_line && end < text_.size() && text_[end] == '\n') {
      ++after;
    }
    advance_to(after);
    line_starts_ = text_[after - 1] == '\n';
  }

  // ---- raw ----

  // Whether text_[at] goes on with `word` and the end of the tag; `line_ends` lets the end carry a `+` and a line end.
  bool is_raw_tag(size_t at, std::string_view word, bool allow_plus, size_t* end) const {
    at = skip_space(at);
    if (text_.substr(at, word.size()) != word) return false;
    at = skip_space(at + word.size());
    const bool sign = at < text_.size() && (text_[at] == '-' || (allow_plus && text_[at] == '+'));
    if (text_.substr(at + sign, 2) != "%}") return false;
    *end = at + sign + 2;
    return true;
  }

  size_t skip_space(size_t at) const { return text_.size() - strip_left(text_.substr(std::min(at, text_.size()))).size(); }

  Status lex_raw(size_t begin) {
    const int line = line_;
    finish_tag(begin, text_[begin - 3] == '-', false);
    for (size_t tag = text_.find("{%", at_); tag != std::string_view::npos; tag = text_.find("{%", tag + 1)) {
      size_t inside = tag + 2, end = 0;
      const char sign = inside < text_.size() && (text_[inside] == '-' || text_[inside] == '+') ? text_[inside++] : 0;
      if (!is_raw_tag(inside, "endraw", true, &end)) continue;
      add_data(before_tag(text_.substr(at_, tag - at_), sign, true));
      const char end_sign = text_[end - 3];
      finish_tag(end, end_sign == '-', end_sign != '+');
      return Status();
    }
    return at_line(failure("Missing end of raw directive"), line);
  }

  // ---- inside tags ----

  Status lex_tag(TokenKind begin) {
    add(begin, "");
    const bool block = begin == TokenKind::kBlockBegin;
    const std::string_view close = block ? "%}" : "}}";
    std::string open;  // the brackets that are open
    while (at_ < text_.size()) {
      const char c = text_[at_];
      const bool sign = c == '-' || (block && c == '+');
      if (open.empty() && text_.substr(at_ + sign, 2) == close) {
        add(block ? TokenKind::kBlockEnd : TokenKind::kVariableEnd, "");
        finish_tag(at_ + sign + 2, c == '-', block && c != '+');
        return Status();
      }
      NBL_RETURN_IF_ERROR(lex_one(open));
    }
    return Status();  // the parser meets the end and says what it expected
  }

  Status lex_one(std::string& open) {
    size_t next = at_;
    const uint32_t c = utf8_next(text_, next);
    if (is_space(c)) {
      advance_to(next);
      return Status();
    }
    if (c < 128 && is_digit_char(static_cast<char>(c))) return lex_number();
    if (is_word(c)) return lex_name();
    if (c == '\'' || c == '"') return lex_string(static_cast<char>(c));
    return lex_operator(open, next);
  }

  // Digits with single underscores between them.
  size_t digits_end(size_t at) const {
    while (at < text_.size() && (is_digit_char(text_[at]) || (text_[at] == '_' && at + 1 < text_.size() && is_digit_char(text_[at + 1]))))
      ++at;
    return at;
  }

  // The end of the float at at_, or at_ when there is none: 1.5, 1e3, 1_0.5e-7.
  size_t float_end() const {
    if (at_ > 0 && text_[at_ - 1] == '.') return at_;
    const size_t whole = digits_end(at_);
    size_t end = whole;
    if (end + 1 < text_.size() && text_[end] == '.' && is_digit_char(text_[end + 1])) end = digits_end(end + 1);
    size_t exponent = end;
    if (exponent < text_.size() && (text_[exponent] | 0x20) == 'e') {
      ++exponent;
      if (exponent < text_.size() && (text_[exponent] == '+' || text_[exponent] == '-')) ++exponent;
      if (exponent < text_.size() && is_digit_char(text_[exponent])) end = digits_end(exponent);
    }
    return end == whole ? at_ : end;
  }

  size_t integer_end() const {
    const char prefix = text_[at_] == '0' && at_ + 1 < text_.size() ? static_cast<char>(text_[at_ + 1] | 0x20) : 0;
    const int base = prefix == 'x' ? 16 : prefix == 'o' ? 8 : prefix == 'b' ? 2 : 0;
    const auto is_base_digit = [&](size_t i) { return i < text_.size() && hex_value(text_[i]) >= 0 && hex_value(text_[i]) < base; };
    size_t end = at_ + 2;
    while (base && (is_base_digit(end) || (end < text_.size() && text_[end] == '_' && is_base_digit(end + 1)))) ++end;
    if (base && end > at_ + 2) return end;
    if (text_[at_] != '0') return digits_end(at_);
    for (end = at_ + 1; end < text_.size() && text_[end] == '0';) ++end;
    return end;
  }

  Status lex_number() {
    const size_t end_of_float = float_end();
    if (end_of_float != at_) {
      const std::string_view literal = text_.substr(at_, end_of_float - at_);
      add(TokenKind::kFloat, literal).number = Value::real(parse_float(literal).value_or(0));
      advance_to(end_of_float);
      return Status();
    }
    const std::string_view literal = text_.substr(at_, integer_end() - at_);
    bool overflow = false;
    const std::optional<Int> value = parse_int(literal, 0, &overflow);
    if (!value)
      return at_line(
          failure("the integer %.*s does not fit 128 bits", static_cast<int>(std::min<size_t>(literal.size(), 60)), literal.data()), line_);
    add(TokenKind::kInteger, literal).number = Value::integer(*value);
    advance_to(at_ + literal.size());
    return Status();
  }

  Status lex_name() {
    size_t end = at_;
    for (size_t at = at_; at < text_.size() && is_word(utf8_next(text_, at));) end = at;
    const std::string_view name = text_.substr(at_, end - at_);
    if (!is_identifier(name)) return at_line(failure("Invalid character in identifier"), line_);
    add(TokenKind::kName, name);
    advance_to(end);
    return Status();
  }

  Status lex_string(char quote) {
    size_t end = at_ + 1;
    bool escapes = false;
    while (end < text_.size() && text_[end] != quote) {
      escapes |= text_[end] == '\\';
      end += text_[end] == '\\' ? 2 : 1;
    }
    if (end >= text_.size()) return unexpected(quote);
    const std::string_view literal = text_.substr(at_ + 1, end - at_ - 1);
    Token& token = add(TokenKind::kString, literal);
    if (escapes) {
      std::string decoded;
      if (!decode_escapes(literal, decoded)) return at_line(failure("a string has an escape that is no character"), line_);
      source_.strings.push_back(std::move(decoded));
      token.text = source_.strings.back();
    }
    advance_to(end + 1);
    return Status();
  }

  // Reads `count` hexadecimal digits at `at` and appends the character.
  static bool decode_hex(std::string_view literal, size_t& at, size_t count, std::string& out) {
    uint32_t c = 0;
    for (size_t i = 0; i < count; ++i, ++at) {
      if (at >= literal.size() || hex_value(literal[at]) < 0) return false;
      c = c * 16 + static_cast<uint32_t>(hex_value(literal[at]));
    }
    if (c > 0x10FFFF || (c >= 0xD800 && c < 0xE000)) return false;
    utf8_append(out, c);
    return true;
  }

  static void decode_octal(std::string_view literal, size_t& at, std::string& out) {
    uint32_t c = 0;
    for (int i = 0; i < 3 && at < literal.size() && literal[at] >= '0' && literal[at] <= '7'; ++i, ++at) {
      c = c * 8 + static_cast<uint32_t>(literal[at] - '0');
    }
    utf8_append(out, c);
  }

  static bool decode_escapes(std::string_view literal, std::string& out) {
    static const char kLetters[] = "\\'\"abfnrtv";
    static const char kMeanings[] = "\\'\"\a\b\f\n\r\t\v";
    for (size_t at = 0; at < literal.size();) {
      if (literal[at] != '\\') {
        out += literal[at++];
        continue;
      }
      const char letter = literal[at + 1];
      at += 2;
      const char* known = letter ? std::strchr(kLetters, letter) : nullptr;
      if (known) {
        out += kMeanings[known - kLetters];
      } else if (letter == 'x' || letter == 'u' || letter == 'U') {
        if (!decode_hex(literal, at, letter == 'x' ? 2 : letter == 'u' ? 4 : 8, out)) return false;
      } else if (letter >= '0' && letter <= '7') {
        decode_octal(literal, --at, out);
      } else if (letter == 'N') {
        return false;
      } else if (letter != '\n') {  // an escaped line end is nothing; what is no escape stays as it is
        out += '\\';
        out += letter;
      }
    }
    return true;
  }

  Status unexpected(uint32_t c) const {
    std::string shown;
    utf8_append(shown, c);
    return at_line(failure("unexpected char '%s'", shown.c_str()), line_);
  }

  Status lex_operator(std::string& open, size_t next) {
    static const char* const kDouble[] = {"//", "**", "==", "!=", ">=", "<="};
    const std::string_view two = text_.substr(at_, 2);
    for (const char* candidate : kDouble) {
      if (two != candidate) continue;
      add(TokenKind::kOperator, two);
      advance_to(at_ + 2);
      return Status();
    }
    const char c = text_[at_];
    if (!c || !std::strchr("+-/*%~[](){}><=.:|,;", c)) {
      size_t start = at_;
      return unexpected(utf8_next(text_, start));
    }
    NBL_RETURN_IF_ERROR(balance(open, c));
    add(TokenKind::kOperator, text_.substr(at_, 1));
    advance_to(next);
    return Status();
  }

  Status balance(std::string& open, char c) const {
    if (c == '(') open += ')';
    else if (c == '[') open += ']';
    else if (c == '{') open += '}';
    else if (c != ')' && c != ']' && c != '}') return Status();
    else if (open.empty()) return at_line(failure("unexpected '%c'", c), line_);
    else if (open.back() != c) return at_line(failure("unexpected '%c', expected '%c'", c, open.back()), line_);
    else open.pop_back();
    return Status();
  }

  // ---- bookkeeping ----

  Token& add(TokenKind kind, std::string_view text) {
    tokens_.push_back({kind, line_, text, Value()});
    return tokens_.back();
  }

  void add_data(std::string_view text) {
    if (!text.empty()) add(TokenKind::kData, text);
  }

  void advance_to(size_t at) {
    for (; line_counted_ < at; ++line_counted_) line_ += text_[line_counted_] == '\n';
    at_ = at;
  }

  SourceText& source_;
  const std::string_view text_;
  std::vector<Token> tokens_;
  size_t at_ = 0;
  size_t line_counted_ = 0;
  int line_ = 1;
  bool line_starts_ = true;  // the last tag took a line end with it, or there was none yet
};

}  // namespace

SourceText normalize_source(std::string_view source) {
  SourceText normalized;
  std::string& text = normalized.text;
  text.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    const bool carriage = source[i] == '\r';
    text += carriage ? '\n' : source[i];
    if (carriage && i + 1 < source.size() && source[i + 1] == '\n') ++i;
  }
  if (!text.empty() && text.back() == '\n') text.pop_back();
  return normalized;
}

Result<std::vector<Token>> tokenize(SourceText& source) { return Lexer(source).run(); }

Status at_line(Status status, int line) {
  status.in("line " + std::to_string(line));
  status.with("line", line);
  return status;
}

}  // namespace nbl::jinja

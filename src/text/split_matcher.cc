#include "text/split_matcher.h"

#include <array>
#include <cstdint>

#include "base/utf8.h"
#include "text/unicode.h"

namespace nbl {
namespace {

constexpr std::string_view kModernHead =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N})";
constexpr std::string_view kModernTail = R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

enum Kind : uint8_t { kOther, kLetter, kNumber, kSpace };

Kind kind_of(uint32_t c) {
  const unicode::Category category = unicode::category(c);
  if (unicode::is_letter(category)) return kLetter;
  if (unicode::is_number(category)) return kNumber;
  return unicode::is_space(c) ? kSpace : kOther;
}

constexpr std::array<uint8_t, 128> ascii_kinds() {
  std::array<uint8_t, 128> kinds{};
  for (int c = 0; c < 128; ++c) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    const bool space = c == ' ' || (c >= 9 && c <= 13);
    kinds[static_cast<size_t>(c)] = letter ? kLetter : c >= '0' && c <= '9' ? kNumber : space ? kSpace : kOther;
  }
  return kinds;
}

constexpr std::array<uint8_t, 128> kAsciiKinds = ascii_kinds();

// The character at `at`: its kind and where it ends.
struct Character {
  Kind kind;
  size_t end;
};

inline Character character_at(std::string_view text, size_t at) {
  const uint8_t byte = static_cast<uint8_t>(text[at]);
  if (byte < 0x80) return {static_cast<Kind>(kAsciiKinds[byte]), at + 1};
  const Kind kind = kind_of(utf8_next(text, at));
  return {kind, at};
}

// Where the run of characters of one kind that goes on at `at` ends.
inline size_t run_end(std::string_view text, size_t at, Kind kind) {
  while (at < text.size()) {
    const Character next = character_at(text, at);
    if (next.kind != kind) break;
    at = next.end;
  }
  return at;
}

inline bool is_newline(char c) { return c == '\r' || c == '\n'; }

// 's 't 're 've 'm 'll 'd after the apostrophe; 0 if none. Caseless also takes the long s (U+017F), as Unicode folds it.
size_t contraction_end(std::string_view text, size_t at, bool caseless) {
  const auto letter = [&](size_t i) -> char {
    if (i >= text.size()) return '\0';
    const char c = text[i];
    return caseless && c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  };
  const char first = letter(at), second = letter(at + 1);
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return at + 1;
  if ((first == 'r' && second == 'e') || (first == 'v' && second == 'e') || (first == 'l' && second == 'l')) return at + 2;
  if (caseless && first == '\xC5' && second == '\xBF') return at + 2;
  return 0;
}

// A run of white space from `begin` to `end`: \s+(?!\S) leaves the last character to what follows, unless it is alone.
size_t spaces_end(std::string_view text, size_t begin, size_t end) {
  if (end == text.size()) return end;
  size_t last = end - 1;
  while (last > begin && (static_cast<uint8_t>(text[last]) & 0xC0) == 0x80) --last;
  return last > begin ? last : end;
}

}  // namespace

std::optional<SplitMatcher> SplitMatcher::for_pattern(std::string_view pattern) {
  if (pattern == kGpt2Pattern) return gpt2();
  if (pattern.size() < kModernHead.size() + kModernTail.size() || pattern.substr(0, kModernHead.size()) != kModernHead) return {};
  const std::string_view rest = pattern.substr(kModernHead.size());
  if (rest.size() < kModernTail.size() || rest.substr(rest.size() - kModernTail.size()) != kModernTail) return {};
  const std::string_view digits = rest.substr(0, rest.size() - kModernTail.size());
  if (digits.empty()) return SplitMatcher(true, 1);
  if (digits == "{1,3}") return SplitMatcher(true, 3);
  if (digits == "+") return SplitMatcher(true, 0);
  return {};
}

SplitMatcher SplitMatcher::gpt2() { return SplitMatcher(false, 0); }

size_t SplitMatcher::end_of_match(std::string_view text, size_t at) const {
  const char first = text[at];
  if (first == '\'') {
    const size_t end = contraction_end(text, at + 1, modern_);
    if (end) return end;
  }
  const Character one = character_at(text, at);
  if (one.kind == kLetter) return run_end(text, one.end, kLetter);
  if (one.kind == kNumber) {
    size_t end = one.end;
    for (int count = 1; end < text.size() && (most_digits_ == 0 || count < most_digits_); ++count) {
      const Character next = character_at(text, end);
      if (next.kind != kNumber) break;
      end = next.end;
    }
    return end;
  }
  const bool more = one.end < text.size();
  const Character next = more ? character_at(text, one.end) : Character{kSpace, one.end};
  if (modern_) {
    // One character that is no newline, letter or number may stand before letters.
    if (!is_newline(first) && more && next.kind == kLetter) return run_end(text, next.end, kLetter);
  } else if (first == ' ' && more && (next.kind == kLetter || next.kind == kNumber)) {
    return run_end(text, next.end, next.kind);
  }
  if (one.kind == kOther || (first == ' ' && more && next.kind == kOther)) {
    size_t end = run_end(text, one.end, kOther);
    while (modern_ && end < text.size() && is_newline(text[end])) ++end;
    return end;
  }
  // White space. The modern ones first look for \s*[\r\n]+: up to the last newline of the run.
  const size_t end = run_end(text, one.end, kSpace);
  if (modern_) {
    for (size_t i = end; i > at; --i) {
      if (is_newline(text[i - 1])) return i;
    }
  }
  return spaces_end(text, at, end);
}

}  // namespace nbl

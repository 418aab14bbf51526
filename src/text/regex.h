// Regular expressions of tokenizer.json, which are Oniguruma's, run by PCRE2 with JIT.
//
// regex_translate.cc rewrites what the two read differently; limits keep any pattern on any text from running away.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "base/status.h"

namespace nbl {

// The same expression as PCRE2 spells it.
Result<std::string> translate_oniguruma(std::string_view pattern);

class Regex {
 public:
  // What one thread needs for matching; not shared between threads.
  class Scratch {
   public:
    Scratch();
    ~Scratch();
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;

   private:
    friend class Regex;
    struct State;
    std::unique_ptr<State> state_;
  };

  struct Match {
    size_t begin, end;
  };

  static Result<std::shared_ptr<const Regex>> compile(std::string_view pattern);
  ~Regex();

  // The first match in `text` at or after `from`; begin == npos if there is none. `text` must be valid UTF-8.
  Result<Match> find(std::string_view text, size_t from, Scratch& scratch) const;
  // Calls visit(begin, end) for every match as Oniguruma's find_iter gives them.
  template <typename Visit>
  Status each(std::string_view text, Scratch& scratch, Visit visit) const {
    size_t at = 0, last_end = std::string_view::npos;
    while (at <= text.size()) {
      NBL_ASSIGN_OR_RETURN(const Match match, find(text, at, scratch));
      if (match.begin == std::string_view::npos) break;
      if (match.end > match.begin) {
        visit(match.begin, match.end);
        at = last_end = match.end;
        continue;
      }
      // An empty match counts unless it touches the one before; then the search goes on one character further.
      if (match.begin != last_end) visit(match.begin, match.end);
      last_end = match.end;
      at = next_character(text, match.end);
    }
    return {};
  }
  const std::string& pattern() const { return pattern_; }

 private:
  Regex() = default;
  static size_t next_character(std::string_view text, size_t at);

  std::string pattern_;
  void* code_ = nullptr;  // pcre2_code
  bool compiled_to_machine_code_ = false;
};

}  // namespace nbl

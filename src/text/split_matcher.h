// The split patterns of GPT-2, Llama 3 and Qwen 2 matched by hand: the regexes that most checkpoints carry, several
// times faster than a regex engine. The test holds it to PCRE2 with the same pattern.
#pragma once

#include <optional>
#include <string_view>

namespace nbl {

class SplitMatcher {
 public:
  // The matcher for exactly this pattern, if there is one.
  static std::optional<SplitMatcher> for_pattern(std::string_view pattern);
  static SplitMatcher gpt2();

  // Where the match that begins at `at` ends. These patterns match at every position, so matches tile the text.
  size_t end_of_match(std::string_view text, size_t at) const;

 private:
  explicit SplitMatcher(bool modern, int most_digits) : modern_(modern), most_digits_(most_digits) {}

  bool modern_;      // Llama 3's and Qwen 2's: caseless contractions, one sign before letters, newlines end a piece
  int most_digits_;  // digits in a piece; 0: any number
};

inline constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

}  // namespace nbl

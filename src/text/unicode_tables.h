// Where Unicode data differs between the libraries; unicode_tables.cc is written by unicode_tables.py.
#pragma once

#include <cstddef>
#include <cstdint>

#include "text/unicode.h"

namespace nbl::unicode {

struct Range {
  uint32_t first, last;
};
struct CategoryRange {
  uint32_t first, last;
  Category category;
};
struct CodePair {
  uint32_t from, to;
};
struct ScriptRange {
  uint32_t first, last;
  uint16_t script;
};

// All are sorted. "Flips" hold the code points where a test answers the opposite of what the category says.
extern const CategoryRange kSince14[];
extern const size_t kSince14_count;
extern const Range kPunctuationFlips[], kNumericFlips[], kMarkFlips[], kBertMarkFlips[], kBertControlFlips[];
extern const size_t kPunctuationFlips_count, kNumericFlips_count, kMarkFlips_count, kBertMarkFlips_count,
    kBertControlFlips_count;
extern const Range kNotDecomposed[], kNoCombiningClass[];
extern const size_t kNotDecomposed_count, kNoCombiningClass_count;
extern const CodePair kLowercase[];
extern const size_t kLowercase_count;
extern const ScriptRange kScripts[];
extern const size_t kScripts_count;

}  // namespace nbl::unicode

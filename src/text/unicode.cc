#include "text/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>

#include "base/utf8.h"
#include "text/unicode_tables.h"

namespace nbl::unicode {
namespace {

static_assert(static_cast<int>(Category::kCo) == UTF8PROC_CATEGORY_CO);
static_assert(static_cast<int>(Category::kNd) == UTF8PROC_CATEGORY_ND);

// The row whose [first, last] holds the code point, or null.
template <typename Row>
const Row* row_of(const Row* rows, size_t count, uint32_t code_point) {
  const Row* end = rows + count;
  const Row* row = std::upper_bound(rows, end, code_point, [](uint32_t c, const Row& r) { return c < r.first; });
  if (row == rows) return nullptr;
  --row;
  return code_point <= row->last ? row : nullptr;
}

bool holds(const Range* rows, size_t count, uint32_t code_point) {
  return row_of(rows, count, code_point) != nullptr;
}

Category find_category(uint32_t code_point) {
  if (const auto* row = row_of(kSince14, kSince14_count, code_point)) return row->category;
  if (code_point > 0x10FFFF) return Category::kCn;
  return static_cast<Category>(utf8proc_get_property(static_cast<utf8proc_int32_t>(code_point))->category);
}

// The categories of the first 65536 code points: almost every character of almost every text.
const std::array<Category, 65536>& basic_plane() {
  static const auto table = [] {
    std::array<Category, 65536> categories;
    for (uint32_t c = 0; c < categories.size(); ++c) {
      categories[c] = static_cast<Category>(utf8proc_get_property(static_cast<utf8proc_int32_t>(c))->category);
    }
    for (size_t i = 0; i < kSince14_count; ++i) {
      for (uint32_t c = kSince14[i].first; c <= kSince14[i].last && c < categories.size(); ++c) {
        categories[c] = kSince14[i].category;
      }
    }
    return categories;
  }();
  return table;
}

bool is_control_category(Category c) { return c == Category::kCc || c == Category::kCf || c == Category::kCo; }

}  // namespace

Category category(uint32_t code_point) {
  return code_point < 65536 ? basic_plane()[code_point] : find_category(code_point);
}

bool is_space(uint32_t c) {
  if (c < 0x80) return c == ' ' || (c >= 9 && c <= 13);
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
         c == 0x202F || c == 0x205F || c == 0x3000;
}

bool is_word(uint32_t c) {
  const Category k = category(c);
  if (is_letter(k) || is_mark(k) || k == Category::kNd || k == Category::kNl || k == Category::kPc) return true;
  // Circled letters, which Unicode counts as alphabetic, and the joiners.
  return (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) || (c >= 0x1F150 && c <= 0x1F169) ||
         (c >= 0x1F170 && c <= 0x1F189) || c == 0x200C || c == 0x200D;
}

bool is_numeric(uint32_t c) {
  return is_number(category(c)) != holds(kNumericFlips, kNumericFlips_count, c);
}

bool is_punctuation_step(uint32_t c) {
  if (c < 0x80) return (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) || (c >= 123 && c <= 126);
  return is_punctuation(category(c)) != holds(kPunctuationFlips, kPunctuationFlips_count, c);
}

bool is_accent(uint32_t c) {
  return is_mark(category(c)) != holds(kMarkFlips, kMarkFlips_count, c);
}

bool is_bert_accent(uint32_t c) {
  return (category(c) == Category::kMn) != holds(kBertMarkFlips, kBertMarkFlips_count, c);
}

bool is_bert_control(uint32_t c) {
  if (c == '\t' || c == '\n' || c == '\r') return false;
  if (c == 0 || c == kReplacementCharacter) return true;
  return is_control_category(category(c)) != holds(kBertControlFlips, kBertControlFlips_count, c);
}

bool is_bert_space(uint32_t c) {
  return c == '\t' || c == '\n' || c == '\r' || (is_space(c) && c != 0xB && c != 0xC && c != 0x85);
}

bool is_bert_cjk(uint32_t c) {
  return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) ||
         (c >= 0x2A700 && c <= 0x2B73F) || (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
         (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

uint16_t script(uint32_t code_point) {
  const auto* row = row_of(kScripts, kScripts_count, code_point);
  return row ? row->script : 0;
}

void append_lowercase(std::string& out, uint32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
    return;
  }
  if (c == 0x130) {  // the only one that becomes two: i and a dot above
    out += "i\xCC\x87";
    return;
  }
  const CodePair* end = kLowercase + kLowercase_count;
  const CodePair* pair = std::lower_bound(kLowercase, end, c, [](const CodePair& p, uint32_t v) { return p.from < v; });
  if (pair != end && pair->from == c) {
    utf8_append(out, pair->to);
  } else {
    utf8_append(out, static_cast<uint32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
  }
}

void decompose(uint32_t code_point, bool compatibility, std::vector<int32_t>& out) {
  utf8proc_int32_t buffer[64];
  int boundary = 0;
  if (!holds(kNotDecomposed, kNotDecomposed_count, code_point)) {
    const auto options = static_cast<utf8proc_option_t>(UTF8PROC_DECOMPOSE | (compatibility ? UTF8PROC_COMPAT : 0));
    const utf8proc_ssize_t count = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(code_point), buffer, 64,
                                                           options, &boundary);
    if (count > 0 && count <= 64) {
      out.insert(out.end(), buffer, buffer + count);
      return;
    }
  }
  out.push_back(static_cast<int32_t>(code_point));
}

int combining_class(uint32_t c) {
  if (c < 0x300) return 0;
  const int value = utf8proc_get_property(static_cast<utf8proc_int32_t>(c))->combining_class;
  return value != 0 && holds(kNoCombiningClass, kNoCombiningClass_count, c) ? 0 : value;
}

bool starts_segment(uint32_t c) {
  if (c < 0x300) return true;
  // Vowels and finals of Hangul join what is before them.
  if ((c >= 0x1160 && c <= 0x11FF) || (c >= 0xD7B0 && c <= 0xD7FF)) return false;
  return !is_mark(category(c)) && combining_class(c) == 0;
}

void finish_segment(std::vector<int32_t>& code_points, bool compose) {
  // Marks are sorted by class between starters; equal classes keep their order.
  for (size_t begin = 0; begin < code_points.size();) {
    if (combining_class(static_cast<uint32_t>(code_points[begin])) == 0) {
      ++begin;
      continue;
    }
    size_t end = begin;
    while (end < code_points.size() && combining_class(static_cast<uint32_t>(code_points[end])) != 0) ++end;
    std::stable_sort(code_points.begin() + static_cast<ptrdiff_t>(begin), code_points.begin() + static_cast<ptrdiff_t>(end),
                     [](int32_t a, int32_t b) {
                       return combining_class(static_cast<uint32_t>(a)) < combining_class(static_cast<uint32_t>(b));
                     });
    begin = end;
  }
  if (!compose || code_points.size() < 2) return;
  // The old tables do not join U+11935 and U+11930, the one pair that utf8proc has beyond them: no part that is
  // composed holds both.
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
  size_t kept = 0;
  for (size_t begin = 0; begin < code_points.size();) {
    const auto stop = std::find(code_points.begin() + static_cast<ptrdiff_t>(begin) + 1, code_points.end(), 0x11930);
    const auto size = static_cast<size_t>(stop - code_points.begin()) - begin;
    const utf8proc_ssize_t count = utf8proc_normalize_utf32(&code_points[begin], static_cast<utf8proc_ssize_t>(size), options);
    const size_t left = count >= 0 ? static_cast<size_t>(count) : size;
    std::copy_n(code_points.begin() + static_cast<ptrdiff_t>(begin), left, code_points.begin() + static_cast<ptrdiff_t>(kept));
    kept += left;
    begin += size;
  }
  code_points.resize(kept);
}

}  // namespace nbl::unicode

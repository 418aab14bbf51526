// Oniguruma's spelling of regular expressions to PCRE2's.
//
// What is rewritten: character classes (Oniguruma nests and intersects them, and its Unicode is 16), \s \w \d \h and
// \p{...}, POSIX brackets, \v, \uHHHH, {,n}, {n,m}+ (a repeated repeat, not a possessive one) and (?m) (the dot takes
// newlines). A class is read into a small tree; it becomes one PCRE2 class where it can, and otherwise a group with
// lookaheads that still matches exactly one code point.
#include <cctype>
#include <cstdio>
#include <vector>

#include "base/utf8.h"
#include "text/regex.h"
#include "text/unicode.h"
#include "text/unicode_tables.h"

namespace nbl {
namespace {

constexpr int kDeepestClass = 32;
constexpr const char* kSpaceItems =
    "\\x09-\\x0d\\x20\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}";

// A set of code points: `items` is the inside of a PCRE2 class; `more` are further members of the union.
struct ClassSet {
  std::string items;
  std::vector<ClassSet> more;
  std::vector<ClassSet> within;  // intersection: the code point must be in all of these too
  bool negated = false;
};

std::string emit(const ClassSet& set) {
  std::string united;
  if (set.more.empty()) {
    if (set.within.empty()) {
      if (set.items.empty()) return set.negated ? "(?s:.)" : "(?!)";
      return (set.negated ? "[^" : "[") + set.items + "]";
    }
    united = set.items.empty() ? "(?!)" : "[" + set.items + "]";
  } else {
    united = "(?:";
    if (!set.items.empty()) united += "[" + set.items + "]|";
    for (size_t i = 0; i < set.more.size(); ++i) united += (i ? "|" : "") + emit(set.more[i]);
    united += ")";
  }
  std::string looked;
  for (const ClassSet& other : set.within) looked += "(?=" + emit(other) + ")";
  if (set.negated) return "(?:(?!" + looked + united + ")(?s:.))";
  return looked.empty() ? united : "(?:" + looked + united + ")";
}

void append_code_point(std::string& items, uint32_t c) {
  char text[16];
  std::snprintf(text, sizeof(text), "\\x{%x}", c);
  items += text;
}

// \p{name}, and the code points that have got the category since the Unicode that PCRE2 may have.
std::string property_items(const std::string& name) {
  std::string items = "\\p{" + name + "}";
  static constexpr const char* kNames[] = {"Cn", "Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd",
                                           "Nl", "No", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm",
                                           "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Cs", "Co"};
  for (size_t i = 0; i < unicode::kSince14_count; ++i) {
    const unicode::CategoryRange& row = unicode::kSince14[i];
    const std::string category = kNames[static_cast<size_t>(row.category)];
    const bool cased = name == "L&" && row.category <= unicode::Category::kLt;
    if (!cased && category.compare(0, name.size(), name) != 0) continue;
    append_code_point(items, row.first);
    if (row.last > row.first) {
      items += '-';
      append_code_point(items, row.last);
    }
  }
  return items;
}

std::string word_items() {
  // Unicode's Alphabetic, marks, decimal digits and connectors, as Oniguruma's \w has it.
  return property_items("L") + property_items("M") + property_items("Nd") + property_items("Nl") +
         property_items("Pc") + "\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}"
         // What has been made alphabetic although it is a number of other kind: superscripts and vulgar fractions
         // are \w to Oniguruma.
         "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}";
}

// Not every mark is alphabetic, unlike for \w. The categories are those of a newer Unicode than PCRE2's property.
std::string alphabetic_items() {
  return property_items("L") + property_items("Nl") + "\\p{Alphabetic}"
         // The marks that Unicode 15 and 16 made alphabetic.
         "\\x{363}-\\x{36f}\\x{897}\\x{c04}\\x{cf3}\\x{f82}-\\x{f83}\\x{1dd3}-\\x{1de6}\\x{10d69}\\x{10efc}\\x{11080}-\\x{11081}"
         "\\x{11241}\\x{113b8}-\\x{113c0}\\x{113c2}\\x{113c5}\\x{113c7}-\\x{113ca}\\x{113cc}-\\x{113cd}"
         "\\x{11f00}-\\x{11f01}\\x{11f03}\\x{11f34}-\\x{11f3a}"
         "\\x{11f3e}-\\x{11f40}\\x{1611e}-\\x{1612e}\\x{1e08f}";
}

// Unicode's Uppercase and Lowercase are the letters of these cases and what only looks like them: Roman numerals, circled and
// superscript letters.
std::string uppercase_items() {
  return property_items("Lu") +
         "\\x{2160}-\\x{216f}\\x{24b6}-\\x{24cf}\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}";
}

std::string lowercase_items() {
  return property_items("Ll") +
         "\\x{aa}\\x{ba}\\x{2b0}-\\x{2b8}\\x{2c0}-\\x{2c1}\\x{2e0}-\\x{2e4}\\x{345}\\x{37a}\\x{10fc}\\x{1d2c}-\\x{1d6a}"
         "\\x{1d78}\\x{1d9b}-\\x{1dbf}\\x{2071}\\x{207f}\\x{2090}-\\x{209c}\\x{2170}-\\x{217f}\\x{24d0}-\\x{24e9}"
         "\\x{2c7c}-\\x{2c7d}\\x{a69c}-\\x{a69d}"
         "\\x{a770}\\x{a7f2}-\\x{a7f4}\\x{a7f8}-\\x{a7f9}\\x{ab5c}-\\x{ab5f}\\x{ab69}\\x{10780}\\x{10783}-\\x{10785}\\x{10787}-\\x{107b0}"
         "\\x{107b2}-\\x{107ba}\\x{1e030}-\\x{1e06d}";
}

std::string lower(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '_' || c == ' ' || c == '-') continue;
    out += static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
  }
  return out;
}

// Items of a named property or POSIX bracket; empty if the name must go to PCRE2 as it is.
std::string named_items(const std::string& name, bool& negated) {
  struct Named {
    const char* name;
    const char* category;
  };
  static constexpr Named kLongNames[] = {
      {"letter", "L"}, {"casedletter", "L&"}, {"lc", "L&"}, {"uppercaseletter", "Lu"}, {"lowercaseletter", "Ll"},
      {"titlecaseletter", "Lt"}, {"modifierletter", "Lm"}, {"otherletter", "Lo"}, {"mark", "M"}, {"combiningmark", "M"},
      {"nonspacingmark", "Mn"}, {"spacingmark", "Mc"}, {"enclosingmark", "Me"}, {"number", "N"}, {"decimalnumber", "Nd"},
      {"letternumber", "Nl"}, {"othernumber", "No"}, {"punctuation", "P"}, {"connectorpunctuation", "Pc"},
      {"dashpunctuation", "Pd"}, {"openpunctuation", "Ps"}, {"closepunctuation", "Pe"}, {"initialpunctuation", "Pi"},
      {"finalpunctuation", "Pf"}, {"otherpunctuation", "Po"}, {"symbol", "S"}, {"mathsymbol", "Sm"},
      {"currencysymbol", "Sc"}, {"modifiersymbol", "Sk"}, {"othersymbol", "So"}, {"separator", "Z"},
      {"spaceseparator", "Zs"}, {"lineseparator", "Zl"}, {"paragraphseparator", "Zp"}, {"control", "Cc"},
      {"format", "Cf"}, {"digit", "Nd"}};
  if (name == "space" || name == "whitespace") return kSpaceItems;
  if (name == "word") return word_items();
  if (name == "alpha" || name == "alphabetic") return alphabetic_items();
  if (name == "upper" || name == "uppercase") return uppercase_items();
  if (name == "lower" || name == "lowercase") return lowercase_items();
  if (name == "alnum") return alphabetic_items() + property_items("Nd");
  if (name == "punct") return property_items("P");
  if (name == "blank") return "\\x09" + property_items("Zs");
  if (name == "cntrl") return property_items("Cc");
  if (name == "xdigit") return "0-9a-fA-F";
  if (name == "ascii") return "\\x00-\\x7f";
  if (name == "any") return "\\x00-\\x{10ffff}";
  // Everything but \s, controls, surrogates and what is not assigned.
  if (name == "graph" || name == "print") {
    negated = !negated;
    return std::string(name == "graph" ? kSpaceItems : "") + "\\p{Cc}\\p{Cs}";
  }
  for (const Named& row : kLongNames) {
    if (name == row.name) return property_items(row.category);
  }
  static constexpr std::string_view kCategories[] = {"L", "M", "N", "P", "S", "Z", "Lu", "Ll", "Lt", "Lm", "Lo", "Mn",
                                                     "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf",
                                                     "Po", "Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Co"};
  for (const std::string_view category : kCategories) {
    if (lower(category) == name) return property_items(std::string(category));
  }
  // What was unassigned or "other" in Unicode 14 and is not any more has to leave the class.
  if (name == "c" || name == "cn") {
    negated = !negated;
    std::string items = name == "cn" ? "\\p{Cc}\\p{Cf}\\p{Cs}\\p{Co}" : "";
    for (const char* other : {"L", "M", "N", "P", "S", "Z"}) items += property_items(other);
    return items;
  }
  return {};
}

// A script (PCRE2's plain \p{Han} would take the script extensions too) or one of the emoji properties; PCRE2 knows it
// or refuses the pattern.
std::string script_items(const std::string& name) {
  struct Addition {
    const char* script;
    const char* items;  // since Unicode 14
  };
  static constexpr Addition kAdditions[] = {
      {"han", "\\x{2b739}\\x{2ebf0}-\\x{2ee5d}\\x{31350}-\\x{323af}"},
      {"hiragana", "\\x{1b132}"},
      {"katakana", "\\x{1b155}"},
      {"latin", "\\x{a7cb}-\\x{a7cd}\\x{a7da}-\\x{a7dc}\\x{1df25}-\\x{1df2a}"},
      {"cyrillic", "\\x{1c89}\\x{1c8a}\\x{1e030}-\\x{1e06d}\\x{1e08f}"},
      {"arabic", "\\x{897}\\x{10ec2}-\\x{10ec4}\\x{10efc}-\\x{10eff}"},
      {"devanagari", "\\x{11b00}-\\x{11b09}"}};
  const std::string plain = lower(name);
  if (plain.compare(0, 5, "emoji") == 0 || plain == "extendedpictographic" || plain == "ideographic") return "\\p{" + name + "}";
  std::string items = "\\p{sc:" + name + "}";
  for (const Addition& row : kAdditions) {
    if (plain == row.script) items += row.items;
  }
  return items;
}

class Translator {
 public:
  explicit Translator(std::string_view pattern) : in_(pattern) {}

  Result<std::string> run() {
    const size_t bad = utf8_first_invalid(in_);
    if (bad != std::string_view::npos) return error(Code::kFormat, "a regex is not UTF-8 at byte %zu", bad);
    while (at_ < in_.size()) NBL_RETURN_IF_ERROR(one());
    return std::move(out_);
  }

 private:
  char peek(size_t ahead = 0) const { return at_ + ahead < in_.size() ? in_[at_ + ahead] : '\0'; }
  bool starts(std::string_view text) const { return in_.substr(at_, text.size()) == text; }

  Status problem(const char* what) const {
    return error(Code::kUnsupported, "the regex %.*s has %s at byte %zu", static_cast<int>(in_.size()), in_.data(), what, at_);
  }

  Status one() {
    const char c = in_[at_];
    if (c == '\\') return escape();
    if (c == '[') {
      NBL_ASSIGN_OR_RETURN(const ClassSet set, read_class(0));
      atom(emit(set));
      return {};
    }
    if (c == '(') return open_group();
    if (c == ')') {
      if (groups_.empty()) return problem("a ) without its (");
      last_atom_ = groups_.back();
      groups_.pop_back();
      out_ += c;
      ++at_;
      return {};
    }
    if (c == '{' && interval()) return {};
    if (c == '*' || c == '+' || c == '?' || c == '|' || c == '^' || c == '$') {
      out_ += c;
      ++at_;
      return {};
    }
    const size_t begin = at_;
    utf8_next(in_, at_);
    std::string text(in_.substr(begin, at_ - begin));
    if (text == "{" || text == "}" || text == "]") text.insert(0, 1, '\\');
    atom(text);
    return {};
  }

  void atom(const std::string& text) {
    last_atom_ = out_.size();
    out_ += text;
  }

  Status open_group() {
    groups_.push_back(out_.size());
    if (groups_.size() > 200) return problem("groups nested too deeply");
    out_ += '(';
    ++at_;
    if (peek() != '?') return {};
    // Options up to : or ): Oniguruma's m is what PCRE2 calls s; i and x are the same.
    size_t end = at_ + 1;
    while (end < in_.size() && (std::isalpha(static_cast<unsigned char>(in_[end])) || in_[end] == '-')) ++end;
    if (end > at_ + 1 && end < in_.size() && (in_[end] == ':' || in_[end] == ')')) {
      for (; at_ < end; ++at_) out_ += in_[at_] == 'm' ? 's' : in_[at_];
      return {};
    }
    // (?<name>, (?=, (?!, (?<=, (?>, (?: and comments are spelled the same.
    if (starts("?#")) {
      while (at_ < in_.size() && in_[at_] != ')') out_ += in_[at_++];
      return {};
    }
    if (starts("?<") && peek(2) != '=' && peek(2) != '!') {
      while (at_ < in_.size() && in_[at_] != '>') out_ += in_[at_++];
      return {};
    }
    out_ += in_[at_++];
    if (peek() == '<') out_ += in_[at_++];
    if (at_ < in_.size() && peek() != '\\' && peek() != '[') out_ += in_[at_++];
    return {};
  }

  // {n}, {n,}, {n,m}, {,m}; false if the brace is an ordinary character.
  bool interval() {
    size_t i = at_ + 1;
    std::string low, high;
    while (i < in_.size() && std::isdigit(static_cast<unsigned char>(in_[i]))) low += in_[i++];
    const bool comma = i < in_.size() && in_[i] == ',';
    if (comma) {
      ++i;
      while (i < in_.size() && std::isdigit(static_cast<unsigned char>(in_[i]))) high += in_[i++];
    }
    if (i >= in_.size() || in_[i] != '}' || (low.empty() && high.empty())) return false;
    at_ = i + 1;
    out_ += "{" + (low.empty() ? std::string("0") : low) + (comma ? "," : "") + high + "}";
    if (peek() == '+') {  // repeats the repeat
      out_.insert(last_atom_, "(?:");
      out_ += ")+";
      ++at_;
    }
    return true;
  }

  Status escape() {
    const char c = peek(1);
    switch (c) {
      case 's': case 'S': case 'w': case 'W': case 'd': case 'D': case 'h': case 'H': case 'p': case 'P': {
        NBL_ASSIGN_OR_RETURN(const ClassSet set, class_escape());
        atom(emit(set));
        return {};
      }
      case '\0':
        return problem("a lone backslash at its end");
      case 'A': case 'z': case 'Z': case 'b': case 'B': case 'G': case 'K': case 'R': case 'X': case 'k': case 'g':
      case '1': case '2': case '3': case '4': case '5': case '6': case '7': case '8': case '9':
        last_atom_ = out_.size();
        out_ += '\\';
        out_ += c;
        at_ += 2;
        return {};
      default: {
        NBL_ASSIGN_OR_RETURN(const uint32_t code_point, literal_escape());
        std::string text;
        append_code_point(text, code_point);
        atom(text);
        return {};
      }
    }
  }

  // An escape that stands for one code point; at_ is at its backslash.
  Result<uint32_t> literal_escape() {
    ++at_;
    const char c = peek();
    ++at_;
    switch (c) {
      case 'n': return 0x0Au;
      case 'r': return 0x0Du;
      case 't': return 0x09u;
      case 'f': return 0x0Cu;
      case 'v': return 0x0Bu;
      case 'a': return 0x07u;
      case 'e': return 0x1Bu;
      case '0': return 0x00u;
      case 'u': return hex(4, 4);
      case 'x':
        if (peek() == '{') {
          ++at_;
          Result<uint32_t> value = hex(1, 8);
          if (value.ok() && peek() != '}') return problem("\\x{ without its }");
          ++at_;
          return value;
        }
        return hex(1, 2);
      default:
        break;
    }
    if (std::isalpha(static_cast<unsigned char>(c))) return problem("an unknown escape");
    --at_;
    return utf8_next(in_, at_);
  }

  Result<uint32_t> hex(int fewest, int most) {
    uint32_t value = 0;
    int count = 0;
    while (count < most && std::isxdigit(static_cast<unsigned char>(peek()))) {
      const char c = static_cast<char>(std::tolower(static_cast<unsigned char>(in_[at_++])));
      value = value * 16 + static_cast<uint32_t>(c <= '9' ? c - '0' : c - 'a' + 10);
      ++count;
    }
    if (count < fewest) return problem("too few hexadecimal digits");
    if (value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF)) return problem("a number that is no code point");
    return value;
  }

  // \s \w \d \h \p{..} and their opposites.
  Result<ClassSet> class_escape() {
    const char c = peek(1);
    at_ += 2;
    ClassSet set;
    set.negated = std::isupper(static_cast<unsigned char>(c)) != 0;
    switch (std::tolower(static_cast<unsigned char>(c))) {
      case 's': set.items = kSpaceItems; return set;
      case 'w': set.items = word_items(); return set;
      case 'd': set.items = property_items("Nd"); return set;
      case 'h': set.items = "0-9a-fA-F"; return set;
      default: break;
    }
    std::string name;
    if (peek() == '{') {
      const size_t end = in_.find('}', at_);
      if (end == std::string_view::npos) return problem("\\p{ without its }");
      name = std::string(in_.substr(at_ + 1, end - at_ - 1));
      at_ = end + 1;
    } else {
      name = std::string(1, peek());
      ++at_;
    }
    if (!name.empty() && name[0] == '^') {
      set.negated = !set.negated;
      name.erase(0, 1);
    }
    for (const char letter : name) {
      if (!std::isalnum(static_cast<unsigned char>(letter)) && letter != '_' && letter != ' ' && letter != '-' && letter != '&') {
        return problem("an unknown property");
      }
    }
    set.items = named_items(lower(name), set.negated);
    if (set.items.empty()) set.items = script_items(name);
    return set;
  }

  // [...] with nested classes and &&; at_ is at the opening bracket.
  Result<ClassSet> read_class(int depth) {
    if (depth > kDeepestClass) return problem("classes nested too deeply");
    ++at_;
    bool negated = false;
    if (peek() == '^') {
      negated = true;
      ++at_;
    }
    std::vector<ClassSet> parts(1);  // separated by &&
    bool first = true;
    while (true) {
      if (at_ >= in_.size()) return problem("a class without its ]");
      if (in_[at_] == ']' && !first) {
        ++at_;
        break;
      }
      if (starts("&&")) {
        at_ += 2;
        parts.emplace_back();
        first = false;
        continue;
      }
      first = false;
      NBL_RETURN_IF_ERROR(class_member(parts.back(), depth));
    }
    ClassSet set = std::move(parts.back());
    parts.pop_back();
    set.within = std::move(parts);
    set.negated = negated;
    return set;
  }

  static void add(ClassSet& set, ClassSet other) {
    if (!other.negated && other.within.empty()) {
      set.items += other.items;
      for (ClassSet& inner : other.more) set.more.push_back(std::move(inner));
    } else {
      set.more.push_back(std::move(other));
    }
  }

  Status class_member(ClassSet& set, int depth) {
    if (starts("[:")) {
      const size_t end = in_.find(":]", at_ + 2);
      if (end != std::string_view::npos) {
        std::string name(in_.substr(at_ + 2, end - at_ - 2));
        ClassSet bracket;
        if (!name.empty() && name[0] == '^') {
          bracket.negated = true;
          name.erase(0, 1);
        }
        bracket.items = named_items(lower(name), bracket.negated);
        if (lower(name) == "punct") bracket.items += property_items("S");  // only the bracket has symbols too
        if (bracket.items.empty()) return problem("an unknown POSIX bracket");
        at_ = end + 2;
        add(set, std::move(bracket));
        return {};
      }
    }
    if (in_[at_] == '[') {
      NBL_ASSIGN_OR_RETURN(ClassSet inner, read_class(depth + 1));
      add(set, std::move(inner));
      return {};
    }
    if (in_[at_] == '\\') {
      const char c = peek(1);
      if (c && std::string_view("sSwWdDhHpP").find(c) != std::string_view::npos) {
        NBL_ASSIGN_OR_RETURN(ClassSet inner, class_escape());
        add(set, std::move(inner));
        return {};
      }
    }
    NBL_ASSIGN_OR_RETURN(const uint32_t low, class_character());
    append_code_point(set.items, low);
    // A range, unless the dash is the last character or stands before a class.
    if (peek() == '-' && peek(1) != ']' && peek(1) != '[' && at_ + 1 < in_.size()) {
      const char after = peek(1) == '\\' ? peek(2) : '\0';
      if (after && std::string_view("sSwWdDhHpP").find(after) != std::string_view::npos) return {};
      ++at_;
      NBL_ASSIGN_OR_RETURN(const uint32_t high, class_character());
      if (high < low) return problem("an empty range");
      set.items += '-';
      append_code_point(set.items, high);
    }
    return {};
  }

  Result<uint32_t> class_character() {
    if (in_[at_] != '\\') return utf8_next(in_, at_);
    if (at_ + 1 >= in_.size()) return problem("a lone backslash at its end");
    if (peek(1) == 'b') {
      at_ += 2;
      return 0x08u;
    }
    return literal_escape();
  }

  std::string_view in_;
  size_t at_ = 0;
  std::string out_;
  size_t last_atom_ = 0;         // where the last atom begins in out_
  std::vector<size_t> groups_;   // where open groups begin in out_
};

}  // namespace

Result<std::string> translate_oniguruma(std::string_view pattern) { return Translator(pattern).run(); }

}  // namespace nbl

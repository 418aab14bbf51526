// The filters on text.
#include <algorithm>

#include "base/utf8.h"
#include "text/jinja/characters.h"
#include "text/jinja/filters.h"
#include "text/jinja/format.h"
#include "text/jinja/operators.h"
#include "text/jinja/strings.h"
#include "text/jinja/text_of.h"

namespace nbl::jinja {
namespace {

template <std::string (*kChange)(std::string_view)>
Result<Value> changed(Runtime& rt, const Value& self, const Arguments& arguments) {
  NBL_RETURN_IF_ERROR(Bound::bind("the filter", arguments, {}).status());
  NBL_ASSIGN_OR_RETURN(const Value text, to_text(rt, self));
  return rt.text(kChange(text.text()), text.markup());
}

bool separates_words(uint32_t c) { return is_space(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<'; }

// Jinja's own notion of words, not str.title's: "it's" stays one.
std::string title_words(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t start = at;
    const bool separator = separates_words(utf8_next(text, at));
    const size_t first_end = at;
    while (at < text.size()) {
      size_t next = at;
      if (separates_words(utf8_next(text, next)) != separator) break;
      at = next;
    }
    out += to_upper(text.substr(start, first_end - start));
    out += to_lower(text.substr(first_end, at - first_end));
  }
  return out;
}

Result<Value> trim(Runtime& rt, const Value& self, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind("trim", arguments, {"chars"}));
  NBL_ASSIGN_OR_RETURN(const Value text, to_text(rt, self));
  rt.work_on_bytes(text.text().size());
  if (!bound.has_some(0)) return Value::borrowed(strip(text.text()), text.markup());
  NBL_ASSIGN_OR_RETURN(const std::string_view characters, bound.text(0, ""));
  return Value::borrowed(strip_characters(text.text(), characters, kLeft | kRight), text.markup());
}

Result<Value> replace(Runtime& rt, const Value& self, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind("replace", arguments, {"old", "new", "count"}, 2));
  NBL_ASSIGN_OR_RETURN(Value text, to_text(rt, self));
  NBL_ASSIGN_OR_RETURN(const Value from, to_text(rt, bound[0]));
  NBL_ASSIGN_OR_RETURN(Value to, to_text(rt, bound[1]));
  NBL_ASSIGN_OR_RETURN(const Int most, bound.has_some(2) ? bound.integer(2, -1) : Result<Int>(Int{-1}));
  if (rt.autoescape) {
    if (from.markup() || to.markup()) {
      NBL_ASSIGN_OR_RETURN(text, escaped(rt, text));
    }
    if (text.markup()) {
      NBL_ASSIGN_OR_RETURN(to, escaped(rt, to));
    }
  }
  return replaced(rt, text, from.text(), to.text(), most);
}

Result<Value> center(Runtime& rt, const Value& self, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind("center", arguments, {"width"}));
  NBL_ASSIGN_OR_RETURN(const Value text, to_text(rt, self));
  NBL_ASSIGN_OR_RETURN(const Int width, bound.integer(0, 80));
  NBL_ASSIGN_OR_RETURN(std::string out, padded(rt, text.text(), width, " ", '^', true));
  return rt.text(std::move(out), text.markup());
}

// What indent puts in front of a line.
Result<std::string> indention_of(Runtime& rt, const Bound& bound) {
  if (bound.has(0) && bound[0].is_string()) return std::string(bound[0].text());
  NBL_ASSIGN_OR_RETURN(const Int width, bound.integer(0, 4));
  if (width > INT32_MAX) return rt.afford(UINT64_MAX);
  NBL_RETURN_IF_ERROR(rt.afford(width > 0 ? static_cast<uint64_t>(width) : 0));
  return std::string(width > 0 ? static_cast<size_t>(width) : 0, ' ');
}

Result<Value> indent(Runtime& rt, const Value& self, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind("indent", arguments, {"width", "first", "blank"}));
  NBL_ASSIGN_OR_RETURN(const std::string indention, indention_of(rt, bound));
  if (self.is_undefined()) return undefined_failure(self);
  if (!self.is_string()) return failure("indent takes text, not %s", type_name(self));
  // A line end is put behind the text first: so an empty text is one empty line.
  const std::string whole = std::string(self.text()) + "\n";
  const std::vector<Value> lines = lines_of(whole, false);
  NBL_RETURN_IF_ERROR(rt.afford(whole.size() + lines.size() * indention.size()));
  const bool blank = bound.flag(2, false);
  std::string out;
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i) out += '\n';
    if (i ? blank || !lines[i].text().empty() : bound.flag(1, false)) out += indention;
    out += lines[i].text();
  }
  return rt.text(std::move(out), self.markup());
}

Result<Value> truncate(Runtime& rt, const Value& self, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind("truncate", arguments, {"length", "killwords", "end", "leeway"}));
  NBL_ASSIGN_OR_RETURN(const Int wanted, bound.integer(0, 255));
  NBL_ASSIGN_OR_RETURN(const std::string_view end, bound.text(2, "..."));
  NBL_ASSIGN_OR_RETURN(const Int leeway, bound.has_some(3) ? bound.integer(3, 5) : Result<Int>(Int{5}));
  NBL_ASSIGN_OR_RETURN(const int64_t have, length(self));
  const Int end_length = static_cast<Int>(count_code_points(end));
  if (wanted < end_length || leeway < 0) return failure("truncate expects length >= %d and leeway >= 0", static_cast<int>(end_length));
  if (have <= wanted + leeway) return self;
  if (!self.is_string()) return failure("truncate takes text, not %s", type_name(self));
  std::string_view kept = self.text().substr(0, offset_of(self.text(), static_cast<size_t>(wanted - end_length)));
  if (!bound.flag(1, false)) kept = kept.substr(0, kept.rfind(' '));
  return rt.text(std::string(kept) + std::string(end), self.markup());
}

// Chunks as textwrap sees them: runs of space, and words, which may break behind a hyphen between letters.
std::vector<std::string_view> chunks_of(std::string_view line, bool break_on_hyphens) {
  std::vector<std::string_view> chunks;
  for (size_t at = 0; at < line.size();) {
    const size_t start = at;
    const bool space = is_space(static_cast<unsigned char>(line[at]));
    while (at < line.size() && is_space(static_cast<unsigned char>(line[at])) == space) {
      const bool hyphen = break_on_hyphens && !space && line[at] == '-' && at >= start + 2 && at + 1 < line.size() &&
                          is_word(static_cast<unsigned char>(line[at - 1])) && is_word(static_cast<unsigned char>(line[at + 1]));
      ++at;
      if (hyphen) break;
    }
    chunks.push_back(line.substr(start, at - start));
  }
  return chunks;
}

// Fills lines with chunks; a chunk longer than a line is cut where `break_long` allows.
void wrap_line(std::string_view line, size_t width, bool break_long, bool break_on_hyphens, std::vector<std::string>& lines) {
  std::vector<std::string_view> chunks = chunks_of(line, break_on_hyphens);
  std::reverse(chunks.begin(), chunks.end());
  const size_t first_line = lines.size();
  while (!chunks.empty()) {
    if (lines.size() > first_line && is_space(static_cast<unsigned char>(chunks.back()[0]))) chunks.pop_back();
    std::string current;
    size_t used = 0;
    while (!chunks.empty() && used + count_code_points(chunks.back()) <= width) {
      used += count_code_points(chunks.back());
      current += chunks.back();
      chunks.pop_back();
    }
    if (!chunks.empty() && count_code_points(chunks.back()) > width) {
      const size_t cut = break_long  ? offset_of(chunks.back(), std::max<size_t>(width - used, used == 0))
                         : used == 0 ? chunks.back().size()
                                     : 0;
      current += chunks.back().substr(0, cut);
      chunks.back().remove_prefix(cut);
      if (chunks.back().empty()) chunks.pop_back();
    }
    const std::string_view kept = strip_right(current);
    if (!kept.empty()) lines.emplace_back(kept);
  }
}

Result<Value> wordwrap(Runtime& rt, const Value& self, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const Bound bound,
                       Bound::bind("wordwrap", arguments, {"width", "break_long_words", "wrapstring", "break_on_hyphens"}));
  NBL_ASSIGN_OR_RETURN(const Int width, bound.integer(0, 79));
  NBL_ASSIGN_OR_RETURN(const std::string_view wrap, bound.has_some(2) ? bound.text(2, "\n") : Result<std::string_view>("\n"));
  if (width <= 0) return failure("invalid width (must be > 0)");
  if (!self.is_string()) return failure("wordwrap takes text, not %s", type_name(self));
  rt.work_on_bytes(self.text().size() * 64);
  NBL_RETURN_IF_ERROR(rt.check());
  std::string out;
  bool first = true;
  for (const Value& line : lines_of(self.text(), false)) {
    std::vector<std::string> lines;
    wrap_line(line.text(), static_cast<size_t>(std::min<Int>(width, INT32_MAX)), bound.flag(1, true), bound.flag(3, true), lines);
    if (lines.empty()) lines.emplace_back();
    for (const std::string& part : lines) {
      NBL_RETURN_IF_ERROR(rt.afford(out.size() + wrap.size() + part.size()));
      if (!first) out += wrap;
      first = false;
      out += part;
    }
  }
  return rt.text(std::move(out));
}

Result<Value> wordcount(Runtime& rt, const Value& self, const Arguments&) {
  NBL_ASSIGN_OR_RETURN(const Value text, to_text(rt, self));
  Int words = 0;
  bool inside = false;
  for (size_t at = 0; at < text.text().size();) {
    const bool word = is_word(utf8_next(text.text(), at));
    words += word && !inside;
    inside = word;
  }
  return Value::integer(words);
}

Result<Value> string(Runtime& rt, const Value& self, const Arguments& arguments) {
  NBL_RETURN_IF_ERROR(Bound::bind("string", arguments, {}).status());
  return to_text(rt, self);
}

Result<Value> format(Runtime& rt, const Value& self, const Arguments& arguments) {
  if (!arguments.positional.empty() && !arguments.named.empty()) {
    return failure("can't handle positional and keyword arguments at the same time");
  }
  NBL_ASSIGN_OR_RETURN(const Value text, to_text(rt, self));
  if (arguments.named.empty()) return percent_format(rt, text, rt.tuple(arguments.positional));
  Dict* named;
  const Value values = rt.dict(&named);
  for (const auto& [name, value] : arguments.named) named->set(Value::borrowed(name), value);
  return percent_format(rt, text, values);
}

// ---- HTML and URLs ----

Result<Value> escape(Runtime& rt, const Value& self, const Arguments&) { return escaped(rt, self); }

Result<Value> force_escape(Runtime& rt, const Value& self, const Arguments&) {
  NBL_ASSIGN_OR_RETURN(const Value text, to_text(rt, self));
  return escaped(rt, Value::borrowed(text.text()));
}

Result<Value> safe(Runtime& rt, const Value& self, const Arguments&) {
  NBL_ASSIGN_OR_RETURN(const Value text, to_text(rt, self));
  return Value::borrowed(text.text(), true);
}

std::string without_tags(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const size_t open = std::min(text.find('<'), text.size());
    out += text.substr(0, open);
    const bool comment = text.substr(open, 4) == "<!--";
    const size_t close = comment ? find_text(text, "-->", open) : text.find('>', open);
    if (close == std::string_view::npos) {
      out += text.substr(open);
      break;
    }
    text.remove_prefix(close + (comment ? 3 : 1));
  }
  return out;
}

std::string unescaped(std::string_view text) {
  static const std::pair<std::string_view, char> kNames[] = {{"&amp;", '&'}, {"&lt;", '<'},   {"&gt;", '>'},
                                                             {"&#34;", '"'}, {"&quot;", '"'}, {"&#39;", '\''}};
  std::string out;
  for (size_t at = 0; at < text.size();) {
    size_t taken = 1;
    char c = text[at];
    for (const auto& [name, meant] : kNames) {
      if (text.substr(at, name.size()) != name) continue;
      taken = name.size();
      c = meant;
    }
    out += c;
    at += taken;
  }
  return out;
}

Result<Value> striptags(Runtime& rt, const Value& self, const Arguments&) {
  NBL_ASSIGN_OR_RETURN(const Value text, to_text(rt, self));
  const std::string bare = without_tags(text.text());  // the words point into it
  std::string out;
  for (const Value& word : split_at_space(bare, UINT64_MAX)) {
    if (!out.empty()) out += ' ';
    out += word.text();
  }
  return rt.text(unescaped(out));
}

void append_url_quoted(std::string& out, std::string_view text, bool query) {
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.' ||
                       c == '-' || c == '~' || (c == '/' && !query);
    if (plain) {
      out += c;
    } else if (c == ' ' && query) {
      out += '+';
    } else {
      const unsigned char byte = static_cast<unsigned char>(c);
      out += '%';
      out += "0123456789ABCDEF"[byte >> 4];
      out += "0123456789ABCDEF"[byte & 15];
    }
  }
}

Result<Value> urlencode_pairs(Runtime& rt, const std::vector<Value>& pairs) {
  std::string out;
  for (const Value& pair : pairs) {
    NBL_ASSIGN_OR_RETURN(const std::vector<Value> parts, items_of(rt, pair));
    if (parts.size() != 2) return failure("urlencode takes pairs");
    if (!out.empty()) out += '&';
    for (size_t i = 0; i < 2; ++i) {
      if (i) out += '=';
      NBL_ASSIGN_OR_RETURN(const Value text, to_text(rt, parts[i]));
      append_url_quoted(out, text.text(), true);
    }
  }
  return rt.text(std::move(out));
}

Result<Value> urlencode(Runtime& rt, const Value& self, const Arguments&) {
  if (!self.is_string() && is_iterable(self)) {
    std::vector<Value> pairs;
    if (!self.is(Kind::kDict)) {
      NBL_ASSIGN_OR_RETURN(pairs, items_of(rt, self));
    } else {
      for (const auto& [key, value] : self.dict().entries) pairs.push_back(pair_of(rt, key, value));
    }
    return urlencode_pairs(rt, pairs);
  }
  NBL_ASSIGN_OR_RETURN(const Value text, to_text(rt, self));
  std::string out;
  append_url_quoted(out, text.text(), false);
  return rt.text(std::move(out));
}

Result<Value> xmlattr(Runtime& rt, const Value& self, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind("xmlattr", arguments, {"autospace"}));
  if (!self.is(Kind::kDict)) return failure("xmlattr takes a dict, not %s", type_name(self));
  std::string out;
  for (const auto& [key, value] : self.dict().entries) {
    if (value.is_none() || value.is_undefined()) continue;
    if (!key.is_string() || key.text().find_first_of(" \t\n\r\f\v/>=") != std::string_view::npos) {
      return failure("Invalid character in attribute name");
    }
    NBL_ASSIGN_OR_RETURN(const Value text, escaped(rt, value));
    if (!out.empty() || bound.flag(0, true)) out += ' ';
    append_escaped(out, key.text());
    out += "=\"" + std::string(text.text()) + "\"";
  }
  return rt.text(std::move(out), rt.autoescape);
}

const NativeEntry kFilters[] = {
    {"capitalize", changed<to_capital>},
    {"center", center},
    {"e", escape},
    {"escape", escape},
    {"forceescape", force_escape},
    {"format", format},
    {"indent", indent},
    {"lower", changed<to_lower>},
    {"replace", replace},
    {"safe", safe},
    {"string", string},
    {"striptags", striptags},
    {"title", changed<title_words>},
    {"trim", trim},
    {"truncate", truncate},
    {"upper", changed<to_upper>},
    {"urlencode", urlencode},
    {"wordcount", wordcount},
    {"wordwrap", wordwrap},
    {"xmlattr", xmlattr},
};

}  // namespace

const NativeEntry* find_text_filter(std::string_view name) { return find_entry(kFilters, name); }

}  // namespace nbl::jinja

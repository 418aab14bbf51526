// The methods of str. Places and widths are counted in code points.
#include <algorithm>
#include <cstring>

#include "base/utf8.h"
#include "text/jinja/access.h"
#include "text/jinja/characters.h"
#include "text/jinja/format.h"
#include "text/jinja/operators.h"
#include "text/jinja/strings.h"
#include "text/jinja/text_of.h"

namespace nbl::jinja {
namespace {

constexpr size_t kNowhere = std::string_view::npos;

Status no_arguments(const char* name, const Arguments& arguments) {
  return Bound::bind(name, arguments, {}).status();
}

// ---- case ----

template <std::string (*kChange)(std::string_view)>
Result<Value> change_case(Runtime& rt, const Value& self, const Arguments& arguments) {
  NBL_RETURN_IF_ERROR(no_arguments("the method", arguments));
  return rt.text(kChange(self.text()), self.markup());
}

// ---- questions about every character ----

template <bool (*kIs)(uint32_t)>
Result<Value> all_are(Runtime& rt, const Value& self, const Arguments& arguments) {
  NBL_RETURN_IF_ERROR(no_arguments("the method", arguments));
  rt.work_on_bytes(self.text().size() * 8);
  for (size_t at = 0; at < self.text().size();) {
    if (!kIs(utf8_next(self.text(), at))) return Value::boolean(false);
  }
  return Value::boolean(!self.text().empty());
}

bool is_alphanumeric(uint32_t c) { return is_alpha(c) || is_numeric(c); }

Result<Value> isascii(Runtime&, const Value& self, const Arguments&) { return Value::boolean(is_ascii(self.text())); }

Result<Value> isidentifier(Runtime&, const Value& self, const Arguments&) { return Value::boolean(is_identifier(self.text())); }

Result<Value> isprintable(Runtime& rt, const Value& self, const Arguments& arguments) {
  return self.text().empty() ? Value::boolean(true) : all_are<is_printable>(rt, self, arguments);
}

Result<Value> islower(Runtime&, const Value& self, const Arguments&) { return Value::boolean(is_all_lower(self.text())); }

Result<Value> isupper(Runtime&, const Value& self, const Arguments&) { return Value::boolean(is_all_upper(self.text())); }

// Capitals only behind what has no case, small letters only behind letters.
Result<Value> istitle(Runtime&, const Value& self, const Arguments&) {
  bool inside_word = false, any = false;
  for (size_t at = 0; at < self.text().size();) {
    const uint32_t c = utf8_next(self.text(), at);
    const bool capital = is_upper(c) || is_title(c);
    if ((capital && inside_word) || (!capital && is_lower(c) && !inside_word)) return Value::boolean(false);
    inside_word = capital || is_lower(c);
    any |= inside_word;
  }
  return Value::boolean(any);
}

// ---- stripping ----

template <int kSides>
Result<Value> strip_method(Runtime&, const Value& self, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind("strip()", arguments, {"chars"}));
  if (!bound.has_some(0)) return Value::borrowed(strip_sides(self.text(), kSides), self.markup());
  NBL_ASSIGN_OR_RETURN(const std::string_view characters, bound.text(0, ""));
  return Value::borrowed(strip_characters(self.text(), characters, kSides), self.markup());
}

Result<Value> removeprefix(Runtime&, const Value& self, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind("removeprefix()", arguments, {"prefix"}, 1));
  NBL_ASSIGN_OR_RETURN(const std::string_view prefix, bound.text(0, ""));
  const std::string_view text = self.text();
  return Value::borrowed(text.substr(0, prefix.size()) == prefix ? text.substr(prefix.size()) : text);
}

Result<Value> removesuffix(Runtime&, const Value& self, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind("removesuffix()", arguments, {"suffix"}, 1));
  NBL_ASSIGN_OR_RETURN(const std::string_view suffix, bound.text(0, ""));
  const std::string_view text = self.text();
  const bool ends = text.size() >= suffix.size() && text.substr(text.size() - suffix.size()) == suffix;
  return Value::borrowed(ends ? text.substr(0, text.size() - suffix.size()) : text);
}

// ---- splitting and joining ----

struct SplitArguments {
  bool by_space = true;
  std::string_view separator;
  uint64_t most = UINT64_MAX;
};

Result<SplitArguments> split_arguments(const Arguments& arguments) {
  SplitArguments split;
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind("split()", arguments, {"sep", "maxsplit"}));
  split.by_space = !bound.has_some(0);
  if (!split.by_space) {
    NBL_ASSIGN_OR_RETURN(split.separator, bound.text(0, ""));
    if (split.separator.empty()) return failure("empty separator");
  }
  NBL_ASSIGN_OR_RETURN(const Int most, bound.integer(1, -1));
  if (most >= 0 && most < INT64_MAX) split.most = static_cast<uint64_t>(most);
  return split;
}

Result<Value> split(Runtime& rt, const Value& self, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const SplitArguments split, split_arguments(arguments));
  rt.work_on_bytes(self.text().size());
  return rt.list(split.by_space ? split_at_space(self.text(), split.most) : split_at(self.text(), split.separator, split.most));
}

Result<Value> rsplit(Runtime& rt, const Value& self, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const SplitArguments split, split_arguments(arguments));
  rt.work_on_bytes(self.text().size());
  return rt.list(split.by_space ? split_at_last_spaces(self.text(), split.most)
                                : split_at_last(self.text(), split.separator, split.most));
}

Result<Value> splitlines(Runtime& rt, const Value& self, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind("splitlines()", arguments, {"keepends"}));
  rt.work_on_bytes(self.text().size() * 8);
  return rt.list(lines_of(self.text(), bound.flag(0, false)));
}

Result<Value> partition_at(Runtime& rt, std::string_view text, std::string_view separator, size_t at, bool last) {
  const Value nothing = Value::borrowed("");
  if (at == kNowhere) {
    return last ? rt.tuple({nothing, nothing, Value::borrowed(text)}) : rt.tuple({Value::borrowed(text), nothing, nothing});
  }
  return rt.tuple({Value::borrowed(text.substr(0, at)), Value::borrowed(text.substr(at, separator.size())),
                   Value::borrowed(text.substr(at + separator.size()))});
}

template <bool kLast>
Result<Value> partition(Runtime& rt, const Value& self, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind("partition()", arguments, {"sep"}, 1));
  NBL_ASSIGN_OR_RETURN(const std::string_view separator, bound.text(0, ""));
  if (separator.empty()) return failure("empty separator");
  rt.work_on_bytes(self.text().size());
  const size_t at = kLast ? find_last_text(self.text(), separator) : find_text(self.text(), separator, 0);
  return partition_at(rt, self.text(), separator, at, kLast);
}

Result<Value> join(Runtime& rt, const Value& self, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind("join()", arguments, {"iterable"}, 1));
  if (!is_iterable(bound[0])) return failure("can only join an iterable");
  NBL_ASSIGN_OR_RETURN(const std::vector<Value> items, items_of(rt, bound[0]));
  std::string out;
  for (size_t i = 0; i < items.size(); ++i) {
    if (!items[i].is_string()) return failure("sequence item %zu: expected str instance, %s found", i, type_name(items[i]));
    NBL_RETURN_IF_ERROR(rt.afford(out.size() + self.text().size() + items[i].text().size()));
    if (i) out += self.text();
    out += items[i].text();
  }
  return rt.text(std::move(out), self.markup());
}

// ---- searching ----

// The part of the text that the arguments start and end (from place `first` of `bound`) leave, as byte offsets.
struct Part {
  size_t begin = 0, end = 0;
  bool empty_range = false;  // start lies behind end: even "" is not found there
};

Result<Part> searched_part(Runtime& rt, std::string_view text, const Bound& bound) {
  Part part{0, text.size(), false};
  rt.work_on_bytes(text.size());
  if (!bound.has_some(1) && !bound.has_some(2)) return part;
  const int64_t count = static_cast<int64_t>(count_code_points(text));
  const Value none = Value::none();
  NBL_ASSIGN_OR_RETURN(const SliceBounds bounds, slice_bounds(count, bound.has(1) ? bound[1] : none, bound.has(2) ? bound[2] : none, none));
  part.begin = offset_of(text, static_cast<size_t>(bounds.start));
  part.end = offset_of(text, static_cast<size_t>(bounds.stop));
  part.empty_range = bounds.start > bounds.stop || (bound.has(1) && bound[1].is_integral() && bound[1].as_int() > count);
  return part;
}

template <bool kLast, bool kMustBeThere>
Result<Value> find(Runtime& rt, const Value& self, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind("find()", arguments, {"sub", "start", "end"}, 1));
  NBL_ASSIGN_OR_RETURN(const std::string_view wanted, bound.text(0, ""));
  NBL_ASSIGN_OR_RETURN(const Part part, searched_part(rt, self.text(), bound));
  size_t at = kNowhere;
  if (!part.empty_range) {
    const std::string_view where = self.text().substr(part.begin, part.end - part.begin);
    at = kLast ? find_last_text(where, wanted) : find_text(where, wanted, 0);
  }
  if (at == kNowhere) return kMustBeThere ? Result<Value>(failure("substring not found")) : Value::integer(-1);
  return Value::integer(static_cast<Int>(count_code_points(self.text().substr(0, part.begin + at))));
}

Result<Value> count(Runtime& rt, const Value& self, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind("count()", arguments, {"sub", "start", "end"}, 1));
  NBL_ASSIGN_OR_RETURN(const std::string_view wanted, bound.text(0, ""));
  NBL_ASSIGN_OR_RETURN(const Part part, searched_part(rt, self.text(), bound));
  if (part.empty_range) return Value::integer(0);
  const std::string_view where = self.text().substr(part.begin, part.end - part.begin);
  if (wanted.empty()) return Value::integer(static_cast<Int>(count_code_points(where)) + 1);
  Int found = 0;
  for (size_t at = find_text(where, wanted, 0); at != kNowhere; at = find_text(where, wanted, at + wanted.size())) ++found;
  return Value::integer(found);
}

bool touches(std::string_view text, std::string_view wanted, bool at_end) {
  if (text.size() < wanted.size()) return false;
  return text.substr(at_end ? text.size() - wanted.size() : 0, wanted.size()) == wanted;
}

template <bool kAtEnd>
Result<Value> starts_or_ends(Runtime& rt, const Value& self, const Arguments& arguments) {
  const char* const name = kAtEnd ? "endswith" : "startswith";
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind(name, arguments, {"prefix", "start", "end"}, 1));
  Part part{0, self.text().size(), false};
  if (bound.has_some(1) || bound.has_some(2)) {
    NBL_ASSIGN_OR_RETURN(part, searched_part(rt, self.text(), bound));
  }
  if (part.empty_range) return Value::boolean(false);
  const std::string_view text = self.text().substr(part.begin, part.end - part.begin);
  const std::vector<Value> one{bound[0]};
  for (const Value& wanted : bound[0].is(Kind::kTuple) ? bound[0].list().items : one) {
    if (wanted.is_undefined()) return undefined_failure(wanted);
    if (!wanted.is_string()) return failure("%s first arg must be str or a tuple of str, not %s", name, type_name(wanted));
    if (touches(text, wanted.text(), kAtEnd)) return Value::boolean(true);
  }
  return Value::boolean(false);
}

Result<Value> replace(Runtime& rt, const Value& self, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind("replace()", arguments, {"old", "new", "count"}, 2));
  NBL_ASSIGN_OR_RETURN(const std::string_view from, bound.text(0, ""));
  NBL_ASSIGN_OR_RETURN(const std::string_view to, bound.text(1, ""));
  NBL_ASSIGN_OR_RETURN(const Int most, bound.integer(2, -1));
  return replaced(rt, self, from, to, most);
}

// ---- layout ----

template <char kAlign>
Result<Value> justify(Runtime& rt, const Value& self, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind("the method", arguments, {"width", "fillchar"}, 1));
  NBL_ASSIGN_OR_RETURN(const Int width, bound.integer(0, 0));
  NBL_ASSIGN_OR_RETURN(const std::string_view fill, bound.text(1, " "));
  if (count_code_points(fill) != 1) return failure("The fill character must be exactly one character long");
  NBL_ASSIGN_OR_RETURN(std::string out, padded(rt, self.text(), width, fill, kAlign, kAlign == '^'));
  return rt.text(std::move(out), self.markup());
}

Result<Value> zfill(Runtime& rt, const Value& self, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind("zfill()", arguments, {"width"}, 1));
  NBL_ASSIGN_OR_RETURN(const Int width, bound.integer(0, 0));
  const bool sign = !self.text().empty() && (self.text()[0] == '-' || self.text()[0] == '+');
  NBL_ASSIGN_OR_RETURN(const std::string digits, padded(rt, self.text().substr(sign), width - sign, "0", '>'));
  return rt.text(std::string(self.text().substr(0, sign)) + digits);
}

Result<Value> expandtabs(Runtime& rt, const Value& self, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind("expandtabs()", arguments, {"tabsize"}));
  NBL_ASSIGN_OR_RETURN(const Int asked, bound.integer(0, 8));
  const uint64_t size = asked <= 0 ? 0 : asked > INT32_MAX ? INT32_MAX : static_cast<uint64_t>(asked);
  std::string out;
  uint64_t column = 0;
  for (const char c : self.text()) {
    if (c == '\t') {
      const uint64_t fill = size ? size - column % size : 0;
      NBL_RETURN_IF_ERROR(rt.afford(out.size() + fill));
      out.append(fill, ' ');
      column += fill;
    } else {
      out += c;
      column = c == '\n' || c == '\r' ? 0 : column + ((static_cast<unsigned char>(c) & 0xC0) != 0x80);
    }
  }
  return rt.text(std::move(out));
}

// ---- the rest ----

Result<Value> encode(Runtime& rt, const Value& self, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind("encode()", arguments, {"encoding", "errors"}));
  NBL_ASSIGN_OR_RETURN(const std::string_view asked, bound.text(0, "utf-8"));
  const std::string name = to_lower(asked);
  const bool ascii = name == "ascii" || name == "us-ascii";
  if (!ascii && name != "utf-8" && name != "utf8" && name != "utf_8") {
    return failure("encode() knows utf-8 and ascii, not '%s'", name.c_str());
  }
  if (ascii && !is_ascii(self.text())) return failure("'ascii' codec can't encode characters: ordinal not in range(128)");
  return Value::bytes(rt.text(std::string(self.text())).text());
}

Result<Value> format(Runtime& rt, const Value& self, const Arguments& arguments) { return brace_format(rt, self, arguments); }

Result<Value> format_map(Runtime& rt, const Value& self, const Arguments& arguments) {
  NBL_ASSIGN_OR_RETURN(const Bound bound, Bound::bind("format_map()", arguments, {"mapping"}, 1));
  if (!bound[0].is(Kind::kDict)) return failure("format_map() takes a dict, not %s", type_name(bound[0]));
  Arguments named;
  for (const auto& [key, value] : bound[0].dict().entries) {
    if (key.is_string()) named.named.emplace_back(key.text(), value);
  }
  return brace_format(rt, self, named);
}

const NativeEntry kMethods[] = {
    {"capitalize", change_case<to_capital>},
    {"casefold", change_case<fold_case>},
    {"center", justify<'^'>},
    {"count", count},
    {"encode", encode},
    {"endswith", starts_or_ends<true>},
    {"expandtabs", expandtabs},
    {"find", find<false, false>},
    {"format", format},
    {"format_map", format_map},
    {"index", find<false, true>},
    {"isalnum", all_are<is_alphanumeric>},
    {"isalpha", all_are<is_alpha>},
    {"isascii", isascii},
    {"isdecimal", all_are<is_decimal>},
    {"isdigit", all_are<is_digit>},
    {"isidentifier", isidentifier},
    {"islower", islower},
    {"isnumeric", all_are<is_numeric>},
    {"isprintable", isprintable},
    {"isspace", all_are<is_space>},
    {"istitle", istitle},
    {"isupper", isupper},
    {"join", join},
    {"ljust", justify<'<'>},
    {"lower", change_case<to_lower>},
    {"lstrip", strip_method<kLeft>},
    {"partition", partition<false>},
    {"removeprefix", removeprefix},
    {"removesuffix", removesuffix},
    {"replace", replace},
    {"rfind", find<true, false>},
    {"rindex", find<true, true>},
    {"rjust", justify<'>'>},
    {"rpartition", partition<true>},
    {"rsplit", rsplit},
    {"rstrip", strip_method<kRight>},
    {"split", split},
    {"splitlines", splitlines},
    {"startswith", starts_or_ends<false>},
    {"strip", strip_method<kLeft | kRight>},
    {"swapcase", change_case<swap_case>},
    {"title", change_case<to_title>},
    {"upper", change_case<to_upper>},
    {"zfill", zfill},
};

}  // namespace

const NativeEntry* find_string_method(std::string_view name) { return find_entry(kMethods, name); }

}  // namespace nbl::jinja

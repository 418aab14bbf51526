#include "text/jinja/strings.h"

#include <algorithm>
#include <cstring>

#include "base/utf8.h"
#include "text/jinja/characters.h"

namespace nbl::jinja {
namespace {

constexpr size_t kNowhere = std::string_view::npos;

class CharacterSet {
 public:
  explicit CharacterSet(std::string_view characters) {
    for (size_t at = 0; at < characters.size();) {
      const uint32_t c = utf8_next(characters, at);
      if (c < 128) ascii_[c] = true;
      else others_.push_back(c);
    }
    std::sort(others_.begin(), others_.end());
  }
  bool has(uint32_t c) const { return c < 128 ? ascii_[c] : std::binary_search(others_.begin(), others_.end(), c); }

 private:
  bool ascii_[128] = {};
  std::vector<uint32_t> others_;
};

// Finds from the end. A long `wanted` is looked for in reversed copies, so that no text makes it quadratic.
class BackwardSearch {
 public:
  BackwardSearch(std::string_view text, std::string_view wanted) : text_(text), wanted_(wanted) {
    if (wanted.size() <= kShort) return;
    reversed_text_.assign(text.rbegin(), text.rend());
    reversed_wanted_.assign(wanted.rbegin(), wanted.rend());
  }

  // The last place in text[0, end).
  size_t before(size_t end) const {
    if (wanted_.size() > end) return kNowhere;
    if (wanted_.size() <= kShort) return text_.substr(0, end).rfind(wanted_);
    const size_t at = find_text(reversed_text_, reversed_wanted_, text_.size() - end);
    return at == kNowhere ? kNowhere : text_.size() - at - wanted_.size();
  }

 private:
  static constexpr size_t kShort = 32;
  std::string_view text_, wanted_;
  std::string reversed_text_, reversed_wanted_;
};

bool cased_only(std::string_view text, bool (*wanted)(uint32_t), bool (*unwanted)(uint32_t)) {
  bool any = false;
  for (size_t at = 0; at < text.size();) {
    const uint32_t c = utf8_next(text, at);
    if (unwanted(c) || is_title(c)) return false;
    any |= wanted(c);
  }
  return any;
}

// '.'.join of an empty separator: `to` goes between all characters and at both ends.
Result<Value> interleaved(Runtime& rt, const Value& text, std::string_view to, uint64_t most) {
  const uint64_t places = std::min<uint64_t>(most, count_code_points(text.text()) + 1);
  if (!to.empty() && places > UINT64_MAX / to.size()) return rt.afford(UINT64_MAX);
  NBL_RETURN_IF_ERROR(rt.afford(text.text().size() + places * to.size()));
  std::string out;
  size_t at = 0;
  for (uint64_t i = 0; i < places; ++i) {
    out += to;
    const size_t start = at;
    if (at < text.text().size()) utf8_next(text.text(), at);
    out += text.text().substr(start, at - start);
  }
  out += text.text().substr(at);
  return rt.text(std::move(out), text.markup());
}

}  // namespace

std::string_view strip_sides(std::string_view text, int sides) {
  if (sides & kRight) text = strip_right(text);
  return sides & kLeft ? strip_left(text) : text;
}

std::string_view strip_characters(std::string_view text, std::string_view characters, int sides) {
  const CharacterSet set(characters);
  while ((sides & kLeft) && !text.empty()) {
    size_t size = 0;
    if (!set.has(utf8_next(text, size))) break;
    text.remove_prefix(size);
  }
  while ((sides & kRight) && !text.empty()) {
    size_t start = text.size();
    if (!set.has(previous_code_point(text, start))) break;
    text = text.substr(0, start);
  }
  return text;
}

std::vector<Value> split_at(std::string_view text, std::string_view separator, uint64_t most) {
  std::vector<Value> pieces;
  size_t start = 0;
  while (pieces.size() < most) {
    const size_t at = find_text(text, separator, start);
    if (at == kNowhere) break;
    pieces.push_back(Value::borrowed(text.substr(start, at - start)));
    start = at + separator.size();
  }
  pieces.push_back(Value::borrowed(text.substr(start)));
  return pieces;
}

std::vector<Value> split_at_last(std::string_view text, std::string_view separator, uint64_t most) {
  std::vector<Value> pieces;
  const BackwardSearch search(text, separator);
  while (pieces.size() < most) {
    const size_t at = search.before(text.size());
    if (at == kNowhere) break;
    pieces.push_back(Value::borrowed(text.substr(at + separator.size())));
    text = text.substr(0, at);
  }
  pieces.push_back(Value::borrowed(text));
  std::reverse(pieces.begin(), pieces.end());
  return pieces;
}

std::vector<Value> split_at_space(std::string_view text, uint64_t most) {
  std::vector<Value> pieces;
  text = strip_left(text);
  while (!text.empty()) {
    if (pieces.size() == most) {
      pieces.push_back(Value::borrowed(text));
      break;
    }
    size_t end = 0;
    for (size_t at = 0; at < text.size() && !is_space(utf8_next(text, at));) end = at;
    pieces.push_back(Value::borrowed(text.substr(0, end)));
    text = strip_left(text.substr(end));
  }
  return pieces;
}

std::vector<Value> split_at_last_spaces(std::string_view text, uint64_t most) {
  std::vector<Value> pieces;
  text = strip_right(text);
  while (!text.empty()) {
    if (pieces.size() == most) {
      pieces.push_back(Value::borrowed(text));
      break;
    }
    size_t start = text.size();
    for (size_t at = start; at > 0 && !is_space(previous_code_point(text, at));) start = at;
    pieces.push_back(Value::borrowed(text.substr(start)));
    text = strip_right(text.substr(0, start));
  }
  std::reverse(pieces.begin(), pieces.end());
  return pieces;
}

std::vector<Value> lines_of(std::string_view text, bool keep_ends) {
  std::vector<Value> lines;
  size_t start = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = at;
    const uint32_t c = utf8_next(text, at);
    if (!is_line_end(c)) continue;
    if (c == '\r' && at < text.size() && text[at] == '\n') ++at;
    lines.push_back(Value::borrowed(text.substr(start, (keep_ends ? at : end) - start)));
    start = at;
  }
  if (start < text.size()) lines.push_back(Value::borrowed(text.substr(start)));
  return lines;
}

size_t find_text(std::string_view text, std::string_view wanted, size_t from) {
  if (from > text.size()) return kNowhere;
  if (wanted.empty()) return from;
  const void* found = memmem(text.data() + from, text.size() - from, wanted.data(), wanted.size());
  return found ? static_cast<size_t>(static_cast<const char*>(found) - text.data()) : kNowhere;
}

size_t find_last_text(std::string_view text, std::string_view wanted) {
  return BackwardSearch(text, wanted).before(text.size());
}

Result<Value> replaced(Runtime& rt, const Value& text, std::string_view from, std::string_view to, Int most) {
  const uint64_t limit = most < 0 || most > INT64_MAX ? UINT64_MAX : static_cast<uint64_t>(most);
  rt.work_on_bytes(text.text().size());
  if (from.empty()) return interleaved(rt, text, to, limit);
  std::string out;
  size_t start = 0;
  for (uint64_t i = 0; i < limit; ++i) {
    const size_t at = find_text(text.text(), from, start);
    if (at == kNowhere) break;
    NBL_RETURN_IF_ERROR(rt.afford(out.size() + (at - start) + to.size()));
    out += text.text().substr(start, at - start);
    out += to;
    start = at + from.size();
  }
  if (start == 0) return text;
  out += text.text().substr(start);
  return rt.text(std::move(out), text.markup());
}

bool is_all_lower(std::string_view text) { return cased_only(text, is_lower, is_upper); }

bool is_all_upper(std::string_view text) { return cased_only(text, is_upper, is_lower); }

}  // namespace nbl::jinja

#include "text/added_tokens.h"

#include <algorithm>

#include "base/utf8.h"
#include "text/unicode.h"

namespace nbl {
namespace {

uint32_t last_character(std::string_view text, size_t& begin) {
  begin = text.size() - 1;
  while (begin > 0 && (static_cast<uint8_t>(text[begin]) & 0xC0) == 0x80) --begin;
  size_t at = begin;
  return utf8_next(text, at);
}

bool ends_in_word(std::string_view text) {
  size_t begin;
  return !text.empty() && unicode::is_word(last_character(text, begin));
}

bool begins_with_word(std::string_view text) {
  size_t at = 0;
  return !text.empty() && unicode::is_word(utf8_next(text, at));
}

size_t without_spaces_at_end(std::string_view text) {
  while (!text.empty()) {
    size_t begin;
    if (!unicode::is_space(last_character(text, begin))) break;
    text.remove_suffix(text.size() - begin);
  }
  return text.size();
}

size_t spaces_at_start(std::string_view text) {
  size_t end = 0;
  for (size_t at = 0; at < text.size() && unicode::is_space(utf8_next(text, at));) end = at;
  return end;
}

}  // namespace

const TokenFinder::Node* TokenFinder::child(const Node& node, uint8_t byte) const {
  for (const auto& [label, index] : node.children) {
    if (label == byte) return &nodes_[index];
  }
  return nullptr;
}

void TokenFinder::add(std::string_view content, int32_t index) {
  if (content.empty()) return;  // would be found everywhere
  uint32_t node = 0;
  for (const char c : content) {
    const auto byte = static_cast<uint8_t>(c);
    const Node* next = node == 0 ? (first_[byte] ? &nodes_[first_[byte]] : nullptr) : child(nodes_[node], byte);
    if (next) {
      node = static_cast<uint32_t>(next - nodes_.data());
      continue;
    }
    const auto made = static_cast<uint32_t>(nodes_.size());
    nodes_.emplace_back();
    nodes_[node].children.emplace_back(byte, made);
    if (node == 0) first_[byte] = made;
    node = made;
  }
  nodes_[node].index = index;
}

TokenFinder::Found TokenFinder::find(std::string_view text, size_t from) const {
  for (size_t begin = from; begin < text.size(); ++begin) {
    const uint32_t first = first_[static_cast<uint8_t>(text[begin])];
    if (first == 0) continue;
    Found found{begin, begin, -1};
    size_t at = begin + 1;
    for (const Node* node = &nodes_[first]; node; node = child(*node, static_cast<uint8_t>(text[at++]))) {
      if (node->index >= 0) found = {begin, at, node->index};
      if (at == text.size()) break;
    }
    if (found.index >= 0) return found;
  }
  return {text.size(), text.size(), -1};
}

void AddedTokens::add(AddedToken token, std::string normalized_content) {
  const size_t index = tokens_.size();
  const auto at = std::lower_bound(ids_.begin(), ids_.end(), std::make_pair(token.id, size_t{0}));
  if (at != ids_.end() && at->first == token.id) {
    at->second = index;  // the later one of two with the same id counts
  } else {
    ids_.insert(at, {token.id, index});
  }
  contents_[token.content] = index;
  finders_[token.normalized].add(token.normalized ? normalized_content : token.content, static_cast<int32_t>(index));
  tokens_.push_back(std::move(token));
  normalized_.push_back(std::move(normalized_content));
}

const AddedToken* AddedTokens::by_id(int32_t id) const {
  const auto at = std::lower_bound(ids_.begin(), ids_.end(), std::make_pair(id, size_t{0}));
  return at != ids_.end() && at->first == id ? &tokens_[at->second] : nullptr;
}

const AddedToken* AddedTokens::by_content(std::string_view content) const {
  const auto found = contents_.find(std::string(content));
  return found == contents_.end() ? nullptr : &tokens_[found->second];
}

const std::string& AddedTokens::spelling(const AddedToken& token) const {
  return token.normalized ? normalized_[static_cast<size_t>(&token - tokens_.data())] : token.content;
}

std::vector<AddedSpan> AddedTokens::cut(std::string_view text, bool normalized, bool parse_special) const {
  std::vector<AddedSpan> spans;
  size_t done = 0;
  size_t spaces_end = 0;  // what the last rstrip walked over: not to be walked again
  const TokenFinder& finder = finders_[normalized];
  for (TokenFinder::Found found = finder.find(text, 0); found.index >= 0; found = finder.find(text, found.end)) {
    const AddedToken& token = tokens_[static_cast<size_t>(found.index)];
    if (token.special && !parse_special) continue;
    if (token.single_word && (ends_in_word(text.substr(0, found.begin)) || begins_with_word(text.substr(found.end)))) continue;
    size_t begin = found.begin, end = found.end;
    // A match may begin in the white space that the one before took along. As in the `tokenizers` package it counts
    // nevertheless, unless it is to take white space along itself and nothing is left of it then.
    if (token.lstrip) begin = begin > done ? done + without_spaces_at_end(text.substr(done, begin - done)) : done;
    if (token.rstrip) end = spaces_end = end < spaces_end ? spaces_end : end + spaces_at_start(text.substr(end));
    if (begin >= end) continue;
    if (begin > done) spans.push_back({done, begin, -1});
    spans.push_back({begin, end, found.index});
    done = end;
  }
  if (done < text.size()) spans.push_back({done, text.size(), -1});
  return spans;
}

}  // namespace nbl

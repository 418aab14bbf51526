// Added tokens: texts that are found before anything else happens to the text, and become one id each.
//
// Those with normalized = false are looked for in the raw text; those with normalized = true in the normalized text of
// what is left, by their normalized content. The leftmost match wins, and the longest of those that begin there.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/status.h"

namespace nbl {

struct AddedToken {
  std::string content;
  int32_t id = -1;
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;
  bool normalized = false;
  bool special = false;
};

// A set of texts to look for; for each the index that it was added with.
class TokenFinder {
 public:
  void add(std::string_view content, int32_t index);
  bool empty() const { return nodes_.size() == 1; }
  // The leftmost longest match at or after `from`; index -1 if there is none.
  struct Found {
    size_t begin, end;
    int32_t index;
  };
  Found find(std::string_view text, size_t from) const;

 private:
  struct Node {
    std::vector<std::pair<uint8_t, uint32_t>> children;  // few but at the root
    int32_t index = -1;
  };
  const Node* child(const Node& node, uint8_t byte) const;

  std::vector<Node> nodes_ = std::vector<Node>(1);
  uint32_t first_[256] = {};  // the root's children by byte; 0: none
};

// A stretch of text: an added token or what is between them (index -1).
struct AddedSpan {
  size_t begin, end;
  int32_t index;
};

class AddedTokens {
 public:
  // `normalized_content` is what is looked for when the token is normalized.
  void add(AddedToken token, std::string normalized_content);

  const std::vector<AddedToken>& all() const { return tokens_; }
  int32_t id_bound() const { return ids_.empty() ? 0 : ids_.back().first + 1; }  // one past the largest id
  const AddedToken* by_id(int32_t id) const;
  const AddedToken* by_content(std::string_view content) const;
  const std::string& normalized_content(size_t index) const { return normalized_[index]; }
  // The token as decode() sees it: a normalized one by its normalized content.
  const std::string& spelling(const AddedToken& token) const;

  // What decode() leaves out when special tokens are to be skipped. It goes by the spelling: a normalized token whose
  // spelling is not its content stays, as in the `tokenizers` package.
  bool is_special_spelling(std::string_view spelling) const {
    const AddedToken* token = by_content(spelling);
    return token && token->special;
  }

  // Cuts `text`; `normalized` says which of the two sets is looked for. With parse_special false, special tokens are
  // passed over.
  std::vector<AddedSpan> cut(std::string_view text, bool normalized, bool parse_special) const;
  bool looks_for(bool normalized) const { return !finders_[normalized].empty(); }

 private:
  std::vector<AddedToken> tokens_;
  std::vector<std::string> normalized_;
  std::vector<std::pair<int32_t, size_t>> ids_;  // sorted: id and index
  std::unordered_map<std::string, size_t> contents_;  // to the latest index
  TokenFinder finders_[2];
};

}  // namespace nbl

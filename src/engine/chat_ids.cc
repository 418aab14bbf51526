#include "engine/chat_ids.h"

#include <algorithm>
#include <string>
#include <string_view>

namespace nbl {
namespace {

// Private-use characters around the text to be spelled, while the template works on it. Where they stand in a message
// themselves they become U+FFFD.
constexpr std::string_view kOpen = "\xEF\xA3\xB0", kClose = "\xEF\xA3\xB1", kReplacement = "\xEF\xBF\xBD";

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) text.replace(at, from.size(), to);
}

// What special tokens look like, the longest first.
std::vector<std::string> special_spellings(const Tokenizer& tokenizer) {
  std::vector<std::string> out;
  for (int32_t id = 0; id < tokenizer.vocabulary_size(); ++id) {
    if (!tokenizer.is_special(id)) continue;
    std::string spelling = tokenizer.token_bytes(id);
    if (!spelling.empty()) out.push_back(std::move(spelling));
  }
  std::stable_sort(out.begin(), out.end(), [](const std::string& a, const std::string& b) { return a.size() > b.size(); });
  return out;
}

std::string marked(std::string text, const std::vector<std::string>& spellings) {
  replace_all(text, kOpen, kReplacement);
  replace_all(text, kClose, kReplacement);
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const auto found = std::find_if(spellings.begin(), spellings.end(),
                                    [&](const std::string& spelling) { return text.compare(at, spelling.size(), spelling) == 0; });
    if (found == spellings.end()) {
      out += text[at++];
      continue;
    }
    out.append(kOpen).append(*found).append(kClose);
    at += found->size();
  }
  return out;
}

// Marks the contents of users' and tools' messages: texts, or the texts of parts.
Json with_marks(Json request, const Tokenizer& tokenizer) {
  request.erase("spell_special");
  const std::vector<std::string> spellings = special_spellings(tokenizer);
  if (!request.contains("messages") || !request["messages"].is_array()) return request;
  for (Json& message : request["messages"]) {
    if (!message.is_object() || !message.contains("content")) continue;
    const std::string role = message.contains("role") && message["role"].is_string() ? message["role"].get<std::string>() : "";
    if (role != "user" && role != "tool") continue;
    Json& content = message["content"];
    if (content.is_string()) content = marked(content.get<std::string>(), spellings);
    if (!content.is_array()) continue;
    for (Json& part : content) {
      if (part.is_object() && part.contains("text") && part["text"].is_string())
        part["text"] = marked(part["text"].get<std::string>(), spellings);
    }
  }
  return request;
}

// Encodes what lies between marks without looking for special tokens, and the rest as usual.
Result<std::vector<int32_t>> encode_marked(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<int32_t> ids;
  EncodeOptions options;
  options.add_special = false;
  options.parse_special = true;
  while (!text.empty()) {
    const std::string_view mark = options.parse_special ? kOpen : kClose;
    const size_t end = std::min(text.find(mark), text.size());
    NBL_ASSIGN_OR_RETURN(const std::vector<int32_t> piece, tokenizer.encode(text.substr(0, end), options));
    ids.insert(ids.end(), piece.begin(), piece.end());
    text.remove_prefix(std::min(text.size(), end + mark.size()));
    options.parse_special = !options.parse_special;
  }
  return ids;
}

}  // namespace

Result<std::vector<int32_t>> chat_ids(const ChatTemplates& chat, const Tokenizer& tokenizer, const Json& request) {
  Result<bool> spells = request.is_object() ? json_bool(request, "spell_special", false) : false;
  if (!spells.ok()) return error(Code::kArgument, "%s", spells.status().message().c_str());
  if (*spells) {
    NBL_ASSIGN_OR_RETURN(const std::string text, chat.render(with_marks(request, tokenizer)));
    return encode_marked(tokenizer, text);
  }
  NBL_ASSIGN_OR_RETURN(const std::string text, chat.render(request));
  EncodeOptions options;
  options.add_special = false;  // the template writes its own
  return tokenizer.encode(text, options);
}

}  // namespace nbl

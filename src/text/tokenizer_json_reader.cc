#include "text/tokenizer_json_reader.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <nlohmann/json.hpp>

namespace nbl {
namespace {

constexpr size_t kDeepest = 100;
constexpr size_t kMostKeys = 4096;  // of an object outside the vocabulary: looking a key up is linear

double power_of_ten(int exponent) {
  const std::string text = "1e" + std::to_string(std::min(exponent, 308));
  double power = 0;
  std::from_chars(text.data(), text.data() + text.size(), power);
  return power;
}

// A score as the `tokenizers` package reads it: the digits as a whole number, rounded, times or by a power of ten, rounded again.
// Its last bit differs from the nearest double's once in seven times, and decides between ways to spell a text whose scores are
// equal otherwise. Digits beyond 64 bits are left out.
double score_of(std::string_view digits) {
  uint64_t whole = 0;
  int exponent = 0;
  bool fraction = false, full = false, negative = false;
  size_t at = 0;
  for (; at < digits.size() && digits[at] != 'e' && digits[at] != 'E'; ++at) {
    const char c = digits[at];
    negative = negative || c == '-';
    fraction = fraction || c == '.';
    if (c < '0' || c > '9') continue;
    const auto digit = static_cast<uint64_t>(c - '0');
    full = full || whole > (UINT64_MAX - digit) / 10;
    if (full) {
      exponent += fraction ? 0 : 1;
      continue;
    }
    whole = whole * 10 + digit;
    exponent -= fraction ? 1 : 0;
  }
  if (at < digits.size()) {
    const char* first = digits.data() + at + 1;
    int written = 0;
    std::from_chars(*first == '+' ? first + 1 : first, digits.data() + digits.size(), written);
    exponent += std::clamp(written, -10000, 10000);
  }
  double score = static_cast<double>(whole);
  for (; exponent < -308 && score != 0; exponent += 308) score /= 1e308;
  score = exponent < 0 ? score / power_of_ten(-exponent) : score * power_of_ten(exponent);
  return negative ? -score : score;
}

// nlohmann's SAX interface: builds a Json of what is outside the lists. A key given twice keeps its last value.
class Reader final : public nlohmann::json_sax<nlohmann::json> {
 public:
  // With `only_vocabulary` the whole text is one vocabulary object.
  Reader(ModelLists& lists, bool only_vocabulary) : lists_(lists), only_vocabulary_(only_vocabulary) {}

  Json take() { return std::move(root_); }
  const Status& status() const { return status_; }

  bool null() override { return in_ == In::kDocument ? put(Json()) : refuse("null"); }
  bool boolean(bool value) override { return in_ == In::kDocument ? put(value) : refuse("true or false"); }
  bool number_integer(number_integer_t value) override {
    if (in_ == In::kVocabulary) return add_token(value);
    if (in_ == In::kScoredToken) return add_score(static_cast<double>(value));
    return in_ == In::kDocument ? put(value) : refuse("a number");
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (value > static_cast<uint64_t>(INT64_MAX)) return in_ == In::kDocument ? put(value) : refuse("a number out of range");
    if (in_ == In::kDocument) return put(value);
    return number_integer(static_cast<int64_t>(value));
  }
  bool number_float(number_float_t value, const string_t& digits) override {
    if (in_ == In::kScoredToken) return add_score(score_of(digits));
    return in_ == In::kDocument ? put(value) : refuse("a number with a fraction");
  }
  bool string(string_t& value) override {
    switch (in_) {
      case In::kDocument: return put(value);
      case In::kScoredToken: return parts_++ == 0 ? (token_ = value, true) : refuse("a text");
      case In::kMerges: return add_spaced_merge(value);
      case In::kMergePair: return add_merge_part(value);
      default: return refuse("a text");
    }
  }
  bool binary(binary_t&) override { return refuse("binary data"); }

  bool start_object(size_t) override {
    if (in_ != In::kDocument) return refuse("an object");
    if (only_vocabulary_ && stack_.empty()) return start_vocabulary();
    if (at_list("vocab")) return start_vocabulary();
    return push(Json::object());
  }
  bool key(string_t& value) override {
    (in_ == In::kVocabulary ? token_ : key_) = value;
    if (in_ == In::kVocabulary || stack_.back()->size() < kMostKeys) return true;
    return fail(error(Code::kFormat, "an object has more than %zu keys", kMostKeys));
  }
  bool end_object() override {
    if (in_ == In::kVocabulary) {
      in_ = In::kDocument;
      return true;
    }
    return pop();
  }
  bool start_array(size_t) override {
    switch (in_) {
      case In::kDocument:
        if (at_list("vocab")) return start_scores();
        if (at_list("merges")) return start_merges();
        return push(Json::array());
      case In::kScores:
        in_ = In::kScoredToken;
        parts_ = 0;
        return true;
      case In::kMerges:
        if (merges_are_texts_) return refuse("a pair among merges that are texts");
        merges_are_pairs_ = true;
        in_ = In::kMergePair;
        parts_ = 0;
        return true;
      default:
        return refuse("a list");
    }
  }
  bool end_array() override {
    switch (in_) {
      case In::kScoredToken:
        if (parts_ != 2) return refuse("an entry that is no token with a score");
        in_ = In::kScores;
        return true;
      case In::kMergePair:
        if (parts_ != 2) return refuse("an entry that is no pair");
        lists_.merges.add(token_, second_);
        in_ = In::kMerges;
        return true;
      case In::kScores:
      case In::kMerges:
        in_ = In::kDocument;
        return true;
      default:
        return pop();
    }
  }
  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception& problem) override {
    const char* text = std::strchr(problem.what(), ' ');
    return fail(error(Code::kFormat, "not valid JSON:%s", text ? text : problem.what()));
  }

 private:
  enum class In { kDocument, kVocabulary, kScores, kScoredToken, kMerges, kMergePair };

  bool fail(Status status) {
    if (status_.ok()) status_ = std::move(status);
    return false;
  }
  bool refuse(const char* found) {
    const bool merges = in_ == In::kMerges || in_ == In::kMergePair;
    return fail(error(Code::kFormat, "the model's %s holds %s, after \"%s\"", merges ? "merges" : "vocab", found,
                      token_.substr(0, 100).c_str()));
  }

  // Are we about to read root["model"][name]?
  bool at_list(const char* name) const { return stack_.size() == 2 && in_model_ && stack_[1]->is_object() && key_ == name; }

  Json* place() {
    if (stack_.empty()) return &root_;
    Json& parent = *stack_.back();
    if (parent.is_array()) {
      parent.push_back(Json());
      return &parent.back();
    }
    return &parent[key_];
  }
  template <typename Value>
  bool put(Value&& value) {
    *place() = std::forward<Value>(value);
    return true;
  }
  bool push(Json value) {
    if (stack_.size() >= kDeepest) return fail(error(Code::kFormat, "nests deeper than %zu levels", kDeepest));
    if (stack_.size() == 1) in_model_ = stack_[0]->is_object() && key_ == "model";
    Json* at = place();
    *at = std::move(value);
    stack_.push_back(at);
    return true;
  }
  bool pop() {
    stack_.pop_back();
    return true;
  }

  bool start_vocabulary() {
    lists_.vocabulary = Vocabulary();
    lists_.scores.clear();
    lists_.has_vocab = true;
    lists_.has_scores = false;
    in_ = In::kVocabulary;
    return true;
  }
  bool start_scores() {
    start_vocabulary();
    lists_.has_vocab = false;
    lists_.has_scores = true;
    in_ = In::kScores;
    return true;
  }
  bool start_merges() {
    lists_.merges = Bpe::Merges();
    lists_.has_merges = true;
    merges_are_texts_ = merges_are_pairs_ = false;
    in_ = In::kMerges;
    return true;
  }

  bool add_token(int64_t id) {
    Status status = lists_.vocabulary.add(token_, id);
    return status.ok() || fail(std::move(status));
  }
  bool add_score(double score) {
    if (parts_++ != 1) return refuse("an entry that is no token with a score");
    lists_.scores.push_back(score);
    return add_token(static_cast<int64_t>(lists_.scores.size()) - 1);
  }
  bool add_spaced_merge(const std::string& text) {
    if (merges_are_pairs_) return refuse("a text among merges that are pairs");
    if (!merges_are_texts_ && text.compare(0, 8, "#version") == 0) return true;
    merges_are_texts_ = true;
    const size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
      return fail(error(Code::kFormat, "merge %zu is \"%s\", expected two tokens and one space", lists_.merges.count(),
                        text.substr(0, 100).c_str()));
    }
    const std::string_view view = text;
    lists_.merges.add(view.substr(0, space), view.substr(space + 1));
    return true;
  }
  bool add_merge_part(const std::string& text) {
    if (parts_ >= 2) return refuse("an entry that is no pair");
    (parts_++ == 0 ? token_ : second_) = text;
    return true;
  }

  ModelLists& lists_;
  bool only_vocabulary_;
  Json root_;
  std::vector<Json*> stack_;  // open objects and lists; a list's elements move only while it is on top
  bool in_model_ = false;
  std::string key_, token_, second_;
  In in_ = In::kDocument;
  int parts_ = 0;  // of the current score or pair
  bool merges_are_texts_ = false, merges_are_pairs_ = false;
  Status status_;
};

Status parse(std::string_view text, Reader& reader, ModelLists& lists) {
  // nlohmann's parser skips a byte order mark; the files' own reader does not, nor does any writer make one.
  if (text.substr(0, 3) == "\xEF\xBB\xBF") return error(Code::kFormat, "begins with a byte order mark");
  if (!nlohmann::json::sax_parse(text.begin(), text.end(), &reader)) {
    Status status = reader.status();
    if (status.ok()) status = error(Code::kFormat, "not valid JSON");
    return status;
  }
  lists.vocabulary.finish();
  return {};
}

}  // namespace

Result<Json> read_document(std::string_view text, ModelLists& lists) {
  Reader reader(lists, false);
  NBL_RETURN_IF_ERROR(parse(text, reader, lists));
  return reader.take();
}

Status read_vocabulary(std::string_view text, std::string_view where, Vocabulary& out) {
  ModelLists lists;
  Reader reader(lists, true);
  if (Status status = parse(text, reader, lists); !status.ok()) return status.in(where);
  if (!lists.has_vocab)
    return error(Code::kFormat, "%.*s is no JSON object of tokens and ids", static_cast<int>(where.size()), where.data());
  out = std::move(lists.vocabulary);
  return {};
}

}  // namespace nbl

#include "text/token_decoder.h"

#include <algorithm>
#include <cstring>

#include "base/utf8.h"
#include "text/byte_level.h"
#include "text/step.h"
#include "text/text_pattern.h"

namespace nbl {

int byte_of_fallback_token(const std::string& token) {
  if (token.size() != 6 || token.compare(0, 3, "<0x") != 0 || token[5] != '>') return -1;
  int value = 0;
  for (int i = 3; i < 5; ++i) {
    const char c = token[static_cast<size_t>(i)];
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

namespace {

using Tokens = std::vector<std::string>;

constexpr const char* kReplacement = "\xEF\xBF\xBD";

std::string join(const Tokens& tokens) {
  std::string all;
  for (const std::string& token : tokens) all += token;
  return all;
}

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
}

// Byte letters are read as bytes; a token with any other character is taken as it is.
class ByteLevel final : public TokenDecoder {
 public:
  void apply(Tokens& tokens) const override {
    std::string all, bytes;
    for (const std::string& token : tokens) all += letters_to_bytes(token, bytes) ? bytes : token;
    tokens.assign(1, lossy_utf8(all));
  }
  Spelling spelling() const override { return Spelling::kByteLetters; }
};

// A run of byte tokens is text if all of it is; otherwise each byte of it becomes U+FFFD, also the good ones.
class ByteFallback final : public TokenDecoder {
 public:
  void apply(Tokens& tokens) const override {
    Tokens out;
    std::string run;
    const auto end_run = [&] {
      if (utf8_first_invalid(run) == std::string_view::npos) {
        if (!run.empty()) out.push_back(run);
      } else {
        out.insert(out.end(), run.size(), kReplacement);
      }
      run.clear();
    };
    for (std::string& token : tokens) {
      const int byte = byte_of_fallback_token(token);
      if (byte >= 0) {
        run += static_cast<char>(byte);
        continue;
      }
      end_run();
      out.push_back(std::move(token));
    }
    end_run();
    tokens = std::move(out);
  }
  Spelling spelling() const override { return Spelling::kMetaspace; }
};

class Fuse final : public TokenDecoder {
 public:
  void apply(Tokens& tokens) const override { tokens.assign(1, join(tokens)); }
  Spelling spelling() const override { return Spelling::kPlain; }
};

class Strip final : public TokenDecoder {
 public:
  Strip(uint32_t content, size_t start, size_t stop) : start_(start), stop_(stop) { utf8_append(content_, content); }

  void apply(Tokens& tokens) const override {
    for (std::string& token : tokens) {
      size_t begin = 0, end = token.size();
      for (size_t i = 0; i < start_ && token.compare(begin, content_.size(), content_) == 0; ++i) begin += content_.size();
      for (size_t i = 0; i < stop_ && end >= begin + content_.size(); ++i) {
        if (token.compare(end - content_.size(), content_.size(), content_) != 0) break;
        end -= content_.size();
      }
      token = token.substr(begin, end - begin);
    }
  }
  Spelling spelling() const override { return Spelling::kPlain; }

 private:
  std::string content_;
  size_t start_, stop_;
};

class Replace final : public TokenDecoder {
 public:
  Replace(TextPattern pattern, std::string content) : pattern_(std::move(pattern)), content_(std::move(content)) {}

  void apply(Tokens& tokens) const override {
    std::unique_ptr<Regex::Scratch> scratch;
    if (pattern_.is_regex()) scratch = std::make_unique<Regex::Scratch>();
    for (std::string& token : tokens) {
      if (token.empty()) continue;  // no pattern matches in nothing
      if (!pattern_.is_regex() && !pattern_.text().empty()) {
        replace_all(token, pattern_.text(), content_);
        continue;
      }
      if (!scratch) scratch = std::make_unique<Regex::Scratch>();
      std::string out;
      size_t done = 0;
      const Status status = pattern_.each(token, *scratch, [&](size_t begin, size_t end) {
        out.append(token, done, begin - done);
        out += content_;
        done = end;
      });
      if (!status.ok()) continue;  // a regex that gives up on a token leaves it as it is
      out.append(token, done, token.size() - done);
      token = std::move(out);
    }
  }
  Spelling spelling() const override {
    return pattern_.text() == "\xE2\x96\x81" && content_ == " " ? Spelling::kMetaspace : Spelling::kPlain;
  }

 private:
  TextPattern pattern_;
  std::string content_;
};

class Metaspace final : public TokenDecoder {
 public:
  Metaspace(uint32_t replacement, bool prepended) : prepended_(prepended) { utf8_append(replacement_, replacement); }

  void apply(Tokens& tokens) const override {
    for (size_t i = 0; i < tokens.size(); ++i) replace_all(tokens[i], replacement_, i == 0 && prepended_ ? "" : " ");
  }
  Spelling spelling() const override { return Spelling::kMetaspace; }

 private:
  std::string replacement_;
  bool prepended_;
};

class WordPiece final : public TokenDecoder {
 public:
  WordPiece(std::string prefix, bool cleanup) : prefix_(std::move(prefix)), cleanup_(cleanup) {}

  void apply(Tokens& tokens) const override {
    static constexpr std::pair<const char*, const char*> kCleaned[] = {
        {" .", "."}, {" ?", "?"}, {" !", "!"}, {" ,", ","}, {" ' ", "'"}, {" n't", "n't"}, {" 'm", "'m"},
        {" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
    for (size_t i = 0; i < tokens.size(); ++i) {
      if (i > 0) {
        if (tokens[i].compare(0, prefix_.size(), prefix_) == 0) {
          tokens[i].erase(0, prefix_.size());
        } else {
          tokens[i].insert(0, 1, ' ');
        }
      }
      for (const auto& [from, to] : kCleaned) {
        if (cleanup_) replace_all(tokens[i], from, to);
      }
    }
  }
  Spelling spelling() const override { return Spelling::kWordPiece; }
  std::string mark() const override { return prefix_; }

 private:
  std::string prefix_;
  bool cleanup_;
};

class Suffix final : public TokenDecoder {
 public:
  explicit Suffix(std::string suffix) : suffix_(std::move(suffix)) {}

  void apply(Tokens& tokens) const override {
    if (suffix_.empty()) return;
    for (size_t i = 0; i < tokens.size(); ++i) replace_all(tokens[i], suffix_, i + 1 == tokens.size() ? "" : " ");
  }
  Spelling spelling() const override { return Spelling::kSuffix; }
  std::string mark() const override { return suffix_; }

 private:
  std::string suffix_;
};

class Sequence final : public TokenDecoder {
 public:
  explicit Sequence(std::vector<std::unique_ptr<TokenDecoder>> steps) : steps_(std::move(steps)) {}

  void apply(Tokens& tokens) const override {
    for (const auto& step : steps_) step->apply(tokens);
  }
  Spelling spelling() const override {
    const TokenDecoder* step = spelling_step();
    return step ? step->spelling() : Spelling::kPlain;
  }
  std::string mark() const override {
    const TokenDecoder* step = spelling_step();
    return step ? step->mark() : std::string();
  }

 private:
  const TokenDecoder* spelling_step() const {
    const auto found = std::find_if(steps_.begin(), steps_.end(), [](const auto& s) { return s->spelling() != Spelling::kPlain; });
    return found == steps_.end() ? nullptr : found->get();
  }
  std::vector<std::unique_ptr<TokenDecoder>> steps_;
};

using Made = Result<std::unique_ptr<TokenDecoder>>;

template <typename Step, typename... Args>
Made make(Args&&... args) {
  return Made(std::make_unique<Step>(std::forward<Args>(args)...));
}

Made make_strip(const Json& step) {
  NBL_ASSIGN_OR_RETURN(const uint32_t content, required_character(step, "content", "Strip"));
  NBL_ASSIGN_OR_RETURN(const int64_t start, json_i64(step, "start", 0));
  NBL_ASSIGN_OR_RETURN(const int64_t stop, json_i64(step, "stop", 0));
  if (start < 0 || stop < 0) return error(Code::kFormat, "Strip has a negative start or stop");
  return make<Strip>(content, static_cast<size_t>(start), static_cast<size_t>(stop));
}

Made make_metaspace(const Json& step) {
  NBL_ASSIGN_OR_RETURN(const uint32_t replacement, required_character(step, "replacement", "Metaspace"));
  NBL_ASSIGN_OR_RETURN(const bool add_prefix_space, json_bool(step, "add_prefix_space", true));
  NBL_ASSIGN_OR_RETURN(const std::string scheme, json_str(step, "prepend_scheme", add_prefix_space ? "always" : "never"));
  return make<Metaspace>(replacement, scheme != "never");
}

Made parse_at(const Json& step, int depth) {
  if (depth > kDeepestStep) return error(Code::kFormat, "decoders are nested deeper than %d", kDeepestStep);
  NBL_ASSIGN_OR_RETURN(const std::string type, step_type(step, "decoder"));
  if (type == "ByteLevel") return make<ByteLevel>();
  if (type == "ByteFallback") return make<ByteFallback>();
  if (type == "Fuse") return make<Fuse>();
  if (type == "Strip") return make_strip(step);
  if (type == "Metaspace") return make_metaspace(step);
  if (type == "Replace") {
    NBL_ASSIGN_OR_RETURN(TextPattern pattern, TextPattern::parse(step, type));
    NBL_ASSIGN_OR_RETURN(std::string content, required_str(step, "content", type));
    return make<Replace>(std::move(pattern), std::move(content));
  }
  if (type == "WordPiece") {
    NBL_ASSIGN_OR_RETURN(std::string prefix, json_str(step, "prefix", "##"));
    NBL_ASSIGN_OR_RETURN(const bool cleanup, json_bool(step, "cleanup", true));
    return make<WordPiece>(std::move(prefix), cleanup);
  }
  if (type == "BPEDecoder") {
    NBL_ASSIGN_OR_RETURN(std::string suffix, json_str(step, "suffix", "</w>"));
    return make<Suffix>(std::move(suffix));
  }
  if (type == "CTC") {
    return error(Code::kUnsupported, "the decoder \"CTC\" is for speech recognition and not supported").with("step", type);
  }
  if (type == "Sequence") {
    NBL_ASSIGN_OR_RETURN(const Json* list, required_list(step, "decoders", type));
    std::vector<std::unique_ptr<TokenDecoder>> steps;
    for (const Json& inner : *list) {
      NBL_ASSIGN_OR_RETURN(std::unique_ptr<TokenDecoder> parsed, parse_at(inner, depth + 1));
      steps.push_back(std::move(parsed));
    }
    return make<Sequence>(std::move(steps));
  }
  return unknown_step("decoder", type);
}

}  // namespace

Result<std::unique_ptr<TokenDecoder>> TokenDecoder::parse(const Json& step) {
  if (step.is_null()) return std::unique_ptr<TokenDecoder>();
  return parse_at(step, 0);
}

}  // namespace nbl

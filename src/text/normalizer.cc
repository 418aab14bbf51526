#include "text/normalizer.h"

#include <utf8proc.h>

#include <vector>

#include "base/utf8.h"
#include "text/byte_level.h"
#include "text/charsmap.h"
#include "text/step.h"
#include "text/text_pattern.h"
#include "text/unicode.h"

namespace nbl {
namespace {

Status check_size(size_t bytes) {
  if (bytes <= kLargestText) return {};
  return error(Code::kArgument, "the normalized text would be longer than %zu bytes", kLargestText);
}

// Applies change(code_point, out) to each character; the result stands for that character alone.
template <typename Change>
AlignedText each_character(const AlignedText& text, Change change) {
  TextBuilder builder(text);
  std::string changed;
  for (size_t at = 0; at < text.text.size();) {
    const size_t begin = at;
    const uint32_t code_point = utf8_next(text.text, at);
    changed.clear();
    change(code_point, changed);
    builder.put(changed, begin, at);
  }
  return builder.take();
}

class UnicodeForm final : public Normalizer {
 public:
  explicit UnicodeForm(unicode::NormalForm form)
      : compatibility_(form == unicode::NormalForm::kNfkc || form == unicode::NormalForm::kNfkd),
        compose_(form == unicode::NormalForm::kNfc || form == unicode::NormalForm::kNfkc) {}

  Status apply(AlignedText& text, Regex::Scratch&) const override {
    const std::string& in = text.text;
    size_t at = skip_ascii(in, 0);
    if (at == in.size()) return {};
    TextBuilder builder(text);
    std::vector<int32_t> segment, one;
    builder.keep(0, at);
    while (at < in.size()) {
      // One segment: everything up to the next character that nothing before it can change.
      const size_t begin = at;
      segment.clear();
      unicode::decompose(utf8_next(in, at), compatibility_, segment);
      while (at < in.size()) {
        size_t after = at;
        one.clear();
        unicode::decompose(utf8_next(in, after), compatibility_, one);
        if (unicode::starts_segment(static_cast<uint32_t>(one[0]))) break;
        segment.insert(segment.end(), one.begin(), one.end());
        at = after;
      }
      unicode::finish_segment(segment, compose_);
      put(builder, in, begin, at, segment);
      const size_t ascii = skip_ascii(in, at);
      builder.keep(at, ascii);
      at = ascii;
    }
    text = builder.take();
    return {};
  }

 private:
  // ASCII is in every normal form; only the last of a run may join what follows it.
  static size_t skip_ascii(const std::string& in, size_t at) {
    const size_t begin = at;
    while (at < in.size() && static_cast<uint8_t>(in[at]) < 0x80) ++at;
    return at == in.size() || at == begin ? at : at - 1;
  }

  static void put(TextBuilder& builder, const std::string& in, size_t begin, size_t end, const std::vector<int32_t>& segment) {
    std::string bytes;
    for (const int32_t c : segment) utf8_append(bytes, static_cast<uint32_t>(c));
    if (in.compare(begin, end - begin, bytes) == 0) {
      builder.keep(begin, end);
    } else {
      builder.put(bytes, begin, end);
    }
  }

  bool compatibility_, compose_;
};

class Lowercase final : public Normalizer {
 public:
  Status apply(AlignedText& text, Regex::Scratch&) const override {
    text = each_character(text, [](uint32_t c, std::string& out) { unicode::append_lowercase(out, c); });
    return {};
  }
};

class StripAccents final : public Normalizer {
 public:
  Status apply(AlignedText& text, Regex::Scratch&) const override {
    text = each_character(text, [](uint32_t c, std::string& out) {
      if (!unicode::is_accent(c)) utf8_append(out, c);
    });
    return {};
  }
};

class Nmt final : public Normalizer {
 public:
  Status apply(AlignedText& text, Regex::Scratch&) const override {
    text = each_character(text, [](uint32_t c, std::string& out) {
      const bool removed = (c >= 1 && c <= 8) || c == 0xB || (c >= 0xE && c <= 0x1F) || c == 0x7F || c == 0x8F || c == 0x9F;
      const bool space = c == 9 || c == 0xA || c == 0xC || c == 0xD || c == 0x1680 || (c >= 0x200B && c <= 0x200F) ||
                         c == 0x2028 || c == 0x2029 || c == 0x2581 || c == 0xFEFF || c == 0xFFFD;
      if (!removed) utf8_append(out, space ? ' ' : c);
    });
    return {};
  }
};

class ByteLetters final : public Normalizer {
 public:
  Status apply(AlignedText& text, Regex::Scratch&) const override {
    TextBuilder builder(text);
    for (size_t i = 0; i < text.text.size(); ++i) builder.put(byte_letter(static_cast<uint8_t>(text.text[i])), i, i + 1);
    text = builder.take();
    return {};
  }
};

class Strip final : public Normalizer {
 public:
  Strip(bool left, bool right) : left_(left), right_(right) {}

  Status apply(AlignedText& text, Regex::Scratch&) const override {
    const std::string& in = text.text;
    size_t begin = 0, end = in.size();
    for (size_t at = 0; left_ && at < in.size() && unicode::is_space(utf8_next(in, at));) begin = at;
    while (right_ && end > begin) {
      size_t last = end - 1;
      while (last > begin && (static_cast<uint8_t>(in[last]) & 0xC0) == 0x80) --last;
      size_t at = last;
      if (!unicode::is_space(utf8_next(in, at))) break;
      end = last;
    }
    if (begin == 0 && end == in.size()) return {};
    TextBuilder builder(text);
    builder.keep(begin, end);
    text = builder.take();
    return {};
  }

 private:
  bool left_, right_;
};

class Affix final : public Normalizer {
 public:
  Affix(std::string before, std::string after) : before_(std::move(before)), after_(std::move(after)) {}

  Status apply(AlignedText& text, Regex::Scratch&) const override {
    if (text.text.empty()) return {};
    TextBuilder builder(text);
    builder.put(before_, 0, 0);
    builder.keep(0, text.text.size());
    builder.put(after_, text.text.size(), text.text.size());
    text = builder.take();
    return {};
  }

 private:
  std::string before_, after_;
};

class Replace final : public Normalizer {
 public:
  Replace(TextPattern pattern, std::string content) : pattern_(std::move(pattern)), content_(std::move(content)) {}

  Status apply(AlignedText& text, Regex::Scratch& scratch) const override {
    if (text.text.empty()) return {};  // no pattern matches in nothing
    TextBuilder builder(text);
    size_t done = 0;
    Status too_long;
    NBL_RETURN_IF_ERROR(pattern_.each(text.text, scratch, [&](size_t begin, size_t end) {
      if (!too_long.ok()) return;
      builder.keep(done, begin);
      builder.put(content_, begin, end);
      done = end;
      too_long = check_size(builder.size());
    }));
    NBL_RETURN_IF_ERROR(too_long);
    if (done == 0 && builder.size() == 0) return {};  // nothing matched
    builder.keep(done, text.text.size());
    text = builder.take();
    return {};
  }

 private:
  TextPattern pattern_;
  std::string content_;
};

// SentencePiece's character map, grapheme by grapheme, as the `tokenizers` package applies it (sentencepiece itself
// takes the longest key at each place instead).
class Precompiled final : public Normalizer {
 public:
  explicit Precompiled(Charsmap map) : map_(std::move(map)) {}

  Status apply(AlignedText& text, Regex::Scratch&) const override {
    const std::string& in = text.text;
    TextBuilder builder(text);
    for (size_t begin = 0; begin < in.size();) {
      const size_t end = grapheme_end(in, begin);
      const char* whole = end - begin < 6 ? map_.replacement(std::string_view(in).substr(begin, end - begin)) : nullptr;
      if (whole) {
        builder.put(whole, begin, end);
      } else {
        for (size_t at = begin; at < end;) {
          const size_t from = at;
          utf8_next(in, at);
          const char* one = map_.replacement(std::string_view(in).substr(from, at - from));
          if (one) {
            builder.put(one, from, at);
          } else {
            builder.keep(from, at);
          }
        }
      }
      begin = end;
      NBL_RETURN_IF_ERROR(check_size(builder.size()));
    }
    text = builder.take();
    return {};
  }

 private:
  static size_t grapheme_end(const std::string& in, size_t at) {
    utf8proc_int32_t state = 0;
    uint32_t before = utf8_next(in, at);
    while (at < in.size()) {
      size_t after = at;
      const uint32_t next = utf8_next(in, after);
      if (before < 0x80 && next < 0x80 ? !(before == '\r' && next == '\n')
                                       : utf8proc_grapheme_break_stateful(static_cast<utf8proc_int32_t>(before),
                                                                          static_cast<utf8proc_int32_t>(next), &state)) {
        break;
      }
      before = next;
      at = after;
    }
    return at;
  }

  Charsmap map_;
};

class BertNormalizer final : public Normalizer {
 public:
  BertNormalizer(bool clean_text, bool handle_chinese_chars, bool strip_accents, bool lowercase)
      : clean_text_(clean_text), handle_chinese_chars_(handle_chinese_chars), strip_accents_(strip_accents), lowercase_(lowercase) {}

  Status apply(AlignedText& text, Regex::Scratch& scratch) const override {
    if (clean_text_ || handle_chinese_chars_) {
      text = each_character(text, [this](uint32_t c, std::string& out) {
        if (clean_text_ && unicode::is_bert_control(c)) return;
        if (clean_text_ && unicode::is_bert_space(c)) c = ' ';
        const bool apart = handle_chinese_chars_ && unicode::is_bert_cjk(c);
        if (apart) out += ' ';
        utf8_append(out, c);
        if (apart) out += ' ';
      });
    }
    if (strip_accents_) {
      NBL_RETURN_IF_ERROR(UnicodeForm(unicode::NormalForm::kNfd).apply(text, scratch));
      text = each_character(text, [](uint32_t c, std::string& out) {
        if (!unicode::is_bert_accent(c)) utf8_append(out, c);
      });
    }
    return lowercase_ ? Lowercase().apply(text, scratch) : Status();
  }

 private:
  bool clean_text_, handle_chinese_chars_, strip_accents_, lowercase_;
};

class Sequence final : public Normalizer {
 public:
  explicit Sequence(std::vector<std::unique_ptr<Normalizer>> steps) : steps_(std::move(steps)) {}

  Status apply(AlignedText& text, Regex::Scratch& scratch) const override {
    for (const auto& step : steps_) {
      NBL_RETURN_IF_ERROR(step->apply(text, scratch));
      NBL_RETURN_IF_ERROR(check_size(text.text.size()));
    }
    return {};
  }

 private:
  std::vector<std::unique_ptr<Normalizer>> steps_;
};

using Made = Result<std::unique_ptr<Normalizer>>;

template <typename Step, typename... Args>
Made make(Args&&... args) {
  return Made(std::make_unique<Step>(std::forward<Args>(args)...));
}

Made make_bert(const Json& step) {
  NBL_ASSIGN_OR_RETURN(const bool clean_text, json_bool(step, "clean_text", true));
  NBL_ASSIGN_OR_RETURN(const bool handle_chinese_chars, json_bool(step, "handle_chinese_chars", true));
  NBL_ASSIGN_OR_RETURN(const bool lowercase, json_bool(step, "lowercase", true));
  // Not said: accents go if the case goes.
  NBL_ASSIGN_OR_RETURN(const bool strip_accents, json_bool(step, "strip_accents", lowercase));
  return make<BertNormalizer>(clean_text, handle_chinese_chars, strip_accents, lowercase);
}

Made parse_at(const Json& step, int depth) {
  if (depth > kDeepestStep) return error(Code::kFormat, "normalizers are nested deeper than %d", kDeepestStep);
  NBL_ASSIGN_OR_RETURN(const std::string type, step_type(step, "normalizer"));
  if (type == "NFC") return make<UnicodeForm>(unicode::NormalForm::kNfc);
  if (type == "NFD") return make<UnicodeForm>(unicode::NormalForm::kNfd);
  if (type == "NFKC") return make<UnicodeForm>(unicode::NormalForm::kNfkc);
  if (type == "NFKD") return make<UnicodeForm>(unicode::NormalForm::kNfkd);
  if (type == "Lowercase") return make<Lowercase>();
  if (type == "StripAccents") return make<StripAccents>();
  if (type == "Nmt") return make<Nmt>();
  if (type == "ByteLevel") return make<ByteLetters>();
  if (type == "BertNormalizer") return make_bert(step);
  if (type == "Strip" || type == "StripNormalizer") {
    NBL_ASSIGN_OR_RETURN(const bool left, required_bool(step, "strip_left", type));
    NBL_ASSIGN_OR_RETURN(const bool right, required_bool(step, "strip_right", type));
    return make<Strip>(left, right);
  }
  if (type == "Prepend") {
    NBL_ASSIGN_OR_RETURN(std::string before, required_str(step, "prepend", type));
    return make<Affix>(std::move(before), std::string());
  }
  if (type == "Append") {
    NBL_ASSIGN_OR_RETURN(std::string after, required_str(step, "append", type));
    return make<Affix>(std::string(), std::move(after));
  }
  if (type == "Replace") {
    NBL_ASSIGN_OR_RETURN(TextPattern pattern, TextPattern::parse(step, type));
    NBL_ASSIGN_OR_RETURN(std::string content, required_str(step, "content", type));
    return make<Replace>(std::move(pattern), std::move(content));
  }
  if (type == "Precompiled") {
    NBL_ASSIGN_OR_RETURN(const std::string base64, json_str(step, "precompiled_charsmap", ""));
    // An empty map changes nothing; some conversions write null or "".
    if (base64.empty()) return make<Sequence>(std::vector<std::unique_ptr<Normalizer>>());
    NBL_ASSIGN_OR_RETURN(Charsmap map, Charsmap::decode(base64));
    return make<Precompiled>(std::move(map));
  }
  if (type == "Sequence") {
    NBL_ASSIGN_OR_RETURN(const Json* list, required_list(step, "normalizers", type));
    std::vector<std::unique_ptr<Normalizer>> steps;
    for (const Json& inner : *list) {
      NBL_ASSIGN_OR_RETURN(std::unique_ptr<Normalizer> parsed, parse_at(inner, depth + 1));
      steps.push_back(std::move(parsed));
    }
    return make<Sequence>(std::move(steps));
  }
  return unknown_step("normalizer", type);
}

}  // namespace

Result<std::unique_ptr<Normalizer>> Normalizer::parse(const Json& step) {
  if (step.is_null()) return std::unique_ptr<Normalizer>();
  return parse_at(step, 0);
}

}  // namespace nbl

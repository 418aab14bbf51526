#include "text/pre_tokenizer.h"

#include "base/utf8.h"
#include "text/byte_level.h"
#include "text/split_matcher.h"
#include "text/step.h"
#include "text/text_pattern.h"
#include "text/unicode.h"

namespace nbl {
namespace {

enum class Behavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

struct Part {
  Piece range;
  bool is_match;
};

// Covers a piece with matches and what lies between them, then joins them as the behavior says.
class Splitter {
 public:
  Splitter(Behavior behavior, bool invert) : behavior_(behavior), invert_(invert) {}

  void begin(Piece piece) {
    parts_.clear();
    piece_ = piece;
    done_ = piece.begin;
  }
  // Offsets are relative to the piece.
  void match(size_t begin, size_t end) {
    const auto from = static_cast<uint32_t>(piece_.begin + begin), to = static_cast<uint32_t>(piece_.begin + end);
    if (from > done_) parts_.push_back({{done_, from}, invert_});
    parts_.push_back({{from, to}, !invert_});
    done_ = to;
  }
  void end(std::vector<Piece>& out) {
    if (done_ < piece_.end) parts_.push_back({{done_, piece_.end}, invert_});
    if (behavior_ == Behavior::kMergedWithNext) {
      merge_backwards(out);
      return;
    }
    bool previous = false, any = false;
    for (const Part& part : parts_) {
      const bool joins = any && ((behavior_ == Behavior::kContiguous && part.is_match == previous) ||
                                 (behavior_ == Behavior::kMergedWithPrevious && part.is_match && !previous));
      previous = part.is_match;
      if (behavior_ == Behavior::kRemoved && part.is_match) continue;
      if (joins) {
        pending_.end = part.range.end;
        continue;
      }
      if (any) add(out, pending_);
      pending_ = part.range;
      any = true;
    }
    if (any) add(out, pending_);
  }

 private:
  static void add(std::vector<Piece>& out, Piece piece) {
    if (piece.end > piece.begin) out.push_back(piece);
  }
  // A match joins the part after it, unless that is a match too.
  void merge_backwards(std::vector<Piece>& out) {
    const size_t first = out.size();
    bool previous = false, any = false;
    for (size_t i = parts_.size(); i-- > 0;) {
      const Part& part = parts_[i];
      if (any && part.is_match && !previous) {
        pending_.begin = part.range.begin;
      } else {
        if (any) add(out, pending_);
        pending_ = part.range;
        any = true;
      }
      previous = part.is_match;
    }
    if (any) add(out, pending_);
    for (size_t i = first, j = out.size(); i + 1 < j; ++i) std::swap(out[i], out[--j]);
  }

  Behavior behavior_;
  bool invert_;
  Piece piece_{0, 0};
  Piece pending_{0, 0};
  uint32_t done_ = 0;
  std::vector<Part> parts_;
};

std::string_view view(const PreTokenized& state, Piece piece) {
  return std::string_view(state.text.text).substr(piece.begin, piece.end - piece.begin);
}

class Split final : public PreTokenizer {
 public:
  Split(TextPattern pattern, Behavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {
    const bool keeps_all = behavior == Behavior::kIsolated || (behavior == Behavior::kRemoved && invert);
    if (pattern_.is_regex() && keeps_all) matcher_ = SplitMatcher::for_pattern(pattern_.text());
  }

  Status apply(PreTokenized& state, Regex::Scratch& scratch) const override {
    std::vector<Piece> out;
    if (matcher_) {
      out.reserve(state.text.text.size() / 4 + 1);
      for (const Piece piece : state.pieces) tile(view(state, piece), piece.begin, *matcher_, out);
    } else {
      Splitter splitter(behavior_, invert_);
      for (const Piece piece : state.pieces) {
        splitter.begin(piece);
        NBL_RETURN_IF_ERROR(pattern_.each(view(state, piece), scratch,
                                          [&](size_t begin, size_t end) { splitter.match(begin, end); }));
        splitter.end(out);
      }
    }
    state.pieces = std::move(out);
    return {};
  }

  static void tile(std::string_view text, uint32_t base, const SplitMatcher& matcher, std::vector<Piece>& out) {
    for (size_t at = 0; at < text.size();) {
      const size_t end = matcher.end_of_match(text, at);
      out.push_back({base + static_cast<uint32_t>(at), base + static_cast<uint32_t>(end)});
      at = end;
    }
  }

 private:
  TextPattern pattern_;
  Behavior behavior_;
  bool invert_;
  std::optional<SplitMatcher> matcher_;
};

// Splits at every character that `is_delimiter` takes.
template <typename Test>
class SplitAt final : public PreTokenizer {
 public:
  SplitAt(Test is_delimiter, Behavior behavior) : is_delimiter_(is_delimiter), behavior_(behavior) {}

  Status apply(PreTokenized& state, Regex::Scratch&) const override {
    std::vector<Piece> out;
    Splitter splitter(behavior_, false);
    for (const Piece piece : state.pieces) {
      splitter.begin(piece);
      const std::string_view text = view(state, piece);
      for (size_t at = 0; at < text.size();) {
        const size_t begin = at;
        if (is_delimiter_(utf8_next(text, at))) splitter.match(begin, at);
      }
      splitter.end(out);
    }
    state.pieces = std::move(out);
    return {};
  }

 private:
  Test is_delimiter_;
  Behavior behavior_;
};

// Cuts between two neighbours wherever `apart` says so; characters that are `dropped` separate and vanish.
template <typename Apart>
class CutBetween final : public PreTokenizer {
 public:
  explicit CutBetween(Apart apart) : apart_(apart) {}

  Status apply(PreTokenized& state, Regex::Scratch&) const override {
    std::vector<Piece> out;
    for (const Piece piece : state.pieces) apart_(view(state, piece), piece.begin, out);
    state.pieces = std::move(out);
    return {};
  }

 private:
  Apart apart_;
};

void push(std::vector<Piece>& out, uint32_t base, size_t begin, size_t end) {
  if (end > begin) out.push_back({base + static_cast<uint32_t>(begin), base + static_cast<uint32_t>(end)});
}

// Whitespace: \w+|[^\w\s]+
void cut_words(std::string_view text, uint32_t base, std::vector<Piece>& out) {
  size_t begin = 0;
  int before = -1;
  for (size_t at = 0; at < text.size();) {
    const size_t from = at;
    const uint32_t c = utf8_next(text, at);
    const int kind = unicode::is_space(c) ? 0 : unicode::is_word(c) ? 1 : 2;
    if (kind != before) {
      if (before > 0) push(out, base, begin, from);
      begin = from;
      before = kind;
    }
  }
  if (before > 0) push(out, base, begin, text.size());
}

// A new piece where the script changes; characters of no script go with what is before them.
void cut_scripts(std::string_view text, uint32_t base, std::vector<Piece>& out) {
  size_t begin = 0;
  int last = -1;  // none yet
  bool started = false;
  for (size_t at = 0; at < text.size();) {
    const size_t from = at;
    const int script = unicode::script(utf8_next(text, at));
    if (script != 0 && script != last) {
      if (started) push(out, base, begin, from);
      begin = from;
      started = true;
    }
    if (script != 0) last = script;
  }
  if (started) push(out, base, begin, text.size());
}

class FixedLength final : public PreTokenizer {
 public:
  explicit FixedLength(size_t length) : length_(length) {}

  Status apply(PreTokenized& state, Regex::Scratch&) const override {
    std::vector<Piece> out;
    for (const Piece piece : state.pieces) {
      const std::string_view text = view(state, piece);
      size_t begin = 0, count = 0;
      for (size_t at = 0; at < text.size();) {
        utf8_next(text, at);
        if (++count < length_) continue;
        push(out, piece.begin, begin, at);
        begin = at;
        count = 0;
      }
      push(out, piece.begin, begin, text.size());
    }
    state.pieces = std::move(out);
    return {};
  }

 private:
  size_t length_;  // in characters
};

// Rewrites every piece: change(piece, builder) puts its new text.
template <typename Change>
void rewrite(PreTokenized& state, Change change) {
  TextBuilder builder(state.text);
  std::vector<Piece> pieces;
  pieces.reserve(state.pieces.size());
  for (const Piece piece : state.pieces) {
    const auto begin = static_cast<uint32_t>(builder.size());
    change(piece, builder);
    if (builder.size() > begin) pieces.push_back({begin, static_cast<uint32_t>(builder.size())});
  }
  state.text = builder.take();
  state.pieces = std::move(pieces);
}

class ByteLevel final : public PreTokenizer {
 public:
  ByteLevel(bool add_prefix_space, bool use_regex)
      : add_prefix_space_(add_prefix_space), use_regex_(use_regex), matcher_(SplitMatcher::gpt2()) {}

  Status apply(PreTokenized& state, Regex::Scratch&) const override {
    if (add_prefix_space_) {
      rewrite(state, [&](Piece piece, TextBuilder& builder) {
        // The space belongs to the first character, as its neighbour in the original.
        if (state.text.text[piece.begin] != ' ') builder.put(" ", piece.begin, piece.begin);
        builder.keep(piece.begin, piece.end);
      });
    }
    if (use_regex_) {
      std::vector<Piece> out;
      out.reserve(state.text.text.size() / 4 + 1);
      for (const Piece piece : state.pieces) Split::tile(view(state, piece), piece.begin, matcher_, out);
      state.pieces = std::move(out);
    }
    if (leave_bytes_) {
      state.raw_bytes = true;
      return {};
    }
    rewrite(state, [&](Piece piece, TextBuilder& builder) {
      for (size_t i = piece.begin; i < piece.end; ++i) {
        builder.put(byte_letter(static_cast<uint8_t>(state.text.text[i])), i, i + 1);
      }
    });
    return {};
  }

  bool is_byte_level() const override { return true; }
  void leave_bytes() override { leave_bytes_ = true; }

 private:
  bool add_prefix_space_, use_regex_;
  bool leave_bytes_ = false;
  SplitMatcher matcher_;
};

enum class Prepend { kAlways, kFirst, kNever };

class Metaspace final : public PreTokenizer {
 public:
  Metaspace(uint32_t replacement, Prepend prepend, bool split) : prepend_(prepend), split_(split) {
    utf8_append(replacement_, replacement);
  }

  Status apply(PreTokenized& state, Regex::Scratch&) const override {
    rewrite(state, [&](Piece piece, TextBuilder& builder) {
      const std::string& in = state.text.text;
      const bool has_one = in[piece.begin] == ' ' || in.compare(piece.begin, replacement_.size(), replacement_) == 0;
      const bool is_first = prepend_ == Prepend::kFirst && state.text.span(piece.begin, piece.begin + 1).begin == 0;
      if (!has_one && (prepend_ == Prepend::kAlways || is_first)) {
        builder.put(replacement_, piece.begin, piece.begin);
      }
      for (size_t i = piece.begin; i < piece.end;) {
        size_t end = i;
        while (end < piece.end && in[end] != ' ') ++end;
        builder.keep(i, end);
        if (end < piece.end) builder.put(replacement_, end, end + 1);
        i = end + 1;
      }
    });
    if (!split_) return {};
    std::vector<Piece> out;
    Splitter splitter(Behavior::kMergedWithNext, false);
    for (const Piece piece : state.pieces) {
      const std::string_view text = view(state, piece);
      splitter.begin(piece);
      for (size_t at = text.find(replacement_); at != std::string_view::npos; at = text.find(replacement_, at + 1)) {
        splitter.match(at, at + replacement_.size());
      }
      splitter.end(out);
    }
    state.pieces = std::move(out);
    return {};
  }
  bool needs_origin() const override { return prepend_ == Prepend::kFirst; }

 private:
  std::string replacement_;
  Prepend prepend_;
  bool split_;
};

using Steps = std::vector<std::unique_ptr<PreTokenizer>>;

Result<Behavior> parse_behavior(const Json& step, const std::string& owner, const char* fallback) {
  NBL_ASSIGN_OR_RETURN(const std::string name, json_str(step, "behavior", fallback));
  if (name == "Removed") return Behavior::kRemoved;
  if (name == "Isolated") return Behavior::kIsolated;
  if (name == "MergedWithPrevious") return Behavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return Behavior::kMergedWithNext;
  if (name == "Contiguous") return Behavior::kContiguous;
  return error(Code::kUnsupported,
               "%s has the behavior \"%s\", expected Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous", owner.c_str(),
               name.c_str());
}

template <typename Test>
void add_split_at(Steps& out, Test test, Behavior behavior) {
  out.push_back(std::make_unique<SplitAt<Test>>(test, behavior));
}

template <typename Cut>
void add_cut(Steps& out, Cut cut) {
  out.push_back(std::make_unique<CutBetween<Cut>>(cut));
}

Status add_metaspace(const Json& step, Steps& out) {
  NBL_ASSIGN_OR_RETURN(const uint32_t replacement, required_character(step, "replacement", "Metaspace"));
  // Files of before 2024 say add_prefix_space instead of prepend_scheme.
  NBL_ASSIGN_OR_RETURN(const bool add_prefix_space, json_bool(step, "add_prefix_space", true));
  NBL_ASSIGN_OR_RETURN(const std::string scheme, json_str(step, "prepend_scheme", add_prefix_space ? "always" : "never"));
  NBL_ASSIGN_OR_RETURN(const bool split, json_bool(step, "split", true));
  if (scheme != "always" && scheme != "first" && scheme != "never") {
    return error(Code::kUnsupported, "Metaspace has the prepend_scheme \"%s\", expected always, first or never", scheme.c_str());
  }
  const Prepend prepend = scheme == "always" ? Prepend::kAlways : scheme == "first" ? Prepend::kFirst : Prepend::kNever;
  out.push_back(std::make_unique<Metaspace>(replacement, prepend, split));
  return {};
}

Status add_step(const Json& step, int depth, Steps& out) {
  if (depth > kDeepestStep) return error(Code::kFormat, "pre-tokenizers are nested deeper than %d", kDeepestStep);
  NBL_ASSIGN_OR_RETURN(const std::string type, step_type(step, "pre_tokenizer"));
  if (type == "Sequence") {
    NBL_ASSIGN_OR_RETURN(const Json* list, required_list(step, "pretokenizers", type));
    for (const Json& inner : *list) NBL_RETURN_IF_ERROR(add_step(inner, depth + 1, out));
  } else if (type == "ByteLevel") {
    NBL_ASSIGN_OR_RETURN(const bool add_prefix_space, json_bool(step, "add_prefix_space", true));
    NBL_ASSIGN_OR_RETURN(const bool use_regex, json_bool(step, "use_regex", true));
    out.push_back(std::make_unique<ByteLevel>(add_prefix_space, use_regex));
  } else if (type == "Split") {
    NBL_ASSIGN_OR_RETURN(TextPattern pattern, TextPattern::parse(step, type));
    NBL_ASSIGN_OR_RETURN(const Behavior behavior, parse_behavior(step, type, ""));
    NBL_ASSIGN_OR_RETURN(const bool invert, json_bool(step, "invert", false));
    out.push_back(std::make_unique<Split>(std::move(pattern), behavior, invert));
  } else if (type == "Metaspace") {
    return add_metaspace(step, out);
  } else if (type == "Digits") {
    NBL_ASSIGN_OR_RETURN(const bool individual, json_bool(step, "individual_digits", false));
    add_split_at(out, unicode::is_numeric, individual ? Behavior::kIsolated : Behavior::kContiguous);
  } else if (type == "Punctuation") {
    NBL_ASSIGN_OR_RETURN(const Behavior behavior, parse_behavior(step, type, "Isolated"));
    add_split_at(out, unicode::is_punctuation_step, behavior);
  } else if (type == "Whitespace") {
    add_cut(out, cut_words);
  } else if (type == "WhitespaceSplit") {
    add_split_at(out, unicode::is_space, Behavior::kRemoved);
  } else if (type == "BertPreTokenizer") {
    add_split_at(out, unicode::is_space, Behavior::kRemoved);
    add_split_at(out, unicode::is_punctuation_step, Behavior::kIsolated);
  } else if (type == "UnicodeScripts") {
    add_cut(out, cut_scripts);
  } else if (type == "CharDelimiterSplit") {
    NBL_ASSIGN_OR_RETURN(const uint32_t delimiter, required_character(step, "delimiter", type));
    add_split_at(out, [delimiter](uint32_t c) { return c == delimiter; }, Behavior::kRemoved);
  } else if (type == "FixedLength") {
    NBL_ASSIGN_OR_RETURN(const int64_t length, json_i64(step, "length", 5));
    if (length < 1) return error(Code::kFormat, "FixedLength has the length %lld", static_cast<long long>(length));
    out.push_back(std::make_unique<FixedLength>(static_cast<size_t>(length)));
  } else {
    return unknown_step("pre_tokenizer", type);
  }
  return {};
}

}  // namespace

Result<std::vector<std::unique_ptr<PreTokenizer>>> PreTokenizer::parse(const Json& step) {
  Steps steps;
  if (!step.is_null()) NBL_RETURN_IF_ERROR(add_step(step, 0, steps));
  return steps;
}

}  // namespace nbl

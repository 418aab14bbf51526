#include "text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace nbl {
namespace {

// Backtracking steps for one match. The patterns of published tokenizers need a handful per character of the match.
constexpr uint32_t kMatchLimit = 20'000'000;
constexpr uint32_t kHeapLimitKiB = 64 * 1024;
constexpr uint32_t kDepthLimit = 1'000'000;
constexpr size_t kJitStackLargest = 4 << 20;
constexpr size_t kLongestPattern = 64 * 1024;

}  // namespace

struct Regex::Scratch::State {
  pcre2_match_data* match = pcre2_match_data_create(1, nullptr);  // only the whole match is wanted
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = nullptr;

  ~State() {
    pcre2_match_data_free(match);
    pcre2_match_context_free(context);
    pcre2_jit_stack_free(stack);
  }
};

Regex::Scratch::Scratch() : state_(std::make_unique<State>()) {
  pcre2_set_match_limit(state_->context, kMatchLimit);
  pcre2_set_depth_limit(state_->context, kDepthLimit);
  pcre2_set_heap_limit(state_->context, kHeapLimitKiB);
  state_->stack = pcre2_jit_stack_create(32 * 1024, kJitStackLargest, nullptr);
  pcre2_jit_stack_assign(state_->context, nullptr, state_->stack);
}

Regex::Scratch::~Scratch() = default;

Result<std::shared_ptr<const Regex>> Regex::compile(std::string_view pattern) {
  if (pattern.size() > kLongestPattern) {
    return error(Code::kUnsupported, "a regex of %zu bytes is longer than the %zu supported", pattern.size(), kLongestPattern);
  }
  NBL_ASSIGN_OR_RETURN(const std::string translated, translate_oniguruma(pattern));
  pcre2_compile_context* context = pcre2_compile_context_create(nullptr);
  pcre2_set_newline(context, PCRE2_NEWLINE_LF);  // `.`, ^ and $ know only \n in Oniguruma
  int code = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* compiled =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &code, &offset, context);
  pcre2_compile_context_free(context);
  if (!compiled) {
    PCRE2_UCHAR text[160] = {0};
    pcre2_get_error_message(code, text, sizeof(text));
    return error(Code::kUnsupported, "the regex %.*s cannot be compiled: %s", static_cast<int>(pattern.size()),
                 pattern.data(), reinterpret_cast<const char*>(text));
  }
  std::shared_ptr<Regex> regex(new Regex);
  regex->pattern_ = std::string(pattern);
  regex->code_ = compiled;
  regex->compiled_to_machine_code_ = pcre2_jit_compile(compiled, PCRE2_JIT_COMPLETE) == 0;
  return std::shared_ptr<const Regex>(std::move(regex));
}

Regex::~Regex() { pcre2_code_free(static_cast<pcre2_code*>(code_)); }

Result<Regex::Match> Regex::find(std::string_view text, size_t from, Scratch& scratch) const {
  const auto* code = static_cast<const pcre2_code*>(code_);
  Scratch::State& state = *scratch.state_;
  const char* data = text.empty() ? "" : text.data();
  int found = PCRE2_ERROR_JIT_BADOPTION;
  if (compiled_to_machine_code_) {
    found = pcre2_jit_match(code, reinterpret_cast<PCRE2_SPTR>(data), text.size(), from, 0, state.match, state.context);
  }
  if (found == PCRE2_ERROR_JIT_BADOPTION || found == PCRE2_ERROR_JIT_STACKLIMIT) {
    found = pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(data), text.size(), from,
                        PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, state.match, state.context);
  }
  if (found == PCRE2_ERROR_NOMATCH) return Match{std::string_view::npos, std::string_view::npos};
  if (found < 0) {
    PCRE2_UCHAR reason[160] = {0};
    pcre2_get_error_message(found, reason, sizeof(reason));
    return error(Code::kUnsupported, "the regex %s gave up on the text at byte %zu: %s", pattern_.c_str(), from,
                 reinterpret_cast<const char*>(reason));
  }
  const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(state.match);
  // \K in a lookahead can set the start behind the end; such a match is treated as empty.
  return Match{ends[0] < ends[1] ? ends[0] : ends[1], ends[1]};
}

size_t Regex::next_character(std::string_view text, size_t at) {
  ++at;
  while (at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) ++at;
  return at;
}

}  // namespace nbl

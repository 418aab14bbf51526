// nbl_session_*.
#include "engine/session.h"

#include <algorithm>
#include <cmath>

#include "api/guard.h"
#include "api/impl.gen.h"
#include "api/options.h"

namespace nbl::impl {
namespace {

Status set(nbl_session* s, nbl_option option, const api::OptionValue& value) {
  NBL_ASSIGN_OR_RETURN(const api::OptionRow* row, api::require_option(option));
  return api::apply_generation(*row, value, s->session->generation());
}

}  // namespace

Status session_create(nbl_model* m, const nbl_config* c, nbl_session** out) {
  NBL_ASSIGN_OR_RETURN(const SessionOptions options, api::session_options(c));
  auto handle = std::make_unique<nbl_session>();
  NBL_ASSIGN_OR_RETURN(handle->session, Session::create(m->model, options));
  NBL_RETURN_IF_ERROR(api::apply_generation(c, handle->session->generation()));
  *out = handle.release();
  return {};
}

void session_release(nbl_session* s) noexcept { delete s; }

Status session_set_i64(nbl_session* s, nbl_option option, int64_t value) { return set(s, option, value); }
Status session_set_f64(nbl_session* s, nbl_option option, double value) { return set(s, option, value); }

Status session_add_str(nbl_session* s, nbl_option option, std::string_view value) {
  NBL_ASSIGN_OR_RETURN(const api::OptionRow* row, api::require_option(option));
  GenerationOptions& generation = s->session->generation();
  std::vector<std::string> list;
  if (option == NBL_OPT_STOP) list = generation.stop_strings;
  if (option == NBL_OPT_STOP_IDS) {
    for (int32_t id : generation.stop_ids) list.push_back(std::to_string(id));
  }
  list.emplace_back(value);
  return api::apply_generation(*row, list, generation);
}

Status session_clear(nbl_session* s, nbl_option option) {
  NBL_ASSIGN_OR_RETURN(const api::OptionRow* row, api::require_option(option));
  return api::reset_generation(*row, s->session->model(), s->session->generation());
}

Status session_bias(nbl_session* s, const nbl_token* ids, size_t ids_count, const float* bias) {
  const int64_t vocab_size = s->session->model().config().vocab_size;
  std::vector<std::pair<int32_t, float>> pairs;
  for (size_t i = 0; i < ids_count; ++i) {
    if (ids[i] < 0 || ids[i] >= vocab_size) {
      return error(Code::kArgument, "the token %d is outside the vocabulary of 0 to %lld", ids[i], static_cast<long long>(vocab_size - 1));
    }
    if (std::isnan(bias[i])) return error(Code::kArgument, "the bias of token %d is NaN; infinities forbid and force", ids[i]);
    pairs.emplace_back(ids[i], bias[i]);
  }
  s->session->generation().bias = std::move(pairs);
  return {};
}

Status session_append(nbl_session* s, const nbl_token* ids, size_t ids_count) {
  return s->session->append(ids, static_cast<int64_t>(ids_count));
}

Status session_append_text(nbl_session* s, std::string_view text, uint32_t flags) {
  NBL_RETURN_IF_ERROR(api::check_flags(flags, api::kTokenizeFlags));
  return s->session->append_text(text, api::encode_options(flags));
}

Status session_append_chat(nbl_session* s, std::string_view request) {
  NBL_ASSIGN_OR_RETURN(const Json value, parse_json(request, "the request"));
  return s->session->append_chat(value);
}

Status session_begin(nbl_session* s, int64_t max_tokens) { return s->session->begin(max_tokens); }

Status session_next(nbl_session* s, nbl_token* id, char* buf, size_t buf_capacity, size_t* buf_len) {
  *buf_len = 0;
  const GeneratedToken* token = nullptr;
  NBL_RETURN_IF_ERROR(s->session->next(&token));
  NBL_RETURN_IF_ERROR(api::fill_buffer(token->text, buf, buf_capacity, buf_len));
  if (id) *id = token->id;
  s->session->take();
  return {};
}

Status session_generate(nbl_session* s, std::string_view prompt, int64_t max_tokens, std::string& out) {
  NBL_ASSIGN_OR_RETURN(out, s->session->generate(prompt, api::encode_options(NBL_TOKENIZE_ADD_SPECIAL), max_tokens));
  return {};
}

void session_cancel(nbl_session* s) noexcept {
  if (s) s->session->cancel();
}

Status session_truncate(nbl_session* s, int64_t count) { return s->session->truncate(count); }

Status session_i64(const nbl_session* s, nbl_prop prop, int64_t* value) {
  const Session& session = *s->session;
  const SessionCounters& counters = session.counters();
  switch (prop) {
    case NBL_PROP_TOKENS: *value = static_cast<int64_t>(session.tokens().size()); return {};
    case NBL_PROP_CONTEXT: *value = session.context(); return {};
    case NBL_PROP_PROMPT_TOKENS: *value = counters.prompt_tokens; return {};
    case NBL_PROP_GENERATED_TOKENS: *value = counters.generated_tokens; return {};
    case NBL_PROP_REUSED_TOKENS: *value = counters.reused_tokens; return {};
    case NBL_PROP_STOP_REASON: *value = static_cast<int64_t>(session.stop_reason()); return {};
    case NBL_PROP_PREFILL_NS: *value = counters.prefill_ns; return {};
    case NBL_PROP_PREFILL_TOKENS: *value = counters.prefill_tokens; return {};
    case NBL_PROP_DECODE_NS: *value = counters.decode_ns; return {};
    case NBL_PROP_DECODE_TOKENS: *value = counters.decode_tokens; return {};
    case NBL_PROP_SESSION_BYTES: *value = session.bytes(); return {};
  }
  return error(Code::kArgument, "%d is no number of a session", prop).with("prop", prop);
}

Status session_tokens(const nbl_session* s, int64_t from, nbl_token* ids, size_t ids_capacity, size_t* ids_count) {
  const std::vector<int32_t>& tokens = s->session->tokens();
  if (from < 0 || from > static_cast<int64_t>(tokens.size())) {
    return error(Code::kArgument, "the session has %zu tokens; it cannot give those from %lld on", tokens.size(),
                 static_cast<long long>(from));
  }
  return api::fill_array(tokens.data() + from, tokens.size() - from, ids, ids_capacity, ids_count);
}

Status session_logits(nbl_session* s, float* logits, size_t logits_capacity, size_t* logits_count) {
  const float* data = nullptr;
  int64_t rows = 0;
  NBL_RETURN_IF_ERROR(s->session->logits(&data, &rows));
  return api::fill_array(data, static_cast<size_t>(rows * s->session->model().config().vocab_size), logits, logits_capacity, logits_count);
}

Status session_top(nbl_session* s, nbl_token* ids, size_t ids_capacity, size_t* ids_count, float* logprobs) {
  const int64_t vocab_size = s->session->model().config().vocab_size;
  const int64_t count = std::min<int64_t>(vocab_size, static_cast<int64_t>(std::min<size_t>(ids_capacity, INT32_MAX)));
  NBL_RETURN_IF_ERROR(s->session->top(count, ids, logprobs));
  *ids_count = static_cast<size_t>(count);
  return {};
}

Status session_score(nbl_session* s, const nbl_token* ids, size_t ids_count, float* logprobs) {
  return s->session->score(ids, static_cast<int64_t>(ids_count), logprobs);
}

Status session_describe(const nbl_session* s, std::string& out) {
  out = to_text(s->session->describe());
  return {};
}

}  // namespace nbl::impl

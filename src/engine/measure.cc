#include "engine/measure.h"

#include <algorithm>
#include <cmath>

#include "engine/batch.h"
#include "engine/clock.h"
#include "engine/session.h"

namespace nbl {
namespace {

// Ids for a benchmark: spread over the vocabulary, the same every time.
std::vector<int32_t> benchmark_ids(int64_t count, int64_t vocab_size) {
  std::vector<int32_t> ids(count);
  uint64_t state = 0x9E3779B97F4A7C15ull;
  for (int32_t& id : ids) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    id = static_cast<int32_t>((state >> 33) % static_cast<uint64_t>(vocab_size));
  }
  return ids;
}

struct Timing {
  int64_t prefill_ns = 0;
  int64_t decode_ns = 0;
  int64_t kv_bytes = 0;
  int64_t scratch_bytes = 0;
};

Status cancelled() { return Status(Code::kCancelled, "cancelled"); }

// Prefills every session, one after another, then decodes them all together.
Result<Timing> run_once(std::vector<std::shared_ptr<Session>>& sessions, SessionBatch* batch,
                        const std::vector<int32_t>& prompt, int64_t decode_tokens, const Job::Context& job) {
  Timing timing;
  const int64_t prompt_length = static_cast<int64_t>(prompt.size());
  const int64_t prefill_start = now_ns();
  for (auto& session : sessions) {
    NBL_RETURN_IF_ERROR(session->truncate(0));
    const int64_t between_looks = session->chunk();  // at the job's cancel: as many as it computes at a time anyway
    for (int64_t done = 0; done < prompt_length; done += between_looks) {
      if (job.cancelled()) return cancelled();
      NBL_RETURN_IF_ERROR(session->append(prompt.data() + done, std::min(between_looks, prompt_length - done)));
    }
  }
  timing.prefill_ns = now_ns() - prefill_start;
  for (auto& session : sessions) NBL_RETURN_IF_ERROR(session->begin(decode_tokens + 1));
  // The first token costs no step: it is drawn from the prefill's logits. The clock starts behind it.
  int64_t decode_start = 0;
  for (int64_t i = 0; i <= decode_tokens; ++i) {
    if (job.cancelled()) return cancelled();
    if (i == 1) decode_start = now_ns();
    int64_t active = 0;
    if (batch) NBL_RETURN_IF_ERROR(batch->step(&active));
    for (auto& session : sessions) {
      const GeneratedToken* token = nullptr;
      NBL_RETURN_IF_ERROR(session->next(&token));
      session->take();
    }
  }
  timing.decode_ns = now_ns() - decode_start;
  for (auto& session : sessions) {
    const Json facts = session->describe();
    timing.kv_bytes += facts["kv_bytes"].get<int64_t>();
    timing.scratch_bytes += facts["scratch_bytes"].get<int64_t>();
  }
  return timing;
}

int64_t median(std::vector<int64_t> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Keys and values that a decode step of one sequence reads, the mean over the steps behind a prompt.
int64_t kv_bytes_of_token(const Decoder& decoder, DType type, int64_t prompt_length, int64_t decode_tokens) {
  const int64_t of_position = 2 * decoder.config.num_key_value_heads * decoder.config.head_dim * dtype_bytes(type);
  int64_t positions = 0;  // of all layers and steps
  for (const Block& block : decoder.blocks) {
    const int64_t window = block.attention.sliding_window;
    for (int64_t i = 1; i <= decode_tokens; ++i) {
      positions += window > 0 ? std::min(window, prompt_length + i) : prompt_length + i;
    }
  }
  return positions * of_position / std::max<int64_t>(1, decode_tokens);
}

Result<Json> measure_row(const std::shared_ptr<Model>& model, const BenchOptions& options, int64_t prompt_length, int64_t batch_size,
                         Job::Context& job) {
  SessionOptions session_options;
  session_options.context = std::max(options.context, prompt_length + options.decode_tokens + 2);
  std::vector<std::shared_ptr<Session>> sessions;
  for (int64_t i = 0; i < batch_size; ++i) {
    NBL_ASSIGN_OR_RETURN(auto session, Session::create(model, session_options));
    session->generation().sampling = {};
    session->generation().ignore_eos = true;
    sessions.push_back(std::move(session));
  }
  std::shared_ptr<SessionBatch> batch;
  if (batch_size > 1) {
    BatchOptions batch_options;
    batch_options.max_sequences = batch_size;
    NBL_ASSIGN_OR_RETURN(batch, SessionBatch::create(model, batch_options));
    for (auto& session : sessions) NBL_RETURN_IF_ERROR(batch->add(session));
  }
  const std::vector<int32_t> prompt = benchmark_ids(prompt_length, model->config().vocab_size);
  std::vector<int64_t> prefill_ns, decode_ns;
  Timing last;
  for (int64_t repeat = -1; repeat < std::max<int64_t>(1, options.repeats); ++repeat) {  // the first one warms up
    NBL_ASSIGN_OR_RETURN(last, run_once(sessions, batch.get(), prompt, options.decode_tokens, job));
    if (repeat < 0) continue;
    prefill_ns.push_back(last.prefill_ns);
    decode_ns.push_back(last.decode_ns);
  }
  const auto rate = [batch_size](int64_t tokens, int64_t ns) {
    return ns > 0 ? static_cast<double>(tokens * batch_size) * 1e9 / static_cast<double>(ns) : 0.0;
  };
  Json row;
  row["batch"] = batch_size;
  row["prompt_tokens"] = prompt_length;
  row["decode_tokens"] = options.decode_tokens;
  row["prefill_ns"] = median(prefill_ns);
  row["decode_ns"] = median(decode_ns);
  row["prefill_tokens_per_second"] = rate(prompt_length, median(prefill_ns));
  row["decode_tokens_per_second"] = rate(options.decode_tokens, median(decode_ns));
  row["best_prefill_tokens_per_second"] = rate(prompt_length, *std::min_element(prefill_ns.begin(), prefill_ns.end()));
  row["best_decode_tokens_per_second"] = rate(options.decode_tokens, *std::min_element(decode_ns.begin(), decode_ns.end()));
  row["kv_bytes_per_token"] =
      kv_bytes_of_token(*model->placement()->decoder, session_options.kv_type, prompt_length, options.decode_tokens);
  row["kv_bytes"] = last.kv_bytes;
  row["scratch_bytes"] = last.scratch_bytes;
  row["memory_bytes"] = model->placement()->footprint_bytes() + last.kv_bytes + last.scratch_bytes + (batch ? batch->scratch_bytes() : 0);
  return row;
}

// What a token costs: the weights that a decode step reads, which is everything but the embedding, of which it reads one row;
// and the operations of the matrix products that every token of a prompt needs, which leaves the head out.
struct TokenCost {
  int64_t bytes = 0, operations = 0;
};
TokenCost cost_of_token(const Decoder& decoder) {
  TokenCost cost;
  const auto add = [&](const Linear& linear) {
    cost.bytes += linear.weight ? linear.weight->bytes_read() : 0;
    cost.operations += 2 * linear.in_features * linear.out_features;
  };
  for (const Block& block : decoder.blocks) {
    for (const Linear& linear : block.attention.qkv) add(linear);
    add(block.attention.output);
    for (const Linear& linear : block.mlp.gate_up) add(linear);
    add(block.mlp.down);
  }
  cost.bytes += decoder.head.weight ? decoder.head.weight->bytes_read() : 0;
  return cost;
}

}  // namespace

Result<Json> measure_speed(const std::shared_ptr<Model>& model, const BenchOptions& options, Job::Context& job) {
  const auto placement = model->placement();
  // Before any session: from memory that was freed in the same process a GPU may read a sixth slower than from what is new to it.
  NBL_ASSIGN_OR_RETURN(const DeviceRates rates, placement->backend->measure_rates());
  Json rows = Json::array();
  const uint64_t total = options.prompt_lengths.size() * options.batch_sizes.size();
  for (int64_t batch_size : options.batch_sizes) {
    for (int64_t prompt_length : options.prompt_lengths) {
      job.stage("batch " + std::to_string(batch_size) + ", prompt " + std::to_string(prompt_length));
      NBL_ASSIGN_OR_RETURN(Json row, measure_row(model, options, prompt_length, batch_size, job));
      rows.push_back(std::move(row));
      job.progress(rows.size(), total);
    }
  }
  const TokenCost cost = cost_of_token(*placement->decoder);
  Json out;
  out["backend"] = placement->backend->name();
  out["description"] = placement->backend->description();
  out["weight_bytes"] = placement->footprint_bytes();
  out["weight_bytes_per_token"] = cost.bytes;
  out["multiply_operations_per_token"] = cost.operations;
  if (rates.read_bytes_per_second > 0) out["read_bandwidth_bytes_per_second"] = rates.read_bytes_per_second;
  if (rates.multiply_operations_per_second > 0) out["multiply_operations_per_second"] = rates.multiply_operations_per_second;
  out["rows"] = std::move(rows);
  return out;
}

Result<Json> measure_perplexity(const std::shared_ptr<Model>& model, const PerplexityOptions& options, std::string_view text,
                                Job::Context& job) {
  if (!model->tokenizer()) return model->tokenizer_status();
  if (options.window < 2) return error(Code::kOptionValue, "a perplexity window needs at least 2 tokens");
  job.stage("tokenizing");
  EncodeOptions encode;
  encode.add_special = false;
  NBL_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, model->tokenizer()->encode(text, encode));
  int64_t windows = static_cast<int64_t>(ids.size()) / options.window;
  if (options.max_windows > 0) windows = std::min(windows, options.max_windows);
  if (windows == 0) {
    return error(Code::kArgument, "the text has %zu tokens, fewer than one window of %lld; give a longer text, or a smaller window", ids.size(),
                 static_cast<long long>(options.window));
  }
  SessionOptions session_options;
  session_options.context = options.window;
  NBL_ASSIGN_OR_RETURN(auto session, Session::create(model, session_options));
  const int64_t start = now_ns();
  std::vector<float> log_probability(options.window);
  Json per_window = Json::array();
  double sum = 0;
  job.stage("scoring");
  for (int64_t w = 0; w < windows; ++w) {
    NBL_RETURN_IF_ERROR(session->truncate(0));
    for (int64_t scored = 0; scored < options.window; scored += session->chunk()) {
      if (job.cancelled()) return cancelled();
      const int64_t count = std::min(session->chunk(), options.window - scored);
      NBL_RETURN_IF_ERROR(session->score(ids.data() + w * options.window + scored, count, log_probability.data() + scored));
    }
    double nll = 0;
    for (int64_t i = 1; i < options.window; ++i) nll -= log_probability[i];
    sum += nll;
    per_window.push_back(nll / static_cast<double>(options.window - 1));
    job.progress(w + 1, windows);
  }
  const int64_t scored = windows * (options.window - 1);
  Json out;
  out["mean_nll"] = sum / static_cast<double>(scored);
  out["perplexity"] = std::exp(sum / static_cast<double>(scored));
  out["windows"] = windows;
  out["tokens"] = static_cast<int64_t>(ids.size());
  out["scored"] = scored;
  out["seconds"] = static_cast<double>(now_ns() - start) * 1e-9;
  out["window_nll"] = std::move(per_window);
  return out;
}

}  // namespace nbl

// The two measurements that a Job can run: perplexity of a text, and speed.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/status.h"
#include "engine/job.h"
#include "engine/model.h"

namespace nbl {

// Non-overlapping windows of `window` ids from the start, the incomplete tail dropped; each runs alone from position 0;
// perplexity = exp(mean of -ln p over ids 1 .. window-1 of every window). Text is encoded at once without special tokens.
struct PerplexityOptions {
  int64_t window = 512;
  int64_t max_windows = 0;                 // 0: all
};
// {"perplexity", "mean_nll", "windows", "tokens", "scored", "window_nll": [...], "seconds"}
Result<Json> measure_perplexity(const std::shared_ptr<Model>& model, const PerplexityOptions& options, std::string_view text,
                                Job::Context& job);

// Prefill of `prompt` random tokens, then `decode` greedy tokens, for each length and batch size; the fastest and the
// median of `repeats` after one warm-up.
struct BenchOptions {
  std::vector<int64_t> prompt_lengths = {128, 512};
  int64_t decode_tokens = 64;
  std::vector<int64_t> batch_sizes = {1};
  int64_t repeats = 3;
  int64_t context = 0;                     // 0: what prompt and decode need
};
// {"rows": [{"batch", "prompt_tokens", "decode_tokens", "prefill_tokens_per_second", "decode_tokens_per_second",
//            "prefill_ns", "decode_ns", "kv_bytes_per_token" (keys and values that a decode step reads for each sequence, on
//            average), "kv_bytes", "scratch_bytes", "memory_bytes" (of weights, sessions and batch)}...],
//  "weight_bytes", "weight_bytes_per_token" (that a decode step reads, for all sequences together), "multiply_operations_per_token" (of a prompt),
//  "read_bandwidth_bytes_per_second", "multiply_operations_per_second" (of f16; where the backend measures its device),
//  "backend", "description"}
Result<Json> measure_speed(const std::shared_ptr<Model>& model, const BenchOptions& options, Job::Context& job);

}  // namespace nbl

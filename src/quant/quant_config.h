// QuantConfig: what a checkpoint's configuration says of its quantization, under one set of names (formats.md 1.2).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/status.h"
#include "checkpoint/checkpoint.h"

namespace nbl {

// How compressed-tensors quantizes a group of modules.
struct QuantScheme {
  int64_t bits = 0;
  int64_t group_size = 0;    // 0: one for a row, or not told
};

struct QuantConfig {
  std::string method;        // "awq", "gptq", "bitsandbytes", "compressed-tensors", ...; empty when not quantized
  std::string format;        // "gemm", "gptq", "gptq_v2", ...; lower case; empty when silent
  int64_t bits = 0;          // 0 when silent
  int64_t group_size = 0;    // -1: whole row; 0 when silent
  bool symmetric = true;
  bool symmetric_known = false;
  bool written_by_gptqmodel = false;
  std::vector<QuantScheme> schemes;    // of compressed-tensors' config_groups
  bool quantized_activations = false;  // asked for by one of them
  Json raw;                  // the object itself, for `dynamic`, quant_type, ...

  static Result<QuantConfig> read(const Checkpoint& checkpoint);
};

}  // namespace nbl

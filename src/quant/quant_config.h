// QuantConfig: what a checkpoint's configuration says of its quantization, under one set of names (formats.md 1.2).
#pragma once

#include <cstdint>
#include <string>

#include "base/json.h"
#include "base/status.h"
#include "checkpoint/checkpoint.h"

namespace nbl {

struct QuantConfig {
  std::string method;        // "awq", "gptq", "bitsandbytes", "compressed-tensors", ...; empty when not quantized
  std::string format;        // "gemm", "gptq", "gptq_v2", ...; lower case; empty when silent
  int64_t bits = 0;          // 0 when silent
  int64_t group_size = 0;    // -1: whole row; 0 when silent
  bool symmetric = true;
  bool symmetric_known = false;
  bool written_by_gptqmodel = false;
  Json raw;                  // the object itself, for `dynamic`, quant_type, ...

  static Result<QuantConfig> read(const Checkpoint& checkpoint);
};

}  // namespace nbl

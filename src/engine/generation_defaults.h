// What a checkpoint says of generating: the ids that end a text, and how tokens are drawn unless a session says otherwise.
#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "checkpoint/checkpoint.h"
#include "kernels/backend.h"

namespace nbl {

struct GenerationDefaults {
  std::vector<int32_t> eos_ids;  // empty: the files do not say
  SamplingOptions sampling;      // greedy unless the checkpoint samples

  // `check`: whether numbers are in the ranges that options have; null: it is not looked at.
  using SamplingCheck = Status (*)(const SamplingOptions&);
  // From generation_config.json and config.json. An error names the file.
  static Result<GenerationDefaults> read(const Checkpoint& checkpoint, SamplingCheck check);
};

}  // namespace nbl

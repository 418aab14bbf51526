// Where a model goes: which devices are tried, and whether one has room before any weight is read.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "base/status.h"
#include "kernels/backend.h"
#include "quant/weight_loader.h"

namespace nbl {

constexpr int kCpuDevice = -1;

// Most bytes that a model and its sessions may take, by device: 0, 1, ... are GPUs. A device that is not named may be filled.
using MemoryCeilings = std::map<int, int64_t>;

// "0=30GiB", "cuda:1=46GB", "cpu=1000000"; units as transformers' max_memory has them.
Status add_ceiling(const std::string& text, MemoryCeilings& ceilings);

// Whether what is free on the backend's device, and the ceiling that stands for it, hold the weights; with a session, also
// what a session of the default context takes. kNoDeviceMemory (kNoMemory on the CPU) tells needed and available bytes.
Status check_room(const WeightLoader& loader, const Backend& backend, int device, const MemoryCeilings& ceilings, bool with_session);

}  // namespace nbl

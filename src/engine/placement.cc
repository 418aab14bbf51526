#include "engine/placement.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "model/estimate.h"

namespace nbl {

namespace {

struct Unit {
  const char* name;
  double bytes;
};
constexpr Unit kUnits[] = {{"", 1},        {"B", 1},          {"KB", 1e3},        {"MB", 1e6},         {"GB", 1e9},          {"TB", 1e12},
                           {"KIB", 1024.}, {"MIB", 1048576.}, {"GIB", 1073741824.}, {"TIB", 1099511627776.}};

bool read_bytes(std::string_view text, int64_t& bytes) {
  double number = 0;
  const auto [stop, problem] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (problem != std::errc() || !(number >= 0)) return false;
  std::string unit;
  for (const char* at = stop; at != text.data() + text.size(); ++at) {
    if (*at != ' ') unit += static_cast<char>(*at >= 'a' && *at <= 'z' ? *at - 'a' + 'A' : *at);
  }
  for (const Unit& known : kUnits) {
    if (unit != known.name || number * known.bytes > 9e18) continue;
    bytes = static_cast<int64_t>(number * known.bytes);
    return true;
  }
  return false;
}

bool read_device(std::string_view text, int& device) {
  if (text == "cpu") return device = kCpuDevice, true;
  if (text.substr(0, 5) == "cuda:") text.remove_prefix(5);
  const auto [stop, problem] = std::from_chars(text.data(), text.data() + text.size(), device);
  return problem == std::errc() && stop == text.data() + text.size() && device >= 0 && device < 1024;
}

}  // namespace

Status add_ceiling(const std::string& text, MemoryCeilings& ceilings) {
  const size_t equals = text.find('=');
  int device = 0;
  int64_t bytes = 0;
  if (equals == std::string::npos || !read_device(std::string_view(text).substr(0, equals), device) ||
      !read_bytes(std::string_view(text).substr(equals + 1), bytes)) {
    const bool disk = text.compare(0, 4, "disk") == 0;
    return error(disk ? Code::kUnsupported : Code::kOptionValue, "max_memory has \"%s\", expected DEVICE=BYTES like 0=30GiB or cpu=16GB%s",
                 text.c_str(), disk ? "; no layer is kept on disk" : "")
        .with("option", "max_memory");
  }
  ceilings[device] = bytes;
  return {};
}

Status check_room(const WeightLoader& loader, const Backend& backend, int device, const MemoryCeilings& ceilings, bool with_session) {
  const auto found = ceilings.find(device);
  const int64_t ceiling = found == ceilings.end() ? -1 : found->second;
  const int64_t free = backend.free_bytes();
  if (ceiling < 0 && free < 0) return {};
  NBL_ASSIGN_OR_RETURN(const Json need, estimate_memory(loader, backend, 0, DType::kF16, 0));
  const int64_t weights = need["weight_bytes"].get<int64_t>() + need["embedding_bytes"].get<int64_t>();
  const int64_t needed = with_session ? need["total_bytes"].get<int64_t>() : weights;
  const bool capped = ceiling >= 0 && (free < 0 || ceiling < free);
  const int64_t available = capped ? ceiling : free;
  if (needed <= available) return {};
  return error(device == kCpuDevice ? Code::kNoMemory : Code::kNoDeviceMemory,
               "%s: the model needs %lld bytes (%lld for weights%s), but %lld are %s; take another device, a model of fewer bits, or %s",
               backend.name().c_str(), static_cast<long long>(needed), static_cast<long long>(weights),
               with_session ? ", the rest for a session" : "", static_cast<long long>(available),
               capped ? "its ceiling in max_memory" : "free", capped ? "raise the ceiling" : "free other models and sessions")
      .with("device", backend.name())
      .with("needed", needed)
      .with(capped ? "ceiling" : "free", available);
}

}  // namespace nbl

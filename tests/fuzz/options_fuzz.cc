// Options as JSON, by the names of nibble and of transformers: what is taken in comes out as JSON again that means the same.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "api/options.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto json = nbl::parse_json(std::string_view(reinterpret_cast<const char*>(data), size), "fuzz");
  if (!json.ok()) return 0;
  nbl_config config, again;
  if (!nbl::api::merge_json(config, *json).ok()) {
    if (!config.values.empty()) std::abort();  // all or nothing
    return 0;
  }
  const nbl::Json out = nbl::api::to_json(config);
  if (!nbl::api::merge_json(again, out).ok() || nbl::to_text(nbl::api::to_json(again)) != nbl::to_text(out)) std::abort();
  return 0;
}

// config.json: every number that comes out of it is one that memory may be computed from.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "base/json.h"
#include "model/config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto json = nbl::parse_json(std::string_view(reinterpret_cast<const char*>(data), size), "config.json");
  if (!json.ok()) return 0;
  const auto config = nbl::read_model_config(json.value());
  if (!config.ok()) return 0;
  const nbl::DecoderConfig& decoder = config.value().decoder;
  for (const int64_t extent : {decoder.hidden_size, decoder.vocab_size, decoder.num_hidden_layers, decoder.num_attention_heads,
                               decoder.num_key_value_heads, decoder.head_dim, decoder.intermediate_size}) {
    if (extent <= 0 || extent > (int64_t{1} << 31)) std::abort();
  }
  return 0;
}

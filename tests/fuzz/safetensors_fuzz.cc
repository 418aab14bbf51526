// A safetensors file: whatever the header says, every view lies inside the bytes.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::vector<nbl::TensorView> tensors;
  std::vector<std::pair<std::string, std::string>> metadata;
  const nbl::Status status = nbl::parse_safetensors(data, static_cast<int64_t>(size), "fuzz.safetensors", tensors, metadata);
  if (!status.ok()) return 0;
  for (const nbl::TensorView& tensor : tensors) {
    const bool inside = tensor.bytes >= 0 && tensor.bytes <= static_cast<int64_t>(size) &&
                        (tensor.bytes == 0 || (tensor.data >= data && tensor.data + tensor.bytes <= data + size));
    if (!inside || tensor.elements() < 0) std::abort();
  }
  return 0;
}

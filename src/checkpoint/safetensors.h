// The safetensors container: an 8-byte little-endian header length, a JSON header, then the tensors' bytes.
//
//   {"name": {"dtype": "F16", "shape": [4096, 512], "data_offsets": [begin, end]}, ..., "__metadata__": {"k": "v"}}
//
// Offsets count from the end of the header. Every number is checked against the file before a view is made of it, and the
// tensors must cover the data without holes.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/mapped_file.h"
#include "base/status.h"
#include "checkpoint/checkpoint.h"

namespace nbl {

struct SafetensorsFile {
  std::shared_ptr<const MappedFile> mapping;
  std::vector<TensorView> tensors;
  std::vector<std::pair<std::string, std::string>> metadata;
};

Result<SafetensorsFile> open_safetensors(const std::string& path);
// The same over bytes in memory, which must outlive the views: what the fuzzer calls.
Status parse_safetensors(const uint8_t* data, int64_t size, const std::string& path, std::vector<TensorView>& tensors,
                         std::vector<std::pair<std::string, std::string>>& metadata);

}  // namespace nbl

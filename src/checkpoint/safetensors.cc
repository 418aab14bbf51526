#include "checkpoint/safetensors.h"

#include <algorithm>
#include <cstring>

namespace nbl {
namespace {

constexpr int64_t kLargestHeader = 100 << 20;  // the reference implementation's bound
constexpr DType kAllTypes[] = {DType::kBool, DType::kU8,  DType::kI8,   DType::kI16, DType::kI32, DType::kI64,
                               DType::kF8E4M3, DType::kF8E5M2, DType::kF16, DType::kBF16, DType::kF32, DType::kF64};

Status bad(const std::string& path, const std::string& tensor, const std::string& problem) {
  const std::string what = tensor.empty() ? problem : "tensor " + tensor + " " + problem;
  Status status = error(Code::kFormat, "%s: %s", path.c_str(), what.c_str());
  status.with("file", path);
  if (!tensor.empty()) status.with("tensor", tensor);
  return status;
}

const DType* find_type(const std::string& name) {
  for (const DType& type : kAllTypes) {
    if (name == dtype_name(type)) return &type;
  }
  return nullptr;
}

Status parse_entry(const std::string& name, const Json& entry, const uint8_t* data, int64_t data_bytes, const std::string& path,
                   TensorView& view) {
  if (!entry.is_object() || !entry.contains("dtype") || !entry.contains("shape") || !entry.contains("data_offsets")) {
    return bad(path, name, "lacks dtype, shape or data_offsets in the header");
  }
  const Json& type = entry["dtype"];
  const DType* dtype = type.is_string() ? find_type(type.string()) : nullptr;
  if (!dtype) return bad(path, name, "has the dtype " + to_text(type) + ", which is not known here");
  const Json& shape = entry["shape"];
  if (!shape.is_array() || shape.size() > 8) return bad(path, name, "has no list of at most 8 numbers as its shape");
  int64_t bytes = dtype_bytes(*dtype);
  for (const Json& extent : shape) {
    if (!extent.is_number_unsigned() || extent.get<uint64_t>() > INT64_MAX) return bad(path, name, "has the shape " + to_text(shape));
    const int64_t value = extent.get<int64_t>();
    view.shape.push_back(value);
    if (__builtin_mul_overflow(bytes, value, &bytes)) return bad(path, name, "has the shape " + to_text(shape) + ", too large");
  }
  const Json& offsets = entry["data_offsets"];
  if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() || !offsets[1].is_number_unsigned()) {
    return bad(path, name, "has data_offsets " + to_text(offsets) + ", expected two numbers");
  }
  const uint64_t begin = offsets[0].get<uint64_t>(), end = offsets[1].get<uint64_t>();
  if (begin > end || end > static_cast<uint64_t>(data_bytes)) {
    return bad(path, name, "lies at bytes " + to_text(offsets) + " of the data, which has " + std::to_string(data_bytes) +
                               ": the file is truncated or not what its header says; fetch it again");
  }
  if (end - begin != static_cast<uint64_t>(bytes)) {
    return bad(path, name, "has " + std::to_string(end - begin) + " bytes, expected " + std::to_string(bytes) + " for " +
                               dtype_name(*dtype) + " " + to_text(shape));
  }
  view.name = name;
  view.dtype = *dtype;
  view.data = data + begin;
  view.bytes = bytes;
  view.file = path;
  return {};
}

// Every byte of the data belongs to exactly one tensor, as the reference implementation asks: what is more or less than the
// header says was not written with it.
Status check_coverage(const std::vector<TensorView>& tensors, const uint8_t* data, int64_t data_bytes, const std::string& path) {
  std::vector<const TensorView*> by_place;
  for (const TensorView& tensor : tensors) by_place.push_back(&tensor);
  std::sort(by_place.begin(), by_place.end(), [](const TensorView* a, const TensorView* b) {
    return a->data != b->data ? a->data < b->data : a->bytes < b->bytes;  // one without bytes lies in front of its neighbour
  });
  const std::string way_out = "; fetch the file again, or write it anew with the safetensors library";
  int64_t covered = 0;
  const TensorView* before = nullptr;
  for (const TensorView* tensor : by_place) {
    const int64_t begin = tensor->data - data;
    const std::string end_of_before = before ? "the end of " + before->name : "the beginning of the data";
    if (begin != covered) {
      return bad(path, tensor->name, "begins at byte " + std::to_string(begin) + " of the data, expected " + std::to_string(covered) + ", " +
                                         end_of_before + ": " + (begin < covered ? "it overlaps " + before->name : "bytes between tensors") +
                                         way_out);
    }
    covered += tensor->bytes;
    before = tensor;
  }
  if (covered == data_bytes) return {};
  return bad(path, "", "has " + std::to_string(data_bytes) + " bytes of data, expected " + std::to_string(covered) + ", where " +
                           (before ? "the last tensor, " + before->name + "," : "a header without tensors") + " ends" + way_out);
}

}  // namespace

Status parse_safetensors(const uint8_t* data, int64_t size, const std::string& path, std::vector<TensorView>& tensors,
                         std::vector<std::pair<std::string, std::string>>& metadata) {
  if (size < 8) {
    return bad(path, "", "has " + std::to_string(size) + " bytes, too few for a safetensors file; fetch it again");
  }
  NBL_RETURN_IF_ERROR(check_no_lfs_pointer({reinterpret_cast<const char*>(data), static_cast<size_t>(size)}, path));
  uint64_t header_bytes = 0;
  for (int i = 7; i >= 0; --i) header_bytes = header_bytes << 8 | data[i];
  if (header_bytes > static_cast<uint64_t>(kLargestHeader) || header_bytes > static_cast<uint64_t>(size - 8)) {
    return bad(path, "", "announces a header of " + std::to_string(header_bytes) + " bytes in a file of " + std::to_string(size) +
                             ": not a safetensors file, or a truncated one; fetch it again");
  }
  const std::string_view text(reinterpret_cast<const char*>(data) + 8, header_bytes);
  Result<Json> header = parse_json(text, path + ": header");
  if (!header.ok()) return header.status().with("file", path);
  if (!header->is_object()) return bad(path, "", "has a header that is not an object");
  const uint8_t* tensor_data = data + 8 + header_bytes;
  const int64_t tensor_bytes = size - 8 - static_cast<int64_t>(header_bytes);
  for (const auto& [name, entry] : header->items()) {
    if (name == "__metadata__") {
      if (!entry.is_object()) continue;
      for (const auto& [key, value] : entry.items()) {
        if (value.is_string()) metadata.emplace_back(key, value.get<std::string>());
      }
      continue;
    }
    TensorView view;
    NBL_RETURN_IF_ERROR(parse_entry(name, entry, tensor_data, tensor_bytes, path, view));
    tensors.push_back(std::move(view));
  }
  return check_coverage(tensors, tensor_data, tensor_bytes, path);
}

Result<SafetensorsFile> open_safetensors(const std::string& path) {
  SafetensorsFile file;
  NBL_ASSIGN_OR_RETURN(file.mapping, MappedFile::open(path));
  NBL_RETURN_IF_ERROR(parse_safetensors(file.mapping->data(), file.mapping->size(), path, file.tensors, file.metadata));
  return file;
}

}  // namespace nbl

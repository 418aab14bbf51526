// A module's tensors, of whatever names, types and shapes, beside whatever a configuration says of them: what the loader makes of them has
// the sizes that its spec tells, and views of stored codes lie inside the tensors.
//
// The input is text, so that seeds can be read: the object of quantization_config in the first line, "OUTPUTS INPUTS METHOD" in the
// second (METHOD: how floats are quantized while loading, 0 to 3), then a tensor in each line, "SUFFIX TYPE SHAPE FILLING", as in
// ".qweight I32 8,2 7". FILLING: "=text", "*003c" (bytes that are repeated), "/8" (int32 i / 8), or the seed of random bytes. Each tensor
// has memory of its own, so that the sanitizer sees what is read beyond it.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <sstream>
#include <string>

#include "quant/weight_loader.h"
#include "quant/weight_rows.h"

namespace {

using namespace nbl;

constexpr int64_t kMost = 1 << 16;  // elements of anything: larger ones only take longer

struct InMemory : Checkpoint {
  std::string name = "fuzz";
  Json nothing = Json::object(), quantization;
  std::vector<std::pair<std::string, std::string>> no_metadata;
  std::vector<std::unique_ptr<uint8_t[]>> memory;
  std::vector<TensorView> views;

  const std::string& directory() const override { return name; }
  const Json& config() const override { return nothing; }
  const Json& generation_config() const override { return nothing; }
  const Json& quantization_config() const override { return quantization; }
  const std::string& quantization_source() const override { return name; }
  const TensorView* find(std::string_view wanted) const override {
    for (const TensorView& view : views) {
      if (view.name == wanted) return &view;
    }
    return nullptr;
  }
  const std::vector<TensorView>& tensors() const override { return views; }
  const std::vector<std::pair<std::string, std::string>>& metadata() const override { return no_metadata; }
  int64_t file_bytes() const override { return 0; }
  void release(const TensorView&) const override {}
};

// Byte i of "*003c003c ..."
uint8_t repeated(const std::string& filling, size_t i) {
  const size_t count = (filling.size() - 1) / 2;
  if (count == 0) return 0;
  return static_cast<uint8_t>(std::strtoul(filling.substr(1 + i % count * 2, 2).c_str(), nullptr, 16));
}

bool add_tensor(const std::string& line, InMemory& checkpoint) {
  std::istringstream in(line);
  std::string suffix, type, shape, filling;
  if (!(in >> suffix >> type >> shape)) return true;  // a name alone is no tensor
  std::getline(in >> std::ws, filling);
  TensorView view;
  view.name = "x" + suffix;
  view.file = checkpoint.name;
  bool known = false;
  for (int i = 0; i < 32 && !known; ++i) {
    view.dtype = static_cast<DType>(i);
    known = type == dtype_name(view.dtype);
  }
  if (!known || checkpoint.find(view.name) != nullptr) return true;
  std::istringstream extents(shape == "-" ? "" : shape);
  int64_t count = 1;
  for (std::string extent; std::getline(extents, extent, ',');) {
    const int64_t value = std::strtoll(extent.c_str(), nullptr, 10);
    if (value < 0 || value > kMost || (count *= value) > kMost) return false;
    view.shape.push_back(value);
  }
  view.bytes = count * dtype_bytes(view.dtype);
  std::unique_ptr<uint8_t[]> bytes(new uint8_t[static_cast<size_t>(view.bytes)]);
  uint32_t state = static_cast<uint32_t>(std::strtoul(filling.c_str(), nullptr, 10));
  for (int64_t i = 0; i < view.bytes; ++i) {
    const auto at = static_cast<size_t>(i);
    if (filling[0] == '=')
      bytes[at] = at + 1 < filling.size() ? static_cast<uint8_t>(filling[at + 1]) : ' ';
    else if (filling[0] == '*')
      bytes[at] = repeated(filling, at);
    else if (filling[0] == '/')
      bytes[at] = i % 4 == 0 ? static_cast<uint8_t>(i / 32) : 0;
    else
      bytes[at] = static_cast<uint8_t>((state = state * 1664525u + 1013904223u) >> 24);
  }
  view.data = bytes.get();
  checkpoint.memory.push_back(std::move(bytes));
  checkpoint.views.push_back(std::move(view));
  return true;
}

void insist(bool holds) {
  if (!holds) std::abort();
}

// So many bytes from `data` on are of one tensor.
void insist_inside(const InMemory& checkpoint, const uint8_t* data, int64_t bytes) {
  insist(bytes == 0 || std::any_of(checkpoint.views.begin(), checkpoint.views.end(),
                                   [&](const TensorView& view) { return data >= view.data && data + bytes <= view.data + view.bytes; }));
}

void insist_codes_inside(const InMemory& checkpoint, const StoredCodes& codes, int64_t n, int64_t k, int bits) {
  switch (codes.layout) {
    case StoredCodes::Layout::kAlongInputs: return insist_inside(checkpoint, codes.data, (k * bits + 31) / 32 * n * 4);
    case StoredCodes::Layout::kAlongOutputs: return insist(n % 8 == 0), insist_inside(checkpoint, codes.data, k * n / 2);
    case StoredCodes::Layout::kRows: return insist(k * bits % 8 == 0), insist_inside(checkpoint, codes.data, n * k * bits / 8);
    case StoredCodes::Layout::kFloats: return insist_inside(checkpoint, codes.data, n * k * dtype_bytes(codes.type));
    case StoredCodes::Layout::kNone:
    case StoredCodes::Layout::kRandom: insist(false);
  }
}

void check(const InMemory& checkpoint, const WeightSpec& spec, const QuantWeight& w) {
  const int64_t n = w.out_features, k = w.in_features, groups = w.groups();
  insist(spec.format == w.format && spec.bits == w.bits && spec.group_size == w.group_size && spec.permuted == w.permuted);
  insist(spec.scale_type == w.scale_type && spec.value_type == w.value_type && spec.out_features == n && spec.in_features == k);
  if (w.format == WeightFormat::kFloat) return insist(w.dense != nullptr || n * k == 0);
  insist(w.group_size >= 1 && w.group_size <= k && w.bits >= 2 && w.bits <= 8);
  const bool stored = w.stored.layout != StoredCodes::Layout::kNone;
  const bool owned = w.stored.data != nullptr && w.stored.data == w.dense_owned.data();  // floats that had to be narrowed
  if (owned)
    insist(static_cast<int64_t>(w.dense_owned.size()) == n * k * dtype_bytes(w.stored.type));
  else if (stored)
    insist_codes_inside(checkpoint, w.stored, n, k, w.bits);
  else
    insist(static_cast<int64_t>(w.codes.size()) == n * k);
  insist(std::all_of(w.codes.begin(), w.codes.end(), [&](uint8_t code) { return code < 1 << w.bits; }));
  if (const StoredScales& scales = w.stored_scales; scales.data != nullptr) {
    insist(stored);
    insist_inside(checkpoint, scales.data, n * groups * dtype_bytes(scales.type));
    if (scales.map != nullptr) {
      insist(scales.nested_block > 0);
      insist_inside(checkpoint, scales.map, 1024);
      insist_inside(checkpoint, scales.nested, (n * groups + scales.nested_block - 1) / scales.nested_block * 4);
    }
  } else {
    insist(static_cast<int64_t>(w.scales.size()) == n * groups || w.stored.layout == StoredCodes::Layout::kFloats);
  }
  if (w.format == WeightFormat::kIntGroup) {
    if (w.stored_zeros.layout != StoredCodes::Layout::kNone)
      insist_codes_inside(checkpoint, w.stored_zeros, n, groups, w.bits);
    else
      insist(static_cast<int64_t>(w.zeros.size()) == n * groups || w.stored.layout == StoredCodes::Layout::kFloats);
  }
  insist(w.permuted == !w.k_order.empty());
  std::vector<bool> seen(static_cast<size_t>(k), w.k_order.empty());
  for (const int32_t column : w.k_order) {
    insist(column >= 0 && column < k && !seen[static_cast<size_t>(column)]);
    seen[static_cast<size_t>(column)] = true;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::istringstream in(std::string(reinterpret_cast<const char*>(data), size));
  std::string line;
  std::getline(in, line);
  auto checkpoint = std::make_shared<InMemory>();
  auto json = parse_json(line, "fuzz");
  if (!json.ok()) return 0;
  checkpoint->quantization = std::move(json).value();
  std::getline(in, line);
  int64_t n = 0, k = 0;
  int method = 0;
  std::istringstream(line) >> n >> k >> method;
  if (n < 1 || k < 1 || n > kMost || k > kMost || n * k > kMost || method < 0 || method > 3) return 0;
  while (std::getline(in, line)) {
    if (!add_tensor(line, *checkpoint)) return 0;
  }
  std::sort(checkpoint->views.begin(), checkpoint->views.end(), [](const TensorView& a, const TensorView& b) { return a.name < b.name; });
  LoadQuantOptions options;
  options.method = static_cast<LoadQuantOptions::Method>(method);
  const auto loader = WeightLoader::open(checkpoint, options);
  if (!loader.ok()) return 0;
  const auto spec = (*loader)->spec("x", n, k);
  for (const bool keep_stored : {false, true}) {
    const auto weight = (*loader)->load("x", n, k, keep_stored);
    if (!weight.ok()) continue;
    insist(spec.ok());
    check(*checkpoint, *spec, *weight);
    if (weight->stored.layout == StoredCodes::Layout::kNone && n > 1) rows_of(*weight, n / 2, n - n / 2);
  }
  (void)(*loader)->bias("x", n);
  return 0;
}

// Packing on the GPU from what checkpoints store: the same weight given as plain codes and as each stored layout must
// become the same matrix. The layouts are written here from their description in quant_weight.h.
#include <cmath>
#include <cstring>
#include <functional>

#include "check.h"
#include "kernels/cuda/check.h"
#include "models.h"
#include "quant/weight_rows.h"

namespace nbl::gpu_test {
namespace {

using Layout = StoredCodes::Layout;

// A weight in the file's form, and the bytes that it is a view of: at an odd address, as in a file.
struct Stored {
  QuantWeight weight;
  std::vector<uint8_t> code_bytes, zero_bytes, scale_bytes, map_bytes, nested_bytes;
};

uint8_t code_at(const QuantWeight& plain, int64_t n, int64_t column) {  // by the column of x
  const int64_t k = plain.in_features;
  if (plain.k_order.empty()) return plain.codes[n * k + column];
  for (int64_t p = 0; p < k; ++p) {
    if (plain.k_order[p] == column) return plain.codes[n * k + p];
  }
  return 0;
}

void put_bits(std::vector<uint8_t>& bytes, int64_t bit, uint32_t value, int bits) {
  for (int i = 0; i < bits; ++i) {
    if (value >> i & 1) bytes[1 + (bit + i) / 8] |= static_cast<uint8_t>(1u << (bit + i) % 8);
  }
}

// Bytes of [K, N / 8] words with output 8c + order[i] in nibble i.
std::vector<uint8_t> interleaved_words(int64_t n, int64_t k, const std::function<uint8_t(int64_t, int64_t)>& code) {
  constexpr int order[8] = {0, 2, 4, 6, 1, 3, 5, 7};
  std::vector<uint8_t> bytes(1 + n * k / 2);
  for (int64_t row = 0; row < k; ++row) {
    for (int64_t c = 0; c < n / 8; ++c) {
      for (int i = 0; i < 8; ++i) put_bits(bytes, (row * (n / 8) + c) * 32 + 4 * i, code(8 * c + order[i], row), 4);
    }
  }
  return bytes;
}

Stored store(const QuantWeight& plain, Layout layout, bool low_first = false) {
  Stored out;
  out.weight = plain;
  QuantWeight& w = out.weight;
  w.codes.clear();
  w.stored.layout = layout;
  const int64_t n = w.out_features, k = w.in_features, groups = w.groups();
  switch (layout) {
    case Layout::kAlongInputs: {
      const int64_t words = (k * w.bits + 31) / 32;
      out.code_bytes.resize(1 + words * n * 4);
      for (int64_t row = 0; row < n; ++row) {
        for (int64_t column = 0; column < k; ++column) {
          for (int i = 0; i < w.bits; ++i) {  // bit by bit: a code may lie in two words
            const int64_t bit = column * w.bits + i;
            put_bits(out.code_bytes, (bit / 32 * n + row) * 32 + bit % 32, code_at(plain, row, column) >> i & 1, 1);
          }
        }
      }
      break;
    }
    case Layout::kAlongOutputs:
      out.code_bytes = interleaved_words(n, k, [&](int64_t row, int64_t column) { return code_at(plain, row, column); });
      out.zero_bytes = interleaved_words(n, groups, [&](int64_t row, int64_t group) { return plain.zeros[row * groups + group]; });
      w.zeros.clear();
      w.stored.places = 0x73625140;
      w.stored_zeros = {layout, out.zero_bytes.data() + 1, w.stored.places};
      break;
    case Layout::kRows:
      out.code_bytes.resize(1 + n * k * w.bits / 8);
      for (int64_t i = 0; i < n * k; ++i) {
        if (w.bits == 8) out.code_bytes[1 + i] = plain.codes[i] ^ 0x80;
        else out.code_bytes[1 + i / 2] |= static_cast<uint8_t>(plain.codes[i] << ((i % 2 != 0) != low_first ? 0 : 4));
      }
      w.stored.low_first = low_first;
      w.stored.flip = w.bits == 8 ? 0x80 : 0;
      break;
    default: break;
  }
  w.stored.data = out.code_bytes.data() + 1;
  if (layout == Layout::kRows) return out;  // bitsandbytes: the loader makes the scales
  const int64_t size = dtype_bytes(w.scale_type);
  out.scale_bytes.resize(1 + n * groups * size);
  for (int64_t row = 0; row < n; ++row) {
    for (int64_t g = 0; g < groups; ++g) {
      const float scale = plain.scales[row * groups + g];
      const uint16_t half = w.scale_type == DType::kF16 ? float_to_f16(scale) : float_to_bf16(scale);
      std::memcpy(out.scale_bytes.data() + 1 + (g * n + row) * size, size == 4 ? static_cast<const void*>(&scale) : &half, size);
    }
  }
  w.stored_scales = {out.scale_bytes.data() + 1, w.scale_type};
  w.scales.clear();
  return out;
}

bool fits(const QuantWeight& w, Layout layout) {
  switch (layout) {
    case Layout::kAlongInputs: return w.format == WeightFormat::kIntGroup;
    case Layout::kAlongOutputs: return w.format == WeightFormat::kIntGroup && w.bits == 4 && w.out_features % 8 == 0 && !w.permuted;
    case Layout::kRows: return !w.permuted && (w.bits == 8 || (w.bits == 4 && w.in_features % 2 == 0));
    default: return false;
  }
}

// The product of a packed weight with random x, exactly as the kernels make it.
std::vector<float> product(const Backend& backend, const std::vector<const QuantWeight*>& parts, WeightRole role) {
  auto packed = backend.pack(parts, role);
  CHECK_THAT(packed.ok(), "%s", packed.status().message().c_str());
  if (!packed.ok()) return {};
  std::vector<WeightSpec> specs;
  for (const QuantWeight* part : parts) specs.push_back(*part);
  CHECK_THAT((*packed)->bytes() == backend.packed_bytes(specs, role), "packed_bytes() told another size");
  const int64_t k = parts[0]->in_features;
  int64_t n = 0;
  for (const QuantWeight* part : parts) n += part->out_features;
  const std::vector<float> x = random_values(9 * k, 1.f, 3);
  std::vector<float> y(static_cast<size_t>(9 * n));
  const Status status = backend.matmul(**packed, x.data(), 9, y.data());
  CHECK_THAT(status.ok(), "%s", status.message().c_str());
  return y;
}

}  // namespace

GPU_TEST(StoredCodesPackAsPlainOnesDo) {
  auto backend = make_cuda_backend({});
  CHECK_THAT(backend.ok(), "%s", backend.status().message().c_str());
  if (!backend.ok()) return;
  const int64_t shapes[][2] = {{16, 128}, {24, 96}, {8, 32}, {200, 384}, {72, 1056}};
  for (const FormatCase& format : formats()) {
    for (const auto& shape : shapes) {
      const QuantWeight plain = random_weight(format, shape[0], shape[1], 41);
      for (Layout layout : {Layout::kAlongInputs, Layout::kAlongOutputs, Layout::kRows}) {
        if (plain.format == WeightFormat::kFloat || !fits(plain, layout) || !(*backend)->takes_stored({plain})) continue;
        const std::vector<float> a = product(**backend, {&plain}, WeightRole::kOther);
        for (const bool low_first : {false, true}) {
          const Stored stored = store(plain, layout, low_first);
          const std::vector<float> b = product(**backend, {&stored.weight}, WeightRole::kOther);
          CHECK_THAT(!a.empty() && a == b, "%s, %lld x %lld, layout %d", format.name, static_cast<long long>(shape[0]),
                     static_cast<long long>(shape[1]), static_cast<int>(layout));
        }
      }
    }
  }
}

GPU_TEST(StoredPartsFuse) {
  auto backend = make_cuda_backend({});
  if (!backend.ok()) return;
  for (const FormatCase& format : formats()) {
    const QuantWeight q = random_weight(format, 48, 256, 5), k = random_weight_like(q, format, 24, 6),
                      v = random_weight_like(q, format, 24, 7);
    const QuantWeight up = random_weight_like(q, format, 48, 8);
    for (Layout layout : {Layout::kAlongInputs, Layout::kAlongOutputs, Layout::kRows}) {
      if (q.format == WeightFormat::kFloat || !fits(q, layout) || !(*backend)->takes_stored({q})) continue;
      const Stored sq = store(q, layout), sk = store(k, layout), sv = store(v, layout), su = store(up, layout);
      CHECK_THAT(
          product(**backend, {&q, &k, &v}, WeightRole::kQkv) == product(**backend, {&sq.weight, &sk.weight, &sv.weight}, WeightRole::kQkv),
          "%s: q, k, v, layout %d", format.name, static_cast<int>(layout));
      CHECK_THAT(product(**backend, {&q, &up}, WeightRole::kGateUp) == product(**backend, {&sq.weight, &su.weight}, WeightRole::kGateUp),
                 "%s: gate and up, layout %d", format.name, static_cast<int>(layout));
      // Parts of two checkpoint formats under one roof.
      CHECK_THAT(product(**backend, {&q, &k, &v}, WeightRole::kQkv) == product(**backend, {&sq.weight, &k, &sv.weight}, WeightRole::kQkv),
                 "%s: one part plain, layout %d", format.name, static_cast<int>(layout));
    }
  }
}

// Phi-3's gate and up, which are rows of one matrix.
GPU_TEST(RowsOfOneStoredMatrixFuse) {
  auto backend = make_cuda_backend({});
  if (!backend.ok()) return;
  for (const FormatCase& format : formats()) {
    const QuantWeight whole = random_weight(format, 96, 256, 5), gate = rows_of(whole, 0, 48), up = rows_of(whole, 48, 48);
    const std::vector<float> expected = product(**backend, {&gate, &up}, WeightRole::kGateUp),
                             apart = product(**backend, {&whole}, WeightRole::kOther);
    CHECK_THAT(!expected.empty() && expected == apart, "%s: rows of plain codes", format.name);
    for (Layout layout : {Layout::kAlongInputs, Layout::kAlongOutputs, Layout::kRows}) {
      if (whole.format == WeightFormat::kFloat || !fits(whole, layout) || !(*backend)->takes_stored({gate, up})) continue;
      const Stored stored = store(whole, layout);
      const QuantWeight first = rows_of(stored.weight, 0, 48), second = rows_of(stored.weight, 48, 48);
      CHECK_THAT(expected == product(**backend, {&first, &second}, WeightRole::kGateUp), "%s: layout %d", format.name,
                 static_cast<int>(layout));
    }
  }
}

// A matrix too large for the staging memory is packed in several runs, from both halves of it.
GPU_TEST(LargeMatricesArePackedInRuns) {
  auto backend = make_cuda_backend({});
  if (!backend.ok()) return;
  const FormatCase format = {"int4 g128", WeightFormat::kIntGroup, 4, 128, DType::kF16, DType::kF16, false};
  QuantWeight random = random_weight(format, 16, 4096, 9);
  random.out_features = 21000;
  random.codes.clear();
  random.stored.layout = Layout::kRandom;
  random.stored.seed = 77;
  random.scales.assign(static_cast<size_t>(random.out_features * random.groups()), 0.01f);
  random.zeros.assign(random.scales.size(), 7);
  QuantWeight plain = random;
  plain.stored = {};
  plain.codes.resize(static_cast<size_t>(plain.out_features * plain.in_features));
  for (size_t i = 0; i < plain.codes.size(); ++i) plain.codes[i] = random_codes(77, i / 8) >> 8 * (i % 8) & 15;
  const std::vector<float> a = product(**backend, {&plain}, WeightRole::kOther);
  CHECK_THAT(a == product(**backend, {&random}, WeightRole::kOther), "codes made on the device");
  const Stored awq = store(plain, Layout::kAlongOutputs);
  CHECK_THAT(a == product(**backend, {&awq.weight}, WeightRole::kOther), "as AWQ stores them");
}

std::vector<uint8_t> bytes_of(const void* values, size_t count, int shift) {  // at an odd address
  std::vector<uint8_t> bytes(count + shift);
  std::memcpy(bytes.data() + shift, values, count);
  return bytes;
}

// Scales as bitsandbytes stores them: by rows, in a float type or as the codes of double quantization. The plain weight has what
// these mean, in float32 with a rounding after each operation.
GPU_TEST(StoredScalesPackAsPlainOnesDo) {
  auto backend = make_cuda_backend({});
  CHECK_THAT(backend.ok(), "%s", backend.status().message().c_str());
  if (!backend.ok()) return;
  const FormatCase format = {"nf4 b64", WeightFormat::kCodebook, 4, 64, DType::kF16, DType::kF32, false};
  for (int64_t nested_block : {256, 48}) {
    QuantWeight parts[2];
    Stored by_rows[2], twice[2];
    QuantWeight plain_twice[2];
    for (int i = 0; i < 2; ++i) {
      parts[i] = i == 0 ? random_weight(format, 120, 1024, 3) : random_weight_like(parts[0], format, 120, 4);
      const size_t count = parts[i].scales.size();
      by_rows[i] = store(parts[i], Layout::kRows);
      by_rows[i].weight.scales.clear();
      by_rows[i].scale_bytes = bytes_of(parts[i].scales.data(), count * 4, 1);
      by_rows[i].weight.stored_scales = {by_rows[i].scale_bytes.data() + 1, DType::kF32, true};
      twice[i] = store(parts[i], Layout::kRows);
      plain_twice[i] = parts[i];
      std::vector<float> map(256), nested((count + nested_block - 1) / nested_block);
      for (int j = 0; j < 256; ++j) map[j] = static_cast<float>(j - 100) / 300.f;
      for (size_t j = 0; j < nested.size(); ++j) nested[j] = 0.01f + 0.001f * static_cast<float>(j % 7) + 0.002f * i;
      const float offset = 0.021f + 0.003f * i;
      for (size_t j = 0; j < count; ++j) {
        const auto code = static_cast<uint8_t>(j * 31 + j / 97);
        twice[i].scale_bytes.push_back(code);
        const volatile float product = map[code] * nested[j / nested_block];  // volatile: no fused operation
        plain_twice[i].scales[j] = product + offset;
      }
      twice[i].map_bytes = bytes_of(map.data(), 1024, 3);
      twice[i].nested_bytes = bytes_of(nested.data(), nested.size() * 4, 1);
      twice[i].weight.scales.clear();
      twice[i].weight.stored_scales = {twice[i].scale_bytes.data(), DType::kU8, true, twice[i].map_bytes.data() + 3,
                                       twice[i].nested_bytes.data() + 1, nested_block, offset};
    }
    CHECK_THAT(product(**backend, {&parts[0]}, WeightRole::kOther) == product(**backend, {&by_rows[0].weight}, WeightRole::kOther),
               "by rows");
    CHECK_THAT(product(**backend, {&plain_twice[0]}, WeightRole::kOther) == product(**backend, {&twice[0].weight}, WeightRole::kOther),
               "twice");
    for (WeightRole role : {WeightRole::kQkv, WeightRole::kGateUp}) {
      CHECK_THAT(
          product(**backend, {&plain_twice[0], &plain_twice[1]}, role) == product(**backend, {&twice[0].weight, &twice[1].weight}, role),
          "two parts, role %d", static_cast<int>(role));
      CHECK_THAT(product(**backend, {&parts[0], &plain_twice[1]}, role) == product(**backend, {&by_rows[0].weight, &twice[1].weight}, role),
                 "parts of two kinds, role %d", static_cast<int>(role));
    }
  }
  // So many rows that they are packed in runs, which begin within a nested block.
  QuantWeight tall = random_weight(format, 16, 4096, 9);
  tall.out_features = 24000;
  tall.codes.clear();
  tall.stored.layout = Layout::kRandom;
  tall.scales.assign(static_cast<size_t>(tall.out_features * tall.groups()), 0.f);
  QuantWeight view = tall;
  std::vector<uint8_t> codes(tall.scales.size());
  std::vector<float> map(256), nested(tall.scales.size() / 200 + 1);
  for (int j = 0; j < 256; ++j) map[j] = static_cast<float>(j) / 256.f;
  for (size_t j = 0; j < nested.size(); ++j) nested[j] = 0.01f + 1e-6f * static_cast<float>(j);
  for (size_t j = 0; j < codes.size(); ++j) {
    codes[j] = static_cast<uint8_t>(j * 7 + j / 64);
    const volatile float product = map[codes[j]] * nested[j / 200];
    tall.scales[j] = product + 0.5f;
  }
  view.scales.clear();
  view.stored_scales = {codes.data(), DType::kU8, true, reinterpret_cast<const uint8_t*>(map.data()),
                        reinterpret_cast<const uint8_t*>(nested.data()), 200, 0.5f};
  CHECK_THAT(product(**backend, {&tall}, WeightRole::kOther) == product(**backend, {&view}, WeightRole::kOther), "many rows");
}

// Values that the device quantizes become what the rule of quant_weight.h says, computed here one by one.
GPU_TEST(ValuesAreQuantizedByTheirRule) {
  auto backend = make_cuda_backend({});
  if (!backend.ok()) return;
  for (DType type : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (int bits : {4, 8}) {
      for (int64_t group : {64, 256}) {
        const int64_t n = 40, k = 512, per_row = bits == 8 ? 1 : k / group, length = k / per_row;
        std::vector<float> values = random_values(n * k, 0.05f, 11);
        std::fill_n(values.begin() + k, 2 * length, 0.f);  // groups of zeros
        values[5] = 0.f, values[6] = -0.f;
        std::vector<uint8_t> bytes(1);
        for (float& value : values) {
          const uint16_t half = type == DType::kBF16 ? float_to_bf16(value) : float_to_f16(value);
          if (type != DType::kF32) value = type == DType::kBF16 ? bf16_to_float(half) : f16_to_float(half);
          const auto* from = type == DType::kF32 ? reinterpret_cast<const uint8_t*>(&value) : reinterpret_cast<const uint8_t*>(&half);
          bytes.insert(bytes.end(), from, from + dtype_bytes(type));
        }
        QuantWeight plain;
        plain.format = bits == 8 ? WeightFormat::kIntGroup : WeightFormat::kCodebook;
        plain.out_features = n, plain.in_features = k, plain.bits = bits, plain.group_size = length;
        for (int i = 0; i < 16; ++i) plain.codebook[i] = static_cast<float>(i - 7) / 8.f;
        QuantWeight view = plain;
        for (int i = 0; i < 15; ++i) view.rule.steps[i] = static_cast<float>(i - 7) / 7.5f;
        for (int i = 0; i < 16; ++i) view.rule.code[i] = static_cast<uint8_t>((i * 5 + 3) % 16);
        view.stored.layout = Layout::kFloats;
        view.stored.data = bytes.data() + 1;
        view.stored.type = type;
        if (bits == 8) view.zeros.assign(n, 128);
        plain.zeros = view.zeros;
        plain.codes.resize(n * k);
        for (int64_t g = 0; g < n * per_row; ++g) {
          const auto seen = [&](int64_t i) { return bits == 8 ? f16_to_float(float_to_f16(values[i])) : values[i]; };
          float most = 0;
          for (int64_t i = g * length; i < (g + 1) * length; ++i) most = std::max(most, std::fabs(seen(i)));
          const float quotient = most > 0 ? (bits == 8 ? 127.f : 1.f) / most : 0.f;
          for (int64_t i = g * length; i < (g + 1) * length; ++i) {
            const float x = seen(i) * quotient;
            int below = 0;
            for (float step : view.rule.steps) below += x > step;
            plain.codes[i] = bits == 8 ? static_cast<uint8_t>(static_cast<int>(std::nearbyint(x)) + 128) : view.rule.code[below];
          }
          plain.scales.push_back(bits == 8 ? most * kInt8Scale : most);
        }
        const std::vector<float> expected = product(**backend, {&plain}, WeightRole::kOther);
        CHECK_THAT(expected == product(**backend, {&view}, WeightRole::kOther), "%s to %d bits, group %lld", dtype_name(type), bits,
                   static_cast<long long>(length));
        for (WeightRole role : {WeightRole::kQkv, WeightRole::kGateUp}) {
          CHECK_THAT(product(**backend, {&plain, &plain}, role) == product(**backend, {&view, &view}, role), "%s to %d bits: two parts",
                     dtype_name(type), bits);
        }
        if (bits == 8) continue;
        for (float& scale : plain.scales) scale *= 0.75f;  // as double quantization changes them
        view.scales = plain.scales;
        CHECK_THAT(product(**backend, {&plain}, WeightRole::kOther) == product(**backend, {&view}, WeightRole::kOther),
                   "with scales of its own");
      }
    }
  }
}

// Loading takes one piece of memory for all weights and gives back what packing needed.
GPU_TEST(ALoadTakesWhatItSaid) {
  auto backend = make_cuda_backend({});
  if (!backend.ok()) return;
  const FormatCase format = {"int4 g128", WeightFormat::kIntGroup, 4, 128, DType::kF16, DType::kF16, false};
  const QuantWeight w = random_weight(format, 1024, 1024, 1);
  const int64_t each = (*backend)->packed_bytes({w}, WeightRole::kOther);
  (void)(*backend)->pack({&w}, WeightRole::kOther);
  (*backend)->end_load();
  const int64_t before = (*backend)->free_bytes();
  constexpr int64_t kCount = 90;
  std::vector<std::shared_ptr<const PackedWeight>> weights;
  CHECK_THAT((*backend)->begin_load(kCount * each).ok(), "begin_load");
  for (int64_t i = 0; i < kCount; ++i) weights.push_back((*backend)->pack({&w}, WeightRole::kOther).value());
  (*backend)->end_load();
  const int64_t taken = before - (*backend)->free_bytes();
  CHECK_THAT(taken >= kCount * each && taken <= kCount * each + (4 << 20), "%lld taken for %lld", static_cast<long long>(taken),
             static_cast<long long>(kCount * each));
  weights.clear();
  CHECK_THAT((*backend)->free_bytes() >= before, "%lld not given back", static_cast<long long>(before - (*backend)->free_bytes()));
  const Status status = (*backend)->begin_load(int64_t{1} << 50);
  CHECK_THAT(status.code() == Code::kNoDeviceMemory && status.detail().find("needed") != std::string::npos, "%s", status.message().c_str());
  CHECK_THAT((*backend)->pack({&w}, WeightRole::kOther).ok(), "after a load that had no room");
}

}  // namespace nbl::gpu_test

// The element types that occur in safetensors files, and conversions of the half-precision ones.
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>

namespace nbl {

enum class DType : uint8_t { kBool, kU8, kI8, kI16, kI32, kI64, kF8E4M3, kF8E5M2, kF16, kBF16, kF32, kF64 };

inline int dtype_bytes(DType type) {
  switch (type) {
    case DType::kBool: case DType::kU8: case DType::kI8: case DType::kF8E4M3: case DType::kF8E5M2: return 1;
    case DType::kI16: case DType::kF16: case DType::kBF16: return 2;
    case DType::kI32: case DType::kF32: return 4;
    case DType::kI64: case DType::kF64: return 8;
  }
  return 0;
}

// The spelling of the safetensors header: "F16", "BF16", "I32", ...
inline const char* dtype_name(DType type) {
  switch (type) {
    case DType::kBool: return "BOOL";
    case DType::kU8: return "U8";
    case DType::kI8: return "I8";
    case DType::kI16: return "I16";
    case DType::kI32: return "I32";
    case DType::kI64: return "I64";
    case DType::kF8E4M3: return "F8_E4M3";
    case DType::kF8E5M2: return "F8_E5M2";
    case DType::kF16: return "F16";
    case DType::kBF16: return "BF16";
    case DType::kF32: return "F32";
    case DType::kF64: return "F64";
  }
  return "?";
}

inline bool is_float(DType type) {
  return type == DType::kF16 || type == DType::kBF16 || type == DType::kF32 || type == DType::kF64;
}

inline float bits_to_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline uint32_t float_to_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

inline float bf16_to_float(uint16_t half) { return bits_to_float(static_cast<uint32_t>(half) << 16); }

// Rounds to nearest, ties to even; NaN stays NaN.
inline uint16_t float_to_bf16(float value) {
  const uint32_t bits = float_to_bits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

// Without branches, so that loops over it become vector code on every instruction set.
inline float f16_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = half & 0x7c00u;
  const uint32_t normal = (static_cast<uint32_t>(half & 0x7fffu) << 13) + (112u << 23);
  // Subnormal: (2^-14 + mantissa * 2^-24) - 2^-14. It is exact, and no float here is subnormal for a host that flushes those.
  const uint32_t subnormal = float_to_bits(bits_to_float(normal + (1u << 23)) - 6.103515625e-5f);
  const uint32_t infinite = normal + (112u << 23);  // or NaN
  return bits_to_float(sign | (exponent == 0 ? subnormal : exponent == 0x7c00u ? infinite : normal));
}

// Rounds to nearest, ties to even; overflow becomes infinity; subnormals are kept.
inline uint16_t float_to_f16(float value) {
  const uint32_t bits = float_to_bits(value);
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7e00u;
  if (magnitude >= 0x477ff000u) return sign | 0x7c00u;  // 65520 and above round to infinity
  if (magnitude < 0x38800000u) {                        // below 2^-14: a multiple of 2^-24
    // Adding 0.5 puts the half's unit in the last place at the float's, so the addition rounds as wanted.
    const float shifted = bits_to_float(magnitude) + 0.5f;
    return sign | static_cast<uint16_t>(float_to_bits(shifted) - float_to_bits(0.5f));
  }
  const uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1);
  return sign | static_cast<uint16_t>((rounded - 0x38000000u) >> 13);
}

// The largest |x|; NaN or infinite if one of them is not finite. Magnitudes are compared as integers, which is vector code.
inline float largest_magnitude(const float* x, int64_t count) {
  int32_t most = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t magnitude = static_cast<int32_t>(float_to_bits(x[i]) & 0x7fffffffu);
    most = magnitude > most ? magnitude : most;
  }
  return bits_to_float(static_cast<uint32_t>(most));
}

// `count` values of F16, BF16 or F32 as float32. They may lie anywhere: the mapping of a checkpoint need not be aligned.
inline void widen(DType type, const void* values, int64_t count, float* out) {
  const uint8_t* from = static_cast<const uint8_t*>(values);
  if (type == DType::kF32) {
    std::memcpy(out, from, static_cast<size_t>(count) * 4);
    return;
  }
  const auto each = [&](auto to_float) {
    for (int64_t i = 0; i < count; ++i) {
      uint16_t half;
      std::memcpy(&half, from + 2 * i, 2);
      out[i] = to_float(half);
    }
  };
  if (type == DType::kF16) {
    each([](uint16_t half) { return f16_to_float(half); });
  } else {
    each([](uint16_t half) { return bf16_to_float(half); });
  }
}

}  // namespace nbl

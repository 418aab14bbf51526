// y[T, N] = x[T, K] * W^T with packed weights, and the unpacking of a matrix to f16 for cuBLAS.
//
//   rows of x     kernel                                 where
//   1 to 8        matmul_stream.cu, mma.sync             everywhere
//   9 and more    matmul_wgmma.cu, wgmma, x blocked      sm_90
//   9 to 16       matmul_stream.cu                       elsewhere
//   17 and more   matmul.cu, mma.sync                    elsewhere
#pragma once

#include "kernels/cuda/check.h"
#include "kernels/cuda/device_traits.h"
#include "kernels/cuda/weights/tile.h"
#include "model/decoder.h"

namespace nbl::cuda {

// What becomes of a result: `row` is the output feature, `token` the row of x.
struct Output {
  enum class Kind : uint8_t {
    kStore,  // values[token * pitch + row] = y
    kAdd,    // values[token * pitch + row] += y
    kGate,   // interleaved gate and up: half_values[token * pitch + place[i]] = activation(gate_i) * up_i
  };
  Kind kind = Kind::kStore;
  float* values = nullptr;
  void* half_values = nullptr;     // f16
  int64_t pitch = 0;
  bool blocked = false;            // kGate: half_values has the blocked layout (tile.h)
  const float* bias = nullptr;     // [N] in the order of the parts, or null
  const int32_t* place = nullptr;  // kGate: where column i of the next matrix's input stands; null: at i
  Activation activation = Activation::kSilu;
};

// Scratch of the split over K: partial sums and one ticket a tile, which every launch leaves at zero.
struct SplitScratch {
  float* partial = nullptr;
  int64_t partial_bytes = 0;
  unsigned* tickets = nullptr;     // [kTickets]
  static constexpr int kTickets = 1 << 16;
};

constexpr int kStreamRows = 16;  // rows of x up to which matmul_stream is the fastest where there is no wgmma

// Rows of x from which the kernel for blocked activations is the fastest, 0 on devices that have none.
inline int blocked_from(int sm) { return sm == 90 ? 9 : 0; }

// x: f16 in the layout given, columns in k_order, zero beyond K; readable for pad_up(tokens, 64) rows. A blocked x needs a
// device of sm_90.
Status matmul_tiles(const Tiles& weight, const void* x, const ActivationLayout& layout, int tokens, const Output& output,
                    const SplitScratch& scratch, const DeviceTraits& traits, cudaStream_t stream);

// out: f16 [16 * strips, padded K], rows as the tiles have them.
Status unpack_tiles(const Tiles& weight, void* out, int64_t padded_k, cudaStream_t stream);

// Raises the shared memory limits of the kernels on the current device, and finds out about its clusters and early launches.
// Once, when a backend is made.
Status prepare_matmul(DeviceTraits& traits);

// The kernels behind matmul_tiles.
Status matmul_stream(const Tiles& weight, const void* x, int64_t x_pitch, int tokens, const Output& output, const SplitScratch& scratch,
                     const DeviceTraits& traits, cudaStream_t stream);
Status matmul_wgmma(const Tiles& weight, const void* x, int64_t x_pitch, int tokens, const Output& output, const DeviceTraits& traits,
                    cudaStream_t stream);
Status prepare_matmul_stream(DeviceTraits& traits);
Status prepare_matmul_wgmma(DeviceTraits& traits);

}  // namespace nbl::cuda

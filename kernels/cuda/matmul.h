// y[T, N] = x[T, K] * W^T with packed weights: a tensor-core kernel for up to 64 tokens at a time, and the unpacking of a
// matrix to f16 for cuBLAS above that.
#pragma once

#include "kernels/cuda/check.h"
#include "kernels/cuda/tile.h"
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

// x: f16, rows of `pitch` elements, columns in k_order, zero beyond K; readable for pad_up(tokens, 64) rows.
Status matmul_tiles(const Tiles& weight, const void* x, int64_t x_pitch, int tokens, const Output& output,
                    const SplitScratch& scratch, int multiprocessors, cudaStream_t stream);

// out: f16 [16 * strips, padded K], rows as the tiles have them.
Status unpack_tiles(const Tiles& weight, void* out, int64_t padded_k, cudaStream_t stream);

// Raises the shared memory limits of the kernels on the current device. Once, when a backend is made.
Status prepare_matmul();

}  // namespace nbl::cuda

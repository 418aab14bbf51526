// What the kernels of a step share: the sequences of the step, the shape of attention, and the launchers of everything
// that is not a matrix product.
//
// Activations on the device: the residual h and the results of qkv and gate/up are float32 (or f16 after cuBLAS); what a
// matrix reads is f16, one row a token, padded to 128 columns with zeros, its columns in the order of that matrix, in one of
// the two layouts of tile.h.
#pragma once

#include <cuda_fp16.h>

#include "kernels/cuda/check.h"
#include "kernels/cuda/device_traits.h"
#include "kernels/cuda/weights/tile.h"
#include "model/decoder.h"

namespace nbl::cuda {

// One sequence of a step, in device memory.
struct StepSequence {
  void* cache = nullptr;        // f16 or int8 [layers][2][kv_heads][capacity][head_dim]
  int64_t capacity = 0;
  int32_t length = 0;           // positions held before this step
  int32_t first_row = 0;        // its first row of the step
  int32_t count = 0;            // its rows
  __half* scales = nullptr;     // of an int8 cache: [layers][2][kv_heads][capacity]; null: f16
};

// A norm with its vectors on the device.
struct DeviceNorm {
  Norm::Kind kind = Norm::Kind::kRms;
  const float* weight = nullptr;  // [width]; null: no norm at all
  const float* bias = nullptr;    // [width] or null
  float epsilon = 0;
  int width = 0;
};

struct AttentionShape {
  int heads = 0, kv_heads = 0, head_dim = 0;
  int rotary_half = 0;            // pairs that turn; 0: none
  int64_t window = 0;             // 0: everything before
  float scale = 1;
  DeviceNorm q_norm, k_norm;      // weight null: none
  int layer = 0;
};

// Where things of one step stand on the device.
struct StepRows {
  const StepSequence* sequences = nullptr;  // [sequence_count]
  const int32_t* tokens = nullptr;          // [rows]
  const int32_t* positions = nullptr;       // [rows]
  const int32_t* sequence_of = nullptr;     // [rows]
  float2* turns = nullptr;                  // [rows][rotary_half] cosine, sine
  int rows = 0;
  int sequence_count = 0;
  bool has_half_caches = true, has_byte_caches = false;  // among the sequences
};

constexpr int kHeadsPerTask = 4;  // query heads that one CTA of decode attention serves, where it has no tensor core for eight

// Tasks of decode attention of one token, before positions are split: each has up to heads_per_task query heads of one kv head.
template <typename Int>
NBL_HD constexpr Int attention_tasks_per_kv_head(Int heads, Int kv_heads, int heads_per_task) {
  return (heads / kv_heads + heads_per_task - 1) / heads_per_task;
}
template <typename Int>
NBL_HD constexpr Int attention_tasks(Int heads, Int kv_heads, int heads_per_task) {
  return kv_heads * attention_tasks_per_kv_head(heads, kv_heads, heads_per_task);
}

// h[row] = embedding[tokens[row]].
Status embed(const StepRows& step, const void* table, DType type, float* h, int64_t hidden, cudaStream_t stream);
// turns[row][i] for every row: inv_freq is [rotary_half], or [sequence_count][rotary_half] when per_sequence.
Status turn_angles(const StepRows& step, const float* inv_freq, bool per_sequence, int rotary_half, float factor, const DeviceTraits& traits,
                   cudaStream_t stream);
// x[i][place[c]] = norm(h[row_list ? row_list[i] : i])[c]; a norm without weight only converts.
Status normalize(const DeviceNorm& norm, const float* h, int64_t width, const int32_t* row_list, int rows, void* x,
                 const ActivationLayout& layout, const int32_t* place, const DeviceTraits& traits, cudaStream_t stream);
// The rows as kernels/outliers.h rounds them, in place; adds the number of outliers to *outliers.
Status round_rows(void* x, const ActivationLayout& layout, int64_t width, int rows, double threshold, unsigned long long* outliers,
                  cudaStream_t stream);
// values[row * pitch + i] += bias[i]; nothing when bias is null.
Status add_bias(float* values, const float* bias, int64_t width, int64_t pitch, int rows, cudaStream_t stream);
// act[row][place[i]] = activation(gate) * up of interleaved or concatenated rows, f16 or float32.
struct GateInput {
  const void* values = nullptr;   // [rows][2 * width]
  bool half = false;
  bool interleaved = false;
  int64_t pitch = 0;
  const float* bias = nullptr;         // [width] of the gate, or null
  const float* second_bias = nullptr;  // [width] of up, or null
};
Status gate(const GateInput& in, Activation activation, int64_t width, int rows, void* act, const ActivationLayout& layout,
            const int32_t* place, cudaStream_t stream);

// One new token a sequence: norms, rotation, append, and attention; qkv is float32 [rows][(heads + 2 kv_heads) * head_dim], the
// result is x[row][place[head * head_dim + i]]. Positions are split over CTAs; scratch is
//   part: float32 [rows][heads][splits][head_dim], part_state: {max, sum} of each, tickets: zeros, one a row and head, left at zero.
struct DecodeScratch {
  float* part = nullptr;
  float2* part_state = nullptr;
  unsigned* tickets = nullptr;
};
Status decode_attention(const AttentionShape& shape, const StepRows& step, const float* qkv, int splits, const DecodeScratch& scratch,
                        void* x, const ActivationLayout& layout, const int32_t* place, const DeviceTraits& traits, cudaStream_t stream);
// What decode_attention uses where it can: attention_decode.cu.
bool decodes_on_tensor_core(const AttentionShape& shape);
Status decode_on_tensor_core(const AttentionShape& shape, const StepRows& step, const float* qkv, int splits, const DecodeScratch& scratch,
                             void* x, const ActivationLayout& layout, const int32_t* place, const DeviceTraits& traits, cudaStream_t stream);
// Many new tokens: norms, rotation and append first, then attention in tiles of query_tile_rows() queries.
Status rotate_and_append(const AttentionShape& shape, const StepRows& step, const float* qkv, void* q, cudaStream_t stream);
struct QueryTile {
  int32_t sequence, first;        // its rows first, first + 1, ... of the sequence's rows
};
constexpr int kQueryTile = 64, kWideQueryTile = 192;
inline int query_tile_rows(int sm, int64_t head_dim) { return sm == 90 && head_dim <= 128 && head_dim % 8 == 0 ? kWideQueryTile : kQueryTile; }
Status prefill_attention(const AttentionShape& shape, const StepRows& step, const QueryTile* tiles, int tile_count, int tile_rows,
                         const void* q, void* x, const ActivationLayout& layout, const int32_t* place, cudaStream_t stream);
Status prefill_attention_wgmma(const AttentionShape& shape, const StepRows& step, const QueryTile* tiles, int tile_count, const void* q,
                               void* x, const ActivationLayout& layout, const int32_t* place, cudaStream_t stream);
Status prepare_attention(const DeviceTraits& traits);
Status prepare_decode_attention(const DeviceTraits& traits);
Status prepare_attention_wgmma();

// ids[row] = the index of the largest logit (the lowest of equals).
Status arg_max(const float* logits, int64_t vocab, int rows, int32_t* ids, cudaStream_t stream);

}  // namespace nbl::cuda

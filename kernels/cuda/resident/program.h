// One kernel for a whole decode step of one token: the CTAs stay resident, one a multiprocessor, and walk
// together over the decoder's operations. In each CTA a producer warp streams the CTA's share of all weights
// of the step, in order, through a ring in shared memory; it waits for no other CTA, so that memory keeps
// working while the others synchronize.
//
// What CTAs tell each other is tagged (words.cuh): words of a value and the number of the operation that wrote it,
// stored and loaded whole. A reader repeats its loads until it finds the tag; there is no barrier of the
// grid, and no fence. No word is written again before all have read it: between two writes of a buffer every
// CTA has waited for words of all others.
//
// For devices of compute capability 9.0 and later (bulk copies, mbarrier) whose CTAs of a step all fit at
// once; everything else runs plan.cc's sequence of launches.
#pragma once

#include <memory>
#include <vector>

#include "kernels/cuda/device_decoder.h"
#include "kernels/cuda/device_traits.h"
#include "kernels/cuda/resident/x_layout.h"
#include "kernels/cuda/sampling/sampling.h"

namespace nbl::cuda {

// Consumers of a CTA: few, with many registers and two records under way in each; a thread of one more warp produces.
constexpr int kConsumerWarps = 8;
constexpr int kConsumerThreads = kConsumerWarps * 32;
constexpr int kThreads = kConsumerThreads + 128;  // registers change hands between whole groups of four warps
constexpr int kWindow = 8;  // strips whose sums are reduced at once
constexpr int kRedFloats = 2 * kWindow * kConsumerWarps * kStripRows;
constexpr int kMostSlotBytes = 36864;  // of the ring: 32 records of 4 bits with their scales
constexpr int kSlotPieces = 2;     // each copied by itself, and waited for by its share of the warps
constexpr int kRunRecords = 4;   // of a warp in each chunk, where they are of one strip (ResidentOp::runs)
constexpr int kPairBytes = 256 * 32 * 4;
constexpr int kZeroBytes = 256;  // of shared memory, for the lanes that read zeros as x
constexpr uint32_t kEmbeddingTag = 1;  // a step's first tag: of the embedding's row; the operations' follow
constexpr int kMmaHeads = 8;     // query heads of one task of attention
constexpr int kMostUnits = 4;      // of a warp, that the kernel keeps of a row of the residual; it is compiled for 1, 2 and so many

// Heads that the largest task of attention has.
NBL_HD constexpr int mma_task_heads(int heads, int kv_heads) { return heads / kv_heads < kMmaHeads ? heads / kv_heads : kMmaHeads; }
// Shared memory of attention in bytes: queries, the new key and value f16, a head f32 of each warp, the warps' states and sums of
// `task_heads`.
NBL_HD constexpr int mma_attention_bytes(int head_dim, int warps, int task_heads) {
  return (kMmaHeads + 2) * head_dim * 2 + warps * head_dim * 4 + warps * kMmaHeads * 8 + warps * task_heads * (head_dim + 4) * 4;
}

// Where an operation of the step finds its input, and what it does with it on the way to shared memory.
enum class ResidentInput : uint8_t {
  kRms,         // RMS norm of h, where the kernel has it all at once
  kHalves,      // f16 of no more columns: attention's
  kManyHalves,  // f16 of any number of columns: the gated MLP's
  kNormed,      // any norm of h
  kGateUp,      // activation(gate) * up, both float32, one after the other
};
enum class ResidentOutput : uint8_t {
  kTagged,    // tagged[row] = y, float32
  kLogits,    // out[row] = y
  kResidual,  // h[row] += y, of which the CTA keeps its rows; tagged[row / 2] = a pair of h
  kGate,      // halves[i] = activation(gate_i) * up_i, f16, of interleaved rows
};

// A number for each way to multiply; group_blocks as in ResidentOp.
NBL_HD constexpr uint8_t resident_format(Codes codes, int group_blocks, bool wide_scales) {
  return static_cast<uint8_t>(static_cast<int>(codes) * 8 + (group_blocks / 2) * 2 + (wide_scales ? 1 : 0));
}

// Formats whose products take so long that runs have a loop of their own: NF4 and FP4 as bitsandbytes makes them, three bits of GPTQ.
NBL_HD constexpr bool has_runs(uint8_t format) {
  return format == resident_format(Codes::kCode4, 2, true) || format == resident_format(Codes::kInt3, 4, false);
}

// What formats of matrices a kernel has, beside f16. What runs in turn should lie close together, and the code of formats that a model does
// not have moves it apart: 1 to 3 % of a step.
enum class ResidentFormats : uint8_t { kInt4, kCodebook, kAny };
NBL_HD constexpr bool has_codes(ResidentFormats formats, Codes codes) {
  return formats == ResidentFormats::kAny || codes == Codes::kHalf ||
         codes == (formats == ResidentFormats::kInt4 ? Codes::kInt4 : Codes::kCode4);
}

// One matrix product of a step, or (strips == 0) the attention of a layer.
struct alignas(16) ResidentOp {
  const unsigned char* data = nullptr;  // Tiles::data
  const unsigned int* code_pairs = nullptr;
  const float* row_scale = nullptr;
  const int32_t* in_place = nullptr;   // all but f16: column of the input -> column of x; null: the same
  const int32_t* out_place = nullptr;  // kGate and attention: row of the result -> where it goes in halves; null: the same
  const float* bias = nullptr;
  float* out = nullptr;                // kLogits
  uint2* tagged = nullptr;             // words or pairs (words.cuh)
  uint32_t* halves = nullptr;          // {f16, tag}
  const uint2* input_words = nullptr;  // what `input` reads, or attention
  const uint32_t* input_halves = nullptr;
  DeviceNorm norm;                     // kRms, kNormed
  int32_t rows = 0, strips = 0, records = 0, record_bytes = 0;
  int32_t width = 0, padded_k = 0;   // columns of the input, and with padding
  int32_t group_blocks = 0;          // blocks of 32 columns that share a scale: 1, 2 or 4; 0 for f16
  int32_t warp_records = 0;          // of one slot of the ring
  int32_t chunk_strips = 0;          // of one slot, where there are runs and it has whole strips; otherwise 0
  uint32_t records_inverse = 0;      // 2^32 / records, rounded up
  float unit = 1;                    // of the sums of products
  uint32_t in_tag = 0, out_tag = 0;  // counted from the step's first tag
  uint8_t format = 0;  // resident_format()
  Codes codes = Codes::kHalf;
  ResidentInput input = ResidentInput::kNormed;
  ResidentOutput output = ResidentOutput::kTagged;
  Activation activation = Activation::kSilu;
  bool runs = false;  // each warp has kRunRecords of a slot, all of one strip
  AttentionShape attention;  // where strips == 0
};

// Of an operation, what the producer needs.
struct ResidentStream {
  const unsigned char* data = nullptr;
  int32_t strips = 0;          // 0: attention
  int32_t begin = 0, end = 0;  // the CTA's: found once a step, by itself
  int32_t records = 0;         // of a strip; of attention: the layer
  int32_t record_bytes = 0;
  int32_t chunk_records = 0;   // of attention: the window
  int32_t first_cta = 0;       // of the CTAs with a strip each, where there are fewer strips than CTAs
};

// What the consumers of a CTA carry over from one operation to the next: in shared memory, since while they multiply no register is left
// for it.
struct CarriedState {
  const unsigned int* pairs;  // whose table is in shared memory
  uint32_t base;              // the tag before the step's first
  float guess;                // of the next norm's factor; 0: none
  int32_t slot;               // of the ring, the next one to be read
  uint32_t phase;             // how often the ring has been around, as the parity of its barriers
};

// What the kernel is launched with: all of it stays the same from step to step, so that a graph may hold it.
struct ResidentStep {
  const ResidentOp* ops = nullptr;
  const ResidentStream* streams = nullptr;
  const StepSequence* sequence = nullptr;
  const int32_t* token = nullptr;
  const int32_t* position = nullptr;
  const float* inv_freq = nullptr;
  const void* table = nullptr;   // the embedding
  uint2* h = nullptr;            // pairs, of which the kernel writes the embedding's row itself
  uint2* parts = nullptr;        // tagged: [heads][splits][head_dim / 2] of two f16, each split divided by its sum
  uint4* part_states = nullptr;  // [heads][splits] tagged: maximum, sum
  PartBest* bests = nullptr;     // [CTAs] of the logits
  unsigned* sync = nullptr;      // {the tag before this step's first, CTAs that are done with the step}
  int32_t op_count = 0, splits = 1, hidden = 0, heads = 0, kv_heads = 0, head_dim = 0, rotary_half = 0;
  int32_t residual_cta = 0;  // the first_cta of matrices that write h
  float rotary_factor = 1;
  DType table_type = DType::kF32;
  // Places in shared memory, in bytes: x (also attention's scratch) begins at 0.
  int32_t factors_at = 0, red_at = 0, turns_at = 0, norm_at = 0, best_at = 0, zeros_at = 0, carried_at = 0, sequence_at = 0,
          residual_at = 0, ops_at = 0, streams_at = 0, pairs_at = 0, barriers_at = 0, ring_at = 0;
  int32_t slot_bytes = 0, slots = 0, in_flight = 0;
};

constexpr int64_t kTokensPerPass = kConsumerWarps * 16;  // positions that one pass of a CTA's warps covers in attention

// The kernel, of one ResidentStep. Units: of 128 columns, that a warp has of a row of the residual.
template <ResidentFormats Formats>
const void* resident_kernel_with(int units);

// The operations of a decoder for this kernel, with the buffers they work on.
class ResidentProgram {
 public:
  // Null when the device or the decoder is not for this kernel.
  static Result<std::unique_ptr<ResidentProgram>> create(const DeviceDecoder& decoder, float* logits, int device, int multiprocessors,
                                                         int shared_optin, cudaStream_t stream);
  // Splits that serve a sequence of `length` positions.
  int splits(int64_t length) const;
  // `step` names the sequence, token, position and frequencies; the rest is filled in here.
  Status launch(ResidentStep step, cudaStream_t stream) const;
  // Of the logits of the last step.
  RowBests bests() const { return {step_.bests, grid_}; }
  int64_t bytes() const { return memory_.bytes(); }
  // The same before there is one, as far as the shape of the model tells: 0 where it is not for this kernel.
  static int64_t bytes_for(const DecoderConfig& config, const DeviceTraits& traits);

 private:
  ResidentProgram() = default;
  ResidentStep step_;
  const void* kernel_ = nullptr;
  DeviceBuffer memory_;  // ops, streams, tagged words, counters
  int grid_ = 0, shared_bytes_ = 0, max_splits_ = 1;
};

}  // namespace nbl::cuda

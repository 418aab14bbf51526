// What a plan takes on the device: sizes from the limits alone, and one piece of memory handed out in parts. Estimates and
// plans use the same functions.
#include <algorithm>

#include "kernels/cuda/plan/plan.h"

namespace nbl::cuda {
namespace {

constexpr int64_t kUnpackedLimit = 56 << 20;   // bytes of a matrix that are unpacked at a time: half of the down matrix of a 7B
constexpr int64_t kAllocationStep = 2 << 20;   // the driver hands out memory in such pieces
constexpr int64_t kStreamBytes = 2 << 20;      // what it takes for a plan's streams: measured

// Hands out aligned pieces of one buffer; with a null base it only adds up.
class Pieces {
 public:
  explicit Pieces(unsigned char* base) : base_(base) {}
  template <typename T>
  T* take(int64_t bytes) {
    T* at = reinterpret_cast<T*>(base_ + total_);
    total_ += pad_up(bytes, 256);
    return at;
  }
  int64_t total() const { return total_; }

 private:
  unsigned char* base_;
  int64_t total_ = 0;
};

}  // namespace

bool wants_cublas(const PlanLimits& limits, const DeviceTraits& traits, int from) {
  return traits.kernel != CudaKernel::kTiles && std::max(limits.max_tokens, limits.max_logit_rows) >= from;
}

ScratchSizes scratch_sizes(const DecoderConfig& c, const PlanLimits& limits, const DeviceTraits& traits, bool unpacks) {
  ScratchSizes s;
  s.rows = std::max<int64_t>(limits.max_tokens, 1);
  s.padded_rows = pad_up(std::max(s.rows, limits.max_logit_rows), 64);
  s.hidden_pad = pad_up(c.hidden_size, kColumnAlign);
  s.query_pad = pad_up(c.num_attention_heads * c.head_dim, kColumnAlign);
  s.inner_pad = pad_up(c.intermediate_size, kColumnAlign);
  s.qkv_width = (c.num_attention_heads + 2 * c.num_key_value_heads) * c.head_dim;
  // The largest matrix of a block, cut into slices of rows.
  const int64_t widest = std::max({s.qkv_width * s.hidden_pad, c.hidden_size * s.query_pad, 2 * c.intermediate_size * s.hidden_pad,
                                   c.hidden_size * s.inner_pad});
  const int64_t longest_row = std::max({s.hidden_pad, s.query_pad, s.inner_pad}) * 2;
  if (unpacks) s.unpacked_bytes = pad_up(std::max(std::min(widest * 2 + 16 * longest_row, kUnpackedLimit), 16 * longest_row), 256);
  // Gate and up pass through memory as float32 where the kernel could not combine them, some rows at a time, and as f16 slices
  // after cuBLAS.
  const int64_t columns = 2 * pad_up(c.intermediate_size, 8);
  s.gate_up_bytes = std::min(s.rows, kGateUpRows) * columns * 4;
  if (unpacks) {
    const int64_t slice = c.intermediate_size % 8 != 0 ? columns : std::min(columns, s.unpacked_bytes / (s.hidden_pad * 2) / 16 * 16);
    s.gate_up_bytes = std::max(s.gate_up_bytes, s.rows * slice * 2);
  }
  s.partial_bytes = static_cast<int64_t>(traits.multiprocessors) * 128 * 1024;
  s.split_rows = std::min(std::max<int64_t>(limits.max_sequences, 1), s.rows);
  const int64_t kv_heads = std::max<int64_t>(c.num_key_value_heads, 1);
  const int64_t tasks = attention_tasks(c.num_attention_heads, kv_heads, kHeadsPerTask);
  const int64_t useful = std::max<int64_t>(1, (limits.max_context + kTokensPerSplit - 1) / kTokensPerSplit);
  s.max_splits = static_cast<int>(std::max<int64_t>(1, std::min({traits.multiprocessors / tasks, useful, static_cast<int64_t>(32)})));
  s.input_bytes = InputLayout(s.rows, limits.max_sequences, limits.max_logit_rows, c.head_dim / 2).total;
  return s;
}

// Hands out the pieces of the scratch memory that begins at `base`, and says how long they are together; with a null
// base that is all it is good for.
int64_t CudaPlan::lay_out(const DecoderConfig& c, unsigned char* base, unsigned char** draw_scratch, void** unpack_buffers) {
  const ScratchSizes& s = sizes_;
  // What the attention of a block uses is free again when its MLP begins. Buffers whose padding must stay zero are not shared.
  const bool no_padding = s.hidden_pad == c.hidden_size && s.query_pad == c.num_attention_heads * c.head_dim && s.inner_pad == c.intermediate_size;
  const int64_t states = s.split_rows * s.max_splits * c.num_attention_heads;
  Pieces pieces(base);
  input_ = pieces.take<unsigned char>(s.input_bytes);
  h_ = pieces.take<float>(s.rows * c.hidden_size * 4);
  x_ = pieces.take<void>(s.padded_rows * std::max(s.hidden_pad, no_padding ? s.query_pad : 0) * 2);
  attended_ = no_padding ? x_ : pieces.take<void>(s.padded_rows * s.query_pad * 2);
  const int64_t qkv_bytes = pad_up(s.rows * s.qkv_width * 4, 256), q_bytes = s.rows * c.num_attention_heads * c.head_dim * 2;
  const int64_t act_bytes = pad_up(s.padded_rows * s.inner_pad * 2, 256);
  auto* shared = pieces.take<unsigned char>(no_padding ? std::max(qkv_bytes + q_bytes, act_bytes + s.gate_up_bytes) : qkv_bytes + q_bytes);
  auto* mlp = no_padding ? shared : pieces.take<unsigned char>(act_bytes + s.gate_up_bytes);
  qkv_ = reinterpret_cast<float*>(shared);
  q_ = shared + qkv_bytes;
  act_ = mlp;
  gate_up_ = mlp + act_bytes;
  *unpack_buffers = pieces.take<void>(2 * s.unpacked_bytes);
  logits_ = pieces.take<float>(limits_.max_logit_rows * c.vocab_size * 4);
  turns_ = pieces.take<float2>(s.rows * c.head_dim / 2 * 8);
  part_ = pieces.take<float>(states * c.head_dim * 4);
  part_state_ = pieces.take<float2>(states * 8);
  split_.partial = pieces.take<float>(s.partial_bytes);
  split_.partial_bytes = s.partial_bytes;
  split_.tickets = pieces.take<unsigned>(SplitScratch::kTickets * 4);
  outliers_ = pieces.take<unsigned long long>(sizeof(unsigned long long));
  *draw_scratch = pieces.take<unsigned char>(Draws::scratch_bytes(limits_.max_draws, c.vocab_size, traits_.shared_optin));
  return pieces.total();
}

int64_t CudaPlan::bytes_for(const DecoderConfig& config, const std::vector<MatrixSpecs>& matrices, const PlanLimits& limits,
                            const DeviceTraits& traits) {
  const bool all_codes = std::all_of(matrices.begin(), matrices.end(), [](const MatrixSpecs& matrix) {
    return matrix.role == WeightRole::kHead || plan_tiles(matrix.parts, matrix.role).tiles.codes != Codes::kHalf;
  });
  const bool wanted = wants_cublas(limits, traits, unpack_rows(traits, all_codes));
  CudaPlan plan;  // only to add up
  plan.traits_ = traits;
  plan.limits_ = limits;
  plan.sizes_ = scratch_sizes(config, limits, traits, wanted && !Cublas::file().empty());
  unsigned char* no_draws = nullptr;
  void* no_buffers = nullptr;
  const int64_t norms = (2 * config.num_hidden_layers + 1) * config.hidden_size * 4;
  const int64_t program = plan.wants_resident() ? ResidentProgram::bytes_for(config, traits) : 0;
  return pad_up(plan.lay_out(config, nullptr, &no_draws, &no_buffers), kAllocationStep) + norms + program + kStreamBytes;
}

}  // namespace nbl::cuda

// The host's side of the resident kernel: a decoder as a list of operations, where things lie in shared memory, the launch.
#include <algorithm>
#include <string>
#include <utility>

#include "kernels/cuda/resident/program.h"

namespace nbl::cuda {
namespace {

constexpr int kLeastSlots = 3;  // of the ring
constexpr int kMostSlots = 16;
constexpr int kAttentionCtas = 16;  // that it has to itself where matrices leave some free

int round_up(int64_t value, int step) { return static_cast<int>(pad_up(value, step)); }

// Codebooks that say the same share one table, so that the kernel loads it once.
class SharedPairs {
 public:
  Result<const unsigned int*> same_as(const unsigned int* device, cudaStream_t stream) {
    std::vector<unsigned int> values(256);
    NBL_CUDA(cudaMemcpyAsync(values.data(), device, 1024, cudaMemcpyDeviceToHost, stream));
    NBL_CUDA(cudaStreamSynchronize(stream));
    for (const auto& known : known_) {
      if (known.second == values) return known.first;
    }
    known_.emplace_back(device, std::move(values));
    return device;
  }

 private:
  std::vector<std::pair<const unsigned int*, std::vector<unsigned int>>> known_;
};

// Collects the operations of a decoder in order.
class ProgramWriter {
 public:
  // The buffers of tagged words: h, qkv, and what the MLP's second matrix reads where gate and up are apart; f16 of
  // attention and of the gated MLP.
  struct Words {
    uint2 *h, *qkv, *inner;
    uint32_t *attention, *gated;
  };
  ProgramWriter(const DeviceDecoder& decoder, const Words& words, float* logits) : decoder_(decoder), words_(words), logits_(logits) {}

  Status write(cudaStream_t stream) {
    const DecoderConfig& c = decoder_.config();
    const int hidden = static_cast<int>(c.hidden_size), heads_width = static_cast<int>(c.num_attention_heads * c.head_dim);
    uint32_t h_tag = kEmbeddingTag;  // of the operation that wrote h last
    const auto normed = [&](ResidentOp& op, const DeviceNorm& norm) {
      const bool plain = norm.kind == Norm::Kind::kRms && norm.bias == nullptr && op.padded_k <= kMostUnits * kConsumerWarps * kUnitColumns;
      op.input = plain ? ResidentInput::kRms : ResidentInput::kNormed;
      op.norm = norm;
      op.input_words = words_.h;
      op.in_tag = h_tag;
    };
    for (const DeviceBlock& block : decoder_.blocks()) {
      const uint32_t qkv_tag = next_tag() + static_cast<uint32_t>(block.qkv.size()) - 1;  // all write the last one's
      for (const DeviceLinear& linear : block.qkv) {
        ResidentOp& op = add(linear, hidden, ResidentOutput::kTagged);
        normed(op, block.input_norm);
        op.tagged = words_.qkv + linear.offset;
        op.out_tag = qkv_tag;
      }
      ResidentOp attention;
      attention.attention = block.attention;
      attention.input_words = words_.qkv;
      attention.in_tag = qkv_tag;
      attention.out_tag = next_tag();
      attention.halves = words_.attention;
      attention.out_place = block.output.weight->tiles().k_place;
      ops_.push_back(attention);
      ResidentOp& output = add(block.output, heads_width, ResidentOutput::kResidual);
      output.input = heads_width <= pad_up(hidden, kUnitColumns) ? ResidentInput::kHalves : ResidentInput::kManyHalves;
      output.input_halves = words_.attention;
      output.in_tag = attention.out_tag;
      output.tagged = words_.h;
      h_tag = output.out_tag;

      const int inner = static_cast<int>(c.intermediate_size);
      const bool gated = block.gate_up.size() == 1 && block.gate_up[0].weight->tiles().interleaved;
      const uint32_t inner_tag = next_tag() + static_cast<uint32_t>(block.gate_up.size()) - 1;
      for (const DeviceLinear& linear : block.gate_up) {
        ResidentOp& op = add(linear, hidden, gated ? ResidentOutput::kGate : ResidentOutput::kTagged);
        normed(op, block.post_norm);
        op.activation = block.activation;
        op.tagged = words_.inner + linear.offset;
        op.halves = words_.gated;
        op.out_place = block.down.weight->tiles().k_place;
        op.out_tag = inner_tag;
      }
      ResidentOp& down = add(block.down, inner, ResidentOutput::kResidual);
      down.input = gated ? ResidentInput::kManyHalves : ResidentInput::kGateUp;
      down.activation = block.activation;
      down.input_words = words_.inner;
      down.input_halves = words_.gated;
      down.in_tag = inner_tag;
      down.tagged = words_.h;
      h_tag = down.out_tag;
    }
    ResidentOp& head = add(decoder_.head(), hidden, ResidentOutput::kLogits);
    normed(head, decoder_.final_norm());
    head.out = logits_;
    SharedPairs pairs;
    for (ResidentOp& op : ops_) {
      if (op.code_pairs == nullptr) continue;
      NBL_ASSIGN_OR_RETURN(op.code_pairs, pairs.same_as(op.code_pairs, stream));
    }
    return {};
  }
  std::vector<ResidentOp>& ops() { return ops_; }

 private:
  uint32_t next_tag() const { return kEmbeddingTag + 1 + static_cast<uint32_t>(ops_.size()); }
  ResidentOp& add(const DeviceLinear& linear, int width, ResidentOutput output) {
    const Tiles& t = linear.weight->tiles();
    ResidentOp op;
    op.data = t.data;
    op.code_pairs = t.code_pairs;
    op.row_scale = t.row_scale;
    op.in_place = t.k_place;
    op.bias = linear.bias;
    op.rows = static_cast<int>(t.rows), op.strips = t.strips, op.records = t.records, op.record_bytes = t.record_bytes;
    op.width = width, op.padded_k = static_cast<int>(linear.weight->padded_k());
    op.group_blocks = t.group / 32;
    op.codes = t.codes;
    op.unit = product_unit(t.codes);
    op.records_inverse = static_cast<uint32_t>(std::min<uint64_t>(UINT32_MAX, ((uint64_t{1} << 32) + t.records - 1) / t.records));
    op.format = resident_format(t.codes, op.group_blocks, t.codes != Codes::kHalf && t.wide_scales);
    op.output = output;
    op.out_tag = next_tag();
    ops_.push_back(op);
    return ops_.back();
  }

  const DeviceDecoder& decoder_;
  Words words_;
  float* logits_;
  std::vector<ResidentOp> ops_;
};

// How many pieces of `bytes` a multiprocessor may have under way: as many as memory serves in the time that one takes to
// come. With fewer memory idles. More do not come sooner but wait in the queues of the memory system, and the words that
// the CTAs exchange behind them: on an H100 a step takes 1541 us with 2 pieces of 17 KB, 1616 with 3 and 1782 with the
// whole ring.
Result<int> pieces_in_flight(int device, int multiprocessors, int bytes) {
  constexpr double kSeconds = 1.35e-6;  // from asking for a piece to having it
  int kilohertz = 0, bits = 0;
  NBL_CUDA(cudaDeviceGetAttribute(&kilohertz, cudaDevAttrMemoryClockRate, device));
  NBL_CUDA(cudaDeviceGetAttribute(&bits, cudaDevAttrGlobalMemoryBusWidth, device));
  const double bandwidth = 2e3 * kilohertz * (bits / 8);  // two transfers a clock
  return std::max(2, static_cast<int>(bandwidth * kSeconds / multiprocessors / bytes + 0.5));
}

// Its rows are read in fours and pairs, and it has attention for these heads.
bool has_resident_shape(const DecoderConfig& c) {
  return (c.head_dim == 64 || c.head_dim == 128) && c.hidden_size % 4 == 0 && c.intermediate_size % 2 == 0;
}

// The parts of a program's memory: tagged words and counters, in 8 bytes each, then the operations. Zeroed, and no tag is 0.
struct ResidentMemory {
  int64_t max_splits = 1;
  int64_t h, qkv, inner, attention, gated, parts, states, bests;  // words, of attention and gated of two halves each
  int64_t op_count;                                               // at most: three matrices of qkv, two of gate and up

  ResidentMemory(const DecoderConfig& c, int multiprocessors) {
    const int64_t heads = c.num_attention_heads, kv_heads = c.num_key_value_heads;
    const int64_t tasks = attention_tasks(heads, kv_heads, kMmaHeads);
    while (max_splits < 32 && tasks * max_splits * 2 <= multiprocessors) max_splits *= 2;
    h = pad_up(c.hidden_size, kColumnAlign) / 2;
    qkv = pad_up((heads + 2 * kv_heads) * c.head_dim, 8);
    inner = pad_up(2 * c.intermediate_size, 8);
    attention = pad_up(heads * c.head_dim, kColumnAlign) / 2;
    gated = pad_up(c.intermediate_size, kColumnAlign) / 2;
    parts = heads * max_splits * c.head_dim / 2;
    states = 2 * heads * max_splits;
    bests = multiprocessors;
    op_count = c.num_hidden_layers * 8 + 1;
  }
  int64_t word_bytes() const {
    constexpr int64_t kCounters = 2;
    return (h + qkv + inner + attention + gated + parts + states + bests + kCounters) * 8;
  }
  int64_t bytes() const { return word_bytes() + op_count * static_cast<int64_t>(sizeof(ResidentOp) + sizeof(ResidentStream)); }
};

// The kernel with the fewest formats that has all of these operations'.
const void* resident_kernel(const std::vector<ResidentOp>& ops, int hidden) {
  const auto all_in = [&ops](ResidentFormats formats) {
    return std::all_of(ops.begin(), ops.end(), [formats](const ResidentOp& op) { return op.strips == 0 || has_codes(formats, op.codes); });
  };
  const int units = (hidden + kUnitColumns * kConsumerWarps - 1) / (kUnitColumns * kConsumerWarps);
  if (all_in(ResidentFormats::kInt4)) return resident_kernel_with<ResidentFormats::kInt4>(units);
  if (all_in(ResidentFormats::kCodebook)) return resident_kernel_with<ResidentFormats::kCodebook>(units);
  return resident_kernel_with<ResidentFormats::kAny>(units);
}

bool rounds_inputs(const DeviceDecoder& decoder) {
  const auto rounds = [](const DeviceLinear& linear) { return linear.weight->spec().outlier_threshold >= 0; };
  const auto any = [&](const std::vector<DeviceLinear>& linears) { return std::any_of(linears.begin(), linears.end(), rounds); };
  return rounds(decoder.head()) || std::any_of(decoder.blocks().begin(), decoder.blocks().end(), [&](const DeviceBlock& block) {
           return any(block.qkv) || any(block.gate_up) || rounds(block.output) || rounds(block.down);
         });
}

}  // namespace

Result<std::unique_ptr<ResidentProgram>> ResidentProgram::create(const DeviceDecoder& decoder, float* logits, int device,
                                                                 int multiprocessors, int shared_optin, cudaStream_t stream) {
  const auto none = [] { return Result<std::unique_ptr<ResidentProgram>>(std::unique_ptr<ResidentProgram>()); };
  const DecoderConfig& c = decoder.config();
  int cooperative = 0, major = 0;
  NBL_CUDA(cudaDeviceGetAttribute(&cooperative, cudaDevAttrCooperativeLaunch, device));
  NBL_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  if (major < 9 || cooperative == 0) return none();
  if (!has_resident_shape(c) || rounds_inputs(decoder)) {
    return none();  // LLM.int8's rounding is an operation of its own
  }
  const ResidentMemory memory(c, multiprocessors);
  std::unique_ptr<ResidentProgram> program(new ResidentProgram);
  NBL_ASSIGN_OR_RETURN(program->memory_, DeviceBuffer::allocate(device, memory.bytes(), "the resident kernel's program", stream));
  uint2* words = program->memory_.as<uint2>();
  uint2* qkv = words + memory.h;
  uint2* inner = qkv + memory.qkv;
  uint2* attention = inner + memory.inner;
  uint2* gated = attention + memory.attention;
  ProgramWriter writer(decoder, {words, qkv, inner, reinterpret_cast<uint32_t*>(attention), reinterpret_cast<uint32_t*>(gated)}, logits);
  NBL_RETURN_IF_ERROR(writer.write(stream));
  std::vector<ResidentOp>& ops = writer.ops();
  const void* const kernel = resident_kernel(ops, static_cast<int>(c.hidden_size));
  cudaFuncAttributes attributes;
  NBL_CUDA(cudaFuncGetAttributes(&attributes, kernel));
  if (attributes.ptxVersion < 90) {
    return none();  // no code for compute capability 9.0 or later
  }

  ResidentStep& step = program->step_;
  int64_t x_bytes = 0, factor_bytes = 0;
  bool pairs = false;
  for (ResidentOp& op : ops) {
    const int64_t units = op.padded_k / kUnitColumns;
    x_bytes = std::max(x_bytes, units * x_unit_bytes(op.codes));
    if (x_digits(op.codes) > 0) factor_bytes = std::max(factor_bytes, units * x_factor_words(op.group_blocks) * 4);
    pairs = pairs || op.code_pairs != nullptr;
    if (op.strips == 0) continue;
    // Records of a chunk: as many as a slot holds, in twos of each warp since it multiplies two at once; or all that a CTA
    // has, where that is a little more.
    const int most = std::max(1, kMostSlotBytes / (2 * kConsumerWarps * op.record_bytes) * 2) * kConsumerWarps;
    const int cta_records = (op.strips + multiprocessors - 1) / multiprocessors * op.records;
    const int chunks = cta_records <= most + most / 4 ? 1 : (cta_records + most - 1) / most;
    op.warp_records = (cta_records + chunks * kConsumerWarps - 1) / (chunks * kConsumerWarps);
    const int chunk = kConsumerWarps * op.warp_records;
    op.runs = has_runs(op.format) && op.warp_records == kRunRecords && op.records % kRunRecords == 0;
    if (op.runs && chunk % op.records == 0) op.chunk_strips = chunk / op.records;
    step.slot_bytes = std::max(step.slot_bytes, round_up(kConsumerWarps * op.warp_records * op.record_bytes, 128));
  }
  const int task_heads = mma_task_heads(static_cast<int>(c.num_attention_heads), static_cast<int>(c.num_key_value_heads));
  const int attention_bytes = mma_attention_bytes(static_cast<int>(c.head_dim), kConsumerWarps, task_heads);
  int at = round_up(std::max<int64_t>(x_bytes, attention_bytes), 128);
  const auto take = [&at](int64_t bytes) {
    const int here = at;
    at += round_up(bytes, 16);
    return here;
  };
  step.factors_at = take(factor_bytes);
  step.red_at = take(kRedFloats * 4);
  step.turns_at = take(decoder.rotary_half() * 8);
  step.norm_at = take(kConsumerWarps * 8);
  step.best_at = take(kWindow * kStripRows * sizeof(PartBest));
  step.zeros_at = take(kZeroBytes);
  step.carried_at = take(sizeof(CarriedState));
  step.sequence_at = take(sizeof(StepSequence));
  const int64_t hidden_strips = pad_up(c.hidden_size, kStripRows) / kStripRows;
  step.residual_at = take((hidden_strips / multiprocessors + 1) * kStripRows * 4);
  step.ops_at = take(2 * sizeof(ResidentOp));
  step.streams_at = take(static_cast<int64_t>(ops.size() * sizeof(ResidentStream)));
  step.pairs_at = take(pairs ? kPairBytes : 0);
  step.barriers_at = take(kMostSlots * (kSlotPieces + 1) * 8);
  step.ring_at = round_up(at, 128);
  step.slots = std::min(kMostSlots, (shared_optin - step.ring_at) / step.slot_bytes);
  if (step.slots < kLeastSlots) {
    return none();  // rows of x so long that the ring has no room
  }
  NBL_ASSIGN_OR_RETURN(step.in_flight, pieces_in_flight(device, multiprocessors, step.slot_bytes / kSlotPieces));
  step.in_flight = std::min(step.in_flight, step.slots * kSlotPieces);
  program->shared_bytes_ = step.ring_at + step.slots * step.slot_bytes;
  program->grid_ = multiprocessors;
  program->kernel_ = kernel;
  NBL_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_optin));

  const int64_t op_bytes = static_cast<int64_t>(ops.size() * sizeof(ResidentOp));
  // Where there are fewer strips than CTAs qkv takes the first ones, attention the last ones, and what writes h some in between: who
  // does not come from the operation before waits for its words with all else at hand.
  const int narrow = static_cast<int>(pad_up(c.hidden_size, kStripRows) / kStripRows);
  const int residual_cta = std::max(0, std::min(ops.front().strips, multiprocessors - kAttentionCtas - narrow));
  std::vector<ResidentStream> streams;
  for (const ResidentOp& op : ops) {
    if (op.strips > 0)
      streams.push_back({op.data, op.strips, 0, 0, op.records, op.record_bytes, kConsumerWarps * op.warp_records,
                         op.output == ResidentOutput::kResidual ? residual_cta : 0});
    else
      streams.push_back({nullptr, 0, 0, 0, op.attention.layer, 0, static_cast<int32_t>(std::min<int64_t>(op.attention.window, INT32_MAX))});
  }
  const int64_t stream_bytes = static_cast<int64_t>(streams.size() * sizeof(ResidentStream));
  unsigned char* ops_at = program->memory_.as<unsigned char>() + memory.word_bytes();
  NBL_CUDA(cudaMemcpyAsync(ops_at, ops.data(), op_bytes, cudaMemcpyHostToDevice, stream));
  NBL_CUDA(cudaMemcpyAsync(ops_at + op_bytes, streams.data(), stream_bytes, cudaMemcpyHostToDevice, stream));
  NBL_CUDA(cudaStreamSynchronize(stream));
  step.ops = reinterpret_cast<ResidentOp*>(ops_at);
  step.streams = reinterpret_cast<ResidentStream*>(ops_at + op_bytes);
  uint2* parts = gated + memory.gated;
  step.h = words;
  step.parts = parts;
  step.part_states = reinterpret_cast<uint4*>(parts + memory.parts);
  step.bests = reinterpret_cast<PartBest*>(parts + memory.parts + memory.states);
  step.sync = reinterpret_cast<unsigned*>(step.bests + memory.bests);
  program->max_splits_ = static_cast<int>(memory.max_splits);
  step.op_count = static_cast<int32_t>(ops.size());
  step.table = decoder.embedding().data.as<void>();
  step.table_type = decoder.embedding().type;
  step.hidden = static_cast<int32_t>(c.hidden_size);
  step.residual_cta = residual_cta;
  step.heads = static_cast<int32_t>(c.num_attention_heads);
  step.kv_heads = static_cast<int32_t>(c.num_key_value_heads);
  step.head_dim = static_cast<int32_t>(c.head_dim);
  step.rotary_half = decoder.rotary_half();
  step.rotary_factor = decoder.decoder().rope.attention_factor;
  return Result<std::unique_ptr<ResidentProgram>>(std::move(program));
}

int64_t ResidentProgram::bytes_for(const DecoderConfig& config, const DeviceTraits& traits) {
  return traits.sm >= 90 && has_resident_shape(config) ? ResidentMemory(config, traits.multiprocessors).bytes() : 0;
}

int ResidentProgram::splits(int64_t length) const {
  int splits = 1;
  while (splits * 2 <= max_splits_ && splits * kTokensPerPass < length) splits *= 2;
  return splits;
}

Status ResidentProgram::launch(ResidentStep given, cudaStream_t stream) const {
  ResidentStep step = step_;
  step.sequence = given.sequence, step.token = given.token, step.position = given.position, step.inv_freq = given.inv_freq;
  step.splits = given.splits;
  cudaLaunchAttribute cooperative;
  cooperative.id = cudaLaunchAttributeCooperative;
  cooperative.val.cooperative = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(grid_);
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = shared_bytes_;
  config.stream = stream;
  config.attrs = &cooperative;
  config.numAttrs = 1;
  void* arguments[] = {&step};
  NBL_CUDA(cudaLaunchKernelExC(&config, kernel_, arguments));
  return {};
}

}  // namespace nbl::cuda

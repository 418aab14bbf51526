// The contract between the engine and the code that computes: everything src/ knows of kernels/.
//
// A backend packs weights into its own layout at load and runs a whole step at a time (all layers of all rows), never
// one operator: so it may fuse, capture a graph, or keep one kernel resident. There are three: `ref` (double, as plainly
// as possible: what every operation means), `cpu` and `cuda`.
//
// kernels/ includes nothing of src/ but the plain data headers named here.
//
// Threads: a Backend may be used by any number of threads at once. A Plan and a KvCache belong to one caller at a
// time. Nothing here prints, aborts or throws anything but std::bad_alloc.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/status.h"
#include "kernels/draw.h"
#include "model/decoder.h"
#include "quant/quant_weight.h"

namespace nbl {

// Where a matrix stands in a layer: it decides layouts and fusions, never the result.
enum class WeightRole : uint8_t { kOther, kQkv, kAttentionOutput, kGateUp, kDown, kHead };

// Matrices over one input that become one packed weight.
struct MatrixSpecs {
  std::vector<WeightSpec> parts;
  WeightRole role = WeightRole::kOther;
};

// Weights in a backend's own order. Immutable; freed by its destructor on whatever thread.
class PackedWeight {
 public:
  explicit PackedWeight(WeightSpec spec) : spec_(std::move(spec)) {}
  virtual ~PackedWeight() = default;
  const WeightSpec& spec() const { return spec_; }     // of the first part; out_features is that of all parts together
  virtual int64_t bytes() const = 0;                   // memory it takes on its device
  virtual int64_t bytes_read() const { return bytes(); }  // of it, what a step of one token reads at least
  virtual std::string kernel() const = 0;              // which code runs it, for `describe`: "p16 int4 a16 avx512vnni"
  virtual std::string reason() const { return {}; }    // why that one, where there was a choice

 private:
  WeightSpec spec_;
};

// An embedding table on a backend's device. Immutable, shared by all plans of a model.
class PackedEmbedding {
 public:
  virtual ~PackedEmbedding() = default;
  virtual int64_t bytes() const = 0;
};

// Keys and values of one sequence. Pages are reserved at creation, so that a step allocates nothing.
class KvCache {
 public:
  virtual ~KvCache() = default;
  virtual int64_t length() const = 0;                  // positions held
  virtual int64_t capacity() const = 0;                // positions it may hold
  virtual int64_t bytes() const = 0;
  virtual void truncate(int64_t length) = 0;           // forgets positions from `length` on
};

struct BatchSequence {
  KvCache* cache = nullptr;
  const int32_t* tokens = nullptr;   // [token_count], each 0 .. vocab_size-1 (the engine has checked)
  int64_t token_count = 0;           // >= 1; positions cache->length() .. cache->length() + token_count - 1
  int64_t logit_rows = 0;            // how many of the last tokens' logits are wanted: 0 .. token_count
  int64_t exact_top = 0;             // the caller looks only at this many largest logits: those must be exact and be the
                                     // largest, the others may be approximate. 0: all are exact. A backend may ignore it
  int64_t call_length = 0;           // where the whole prompt ends that this step is a chunk of (dynamic rope needs
                                     // it); 0: this step ends the call
  const Draw* draw = nullptr;        // the plan draws the token that follows (Plan::can_draw()); no logits are wanted then
};

// A token that a plan drew, and the time its device worked for the step.
struct DrawnToken {
  int32_t id = -1;                   // < 0: kLogitsNotFinite or kNothingToDraw (draw.h)
  int64_t ns = 0;
};

struct Batch {
  std::vector<BatchSequence> sequences;            // at least one, each with another cache
  float* logits = nullptr;                         // [sum of logit_rows, vocab_size], host memory, float32
  DrawnToken* drawn = nullptr;                     // [sequences]: written where a sequence has a draw
  const std::atomic<bool>* cancel = nullptr;       // looked at between layers; may be null
};

struct PlanLimits {
  int64_t max_tokens = 512;          // tokens of all sequences of one step together
  int64_t max_sequences = 1;
  int64_t max_logit_rows = 1;
  int64_t max_context = 0;           // longest sequence (capacity of the caches used with it)
  int64_t max_draws = 0;             // sequences of a step that may have a draw; no more than max_logit_rows
};

// Which kernels run the steps of so many rows.
struct StepKernel {
  int64_t first_rows = 1, last_rows = 1;
  std::string kernel, reason;
};

// A decoder made executable within limits. All scratch memory is taken when it is made: step() allocates nothing.
class Plan {
 public:
  virtual ~Plan() = default;
  // Appends every sequence's tokens to its cache and computes the logits wanted. On failure no cache has changed its
  // length: kCancelled, kContextFull (a cache is full), kArgument (beyond the limits), kDevice...
  virtual Status step(const Batch& batch) = 0;
  virtual int64_t scratch_bytes() const = 0;
  // For `describe`, by rows in ascending order; empty where a weight's own kernel() says it all.
  virtual std::vector<StepKernel> kernels() const { return {}; }
  // Activations that int8 matrices took as outliers since the plan was made (WeightSpec::outlier_threshold).
  virtual int64_t outliers() const { return 0; }

  // Drawing where the logits are, which not every backend can. A sequence may have a draw only if this is true for it;
  // the same draw is meant as by the engine's Sampler, up to the rounding of probabilities.
  virtual bool can_draw(const Draw&) const { return false; }

  // Running ahead: steps whose input is the token that the step before has just drawn, so that the device does not wait
  // for the host to look at it. begin() starts a step all of whose sequences have a draw and returns at once; what the
  // batch points at is not looked at later. follow() starts the next one behind it: every sequence goes on with its drawn token,
  // with the same options and the step counted up. finish() waits for the oldest step and gives its tokens.
  //
  // A cache takes a step's tokens when the step is finished, not before: until then nothing has happened that could be
  // seen. A step that failed is told by finish(), and those behind it are abandoned. Whoever uses a cache otherwise
  // while steps are in flight abandons them first; step() and begin() do that themselves.
  static constexpr int kMostInFlight = 4;
  virtual Status begin(const Batch&) { return Status(Code::kUnsupported, "this backend does not draw"); }
  virtual bool can_follow() const { return false; }  // whether the youngest step in flight can be followed now
  virtual Status follow() { return Status(Code::kUnsupported, "this backend does not draw"); }
  virtual Status finish(DrawnToken*) { return Status(Code::kUnsupported, "this backend does not draw"); }  // [sequences]
  virtual void abandon() {}                                 // waits until nothing of the steps in flight runs any more
};

struct KvOptions {
  int64_t capacity = 0;              // positions
  DType type = DType::kF16;          // kF32, kF16, or kI8 where the backend has it (else kUnsupported)
};

// What a device reaches at best, measured; 0: not measured.
struct DeviceRates {
  double read_bytes_per_second = 0;
  double multiply_operations_per_second = 0;  // f16 matrix products, a multiplication and an addition being two
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string name() const = 0;                // "ref", "cpu", "cuda:0"
  virtual std::string description() const = 0;         // "avx512vnni, 2 threads, exact16"

  // Whether these matrices over one input can become one packed weight (same format, groups, k_order, ...).
  virtual bool can_fuse(const std::vector<WeightSpec>& parts) const = 0;
  // Packs one matrix, or several that can_fuse() accepted, rows one after another. Refuses here (kUnsupported, naming
  // the spec) or never. `parts` are only borrowed. When parts are permuted their k_order must be equal: if it is not,
  // kState, and the caller packs them one by one.
  virtual Result<std::shared_ptr<const PackedWeight>> pack(const std::vector<const QuantWeight*>& parts, WeightRole role) const = 0;
  // The same for parts that can be had one after another: load(i) gives part i and is called once for each, in order. A
  // backend that packs each before it asks for the next holds one plain matrix at a time; this one holds all.
  using PartLoader = std::function<Result<QuantWeight>(size_t part)>;
  virtual Result<std::shared_ptr<const PackedWeight>> pack_in_turn(const std::vector<WeightSpec>& specs, const PartLoader& load,
                                                                   WeightRole role) const {
    std::vector<QuantWeight> weights(specs.size());
    std::vector<const QuantWeight*> parts;
    for (size_t i = 0; i < specs.size(); ++i) {
      Result<QuantWeight> part = load(i);
      if (!part.ok()) return part.status();
      weights[i] = std::move(part).value();
      parts.push_back(&weights[i]);
    }
    return pack(parts, role);
  }
  // Bytes that pack() will take, without data, to within 2 %.
  virtual int64_t packed_bytes(const std::vector<WeightSpec>& parts, WeightRole role) const = 0;
  // Whether pack() takes such weights as the checkpoint stores them (QuantWeight::stored): then no plain codes are made.
  virtual bool takes_stored(const std::vector<WeightSpec>&) const { return false; }
  // The embedding table where the plans read it. Null when they read it where it lies.
  virtual Result<std::shared_ptr<const PackedEmbedding>> pack_embedding(const Embedding&, int64_t /*rows*/, int64_t /*width*/) const {
    return std::shared_ptr<const PackedEmbedding>();
  }
  virtual int64_t embedding_bytes(DType, int64_t /*rows*/, int64_t /*width*/) const { return 0; }
  // Around the pack()s of a model: takes one piece of memory for all of them (kNoDeviceMemory: it is not there), and what
  // packing itself needs until end_load(). pack() works without, each weight in memory of its own.
  virtual Status begin_load(int64_t /*packed_bytes*/) const { return {}; }
  virtual void end_load() const {}
  // Memory that is free on the device now; -1: not known.
  virtual int64_t free_bytes() const { return -1; }
  // Tokens of a prompt that are best computed at a time.
  virtual int64_t prefill_chunk() const { return 512; }
  // For bench: measures the device, which takes a moment and memory for as long. Not every backend does.
  virtual Result<DeviceRates> measure_rates() const { return DeviceRates(); }

  virtual Result<std::unique_ptr<Plan>> compile(std::shared_ptr<const Decoder> decoder, const PlanLimits& limits) const = 0;
  virtual Result<std::unique_ptr<KvCache>> make_kv_cache(const Decoder& decoder, const KvOptions& options) const = 0;
  virtual int64_t kv_bytes(const DecoderConfig& config, const KvOptions& options) const = 0;
  // `matrices`: all that the decoder has, since which kernels run decides what they work in.
  virtual int64_t plan_bytes(const DecoderConfig& config, const std::vector<MatrixSpecs>& matrices, const PlanLimits& limits) const = 0;

  // y[m, N] = x[m, K] * W^T, host memory, row-major. What the kernel tests, the quantizers and the benchmarks call.
  virtual Status matmul(const PackedWeight& weight, const float* x, int64_t m, float* y) const = 0;
};

// ---- the backends

std::unique_ptr<Backend> make_ref_backend();

enum class CpuIsa : uint8_t { kAuto, kGeneric, kAvx2, kAvxVnni, kAvx512Vnni };
enum class CpuPrecision : uint8_t {
  kExact16,   // default: activations as 16-bit integers per group, weights exact (two int8 planes)
  kFast8,     // 8-bit activations in prefill, exact16 in decode
  kFastest8,  // 8-bit activations everywhere
  kFp32,      // float32 activations and the tool's own rounding of weights: the oracle on the device
};

struct CpuOptions {
  int threads = 0;                                 // 0: physical cores this process may use
  CpuIsa isa = CpuIsa::kAuto;                      // the best that the machine has; a forced one it lacks is kUnsupported
  CpuPrecision precision = CpuPrecision::kExact16;
  bool spin = true;                                // workers spin briefly between the stages of a step
};
Result<std::unique_ptr<Backend>> make_cpu_backend(const CpuOptions& options);
std::vector<std::string> cpu_isas();               // names of those this machine can run, worst first

// Which of its kernels the CUDA backend takes; a forced one that device or model is not for is kUnsupported.
enum class CudaKernel : uint8_t {
  kAuto,      // the fastest of those that can run
  kResident,  // a step of one token is one cooperative kernel
  kLaunches,  // every step is a sequence of launches
  kTiles,     // the same, and long prompts go without cuBLAS
  kCublas,    // long prompts go by cuBLAS
};
struct CudaOptions {
  int device = 0;
  CudaKernel kernel = CudaKernel::kAuto;
};
// Without CUDA in the build, without a driver or with no such device: kUnsupported / kDevice with the reason.
Result<std::unique_ptr<Backend>> make_cuda_backend(const CudaOptions& options);

struct CudaDevice {
  std::string name;
  int64_t total_bytes = 0, free_bytes = 0, used_bytes = 0;
  int sm_major = 0, sm_minor = 0;
  int utilization_percent = -1;                    // -1: not known (no NVML)
  std::string pci_bus;
};
int cuda_device_count();                           // 0 when none is usable, never an error
Result<CudaDevice> cuda_device(int index);
std::string cuda_build_info();                     // JSON object: version, architectures, cublas found or not

}  // namespace nbl

// What happens when CUDA says no: every call made to fail once, and a device that is lost for good.
#include <cstring>
#include <initializer_list>

#include "check.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/device_traits.h"
#include "models.h"

namespace nbl::gpu_test {

void lose_device();  // lost.cu

namespace {

constexpr int64_t kVocab = 320;

// Steps of 70, 1, 1 and 1 tokens: by unpacked weights, by launches, by a captured graph, by its replay.
Status run_steps(Plan& plan, KvCache& cache) {
  std::vector<int32_t> tokens(70);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>(i * 37 % kVocab);
  std::vector<float> logits(kVocab);
  Batch batch;
  batch.logits = logits.data();
  for (int64_t count : {70, 1, 1, 1}) {
    const int64_t before = cache.length();
    batch.sequences = {{&cache, tokens.data(), count, 1}};
    const Status status = plan.step(batch);
    if (!status.ok() && cache.length() != before) return error(Code::kInternal, "a failed step changed the cache");
    NBL_RETURN_IF_ERROR(status);
  }
  return {};
}

ModelOptions small_model() {
  ModelOptions options;
  options.format = {"int4 g128 act-order", WeightFormat::kIntGroup, 4, 128, DType::kF16, DType::kF16, true};
  options.layers = 1;
  options.vocab = kVocab;
  return options;
}

// Everything from no backend to logits, by way of a load.
Status whole_life() {
  NBL_ASSIGN_OR_RETURN(std::unique_ptr<Backend> backend, make_cuda_backend({}));
  NBL_RETURN_IF_ERROR(backend->begin_load(4 << 20));
  auto model = TestModel::create(*backend, small_model());
  backend->end_load();
  NBL_RETURN_IF_ERROR(model.status());
  NBL_ASSIGN_OR_RETURN(std::unique_ptr<Plan> plan, backend->compile((*model)->decoder(), {80, 1, 1, 100}));
  NBL_ASSIGN_OR_RETURN(std::unique_ptr<KvCache> cache, backend->make_kv_cache(*(*model)->decoder(), {100, DType::kF16}));
  return run_steps(*plan, *cache);
}

int64_t free_bytes() {
  const auto device = cuda_device(0);
  return device.ok() ? device->free_bytes : -1;
}

}  // namespace

GPU_TEST(ALoadAndItsStepsSurviveEveryFailure) {
  CHECK_THAT(whole_life().ok(), "without a fault");
  const int64_t before = cuda::calls();
  CHECK_THAT(whole_life().ok(), "without a fault");
  const int64_t calls = cuda::calls() - before;
  const int64_t free = free_bytes();
  int64_t noticed = 0, out_of_memory = 0;
  for (int64_t n = 1; n <= calls; ++n) {
    cuda::fail_call(n);
    const Status status = whole_life();
    noticed += !status.ok();
    out_of_memory += status.code() == Code::kNoDeviceMemory;
    CHECK_THAT(
        status.ok() || status.code() == Code::kDevice || status.code() == Code::kNoDeviceMemory || status.code() == Code::kUnsupported,
        "call %lld: %s", static_cast<long long>(n), status.message().c_str());
    CHECK_THAT(status.ok() || !status.message().empty(), "call %lld has no message", static_cast<long long>(n));
  }
  cuda::fail_call(0);
  CHECK_THAT(noticed * 10 > calls * 8, "only %lld of %lld failures were noticed", static_cast<long long>(noticed),
             static_cast<long long>(calls));
  CHECK_THAT(out_of_memory >= 8, "only %lld allocations were refused", static_cast<long long>(out_of_memory));
  CHECK_THAT(whole_life().ok(), "after all failures");
  CHECK_THAT(free_bytes() >= free - (4 << 20), "%lld bytes were lost", static_cast<long long>(free - free_bytes()));
  std::printf("  %lld calls, %lld failures noticed, %lld of them for memory\n", static_cast<long long>(calls),
              static_cast<long long>(noticed), static_cast<long long>(out_of_memory));
}

// A plan and a cache that saw a failure are as good as new ones.
GPU_TEST(AFailedStepMayBeTriedAgain) {
  auto backend = make_cuda_backend({});
  if (!backend.ok()) return;
  auto model = TestModel::create(**backend, small_model());
  CHECK_THAT(model.ok(), "%s", model.status().message().c_str());
  if (!model.ok()) return;
  const auto fresh = [&](std::unique_ptr<Plan>& plan, std::unique_ptr<KvCache>& cache) {
    plan = (*backend)->compile((*model)->decoder(), {80, 1, 1, 100}).value();
    cache = (*backend)->make_kv_cache(*(*model)->decoder(), {100, DType::kF16}).value();
  };
  std::unique_ptr<Plan> plan;
  std::unique_ptr<KvCache> cache;
  fresh(plan, cache);
  const int64_t before = cuda::calls();
  CHECK_THAT(run_steps(*plan, *cache).ok(), "without a fault");
  const int64_t calls = cuda::calls() - before;
  fresh(plan, cache);
  for (int64_t n = 1; n <= calls; ++n) {
    cuda::fail_call(n);
    const Status failed = run_steps(*plan, *cache);
    cuda::fail_call(0);
    cache->truncate(0);
    const Status again = run_steps(*plan, *cache);
    CHECK_THAT(again.ok(), "after call %lld failed (%s): %s", static_cast<long long>(n), failed.message().c_str(), again.message().c_str());
    cache->truncate(0);
  }
}

// What stands in the way of a whole device, as the driver would tell it: a status of its own and a way out, and the next try
// works.
GPU_TEST(ADeviceThatCannotBeUsedSaysWhy) {
  const auto told = [](const Status& status, Code code, std::initializer_list<const char*> parts) {
    CHECK_THAT(status.code() == code, "%s", status.message().c_str());
    for (const char* part : parts)
      CHECK_THAT((status.message() + status.detail()).find(part) != std::string::npos, "\"%s\" is not in: %s", part,
                 status.message().c_str());
    std::printf("  %s\n", status.message().c_str());
  };
  const auto with_fault = [](int64_t n, cudaError_t error) {
    cuda::fail_call(n, error);
    const Status status = make_cuda_backend({}).status();
    cuda::fail_call(0);
    return status;
  };
  told(with_fault(1, cudaErrorInsufficientDriver), Code::kDevice, {"cuda:0", "driver", "CUDA 13", "CPU"});
  told(with_fault(1, cudaErrorNoDevice), Code::kDevice, {"cuda:0", "driver", "CPU"});
  // A build that has no code for the device: one of the calls that look at the kernels says so.
  const int64_t before = cuda::calls();
  CHECK_THAT(make_cuda_backend({}).ok(), "without a fault");
  const int64_t calls = cuda::calls() - before;
  Status no_code;
  for (int64_t n = 1; n <= calls; ++n) {
    const Status status = with_fault(n, cudaErrorNoKernelImageForDevice);
    if (status.message().find("NIBBLE_CUDA_ARCHITECTURES") != std::string::npos) no_code = status;
  }
  told(no_code, Code::kDevice, {"cuda:0", "sm_", "which are for", "CPU", "\"architectures\""});
  told(with_fault(3, cudaErrorECCUncorrectable), Code::kDeviceLost, {"this GPU cannot be used any more", "CPU"});
  cuda::DeviceTraits old;
  old.sm = 70;
  old.name = "Tesla V100";
  told(cuda::check_capability(old), Code::kUnsupported, {"cuda:0", "Tesla V100", "7.0", "7.5", "CPU"});
  CHECK_THAT(make_cuda_backend({}).ok(), "after all of them");
}

// A device that is lost within a step: kDeviceLost from whatever call notices it, and the cache is as long as it was.
GPU_TEST(ALossWithinAStepIsTold) {
  auto backend = make_cuda_backend({});
  if (!backend.ok()) return;
  auto model = TestModel::create(**backend, small_model());
  auto plan = (*backend)->compile((*model)->decoder(), {80, 1, 1, 100});
  auto cache = (*backend)->make_kv_cache(*(*model)->decoder(), {100, DType::kF16});
  CHECK_THAT(plan.ok() && cache.ok(), "%s", plan.status().message().c_str());
  if (!plan.ok() || !cache.ok()) return;
  int64_t lost = 0, n = 0;
  for (bool reached = true; reached;) {  // until a run has fewer calls: graphs make them fewer
    (*cache)->truncate(0);
    const int64_t before = cuda::calls();
    cuda::fail_call(++n, cudaErrorLaunchFailure);
    const Status status = run_steps(**plan, **cache);
    cuda::fail_call(0);
    reached = cuda::calls() - before >= n;
    lost += status.code() == Code::kDeviceLost;
    CHECK_THAT(status.ok() || status.code() == Code::kDeviceLost || status.code() == Code::kDevice, "call %lld: %s",
               static_cast<long long>(n), status.message().c_str());
  }
  CHECK_THAT(lost > 20 && lost * 10 >= (n - 1) * 8, "only %lld of %lld losses were told", static_cast<long long>(lost),
             static_cast<long long>(n - 1));
  (*cache)->truncate(0);
  CHECK_THAT(run_steps(**plan, **cache).ok(), "after all of them");
}

// Run by itself, as the last thing of a process: gpu_test --lose-device.
int run_with_lost_device() {
  auto backend = make_cuda_backend({});
  if (!backend.ok()) return 1;
  auto model = TestModel::create(**backend, small_model());
  auto plan = (*backend)->compile((*model)->decoder(), {80, 1, 1, 100});
  auto cache = (*backend)->make_kv_cache(*(*model)->decoder(), {100, DType::kF16});
  CHECK_THAT(run_steps(**plan, **cache).ok(), "before");
  (*cache)->truncate(0);
  lose_device();
  const Status step = run_steps(**plan, **cache);
  CHECK_THAT(step.code() == Code::kDeviceLost, "a step: %s", step.message().c_str());
  CHECK_THAT(step.message().find("CPU") != std::string::npos, "%s", step.message().c_str());
  CHECK_THAT((*cache)->length() == 0, "the cache has changed");
  const auto another = (*backend)->make_kv_cache(*(*model)->decoder(), {100, DType::kF16});
  CHECK_THAT(!another.ok(), "a cache was made on a lost device");
  CHECK_THAT(!make_cuda_backend({}).ok(), "a backend was made on a lost device");
  std::printf("%s\n", step.message().c_str());
  plan = Status(Code::kCancelled, "released");  // nothing of this may end the process
  cache = Status(Code::kCancelled, "released");
  model = Status(Code::kCancelled, "released");
  backend = Status(Code::kCancelled, "released");
  return counts().failures == 0 ? 0 : 1;
}

}  // namespace nbl::gpu_test

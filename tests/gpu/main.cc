// Runs the GPU tests: gpu_test [part of a name ...]. Exit status 1 when a check failed, 77 when there is no GPU.
#include <cstring>

#include "check.h"
#include "kernels/backend.h"

namespace nbl::gpu_test {
int run_with_lost_device();  // fault_test.cc
}

int main(int argc, char** argv) {
  using namespace nbl::gpu_test;
  if (nbl::cuda_device_count() == 0) {
    std::printf("no usable CUDA device; build info %s\n", nbl::cuda_build_info().c_str());
    return 77;  // what CTest takes for "skipped"
  }
  if (argc == 2 && std::strcmp(argv[1], "--lose-device") == 0) {
    const int status = run_with_lost_device();
    std::printf("%lld checks, %lld failures\n", counts().checks, counts().failures);
    return status;
  }
  int run = 0;
  for (const Case& test : cases()) {
    bool wanted = argc < 2;
    for (int i = 1; i < argc; ++i) wanted = wanted || std::strstr(test.name, argv[i]) != nullptr;
    if (!wanted) continue;
    const Counts before = counts();
    test.run();
    ++run;
    std::printf("%-55s %6lld checks %s\n", test.name, counts().checks - before.checks,
                counts().failures == before.failures ? "ok" : "FAILED");
    std::fflush(stdout);
  }
  std::printf("%d tests, %lld checks, %lld failures\n", run, counts().checks, counts().failures);
  return counts().failures == 0 && run > 0 ? 0 : 1;
}

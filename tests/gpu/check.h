// The little that GPU tests need of a test framework: the machines with GPUs that they run on have none installed.
//
// GPU_TEST(Name) { ... CHECK_THAT(condition, "what was seen: %d", value); } registers itself; run_tests() in main.cc runs
// those whose name contains an argument of the command line, all without arguments.
#pragma once

#include <cstdio>
#include <string>
#include <vector>

namespace nbl::gpu_test {

struct Case {
  const char* name;
  void (*run)();
};
inline std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}
struct Registrar {
  Registrar(const char* name, void (*run)()) { cases().push_back({name, run}); }
};

struct Counts {
  long long checks = 0, failures = 0;
};
inline Counts& counts() {
  static Counts all;
  return all;
}

}  // namespace nbl::gpu_test

#define GPU_TEST(name)                                                        \
  static void name##_body();                                                  \
  static ::nbl::gpu_test::Registrar name##_registrar(#name, name##_body);     \
  static void name##_body()

#define CHECK_THAT(condition, ...)                                            \
  do {                                                                        \
    ++::nbl::gpu_test::counts().checks;                                       \
    if (!(condition)) {                                                       \
      ++::nbl::gpu_test::counts().failures;                                   \
      std::printf("%s:%d: not true: %s: ", __FILE__, __LINE__, #condition);   \
      std::printf(__VA_ARGS__);                                               \
      std::printf("\n");                                                      \
    }                                                                         \
  } while (0)

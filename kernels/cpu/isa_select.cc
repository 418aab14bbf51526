// cpuid says what the processor has, xgetbv whether the system saves those registers: both must agree.
#include "kernels/cpu/isa_select.h"

#if defined(NIBBLE_CPU_X86)
#include <cpuid.h>
#endif

namespace nbl {
namespace cpu {

namespace {

struct Features {
  bool avx2 = false, avx_vnni = false, avx512_vnni = false;
};

#if defined(NIBBLE_CPU_X86)
uint64_t saved_registers() {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<uint64_t>(high) << 32 | low;
}

bool all(uint32_t bits, std::initializer_list<int> wanted) {
  for (int bit : wanted)
    if (!(bits >> bit & 1)) return false;
  return true;
}

Features features() {
  Features found;
  uint32_t a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return found;
  if (!all(c, {12 /* FMA */, 27 /* OSXSAVE */, 28 /* AVX */, 29 /* F16C */})) return found;
  const uint64_t saved = saved_registers();
  if ((saved & 0x6) != 0x6) return found;  // xmm, ymm
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return found;
  const uint32_t subleaves = a;
  found.avx2 = all(b, {5});
  if (!found.avx2) return found;
  const bool zmm = (saved & 0xe6) == 0xe6;  // opmask and both halves of zmm too
  found.avx512_vnni =
      zmm && all(b, {16 /* F */, 17 /* DQ */, 30 /* BW */, 31 /* VL */}) && all(c, {11 /* VNNI */});
  if (subleaves >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) found.avx_vnni = all(a, {4});
  return found;
}
#endif

}  // namespace

std::vector<const Kernels*> runnable_kernels() {
  std::vector<const Kernels*> tables = {&kGenericKernels};
#if defined(NIBBLE_CPU_X86)
  const Features found = features();
  if (found.avx2) tables.push_back(&kAvx2Kernels);
  if (found.avx_vnni) tables.push_back(&kAvxVnniKernels);
  if (found.avx512_vnni) tables.push_back(&kAvx512VnniKernels);
#endif
  return tables;
}

Result<const Kernels*> select_kernels(CpuIsa isa) {
  const std::vector<const Kernels*> tables = runnable_kernels();
  static const char* const kNames[] = {"", "generic", "avx2", "avxvnni", "avx512vnni"};
  if (isa == CpuIsa::kAuto) return tables.back();
  const std::string wanted = kNames[static_cast<int>(isa)];
  std::string here;
  for (const Kernels* table : tables) {
    if (wanted == table->name) return table;
    here += (here.empty() ? "" : ", ") + std::string(table->name);
  }
  return error(Code::kUnsupported, "this machine cannot run %s; it has %s", wanted.c_str(), here.c_str());
}

}  // namespace cpu

std::vector<std::string> cpu_isas() {
  std::vector<std::string> names;
  for (const cpu::Kernels* table : cpu::runnable_kernels()) names.push_back(table->name);
  return names;
}

}  // namespace nbl

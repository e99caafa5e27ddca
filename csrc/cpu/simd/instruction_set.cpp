// Chooses the instruction set of the kernels. Tests call recbole_tinykg_instruction_set through
// ctypes to run the kernels of lesser machines; the results are the same.
#include "instruction_set.h"

#include <algorithm>
#include <atomic>

namespace tinykg {
namespace {

InstructionSet best() {
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2");  // and F16C, which came before it
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx2 && avx512) return InstructionSet::kAvx512;
  if (avx2) return InstructionSet::kAvx2;
#endif
  return InstructionSet::kPortable;
}

std::atomic<InstructionSet> chosen{best()};

}  // namespace

InstructionSet instruction_set() { return chosen.load(std::memory_order_relaxed); }

}  // namespace tinykg

// Uses `wanted` (0 portable, 1 AVX2, 2 AVX-512), or the best available if that is less; returns it.
extern "C" __attribute__((visibility("default"))) int recbole_tinykg_instruction_set(int wanted) {
  using namespace tinykg;
  const auto set = std::min(static_cast<InstructionSet>(wanted), best());
  chosen.store(set, std::memory_order_relaxed);
  return static_cast<int>(set);
}

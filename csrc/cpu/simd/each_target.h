// Compiles the file named by TINYKG_ROWS once per instruction set, in the namespaces avx512, avx2
// and portable of tinykg; TINYKG_FOR_THIS_CPU(f(x)) calls the one for the machine. All give the
// same bits, as nothing is reassociated or contracted. No include guard: each source names its own
// file.
//
// The file holds plain loops over a range of rows, on the vectors of avx512.h, avx2.h or portable.h
// and on lanes.h. It must not use lambdas: some compilers do not apply the region's target to them.

#include "instruction_set.h"

#if defined(__clang__)
#define TINYKG_PRAGMA(text) _Pragma(#text)
#define TINYKG_BEGIN_TARGET(names) \
  TINYKG_PRAGMA(clang attribute push(__attribute__((target(names))), apply_to = function))
#define TINYKG_END_TARGET _Pragma("clang attribute pop")
#else
#define TINYKG_PRAGMA(text) _Pragma(#text)
#define TINYKG_BEGIN_TARGET(names) _Pragma("GCC push_options") TINYKG_PRAGMA(GCC target(names))
#define TINYKG_END_TARGET _Pragma("GCC pop_options")
#endif

#if defined(__x86_64__)
#include <immintrin.h>

#if !defined(__clang__)
// GCC's own AVX-512 header passes deliberately undefined operands (GCC bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
TINYKG_BEGIN_TARGET("avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c")
namespace tinykg::avx512 {
namespace {
#include "array.h"
#include "avx512.h"
#include TINYKG_ROWS
}  // namespace
}  // namespace tinykg::avx512
TINYKG_END_TARGET
#if !defined(__clang__)
#pragma GCC diagnostic pop
#endif

TINYKG_BEGIN_TARGET("avx2,f16c")
namespace tinykg::avx2 {
namespace {
#include "array.h"
#include "avx2.h"
#include TINYKG_ROWS
}  // namespace
}  // namespace tinykg::avx2
TINYKG_END_TARGET
#endif

namespace tinykg::portable {
namespace {
#include "array.h"
#include "portable.h"
#include TINYKG_ROWS
}  // namespace
}  // namespace tinykg::portable

#if defined(__x86_64__)
#define TINYKG_FOR_THIS_CPU(...)          \
  switch (tinykg::instruction_set()) {    \
    case tinykg::InstructionSet::kAvx512: \
      tinykg::avx512::__VA_ARGS__;        \
      break;                              \
    case tinykg::InstructionSet::kAvx2:   \
      tinykg::avx2::__VA_ARGS__;          \
      break;                              \
    default:                              \
      tinykg::portable::__VA_ARGS__;      \
  }
#else
#define TINYKG_FOR_THIS_CPU(...) tinykg::portable::__VA_ARGS__
#endif

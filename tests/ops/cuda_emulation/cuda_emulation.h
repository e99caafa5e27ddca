// The parts of CUDA that our kernels use, on a CPU, for tests.
//
// The 32 lanes of a warp are coroutines of their own (ucontext). A lane runs until it shuffles,
// leaves its value in a slot and hands over to the next one; when its turn comes again all lanes
// have left theirs. So the very source of the kernels runs, and a shuffle that not all lanes reach
// is found.
#pragma once

#include <ucontext.h>

#include <cfenv>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <type_traits>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(threads)

namespace emulation {

constexpr int kLanes = 32;
constexpr size_t kStackBytes = 1 << 17;

struct Index {
  unsigned x = 0, y = 0;
};

// Where a lane is, and its coroutine.
struct Lane {
  Index thread, block;
  int64_t num_shuffles = 0;
  uint64_t slot[2] = {};  // one is read while the other is filled
  int distance[2] = {};
  ucontext_t context;
  void* stack = nullptr;
};

inline thread_local Lane lanes[kLanes];
inline thread_local Lane* current = nullptr;
inline thread_local Index grid_size;
inline thread_local const std::function<void()>* lane_body = nullptr;
inline thread_local ucontext_t caller;
inline thread_local int num_running = 0;

[[noreturn]] inline void fail(const char* message) {
  std::fprintf(stderr, "CUDA emulation: %s\n", message);
  std::abort();
}

inline void hand_over(Lane& lane) {
  Lane& next = lanes[(&lane - lanes + 1) % kLanes];
  current = &next;
  swapcontext(&lane.context, &next.context);
}

template <typename Value>
Value shuffle_xor(unsigned mask, Value value, int distance) {
  static_assert(sizeof(Value) == 4 || sizeof(Value) == 8, "registers have 4 or 8 bytes");
  if (mask != 0xFFFFFFFFu) fail("a shuffle must name all lanes");
  Lane& lane = *current;
  const int64_t slot = lane.num_shuffles++ % 2;
  std::memcpy(&lane.slot[slot], &value, sizeof(value));
  lane.distance[slot] = distance;
  hand_over(lane);
  const Lane& partner = lanes[(&lane - lanes) ^ distance];
  const int64_t ahead = partner.num_shuffles - lane.num_shuffles;
  if (ahead < 0 || ahead > 1 || partner.distance[slot] != distance)
    fail("not all lanes reach a shuffle");
  std::memcpy(&value, &partner.slot[slot], sizeof(value));
  return value;
}

// What a lane runs: the kernel for each block and warp, all lanes together.
inline void run_lane() {
  (*lane_body)();
  Lane& lane = *current;
  for (--num_running; num_running > 0;) hand_over(lane);
  setcontext(&caller);
}

// Calls kernel() as every thread of every block of one warp size after the other.
template <typename Kernel>
void launch(Index blocks, unsigned threads, const Kernel& kernel) {
  const std::function<void()> body = [&] {
    Lane& lane = *current;
    const auto number = static_cast<unsigned>(&lane - lanes);
    for (lane.block.y = 0; lane.block.y < blocks.y; ++lane.block.y)
      for (lane.block.x = 0; lane.block.x < blocks.x; ++lane.block.x)
        for (unsigned warp = 0; warp < threads / kLanes; ++warp) {
          lane.thread.x = warp * kLanes + number;
          kernel();
          shuffle_xor(0xFFFFFFFFu, 0, 0);  // the lanes of a warp end together
        }
  };
  lane_body = &body;
  grid_size = blocks;
  num_running = kLanes;
  for (Lane& lane : lanes) {
    lane.num_shuffles = 0;
    if (lane.stack == nullptr) lane.stack = std::malloc(kStackBytes);
    getcontext(&lane.context);
    lane.context.uc_stack.ss_sp = lane.stack;
    lane.context.uc_stack.ss_size = kStackBytes;
    lane.context.uc_link = nullptr;
    makecontext(&lane.context, run_lane, 0);
  }
  current = lanes;
  swapcontext(&caller, &lanes[0].context);
}

// a + b rounded up: the error of the sum to nearest is a float itself.
inline float add_rounded_up(float a, float b) {
  const volatile float sum = a + b, part = sum - b;
  const float error = (a - part) + (b - (sum - part));
  return error > 0 ? std::nextafter(sum, std::numeric_limits<float>::infinity()) : sum;
}

// a b + c rounded up.
inline float fma_rounded_up(float a, float b, float c) {
  const volatile float x = a, y = b, z = c;
  std::fesetround(FE_UPWARD);
  const volatile float result = std::fma(x, y, z);
  std::fesetround(FE_TONEAREST);
  return result;
}

// Four bytes of the eight of x and y, from x's lowest on, as the digits of selector say.
inline uint32_t byte_permutation(uint32_t x, uint32_t y, uint32_t selector) {
  const uint64_t bytes = uint64_t{y} << 32 | x;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i)
    result |= static_cast<uint32_t>(bytes >> 8 * (selector >> 4 * i & 7) & 0xFF) << 8 * i;
  return result;
}

}  // namespace emulation

#define threadIdx (emulation::current->thread)
#define blockIdx (emulation::current->block)
#define gridDim (emulation::grid_size)

template <typename Value>
Value __shfl_xor_sync(unsigned mask, Value value, int distance) {
  return emulation::shuffle_xor(mask, value, distance);
}

inline float __fadd_ru(float a, float b) { return emulation::add_rounded_up(a, b); }
inline float __fmaf_ru(float a, float b, float c) { return emulation::fma_rounded_up(a, b, c); }
inline int __float2int_ru(float x) { return static_cast<int>(std::ceil(x)); }
inline int __double2int_ru(double x) { return static_cast<int>(std::ceil(x)); }
inline int __float_as_int(float x) {
  int bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}
inline uint32_t __float_as_uint(float x) { return static_cast<uint32_t>(__float_as_int(x)); }
inline float __uint_as_float(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}
inline uint32_t __byte_perm(uint32_t x, uint32_t y, uint32_t selector) {
  return emulation::byte_permutation(x, y, selector);
}

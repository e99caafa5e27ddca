// The parts of CUDA that our kernels use, on a CPU, for tests.
//
// The threads of a block are coroutines of their own (ucontext), and one block runs after the
// other. A thread runs until it shuffles, votes or meets a barrier; the last of its warp or block
// to arrive sets the others free. So the very source of the kernels runs, and a shuffle or barrier
// that not all threads reach is found: in the end none can go on. Shared memory is a variable of
// all threads, in which a block finds what the one before it left. A failed `assert` ends the
// process.
#pragma once

#include <ucontext.h>

#include <bit>
#include <cfenv>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <limits>
#include <type_traits>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static thread_local

namespace emulation {

constexpr unsigned kLanes = 32, kMaxThreads = 1024;
constexpr size_t kStackBytes = 1 << 16;

struct Index {
  unsigned x = 0, y = 0;
};

// Where threads wait for each other: those of a warp in a shuffle or vote, those of a block at a
// barrier. Meetings are counted, as a fast thread may be one ahead.
struct Meeting {
  unsigned size = 0, num_arrived = 0;
  int kind = 0;  // of what the first to arrive calls
  bool any[2] = {};
  int64_t number = 0;
};

// Where a thread is, and its coroutine.
struct Thread {
  Index thread, block;
  uint64_t slot[2] = {};  // one is read while the other is filled
  ucontext_t context;
  void* stack = nullptr;
};

inline thread_local Thread threads[kMaxThreads];
inline thread_local Meeting warps[kMaxThreads / kLanes], whole_block;
inline thread_local std::deque<Thread*> ready;  // threads that may go on
inline thread_local Thread* current = nullptr;
inline thread_local Index grid_size;
inline thread_local const std::function<void()>* thread_body = nullptr;
inline thread_local ucontext_t caller;
inline thread_local unsigned num_running = 0;

[[noreturn]] inline void fail(const char* message) {
  std::fprintf(stderr, "CUDA emulation: %s\n", message);
  std::abort();
}

inline unsigned number_of(const Thread& thread) { return static_cast<unsigned>(&thread - threads); }

// Lets another thread run until this one is set free.
inline void wait() {
  if (ready.empty()) fail("not all threads reach a shuffle or barrier");
  Thread& self = *current;
  current = ready.front();
  ready.pop_front();
  swapcontext(&self.context, &current->context);
}

// Returns the number of the meeting when all of its threads are there.
inline int64_t meet(Meeting& meeting, Thread* first, int kind) {
  const int64_t number = meeting.number;
  if (meeting.num_arrived == 0) meeting.kind = kind;
  if (meeting.kind != kind) fail("threads meet in different shuffles or barriers");
  if (++meeting.num_arrived < meeting.size) {
    wait();
    return number;
  }
  meeting.num_arrived = 0;
  ++meeting.number;
  meeting.any[meeting.number % 2] = false;
  for (Thread* thread = first; thread < first + meeting.size; ++thread)
    if (thread != current) ready.push_back(thread);
  return number;
}

// Brings a value to a meeting of the warp; returns its lanes, and the slot that has all values.
template <typename Value>
const Thread* exchange(unsigned mask, Value value, int kind, int64_t& slot) {
  static_assert(sizeof(Value) == 4 || sizeof(Value) == 8, "registers have 4 or 8 bytes");
  if (mask != 0xFFFFFFFFu) fail("a shuffle must name all lanes");
  const unsigned warp = number_of(*current) / kLanes;
  Thread* lanes = threads + warp * kLanes;
  slot = warps[warp].number % 2;
  std::memcpy(&current->slot[slot], &value, sizeof(value));
  meet(warps[warp], lanes, kind);
  return lanes;
}

template <typename Value>
Value shuffle_xor(unsigned mask, Value value, int distance) {
  int64_t slot = 0;
  const Thread* lanes = exchange(mask, value, distance, slot);
  std::memcpy(&value, &lanes[number_of(*current) % kLanes ^ distance].slot[slot], sizeof(value));
  return value;
}

constexpr int kBallot = -1, kBarrier = -2, kVote = -3, kEnd = -4;

inline unsigned ballot(unsigned mask, bool mine) {
  int64_t slot = 0;
  const Thread* lanes = exchange(mask, uint32_t{mine}, kBallot, slot);
  unsigned votes = 0;
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    uint32_t vote;
    std::memcpy(&vote, &lanes[lane].slot[slot], sizeof(vote));
    votes |= vote << lane;
  }
  return votes;
}

inline bool barrier(bool mine, int kind) {
  bool& any = whole_block.any[whole_block.number % 2];
  any = any || mine;
  meet(whole_block, threads, kind);
  return any;
}

// What a thread runs: the kernel for each block.
inline void run_thread() {
  (*thread_body)();
  if (--num_running > 0) wait();
  setcontext(&caller);
}

// Calls kernel() as every thread of every block.
template <typename Kernel>
void launch(Index blocks, unsigned num_threads, const Kernel& kernel) {
  if (num_threads > kMaxThreads || num_threads % kLanes != 0) fail("a block has no such size");
  const std::function<void()> body = [&] {
    Thread& self = *current;
    for (self.block.y = 0; self.block.y < blocks.y; ++self.block.y)
      for (self.block.x = 0; self.block.x < blocks.x; ++self.block.x) {
        kernel();
        barrier(false, kEnd);
      }
  };
  thread_body = &body;
  grid_size = blocks;
  num_running = num_threads;
  whole_block = {.size = num_threads};
  ready.clear();
  for (unsigned i = 0; i < num_threads; ++i) {
    warps[i / kLanes] = {.size = kLanes};
    Thread& thread = threads[i];
    thread.thread.x = i;
    if (thread.stack == nullptr) thread.stack = std::malloc(kStackBytes);
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack;
    thread.context.uc_stack.ss_size = kStackBytes;
    thread.context.uc_link = nullptr;
    makecontext(&thread.context, run_thread, 0);
    if (i > 0) ready.push_back(&thread);
  }
  current = threads;
  swapcontext(&caller, &threads[0].context);
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

inline unsigned __ballot_sync(unsigned mask, bool mine) { return emulation::ballot(mask, mine); }
inline void __syncthreads() { emulation::barrier(false, emulation::kBarrier); }
inline int __syncthreads_or(int mine) { return emulation::barrier(mine != 0, emulation::kVote); }
inline int __popc(unsigned bits) { return std::popcount(bits); }
inline int __ffs(int bits) { return ffs(bits); }

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

// Jobs whose threads work together as a block: they share memory and meet at barriers, where octets
// (octets.cuh) need no more than shuffles within a warp.
//
// A job is a struct of pointers whose operator() is run by all threads of all blocks; it says how
// many threads a block has, and how many blocks a multiprocessor is to hold at once, which bounds
// the registers of a thread.
#pragma once

#include "octets.cuh"

namespace tinykg {

// The blocks of a launch: x for rows, y for tiles of columns.
struct Blocks {
  int64_t x, y;

  // The hardware has no more.
  bool fit() const { return x < int64_t{1} << 31 && y <= 65535; }
};

template <typename Job>
__global__ void __launch_bounds__(Job::kThreads, Job::kBlocksPerProcessor) perform(const Job job) {
  job();
}

// A list of any stride; a null one stands for no list.
template <typename T>
struct List {
  const T* data = nullptr;
  int64_t stride = 0;

  TINYKG_INLINE T operator[](int64_t i) const { return data[i * stride]; }
  TINYKG_INLINE explicit operator bool() const { return data != nullptr; }
};

constexpr unsigned kAllLanes = 0xFFFFFFFFu;

__device__ __forceinline__ int lane_of_thread() {
  return static_cast<int>(threadIdx.x) % kWarpLanes;
}

__device__ __forceinline__ int warp_of_thread() {
  return static_cast<int>(threadIdx.x) / kWarpLanes;
}

// The smallest power of two, as its logarithm, that is at least `least` and at most 2^most_bits.
inline int bits_for(int64_t least, int most_bits) {
  int bits = 0;
  while (bits < most_bits && (int64_t{1} << bits) < least) ++bits;
  return bits;
}

}  // namespace tinykg

// How threads share a matrix: what all CUDA kernels have in common.
//
// A lane handles an octet: eight consecutive columns of a row, the elements that share a generator
// call. A group of 256 columns takes 1 to 32 lanes, a power of two, so that a warp handles several
// short rows at once. blockIdx.y counts groups of columns, blockIdx.x and threadIdx.x count rows;
// both start strided loops over int64, so that no shape is too large.
//
// A kernel is a job: a struct of pointers whose operator() handles one octet. All lanes of a
// warp call it together, even those without columns, because they take part in shuffles. A job may
// instead walk its rows itself, in `walk`, to keep in registers what they share.
#pragma once

#include "quantize_core.h"

namespace tinykg {

constexpr int kWarpLanes = 32;
constexpr int kBlockThreads = 256;
constexpr int64_t kMaxBlocksOfRows = 16384;    // fills any GPU many times; more rows are a loop
constexpr int64_t kMaxBlocksOfGroups = 65535;  // the hardware's limit on y

// The matrix of a launch. A group has 2^lane_bits lanes.
struct Work {
  int64_t num_rows, num_columns;
  int lane_bits;

  Work(int64_t rows, int64_t columns, int octets_per_lane = 1)
      : num_rows(rows), num_columns(columns), lane_bits(0) {
    while ((octets_per_lane << lane_bits) < kWarpLanes &&
           (octets_per_lane * kBlockColumns << lane_bits) < columns)
      ++lane_bits;
  }

  TINYKG_INLINE int64_t rows_per_block() const { return kBlockThreads >> lane_bits; }

  unsigned blocks_of_rows() const {
    const int64_t blocks = (num_rows + rows_per_block() - 1) / rows_per_block();
    return static_cast<unsigned>(blocks < kMaxBlocksOfRows ? blocks : kMaxBlocksOfRows);
  }

  unsigned blocks_of_groups() const {
    const int64_t blocks = groups_of(num_columns);
    return static_cast<unsigned>(blocks < kMaxBlocksOfGroups ? blocks : kMaxBlocksOfGroups);
  }
};

// Eight columns of a row, fewer at its end, none beyond the matrix.
struct Octet {
  int64_t row, column;
  int count;        // columns
  int lane, lanes;  // which of the lanes of the group, and how many

  TINYKG_INLINE int64_t group() const { return column / kGroupColumns; }
};

template <typename Job>
__device__ __forceinline__ void treat_octets(const Work& work, const Job& job) {
  const int lanes = 1 << work.lane_bits;
  const int lane = static_cast<int>(threadIdx.x) & (lanes - 1);
  const int64_t row_in_block = threadIdx.x >> work.lane_bits;
  const int64_t row_step = gridDim.x * work.rows_per_block();
  for (int64_t group = blockIdx.y; group * kGroupColumns < work.num_columns; group += gridDim.y) {
    const int64_t column = group * kGroupColumns + lane * kBlockColumns;
    const int64_t left = work.num_columns - column;
    const int columns = static_cast<int>(left < kBlockColumns ? left : kBlockColumns);
    for (int64_t first = blockIdx.x * work.rows_per_block(); first < work.num_rows;
         first += row_step) {
      const int64_t row = first + row_in_block;
      job(Octet{row, column, row < work.num_rows && columns > 0 ? columns : 0, lane, lanes});
    }
  }
}

template <typename Job>
__global__ void __launch_bounds__(kBlockThreads) treat(const Work work, const Job job) {
  if constexpr (requires { job.walk(work); })
    job.walk(work);
  else
    treat_octets(work, job);
}

// The partner is the lane whose number differs in the bits of distance.
template <typename Value>
__device__ __forceinline__ Value from_partner(Value value, int distance) {
  return __shfl_xor_sync(0xFFFFFFFFu, value, distance);
}

// A random stream as a kernel takes it: read on the device, so that each replay of a graph draws
// fresh noise.
struct Noise {
  const int64_t* stream;  // seed and position
  int64_t stream_stride;
  int64_t first_row, row_blocks;

  // 16 bits for each of the eight columns: element i has the half i % 2 of words[i / 2].
  __device__ __forceinline__ void draw(const Octet& octet, uint32_t* words) const {
    const int64_t block = (first_row + octet.row) * row_blocks + octet.column / kBlockColumns;
    philox(read(), static_cast<uint64_t>(block), words);
  }

  __device__ __forceinline__ Stream read() const {
    return make_stream(stream[0], stream[stream_stride]);
  }
};

__device__ __forceinline__ int32_t random_half(const uint32_t* words, int i) {
  return static_cast<int32_t>(i % 2 ? words[i / 2] >> 16 : words[i / 2] & 0xFFFFu);
}

}  // namespace tinykg

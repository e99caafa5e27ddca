// spmm and spmm_add_ on a GPU: a row of the result is the sum of its entries' value * dense row.
//
// Most rows of a graph are short and a few are very long, so there are two kinds of blocks in one
// launch, and no memory besides the result:
//
// * Short rows, of up to kLongRow entries, have a team of lanes each (row_sums.cuh): 1 to 32 lanes
//   for the columns, and up to so many groups of them as the average row keeps busy.
// * Long rows are left to the first blocks of the grid. They look through all pointers in strided
//   shares, and all threads of a block sum each row that they find. Such a row has several
//   blocks, of kLongLanes lanes' columns each, so that one hub is not one multiprocessor's work.
//
// Bytes moved: a value, a column number and a row of dense per entry, two pointers and a row of
// out per row. What a lane adds, and in which order sums meet, follows from shapes and pointers
// alone: the same bits in every run. A number that leads outside stops the kernel.
#pragma once

#include <algorithm>
#include <cassert>

#include "row_sums.cuh"

namespace tinykg {

constexpr int64_t kLongRow = 512;         // entries; a team takes some 20 microseconds for them
constexpr int64_t kMostLongBlocks = 512;  // a half of what an H200 holds at once
constexpr int kLongLaneBits = 2;          // of 16 bytes: 64 consecutive bytes of each row of dense
constexpr int64_t kMostRowEntries = int64_t{1} << 31;
constexpr int kSpmmThreads = 256;

// How lanes and blocks share a product; from its shape alone.
struct SpmmPlan {
  int lane_bits, group_bits, long_lane_bits;
  int64_t lane_columns;             // of a lane
  int64_t num_tiles;                // of the columns that a team's lanes cover at once
  int64_t num_slices, num_subsets;  // of a tile's columns, and of all rows, for the long rows

  SpmmPlan(int64_t num_rows, int64_t num_columns, int64_t num_matrix_rows, int64_t num_entries,
           int columns_per_lane)
      : lane_columns(columns_per_lane) {
    const int64_t chunks = (num_columns + lane_columns - 1) / lane_columns;
    lane_bits = bits_for(chunks, 5);
    num_tiles = (chunks + (int64_t{1} << lane_bits) - 1) >> lane_bits;
    const int64_t average = num_entries / (std::max<int64_t>(1, num_matrix_rows));
    group_bits = bits_for(average / kTermsInFlight, 5 - lane_bits);
    long_lane_bits = std::min(lane_bits, kLongLaneBits);
    num_slices = int64_t{1} << (lane_bits - long_lane_bits);
    const int64_t most = kMostLongBlocks / num_slices, needed = num_entries / kLongRow;
    num_subsets = std::min({needed, most, num_rows});
  }

  TINYKG_INLINE int64_t num_long_blocks() const { return num_slices * num_subsets; }
  TINYKG_INLINE int64_t rows_per_block() const { return kSpmmThreads >> (lane_bits + group_bits); }

  Blocks blocks(int64_t num_rows) const {
    const int64_t short_blocks = (num_rows + rows_per_block() - 1) / rows_per_block();
    return {num_long_blocks() + short_blocks, num_tiles};
  }
};

template <typename T, typename Index, bool kChunks>
struct SpmmJob {
  static constexpr int kThreads = kSpmmThreads, kBlocksPerProcessor = 4;
  using C = Compute<T>;
  using Own = Columns<T, kChunks>;

  List<Index> crow;
  const Index* col;
  const T* values;
  int64_t num_entries, num_matrix_rows, num_matrix_columns;
  List<int64_t> rows;    // row of A of each row of out, negative for none; null: all in order
  List<int32_t> places;  // row of dense of each column of A, negative for none; null: the same
  Matrix<const T> dense;
  int64_t num_dense_rows;
  Matrix<T> out;
  int64_t num_rows, num_columns;  // of out
  bool add;
  SpmmPlan plan;

  __device__ __forceinline__ void operator()() const {
    const int64_t start = blockIdx.y * plan.lane_columns << plan.lane_bits;
    if (blockIdx.x < plan.num_long_blocks())
      sum_long_rows(start);
    else
      sum_short_rows(start);
  }

 private:
  // Entries of a row of out.
  struct Range {
    int64_t first;
    unsigned count;

    TINYKG_INLINE bool is_long() const { return count > kLongRow; }
  };

  __device__ __forceinline__ Range range(int64_t i) const {
    const int64_t row = rows ? rows[i] : i;
    if (row < 0) return {0, 0};
    assert(row < num_matrix_rows && "rows must hold rows of the sparse matrix");
    const int64_t first = crow[row], last = crow[row + 1];
    assert(first >= 0 && first <= last && last <= num_entries &&
           "crow must rise from 0 or more to the number of entries or less");
    assert(last - first < kMostRowEntries && "a row must have fewer than 2^31 entries");
    return {first, static_cast<unsigned>(last - first)};
  }

  // The terms of a row.
  struct Terms {
    using Row = Index;

    const SpmmJob& job;
    const Index* col;
    const T* values;

    __device__ __forceinline__ Terms(const SpmmJob& job, const Range& range)
        : job(job), col(job.col + range.first), values(job.values + range.first) {}

    // Rows of dense and values. All column numbers are on their way before the first is looked at,
    // and then all places.
    template <bool kAll>
    __device__ __forceinline__ void fetch(unsigned at, unsigned last, unsigned step, Row* row,
                                          C* value) const {
#pragma unroll
      for (int u = 0; u < kTermsInFlight; ++u) {
        const bool there = kAll || at + u * step < last;
        row[u] = there ? col[at + u * step] : Index(-1);
        value[u] = there ? static_cast<C>(values[at + u * step]) : C(0);
      }
      bool inside = true;
#pragma unroll
      for (int u = 0; u < kTermsInFlight; ++u)
        if (kAll || at + u * step < last)
          inside = inside && row[u] >= 0 && row[u] < job.num_matrix_columns;
      assert(inside && "col must hold rows of dense");
      if (job.places) look_up(row);
    }

   private:
    __device__ __forceinline__ void look_up(Row* row) const {
#pragma unroll
      for (int u = 0; u < kTermsInFlight; ++u)
        if (row[u] >= 0) row[u] = job.places[row[u]];
      bool inside = true;
#pragma unroll
      for (int u = 0; u < kTermsInFlight; ++u) inside = inside && row[u] < job.num_dense_rows;
      assert(inside && "places must hold rows of dense");
    }
  };

  // A row without entries is 0, and adds nothing.
  __device__ __forceinline__ void write(int64_t i, const Range& range, const Own& columns,
                                        const C* sum) const {
    if (!add || range.count > 0) columns.store(out, i, add, sum);
  }

  __device__ __forceinline__ void sum_short_rows(int64_t start) const {
    const int lane = static_cast<int>(threadIdx.x) & ((1 << plan.lane_bits) - 1);
    const unsigned groups = 1u << plan.group_bits;
    const unsigned group = threadIdx.x >> plan.lane_bits & (groups - 1);
    const int64_t row_in_block = threadIdx.x >> (plan.lane_bits + plan.group_bits);
    const int64_t i = (blockIdx.x - plan.num_long_blocks()) * plan.rows_per_block() + row_in_block;
    const Own columns(start, lane, plan.lane_bits, num_columns);
    Range own{0, 0};
    if (i < num_rows) own = range(i);
    const bool is_own = i < num_rows && !own.is_long();
    C sum[Own::kEach] = {};
    if (is_own) add_terms(Terms(*this, own), dense, columns, group, own.count, groups, sum);
    meet<Own::kEach>(sum, 1 << plan.lane_bits, 1 << (plan.lane_bits + plan.group_bits));
    if (is_own && group == 0) write(i, own, columns, sum);
  }

  // Neighbouring rows are often alike, so they belong to different subsets.
  __device__ __forceinline__ void sum_long_rows(int64_t start) const {
    __shared__ unsigned found[kThreads / kWarpLanes];
    const int64_t slice = blockIdx.x % plan.num_slices, subset = blockIdx.x / plan.num_slices;
    start += slice * plan.lane_columns << plan.long_lane_bits;
    if (start >= num_columns) return;
    for (int64_t first = subset; first < num_rows; first += kThreads * plan.num_subsets) {
      const int64_t i = first + threadIdx.x * plan.num_subsets;
      const unsigned mask = __ballot_sync(kAllLanes, i < num_rows && range(i).is_long());
      if (lane_of_thread() == 0) found[warp_of_thread()] = mask;
      __syncthreads();
      for (int warp = 0; warp < kThreads / kWarpLanes; ++warp)
        for (unsigned left = found[warp]; left != 0; left &= left - 1)
          sum_long_row(first + (warp * kWarpLanes + __ffs(left) - 1) * plan.num_subsets, start);
      __syncthreads();
    }
  }

  __device__ __forceinline__ void sum_long_row(int64_t i, int64_t start) const {
    __shared__ Partials<T, kThreads, 1 << kLongLaneBits> partials;
    const int lane = static_cast<int>(threadIdx.x) & ((1 << plan.long_lane_bits) - 1);
    const Own columns(start, lane, plan.long_lane_bits, num_columns);
    const Range own = range(i);
    C sum[Own::kEach] = {};
    add_terms_together<kThreads, 1 << kLongLaneBits>(Terms(*this, own), dense, columns, 0u,
                                                     own.count, plan.long_lane_bits, partials, sum);
    if (threadIdx.x < 1u << plan.long_lane_bits) write(i, own, columns, sum);
  }
};

}  // namespace tinykg

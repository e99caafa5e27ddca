// The entries of the matrix in spmm_backward_ on a GPU, and their gradients: that of entry (i, j)
// is grad[i] . dense[j], for which a team of lanes reads both rows. The gradient of dense is
// another launch, in spmm_scatter.cuh.
//
// An entry knows its column but not its row. The rows of a block's entries are found by its threads
// together, mostly with one guess, before teams need them.
//
// Bytes per entry: two rows, a column number and the pointers around it read, a number written.
// There is no (E, D) matrix.
#pragma once

#include <cassert>

#include "row_sums.cuh"

namespace tinykg {

// The matrix that was multiplied. Its pointers cover all entries.
template <typename T, typename Index>
struct Entries {
  List<Index> crow;
  const Index* col;
  const T* values;
  int64_t num_entries, num_rows, num_matrix_columns;
  double rows_per_entry;

  // The row of an entry: guessed as if all rows were equally long, otherwise found by bisection.
  __device__ __forceinline__ int64_t row_of(int64_t entry) const {
    auto row = static_cast<int64_t>((static_cast<double>(entry) + 0.5) * rows_per_entry);
    row = row < num_rows ? row : num_rows - 1;
    if (!holds(row, entry)) row = bisect(entry);
    assert(holds(row, entry) && "crow must rise from 0 to the number of entries");
    return row;
  }

  __device__ __forceinline__ int64_t column_of(int64_t entry) const {
    const int64_t column = col[entry];
    assert(column >= 0 && column < num_matrix_columns && "col must hold rows of dense");
    return column;
  }

 private:
  __device__ __forceinline__ bool holds(int64_t row, int64_t entry) const {
    return crow[row] <= entry && entry < crow[row + 1];
  }

  // The last row that begins at the entry or before, of pointers that rise.
  __device__ __forceinline__ int64_t bisect(int64_t entry) const {
    int64_t low = 0, high = num_rows;
    while (high - low > 1) {
      const int64_t middle = low + (high - low) / 2;
      if (crow[middle] <= entry)
        low = middle;
      else
        high = middle;
    }
    return low;
  }
};

// grad_values: teams of 2^lane_bits lanes, each with a few entries at a time.
template <typename T, typename Index, bool kChunks>
struct EntryDotsJob {
  static constexpr int kThreads = 256, kBlocksPerProcessor = 4;
  static constexpr int kEach = sizeof(T) == 2 ? 2 : 4;  // entries of a team at a time
  using C = Compute<T>;
  using Own = Columns<T, kChunks>;

  Entries<T, Index> entries;
  Matrix<const T> dense, grad;
  T* grad_values;
  int64_t num_columns;
  int lane_bits;

  EntryDotsJob(const Entries<T, Index>& entries, const Matrix<const T>& dense,
               const Matrix<const T>& grad, T* grad_values, int64_t num_columns)
      : entries(entries),
        dense(dense),
        grad(grad),
        grad_values(grad_values),
        num_columns(num_columns),
        lane_bits(bits_for((num_columns + Own::kEach - 1) / Own::kEach, 5)) {}

  Blocks blocks() const {
    return {(entries.num_entries + entries_per_block() - 1) / entries_per_block(), 1};
  }

  TINYKG_INLINE int64_t entries_per_block() const { return kThreads * kEach >> lane_bits; }

  // Rows and columns of the block's entries are found by as many threads, before teams need them.
  __device__ __forceinline__ void operator()() const {
    __shared__ int64_t rows[kThreads * kEach], columns[kThreads * kEach];
    const int64_t first = blockIdx.x * entries_per_block();
    const int64_t left = entries.num_entries - first;
    const int64_t count = left < entries_per_block() ? left : entries_per_block();
    for (int64_t i = threadIdx.x; i < count; i += kThreads) {
      rows[i] = entries.row_of(first + i);
      columns[i] = entries.column_of(first + i);
    }
    __syncthreads();
    multiply(rows, columns, first, count);
  }

 private:
  // Of the block's entries, from `first` on; all lanes call it.
  __device__ __forceinline__ void multiply(const int64_t* rows, const int64_t* columns,
                                           int64_t first, int64_t count) const {
    const int lane = static_cast<int>(threadIdx.x) & ((1 << lane_bits) - 1);
    const int64_t team = threadIdx.x >> lane_bits, num_teams = kThreads >> lane_bits;
    C sum[kEach] = {};
    for (int64_t start = 0; start < num_columns; start += int64_t{Own::kEach} << lane_bits) {
      const Own own(start, lane, lane_bits, num_columns);
      if (own.count == 0) continue;
      typename Own::Piece left[kEach], right[kEach];
#pragma unroll
      for (int u = 0; u < kEach; ++u) {
        const int64_t i = team + u * num_teams;
        if (i >= count) continue;
        own.load(grad, rows[i], left[u]);
        own.load(dense, columns[i], right[u]);
      }
#pragma unroll
      for (int u = 0; u < kEach; ++u)
        if (team + u * num_teams < count) sum[u] = sum[u] + dot(left[u], right[u], own.count);
    }
    meet<kEach>(sum, 1, 1 << lane_bits);
#pragma unroll
    for (int u = 0; u < kEach; ++u) {
      const int64_t i = team + u * num_teams;
      if (lane == 0 && i < count) grad_values[first + i] = static_cast<T>(sum[u]);
    }
  }

  __device__ __forceinline__ static C dot(typename Own::Piece& left, typename Own::Piece& right,
                                          int count) {
    C sum = 0;
#pragma unroll
    for (int k = 0; k < Own::kEach; ++k)
      if (kChunks || k < count)
        sum = sum + static_cast<C>(Own::element(left, k)) * static_cast<C>(Own::element(right, k));
    return sum;
  }
};

}  // namespace tinykg

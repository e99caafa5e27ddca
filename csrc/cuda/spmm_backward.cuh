// spmm_backward_ on a GPU: entry (i, j) adds value * grad[i] to out[j], and its own gradient is
// grad[i] . dense[j]. Two launches: EntryDotsJob for the latter, ScatterJob for the former.
//
// **Entries by column without atomics.** Their sums must have a fixed order, so entries of a column
// must meet in one place. A block owns every num_shares-th column. It reads all column numbers,
// keeps its entries in shared memory, and when that is full or all is read sorts them there by
// column (bitonic, ties by their order) and adds up each column's run: a team of lanes for a short
// one, the whole block for a long one. Which entries are kept when depends on the data alone, so
// every run has the same bits.
//
// **Why not a sort of all columns**, followed by the product of spmm.cuh with the transpose? The
// columns are read by each of 256 blocks: E * 1 KB of traffic from L2, which for the E = 16,384 of
// a block of KGCN's edges is 16 MB, 3 microseconds, and for 300,000 about 60. A stable radix sort
// moves some E * 100 bytes, but in some ten launches that each wait for the one before, 30 to 50
// microseconds even for few entries, and takes E * 24 bytes of memory. From about 300,000 entries
// on the sort would win; callers go in blocks below that. Atomics would need neither, but round
// differently in every run.
//
// Besides, per entry: a pointer pair, a value and a row of grad for each launch, a row of dense for
// the dots, and per run a row of out read and written. There is no (E, D) matrix.
#pragma once

#include <algorithm>
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

// out: see the head of the file.
template <typename T, typename Index, bool kChunks>
struct ScatterJob {
  static constexpr int kThreads = 512, kBlocksPerProcessor = 2, kWarps = kThreads / kWarpLanes;
  static constexpr int kRounds = sizeof(Index) == 4 ? 4 : 2;  // entries that a thread reads at once
  static constexpr unsigned kKept = kThreads * kRounds;       // entries that fit
  static constexpr int kSlotBits = 11;
  static constexpr unsigned kLongRun = 64;  // entries; a team takes some 10 microseconds for them
  static constexpr int kMostShareBits = 8;  // blocks; an H200 holds 264 at once
  static constexpr int kMostLaneBits = 4;
  using C = Compute<T>;
  using Position = std::make_unsigned_t<Index>;
  using Own = Columns<T, kChunks>;

  // The kept entries. Keys are the columns, without the bits that all of a block's have, and slots.
  struct Kept {
    uint64_t key[kKept];
    Position place[kKept];  // the entry, and then its row
    C value[kKept];

    __device__ __forceinline__ bool same_column(unsigned p, unsigned q) const {
      return key[p] >> kSlotBits == key[q] >> kSlotBits;
    }
  };

  Entries<T, Index> entries;
  Matrix<const T> grad;
  Matrix<T> out;
  int64_t num_columns;
  int lane_bits, share_bits;

  ScatterJob(const Entries<T, Index>& entries, const Matrix<const T>& grad, const Matrix<T>& out,
             int64_t num_columns)
      : entries(entries),
        grad(grad),
        out(out),
        num_columns(num_columns),
        lane_bits(bits_for((num_columns + Own::kEach - 1) / Own::kEach, kMostLaneBits)),
        share_bits(bits_for(entries.num_matrix_columns, kMostShareBits)) {}

  Blocks blocks() const {
    const int64_t tile = int64_t{Own::kEach} << lane_bits;
    return {int64_t{1} << share_bits, (num_columns + tile - 1) / tile};
  }

  __device__ __forceinline__ void operator()() const {
    scatter(blockIdx.y * int64_t{Own::kEach} << lane_bits);
  }

 private:
  // The terms of a run: positions are those in the order of the keys.
  struct Run {
    using Row = std::make_signed_t<Position>;

    const Kept& kept;

    template <bool kAll>
    __device__ __forceinline__ void fetch(unsigned at, unsigned last, unsigned step, Row* row,
                                          C* value) const {
#pragma unroll
      for (int u = 0; u < kTermsInFlight; ++u) {
        const unsigned position = at + u * step;
        const bool there = kAll || position < last;
        const auto slot =
            there ? static_cast<unsigned>(kept.key[position]) % (1u << kSlotBits) : 0u;
        row[u] = there ? static_cast<Row>(kept.place[slot]) : Row(-1);
        value[u] = kept.value[slot];
      }
    }
  };

  // Columns from `start` on, as many as a team has. The next column numbers are on their way while
  // these are sifted, and two lists of counts take turns, so that a round has one barrier.
  __device__ __forceinline__ void scatter(int64_t start) const {
    __shared__ Kept kept;
    __shared__ unsigned counts[2][kWarps];
    unsigned num_kept = 0;
    Index next[kRounds];
    read(0, next);
    int turn = 0;
    for (int64_t first = 0; first < entries.num_entries; first += kKept, turn ^= 1) {
      Index column[kRounds];
#pragma unroll
      for (int u = 0; u < kRounds; ++u) column[u] = next[u];
      read(first + kKept, next);
      num_kept = sift(first, column, kept, counts[turn], num_kept, start);
    }
    flush(kept, num_kept, start);
  }

  __device__ __forceinline__ int64_t entry_of(int64_t first, int u) const {
    return first + (warp_of_thread() * kRounds + u) * kWarpLanes + lane_of_thread();
  }

  // A thread's column numbers of the kKept entries from `first` on, -1 past the end.
  __device__ __forceinline__ void read(int64_t first, Index* column) const {
#pragma unroll
    for (int u = 0; u < kRounds; ++u) {
      const int64_t entry = entry_of(first, u);
      column[u] = entry < entries.num_entries ? entries.col[entry] : Index(-1);
    }
  }

  __device__ __forceinline__ bool is_own(int64_t entry, Index column) const {
    const auto share = static_cast<unsigned>(column) & ((1u << share_bits) - 1);
    return entry < entries.num_entries && share == blockIdx.x;
  }

  // Keeps the block's own entries, after those before them if there is room; returns how many.
  __device__ __forceinline__ unsigned sift(int64_t first, const Index* column, Kept& kept,
                                           unsigned* counts, unsigned num_kept,
                                           int64_t start) const {
    unsigned masks[kRounds], own = 0;
#pragma unroll
    for (int u = 0; u < kRounds; ++u) {
      masks[u] = __ballot_sync(kAllLanes, is_own(entry_of(first, u), column[u]));
      own += static_cast<unsigned>(__popc(masks[u]));
    }
    if (lane_of_thread() == 0) counts[warp_of_thread()] = own;
    __syncthreads();
    unsigned before = 0, total = 0;
    for (int warp = 0; warp < kWarps; ++warp) {
      before += warp < warp_of_thread() ? counts[warp] : 0;
      total += counts[warp];
    }
    if (num_kept + total > kKept) {
      flush(kept, num_kept, start);
      num_kept = 0;
    }
    unsigned slot = num_kept + before;
#pragma unroll
    for (int u = 0; u < kRounds; ++u) {
      const unsigned lower = masks[u] & ((1u << lane_of_thread()) - 1);
      if (masks[u] >> lane_of_thread() & 1)
        keep(kept, slot + static_cast<unsigned>(__popc(lower)), entry_of(first, u));
      slot += static_cast<unsigned>(__popc(masks[u]));
    }
    return num_kept + total;
  }

  __device__ __forceinline__ void keep(Kept& kept, unsigned slot, int64_t entry) const {
    const auto column = static_cast<uint64_t>(entries.column_of(entry));
    kept.key[slot] = column >> share_bits << kSlotBits | slot;
    kept.place[slot] = static_cast<Position>(entry);
  }

  // Adds the kept entries to out. Ends with a barrier: others may be kept in their place.
  __device__ __forceinline__ void flush(Kept& kept, unsigned count, int64_t start) const {
    if (count == 0) return;
    unsigned size = 1;
    while (size < count) size *= 2;
    __syncthreads();
    for (unsigned p = threadIdx.x; p < size; p += kThreads) {
      if (p >= count) {
        kept.key[p] = ~uint64_t{0};
        continue;
      }
      const auto entry = static_cast<int64_t>(kept.place[p]);
      kept.value[p] = static_cast<C>(entries.values[entry]);
      kept.place[p] = static_cast<Position>(entries.row_of(entry));
    }
    __syncthreads();
    sort(kept.key, size);
    add_short_runs(kept, count, start);
    add_long_runs(kept, count, start);
    __syncthreads();
  }

  // Bitonic: `size` is a power of two; others see the keys in order, as each step ends in a
  // barrier.
  __device__ __forceinline__ void sort(uint64_t* key, unsigned size) const {
    for (unsigned length = 2; length <= size; length *= 2)
      for (unsigned distance = length / 2; distance > 0; distance /= 2) {
        for (unsigned pair = threadIdx.x; pair < size / 2; pair += kThreads) {
          const unsigned low = 2 * pair - (pair & (distance - 1)), high = low + distance;
          const bool rises = (low & length) == 0;
          const uint64_t a = key[low], b = key[high];
          if ((a > b) != rises) continue;
          key[low] = b;
          key[high] = a;
        }
        __syncthreads();
      }
  }

  __device__ __forceinline__ static bool begins(const Kept& kept, unsigned p) {
    return p == 0 || !kept.same_column(p - 1, p);
  }

  __device__ __forceinline__ static bool is_long(const Kept& kept, unsigned p, unsigned count) {
    return count - p > kLongRun && kept.same_column(p, p + kLongRun);
  }

  // Where the run that begins at p ends: step by step, as most runs have an entry or two.
  __device__ __forceinline__ static unsigned end_of(const Kept& kept, unsigned p, unsigned count) {
    unsigned end = p + 1;
    while (end < count && kept.same_column(p, end)) ++end;
    return end;
  }

  // The same of a long run, by bisection.
  __device__ __forceinline__ static unsigned far_end_of(const Kept& kept, unsigned p,
                                                        unsigned count) {
    unsigned inside = p + kLongRun, outside = count;
    while (outside - inside > 1) {
      const unsigned middle = inside + (outside - inside) / 2;
      if (kept.same_column(p, middle))
        inside = middle;
      else
        outside = middle;
    }
    return outside;
  }

  __device__ __forceinline__ int64_t column_at(const Kept& kept, unsigned p) const {
    return static_cast<int64_t>(kept.key[p] >> kSlotBits << share_bits | blockIdx.x);
  }

  __device__ __forceinline__ void add_short_runs(const Kept& kept, unsigned count,
                                                 int64_t start) const {
    const int lane = static_cast<int>(threadIdx.x) & ((1 << lane_bits) - 1);
    const Own own(start, lane, lane_bits, num_columns);
    for (unsigned p = threadIdx.x >> lane_bits; p < count; p += kThreads >> lane_bits) {
      if (!begins(kept, p) || is_long(kept, p, count)) continue;
      C sum[Own::kEach] = {};
      add_terms(Run{kept}, grad, own, p, end_of(kept, p, count), 1u, sum);
      own.store(out, column_at(kept, p), true, sum);
    }
  }

  __device__ __forceinline__ void add_long_runs(const Kept& kept, unsigned count,
                                                int64_t start) const {
    __shared__ unsigned found[kKept / kWarpLanes];
    __shared__ Partials<T, kThreads, 1 << kMostLaneBits> partials;
    bool any = false;
    for (unsigned first = 0; first < count; first += kThreads) {
      const unsigned p = first + threadIdx.x;
      const bool starts = p < count && begins(kept, p) && is_long(kept, p, count);
      const unsigned mask = __ballot_sync(kAllLanes, starts);
      if (lane_of_thread() == 0) found[p / kWarpLanes] = mask;
      any = any || starts;
    }
    if (!__syncthreads_or(any)) return;
    const int lane = static_cast<int>(threadIdx.x) & ((1 << lane_bits) - 1);
    const Own own(start, lane, lane_bits, num_columns);
    for (unsigned word = 0; word * kWarpLanes < count; ++word)
      for (unsigned left = found[word]; left != 0; left &= left - 1) {
        const unsigned p = word * kWarpLanes + static_cast<unsigned>(__ffs(left)) - 1;
        C sum[Own::kEach] = {};
        add_terms_together<kThreads, 1 << kMostLaneBits>(
            Run{kept}, grad, own, p, far_end_of(kept, p, count), lane_bits, partials, sum);
        if (threadIdx.x < 1u << lane_bits) own.store(out, column_at(kept, p), true, sum);
      }
  }
};

}  // namespace tinykg

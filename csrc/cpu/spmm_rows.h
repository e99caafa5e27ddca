// Rows of the sparse product, for one instruction set (each_target.h). A row's sum stays in
// registers, up to 64 columns at a time, and the rows of dense for coming entries are prefetched:
// the processor cannot predict them, and waiting for them is most of the time.

#include "simd/lanes.h"

constexpr int64_t kEntriesAhead = 16;
constexpr int64_t kCacheLineBytes = 64;

// The entries of a row, and how far their columns may be read ahead.
struct EntryRange {
  int64_t first, last, readable;
};

// Not rows of dense: of an entry whose column is absent, and of one whose column does not exist.
constexpr int64_t kAbsent = -1, kOutside = -2;

// The parts of a job that the loop over entries reads, in registers, from a column of dense on.
template <bool kPlaces, typename T, typename Index>
struct Terms {
  const Index* col;
  const T* values;
  const int32_t* places;
  const T* dense;
  int64_t row_stride;
  uint64_t num_matrix_columns, num_dense_rows;

  Terms(const SpmmJob<T, Index>& job, int64_t column)
      : col(job.col),
        values(job.values),
        places(job.places),
        dense(job.dense.at(0, column)),
        row_stride(job.dense.row_stride),
        num_matrix_columns(static_cast<uint64_t>(job.num_matrix_columns)),
        num_dense_rows(static_cast<uint64_t>(job.num_dense_rows)) {}

  // The row of dense for an entry; is_row tells by one comparison whether it is one.
  int64_t dense_row(int64_t entry) const {
    const int64_t column = col[entry];
    if constexpr (!kPlaces) return column;
    if (static_cast<uint64_t>(column) >= num_matrix_columns) return kOutside;
    return places[column] < 0 ? kAbsent : places[column];
  }

  bool is_row(int64_t row) const { return static_cast<uint64_t>(row) < num_dense_rows; }

  template <int64_t kBytes>
  void fetch(int64_t entry) const {
    const int64_t row = dense_row(entry);
    if (!is_row(row)) return;
    const auto* bytes = reinterpret_cast<const char*>(dense + row * row_stride);
    for (int64_t i = 0; i < kBytes; i += kCacheLineBytes) __builtin_prefetch(bytes + i);
  }
};

// Entries whose columns are looked up together before the arithmetic: a branch per entry, on
// whether its row is present, would be mispredicted too often.
constexpr int64_t kEntryBlock = 64;

// Adds value * row of dense to the sums, in whole vectors or (kCut) the first `count` of one.
template <bool kCut, int kVectors, typename T>
TINYKG_INLINE void add_row(const T* source, int64_t count, T value, Lanes<Compute<T>>* sum) {
  const auto factor = fill(static_cast<Compute<T>>(value));
#pragma GCC unroll 4
  for (int k = 0; k < kVectors; ++k)
    sum[k] = sum[k] + factor * (kCut ? load_row(source, 1, count) : load(source + k * kLanes));
}

// Adds up the entries in order, in columns from `column` on. False if a column number is wrong;
// nothing is read there.
template <bool kPlaces, bool kCut, int kVectors, typename T, typename Index>
TINYKG_INLINE bool sum_entries(const SpmmJob<T, Index>& job, EntryRange range, int64_t column,
                               int64_t count, Lanes<Compute<T>>* out) {
  const Terms<kPlaces, T, Index> terms(job, column);
  Lanes<Compute<T>> sum[kVectors];
#pragma GCC unroll 4
  for (int k = 0; k < kVectors; ++k) sum[k] = fill(Compute<T>(0));
  if constexpr (kPlaces) {
    while (range.first < range.last) {
      const int64_t stop = std::min(range.first + kEntryBlock, range.last);
      int64_t rows[kEntryBlock], num_kept = 0;
      T values[kEntryBlock];
      bool outside = false;
      for (int64_t entry = range.first; entry < stop; ++entry) {
        const int64_t row = terms.dense_row(entry);
        rows[num_kept] = row;
        values[num_kept] = terms.values[entry];
        num_kept += row >= 0;
        outside |= row == kOutside;
      }
      if (outside) return false;
      for (int64_t i = 0; i < num_kept; ++i)
        add_row<kCut, kVectors>(terms.dense + rows[i] * terms.row_stride, count, values[i], sum);
      range.first = stop;
    }
  } else {
    for (int64_t entry = range.first; entry < range.last; ++entry) {
      if (entry + kEntriesAhead < range.readable)
        terms.template fetch<kVectors * kLanes * int64_t{sizeof(T)}>(entry + kEntriesAhead);
      const int64_t row = terms.dense_row(entry);
      if (!terms.is_row(row)) return false;
      add_row<kCut, kVectors>(terms.dense + row * terms.row_stride, count, terms.values[entry],
                              sum);
    }
  }
#pragma GCC unroll 4
  for (int k = 0; k < kVectors; ++k) out[k] = sum[k];
  return true;
}

// Whole vectors of columns from `column` on.
template <bool kAdd, bool kPlaces, int kVectors, typename T, typename Index>
TINYKG_INLINE bool multiply_vectors(const SpmmJob<T, Index>& job, const EntryRange& range,
                                    int64_t out_row, int64_t column) {
  Lanes<Compute<T>> sum[kVectors];
  if (!sum_entries<kPlaces, false, kVectors>(job, range, column, kLanes, sum)) return false;
  const int64_t stride = job.out.column_stride;
#pragma GCC unroll 4
  for (int k = 0; k < kVectors; ++k) {
    T* target = job.out.at(out_row, column + k * kLanes);
    if constexpr (kAdd) sum[k] = load_row<T>(target, stride, kLanes) + sum[k];
    store_row(target, stride, kLanes, sum[k]);
  }
  return true;
}

// The last columns, fewer than a vector. Where the row has a vector's worth, the vector begins
// earlier and its first lanes are left out, as reading it whole is faster.
template <bool kAdd, bool kPlaces, typename T, typename Index>
inline bool multiply_tail(const SpmmJob<T, Index>& job, const EntryRange& range, int64_t out_row,
                          int64_t column) {
  const int64_t start = std::max<int64_t>(0, job.num_columns - kLanes);
  const int64_t count = job.num_columns - start;
  Lanes<Compute<T>> sum;
  const bool inside = count == kLanes
                          ? sum_entries<kPlaces, false, 1>(job, range, start, count, &sum)
                          : sum_entries<kPlaces, true, 1>(job, range, start, count, &sum);
  if (!inside) return false;
  Compute<T> lane[kLanes];
  store(lane, sum);
  for (; column < job.num_columns; ++column) {
    T* target = job.out.at(out_row, column);
    const Compute<T> value = lane[column - start];
    *target = static_cast<T>(kAdd ? static_cast<Compute<T>>(*target) + value : value);
  }
  return true;
}

template <bool kAdd, bool kPlaces, typename T, typename Index>
inline bool multiply_row(const SpmmJob<T, Index>& job, const EntryRange& range, int64_t out_row) {
  int64_t column = 0;
  for (; column + 4 * kLanes <= job.num_columns; column += 4 * kLanes)
    if (!multiply_vectors<kAdd, kPlaces, 4>(job, range, out_row, column)) return false;
  for (; column + 2 * kLanes <= job.num_columns; column += 2 * kLanes)
    if (!multiply_vectors<kAdd, kPlaces, 2>(job, range, out_row, column)) return false;
  for (; column + kLanes <= job.num_columns; column += kLanes)
    if (!multiply_vectors<kAdd, kPlaces, 1>(job, range, out_row, column)) return false;
  if (column == job.num_columns) return true;
  return multiply_tail<kAdd, kPlaces>(job, range, out_row, column);
}

template <bool kAdd, bool kPlaces, typename T, typename Index>
void multiply_rows(const SpmmJob<T, Index>& job, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    const int64_t row = job.rows == nullptr ? i : job.rows[i];
    EntryRange range{0, 0, 0};
    if (row >= 0) range = {job.crow[row], job.crow[row + 1], job.num_entries};
    if (job.rows != nullptr) range.readable = range.last;  // the next row lies elsewhere
    if (kAdd && range.first == range.last) continue;
    if (!multiply_row<kAdd, kPlaces>(job, range, i)) job.outside->store(true);
  }
}

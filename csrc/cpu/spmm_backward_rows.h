// Entries of spmm_backward_, for one instruction set (each_target.h), sixteen at a time, so that
// their sixteen dot products are added up together. A thread's entries are picked without a branch,
// which would often be mispredicted, and their rows of out are prefetched.

#include "simd/lanes.h"

constexpr int64_t kLineBytes = 64;

// The next entries of a thread.
struct Entries {
  static constexpr int64_t kMost = 4 * kLanes;
  int64_t row[kMost], column[kMost], entry[kMost], count = 0;
};

template <typename T>
TINYKG_INLINE void fetch(const Matrix<T>& matrix, int64_t row, int64_t num_columns) {
  const auto* bytes = reinterpret_cast<const char*>(matrix.at(row, 0));
  const int64_t num_bytes = matrix.column_stride == 1 ? num_columns * int64_t{sizeof(T)} : 1;
  for (int64_t i = 0; i < num_bytes; i += kLineBytes) __builtin_prefetch(bytes + i);
}

// Adds value * grad to out and returns grad * dense, to be summed over the lanes.
template <typename T, typename Index>
TINYKG_INLINE Lanes<Compute<T>> send(const SpmmBackwardJob<T, Index>& job, int64_t row,
                                     int64_t column, int64_t entry) {
  const auto value = fill(static_cast<Compute<T>>(job.values[entry]));
  auto products = fill(Compute<T>(0));
  for (int64_t i = 0; i < job.num_columns; i += kLanes) {
    const int64_t left = lanes_left(job.num_columns, i);
    const auto grad = load_or_zero(job.grad.at(row, i), job.grad.column_stride, left);
    const auto dense = load_or_zero(job.dense.at(column, i), job.dense.column_stride, left);
    products = products + grad * dense;
    T* target = job.out.at(column, i);
    const auto before = load_row<T>(target, job.out.column_stride, left);
    store_row(target, job.out.column_stride, left, before + value * grad);
  }
  return products;
}

template <typename T, typename Index>
inline void send_all(const SpmmBackwardJob<T, Index>& job, Entries& entries) {
  for (int64_t i = 0; i < entries.count; ++i) {
    fetch(job.out, entries.column[i], job.num_columns);
    fetch(job.dense, entries.column[i], job.num_columns);
  }
  for (int64_t start = 0; start < entries.count; start += kLanes) {
    const int64_t count = std::min(kLanes, entries.count - start);
    Lanes<Compute<T>> products[kLanes];
    for (int64_t k = 0; k < kLanes; ++k) {
      const int64_t i = start + std::min(k, count - 1);
      if (k < count)
        products[k] = send(job, entries.row[i], entries.column[i], entries.entry[i]);
      else
        products[k] = fill(Compute<T>(0));
    }
    Compute<T> sum[kLanes];
    store(sum, sums_of_rows(products));
    for (int64_t k = 0; k < count; ++k)
      job.grad_values[entries.entry[start + k]] = static_cast<T>(sum[k]);
  }
  entries.count = 0;
}

// All entries whose column, counted modulo kShares, is from begin to end - 1.
template <typename T, typename Index>
void spmm_backward_shares(const SpmmBackwardJob<T, Index>& job, int64_t begin, int64_t end) {
  Entries entries;
  const auto width = static_cast<uint64_t>(end - begin);
  for (int64_t row = 0; row < job.num_rows; ++row) {
    for (int64_t entry = job.crow[row]; entry < job.crow[row + 1]; ++entry) {
      const int64_t column = job.col[entry];
      entries.row[entries.count] = row;
      entries.column[entries.count] = column;
      entries.entry[entries.count] = entry;
      entries.count += static_cast<uint64_t>(column % kShares - begin) < width ? 1 : 0;
      if (entries.count == Entries::kMost) send_all(job, entries);
    }
  }
  send_all(job, entries);
}

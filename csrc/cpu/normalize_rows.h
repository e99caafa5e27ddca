// Rows of normalize_backward, for one instruction set (each_target.h), sixteen at a time: a pass
// for the two sums of each row, then the factors of all, then a pass for the results, while the
// rows are in the L1 cache.

#include "simd/lanes.h"

constexpr int64_t kRows = kLanes;

// The factors of x and of grad of rows [row, row + count): out = (grad + pull * x) * unit.
template <typename T>
struct Factors {
  using C = Compute<T>;
  C pull[kRows], unit[kRows];

  Factors(const NormalizeJob<T>& job, int64_t row, int64_t count) {
    Lanes<C> squares[kRows], products[kRows];
    C shrink[kRows] = {};
    for (int64_t i = 0; i < kRows; ++i) {
      squares[i] = products[i] = fill(C(0));
      if (i < count) add_up(job, row + i, squares[i], products[i]);
      if (i < count) shrink[i] = static_cast<C>(job.shrink[row + i]);
    }
    const auto eps = fill(job.eps), norm = root(sums_of_rows(squares));
    const auto length = larger(eps, norm);               // NaN stays NaN
    const auto along = sums_of_rows(products) / length;  // grad . y
    const auto factor = choose(positive_bits(eps - norm), load(shrink), fill(C(0)) - along);
    store(pull, factor / length);
    store(unit, fill(C(1)) / length);
  }

  static void add_up(const NormalizeJob<T>& job, int64_t row, Lanes<C>& squares,
                     Lanes<C>& products) {
    for (int64_t i = 0; i < job.num_columns; i += kLanes) {
      const int64_t left = lanes_left(job.num_columns, i);
      const auto x = load_or_zero(job.x.at(row, i), job.x.column_stride, left);
      const auto grad = load_or_zero(job.grad.at(row, i), job.grad.column_stride, left);
      squares = squares + x * x;
      products = products + grad * x;
    }
  }
};

template <typename T>
inline void write_gradient(const NormalizeJob<T>& job, int64_t row, Compute<T> pull,
                           Compute<T> unit) {
  const auto factor = fill(pull), scale = fill(unit);
  for (int64_t i = 0; i < job.num_columns; i += kLanes) {
    const int64_t left = lanes_left(job.num_columns, i);
    const auto x = load_row(job.x.at(row, i), job.x.column_stride, left);
    const auto grad = load_row(job.grad.at(row, i), job.grad.column_stride, left);
    store_row(job.out + row * job.num_columns + i, 1, left, (grad + factor * x) * scale);
  }
}

template <typename T>
void normalize_backward_rows(const NormalizeJob<T>& job, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; row += kRows) {
    const int64_t count = std::min(kRows, end - row);
    const Factors<T> factors(job, row, count);
    for (int64_t i = 0; i < count; ++i)
      write_gradient(job, row + i, factors.pull[i], factors.unit[i]);
  }
}

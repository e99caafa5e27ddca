// spmm and spmm_add_ on the CPU: a row of the result is the sum of its entries' value * dense row,
// in the order of the entries, in float32 (float64 for doubles).
//
// Work is shared among threads by entries, not by rows, as a few rows of a graph hold most entries.
// A row is summed by one thread, so the result depends neither on the number of threads nor on the
// instruction set. Bytes moved: a value, a column number and a row of dense per entry. With `rows`,
// the chosen rows of A are read where they are; with `places`, columns are looked up, so that dense
// need not be spread out.
#include <atomic>
#include <optional>

#include "rows.h"

namespace tinykg {

// A in CSR, of which all but col is checked; dense has unit column stride.
template <typename T, typename Index>
struct SpmmJob {
  const Index* crow;
  const Index* col;
  const T* values;
  int64_t num_entries, num_matrix_columns, num_dense_rows;
  const int64_t* rows;    // row of A of each row of out, -1 for none; null: all in order
  const int32_t* places;  // row of dense of each column of A, -1 for none; null: the same
  Matrix<const T> dense;
  Matrix<T> out;
  int64_t num_rows, num_columns;  // of out
  std::atomic<bool>* outside;     // set when col holds a number that is no column
};

}  // namespace tinykg

#define TINYKG_ROWS "cpu/spmm_rows.h"
#include "simd/each_target.h"

namespace tinykg {
namespace {

// The tensors of a call; those that kernels read as lists are contiguous.
struct Operands {
  Tensor crow, col, values, dense;
  std::optional<Tensor> rows, places;

  int64_t num_rows() const { return rows ? rows->size(0) : crow.size(0) - 1; }
  int64_t num_matrix_columns() const { return places ? places->size(0) : dense.size(0); }
};

std::optional<Tensor> contiguous_list(const std::optional<Tensor>& list) {
  if (!list) return std::nullopt;
  return as_contiguous(*list);
}

Operands read_operands(const Tensor& crow, const Tensor& col, const Tensor& values,
                       const Tensor& dense, const std::optional<Tensor>& rows,
                       const std::optional<Tensor>& places) {
  check_product(crow, col, values, dense, rows, places);
  const bool by_rows = dense.stride(1) == 1 || dense.size(1) == 1;
  return {as_contiguous(crow),   as_contiguous(col),
          as_contiguous(values), by_rows ? dense : torch::stable::contiguous(dense),
          contiguous_list(rows), contiguous_list(places)};
}

template <typename T>
const T* list(const std::optional<Tensor>& tensor) {
  return tensor ? tensor->const_data_ptr<T>() : nullptr;
}

// Flags are as wide as the numbers, so that compilers vectorise the loops.
template <typename Index>
bool all_below(const Index* first, int64_t count, int64_t limit) {
  Index above = 0;
  for (int64_t i = 0; i < count; ++i) above |= first[i] >= limit ? 1 : 0;
  return above == 0;
}

template <typename Index>
bool all_ordered(const Index* crow, int64_t num_rows, int64_t num_entries) {
  Index falls = 0;
  for (int64_t i = 0; i < num_rows; ++i) falls |= crow[i + 1] < crow[i] ? 1 : 0;
  return falls == 0 && crow[0] >= 0 && crow[num_rows] <= num_entries;
}

// Checks all numbers except those of col, which are checked where they are used.
template <typename Index>
void check_numbers(const Operands& in) {
  const int64_t num_rows = in.crow.size(0) - 1, num_entries = in.col.size(0);
  STD_TORCH_CHECK(all_ordered(in.crow.const_data_ptr<Index>(), num_rows, num_entries),
                  "crow must rise from 0 or more to the number of entries, ", num_entries,
                  ", or less");
  if (in.rows)
    STD_TORCH_CHECK(all_below(list<int64_t>(in.rows), in.rows->size(0), num_rows),
                    "rows must hold rows of the sparse matrix, which has ", num_rows);
  if (in.places)
    STD_TORCH_CHECK(all_below(list<int32_t>(in.places), in.places->size(0), in.dense.size(0)),
                    "places must hold rows of dense, which has ", in.dense.size(0));
}

// The work before each row of out, in entries; a row counts as one more.
template <typename T, typename Index>
class Work {
 public:
  explicit Work(const SpmmJob<T, Index>& job) : job_(job) {
    if (job.rows == nullptr) return;
    before_.reserve(static_cast<size_t>(job.num_rows) + 1);
    before_.push_back(0);
    for (int64_t i = 0; i < job.num_rows; ++i) {
      const int64_t row = job.rows[i];
      const int64_t count = row < 0 ? 0 : job.crow[row + 1] - job.crow[row];
      before_.push_back(before_.back() + count + 1);
    }
  }

  int64_t before(int64_t row) const {
    if (job_.rows != nullptr) return before_[static_cast<size_t>(row)];
    return static_cast<int64_t>(job_.crow[row]) - job_.crow[0] + row;
  }

  // The first row that has at least `work` before it.
  int64_t row_at(int64_t work) const {
    int64_t low = 0, high = job_.num_rows;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (before(middle) < work)
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  }

 private:
  const SpmmJob<T, Index>& job_;
  std::vector<int64_t> before_;
};

template <bool kAdd, typename T, typename Index>
void run(const SpmmJob<T, Index>& job) {
  const Work<T, Index> work(job);
  run_parallel(work.before(job.num_rows), job.num_columns, [&](int64_t begin, int64_t end) {
    const int64_t first = work.row_at(begin), last = work.row_at(end);
    if (job.places == nullptr) {
      TINYKG_FOR_THIS_CPU(multiply_rows<kAdd, false>(job, first, last));
    } else {
      TINYKG_FOR_THIS_CPU(multiply_rows<kAdd, true>(job, first, last));
    }
  });
}

template <bool kAdd, typename Index>
void run_typed(const Tensor& out, const Operands& in) {
  check_numbers<Index>(in);
  std::atomic<bool> outside{false};
  dispatch_float(in.dense.scalar_type(), [&](auto example) {
    using T = decltype(example);
    run<kAdd>(
        SpmmJob<T, Index>{in.crow.const_data_ptr<Index>(),
                          in.col.const_data_ptr<Index>(),
                          static_cast<const T*>(in.values.const_data_ptr()),
                          in.col.size(0),
                          in.num_matrix_columns(),
                          in.dense.size(0),
                          list<int64_t>(in.rows),
                          list<int32_t>(in.places),
                          {static_cast<const T*>(in.dense.const_data_ptr()), in.dense.stride(0), 1},
                          write_matrix<T>(out),
                          out.size(0),
                          out.size(1),
                          &outside});
  });
  STD_TORCH_CHECK(!outside, "col must hold rows of dense, which has ", in.num_matrix_columns());
}

template <bool kAdd>
void run_product(const Tensor& out, const Operands& in) {
  check_out(out, in.dense, in.num_rows());
  if (in.crow.scalar_type() == ScalarType::Int) return run_typed<kAdd, int32_t>(out, in);
  run_typed<kAdd, int64_t>(out, in);
}

}  // namespace

Tensor spmm(const Tensor& crow, const Tensor& col, const Tensor& values, const Tensor& dense,
            std::optional<Tensor> rows, std::optional<Tensor> places) {
  const Operands in = read_operands(crow, col, values, dense, rows, places);
  Tensor out = new_output(dense, {in.num_rows(), dense.size(1)}, dense.scalar_type());
  run_product<false>(out, in);
  return out;
}

void spmm_add_(Tensor out, const Tensor& crow, const Tensor& col, const Tensor& values,
               const Tensor& dense, std::optional<Tensor> rows, std::optional<Tensor> places) {
  run_product<true>(out, read_operands(crow, col, values, dense, rows, places));
}

}  // namespace tinykg

STABLE_TORCH_LIBRARY_IMPL(recbole_tinykg, CPU, m) {
  m.impl("spmm", TORCH_BOX(&tinykg::spmm));
  m.impl("spmm_add_", TORCH_BOX(&tinykg::spmm_add_));
}

// spmm_backward_ on the CPU: both gradients of A @ dense in one sweep over the entries of A,
// storing only one number per entry.
//
// An entry reads a row of grad and a row of dense, for its own gradient, and adds to a row of out.
// Every column of A belongs to one thread, so there are no atomics and the result depends neither
// on the number of threads nor on the instruction set; each thread looks at all column numbers and
// takes its own. Columns go to the shares in turn, as neighbouring columns are often alike.
#include "rows.h"

namespace tinykg {

constexpr int64_t kShares = 64;  // of the columns; a thread has some of them

template <typename T, typename Index>
struct SpmmBackwardJob {
  const Index* crow;
  const Index* col;
  const T* values;
  Matrix<const T> dense, grad;
  Matrix<T> out;
  T* grad_values;
  int64_t num_rows, num_columns;  // of grad
};

}  // namespace tinykg

#define TINYKG_ROWS "cpu/spmm_backward_rows.h"
#include "simd/each_target.h"

namespace tinykg {
namespace {

// Flags are as wide as the numbers, so that compilers vectorise the loops.
template <typename Index>
void check_numbers(const Index* crow, int64_t num_rows, const Index* col, int64_t num_entries,
                   int64_t num_dense_rows) {
  Index falls = 0, outside = 0;
  for (int64_t i = 0; i < num_rows; ++i) falls |= crow[i + 1] < crow[i] ? 1 : 0;
  STD_TORCH_CHECK(falls == 0 && crow[0] == 0 && crow[num_rows] == num_entries,
                  "crow must rise from 0 to the number of entries, ", num_entries);
  for (int64_t i = 0; i < num_entries; ++i)
    outside |= col[i] < 0 || col[i] >= num_dense_rows ? 1 : 0;
  STD_TORCH_CHECK(outside == 0, "col must hold rows of dense, which has ", num_dense_rows);
}

template <typename T, typename Index>
void run(const SpmmBackwardJob<T, Index>& job, int64_t num_entries) {
  const int64_t work = std::max<int64_t>(1, num_entries * job.num_columns);
  const int64_t grain = std::max<int64_t>(1, kShares * kTaskElements / work);
  torch::stable::parallel_for(0, kShares, grain, [&](int64_t begin, int64_t end) {
    TINYKG_FOR_THIS_CPU(spmm_backward_shares(job, begin, end));
  });
}

template <typename Index>
void run_typed(const Tensor& out, const Tensor& crow, const Tensor& col, const Tensor& values,
               const Tensor& dense, const Tensor& grad, const Tensor& grad_values) {
  const auto* pointers = crow.const_data_ptr<Index>();
  const auto* columns = col.const_data_ptr<Index>();
  check_numbers(pointers, grad.size(0), columns, col.size(0), dense.size(0));
  dispatch_float(dense.scalar_type(), [&](auto example) {
    using T = decltype(example);
    run(SpmmBackwardJob<T, Index>{pointers, columns, static_cast<const T*>(values.const_data_ptr()),
                                  read_matrix<T>(dense), read_matrix<T>(grad), write_matrix<T>(out),
                                  static_cast<T*>(grad_values.mutable_data_ptr()), grad.size(0),
                                  grad.size(1)},
        col.size(0));
  });
}

}  // namespace

Tensor spmm_backward_(Tensor out, const Tensor& crow, const Tensor& col, const Tensor& values,
                      const Tensor& dense, const Tensor& grad) {
  check_product_backward(out, crow, col, values, dense, grad);
  Tensor grad_values = torch::stable::new_empty(values, {values.size(0)}, values.scalar_type());
  const auto run_index =
      crow.scalar_type() == ScalarType::Int ? run_typed<int32_t> : run_typed<int64_t>;
  run_index(out, as_contiguous(crow), as_contiguous(col), as_contiguous(values), dense, grad,
            grad_values);
  return grad_values;
}

}  // namespace tinykg

STABLE_TORCH_LIBRARY_IMPL(recbole_tinykg, CPU, m) {
  m.impl("spmm_backward_", TORCH_BOX(&tinykg::spmm_backward_));
}

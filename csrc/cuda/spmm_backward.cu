// spmm_backward_ on a GPU; the kernels are in spmm_backward.cuh.
#include "arguments.h"
#include "cuda/launch.h"
#include "spmm_backward.cuh"

namespace tinykg {
namespace {

// The tensors of a call, checked; col and values are contiguous.
struct Operands {
  Tensor out, crow, col, values, dense, grad;
};

Operands read_operands(const Tensor& out, const Tensor& crow, const Tensor& col,
                       const Tensor& values, const Tensor& dense, const Tensor& grad) {
  check_product_backward(out, crow, col, values, dense, grad);
  check_device("out", out, dense);
  check_device("crow", crow, dense);
  check_device("col", col, dense);
  check_device("values", values, dense);
  check_device("grad", grad, dense);
  STD_TORCH_CHECK(grad.size(0) > 0 || col.size(0) == 0,
                  "crow must rise from 0 to the number of entries, ", col.size(0));
  return {out, crow, as_contiguous(col), as_contiguous(values), dense, grad};
}

template <typename T, typename Index>
Entries<T, Index> read_entries(const Operands& in) {
  const int64_t num_entries = in.col.size(0), num_rows = in.grad.size(0);
  return {read_list<Index>(in.crow),
          in.col.const_data_ptr<Index>(),
          static_cast<const T*>(in.values.const_data_ptr()),
          num_entries,
          num_rows,
          in.dense.size(0),
          static_cast<double>(num_rows) / static_cast<double>(num_entries)};
}

template <bool kChunks, typename T, typename Index>
void run(const Operands& in, const Tensor& grad_values) {
  const auto entries = read_entries<T, Index>(in);
  const auto dense = read_matrix<T>(in.dense), grad = read_matrix<T>(in.grad);
  const int64_t num_columns = in.grad.size(1);
  const EntryDotsJob<T, Index, kChunks> dots(
      entries, dense, grad, static_cast<T*>(grad_values.mutable_data_ptr()), num_columns);
  launch(in.grad, dots.blocks(), dots);
  if (num_columns == 0) return;
  const ScatterJob<T, Index, kChunks> scatter(entries, grad, write_matrix<T>(in.out), num_columns);
  launch(in.grad, scatter.blocks(), scatter);
}

}  // namespace

Tensor spmm_backward_(Tensor out, const Tensor& crow, const Tensor& col, const Tensor& values,
                      const Tensor& dense, const Tensor& grad) {
  const Operands in = read_operands(out, crow, col, values, dense, grad);
  Tensor grad_values =
      torch::stable::new_empty(values, std::vector<int64_t>{values.size(0)}, values.scalar_type());
  if (col.size(0) == 0) return grad_values;
  dispatch_float(out.scalar_type(), [&](auto number) {
    dispatch_index(crow.scalar_type(), [&](auto index) {
      using T = decltype(number);
      using Index = decltype(index);
      const int64_t num_columns = grad.size(1);
      if (has_whole_chunks(read_matrix<T>(dense), num_columns) &&
          has_whole_chunks(read_matrix<T>(grad), num_columns))
        run<true, T, Index>(in, grad_values);
      else
        run<false, T, Index>(in, grad_values);
    });
  });
  return grad_values;
}

}  // namespace tinykg

STABLE_TORCH_LIBRARY_IMPL(recbole_tinykg, CUDA, m) {
  m.impl("spmm_backward_", TORCH_BOX(&tinykg::spmm_backward_));
}

// spmm and spmm_add_ on a GPU; the kernel is in spmm.cuh.
#include <optional>

#include "arguments.h"
#include "cuda/launch.h"
#include "spmm.cuh"

namespace tinykg {
namespace {

// The tensors of a call, checked; col and values are contiguous.
struct Operands {
  Tensor crow, col, values, dense;
  std::optional<Tensor> rows, places;
};

Operands read_operands(const Tensor& crow, const Tensor& col, const Tensor& values,
                       const Tensor& dense, const std::optional<Tensor>& rows,
                       const std::optional<Tensor>& places) {
  check_product(crow, col, values, dense, rows, places);
  check_device("crow", crow, dense);
  check_device("col", col, dense);
  check_device("values", values, dense);
  if (rows) check_device("rows", *rows, dense);
  if (places) check_device("places", *places, dense);
  return {crow, as_contiguous(col), as_contiguous(values), dense, rows, places};
}

template <bool kChunks, typename T, typename Index>
void run(const Tensor& out, const Operands& in, const Matrix<const T>& dense, bool add) {
  const SpmmPlan plan(out.size(0), out.size(1), in.crow.size(0) - 1, in.col.size(0),
                      Columns<T, kChunks>::kEach);
  launch(out, plan.blocks(out.size(0)),
         SpmmJob<T, Index, kChunks>{
             read_list<Index>(in.crow), in.col.const_data_ptr<Index>(),
             static_cast<const T*>(in.values.const_data_ptr()), in.col.size(0), in.crow.size(0) - 1,
             in.places ? in.places->size(0) : in.dense.size(0), read_list<int64_t>(in.rows),
             read_list<int32_t>(in.places), dense, in.dense.size(0), write_matrix<T>(out),
             out.size(0), out.size(1), add, plan});
}

void run_product(const Tensor& out, const Operands& in, bool add) {
  check_out(out, in.dense, in.rows ? in.rows->size(0) : in.crow.size(0) - 1);
  check_device("out", out, in.dense);
  if (out.size(0) == 0 || out.size(1) == 0) return;
  dispatch_float(out.scalar_type(), [&](auto number) {
    dispatch_index(in.crow.scalar_type(), [&](auto index) {
      using T = decltype(number);
      using Index = decltype(index);
      const auto dense = read_matrix<T>(in.dense);
      if (has_whole_chunks(dense, out.size(1)))
        run<true, T, Index>(out, in, dense, add);
      else
        run<false, T, Index>(out, in, dense, add);
    });
  });
}

}  // namespace

Tensor spmm(const Tensor& crow, const Tensor& col, const Tensor& values, const Tensor& dense,
            std::optional<Tensor> rows, std::optional<Tensor> places) {
  const Operands in = read_operands(crow, col, values, dense, rows, places);
  const int64_t num_rows = rows ? rows->size(0) : crow.size(0) - 1;
  Tensor out = torch::stable::new_empty(dense, std::vector<int64_t>{num_rows, dense.size(1)},
                                        dense.scalar_type());
  run_product(out, in, false);
  return out;
}

void spmm_add_(Tensor out, const Tensor& crow, const Tensor& col, const Tensor& values,
               const Tensor& dense, std::optional<Tensor> rows, std::optional<Tensor> places) {
  run_product(out, read_operands(crow, col, values, dense, rows, places), true);
}

}  // namespace tinykg

STABLE_TORCH_LIBRARY_IMPL(recbole_tinykg, CUDA, m) {
  m.impl("spmm", TORCH_BOX(&tinykg::spmm));
  m.impl("spmm_add_", TORCH_BOX(&tinykg::spmm_add_));
}

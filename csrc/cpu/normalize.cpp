// normalize_backward on the CPU: the gradient of x through y = x / max(|x|, eps), row by row.
#include <cmath>

#include "rows.h"

namespace tinykg {

template <typename T>
struct NormalizeJob {
  Matrix<const T> grad, x;
  const T* shrink;
  Compute<T> eps;
  int64_t num_columns;
  T* out;
};

}  // namespace tinykg

#define TINYKG_ROWS "cpu/normalize_rows.h"
#include "simd/each_target.h"

namespace tinykg {

Tensor normalize_backward(const Tensor& grad, const Tensor& x, const Tensor& shrink, double eps) {
  check_normalize(grad, x, shrink);
  Tensor out = new_like(x);
  const Tensor factors = as_contiguous(shrink);
  dispatch_float(x.scalar_type(), [&](auto example) {
    using T = decltype(example);
    const NormalizeJob<T> job{read_matrix<T>(grad),
                              read_matrix<T>(x),
                              static_cast<const T*>(factors.const_data_ptr()),
                              static_cast<Compute<T>>(eps),
                              x.size(1),
                              static_cast<T*>(out.mutable_data_ptr())};
    run_parallel(x.size(0), x.size(1), [&](int64_t begin, int64_t end) {
      TINYKG_FOR_THIS_CPU(normalize_backward_rows(job, begin, end));
    });
  });
  return out;
}

}  // namespace tinykg

STABLE_TORCH_LIBRARY_IMPL(recbole_tinykg, CPU, m) {
  m.impl("normalize_backward", TORCH_BOX(&tinykg::normalize_backward));
}

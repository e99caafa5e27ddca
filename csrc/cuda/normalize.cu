// normalize_backward on a GPU; the kernel is in normalize.cuh.
#include <algorithm>

#include "arguments.h"
#include "cuda/launch.h"
#include "normalize.cuh"

namespace tinykg {

Tensor normalize_backward(const Tensor& grad, const Tensor& x, const Tensor& shrink, double eps) {
  STD_TORCH_CHECK(grad.dim() == 2 && x.dim() == 2 && grad.size(0) == x.size(0) &&
                      grad.size(1) == x.size(1) && shrink.dim() == 1 && shrink.size(0) == x.size(0),
                  "grad must have the shape of x, and shrink a number per row");
  STD_TORCH_CHECK(grad.scalar_type() == x.scalar_type() && shrink.scalar_type() == x.scalar_type(),
                  "grad and shrink must have the dtype of x");
  check_device("grad", grad, x);
  check_device("shrink", shrink, x);
  Tensor out = new_matrix(x, x.size(1), x.scalar_type());
  dispatch_float(x.scalar_type(), [&](auto example) {
    using T = decltype(example);
    launch(x, Work(x.size(0), std::min(x.size(1), kGroupColumns)),
           NormalizeBackwardJob<T>{read_matrix<T>(grad), read_matrix<T>(x),
                                   static_cast<const T*>(shrink.const_data_ptr()), shrink.stride(0),
                                   static_cast<Compute<T>>(eps), x.size(1), write_matrix<T>(out)});
  });
  return out;
}

}  // namespace tinykg

STABLE_TORCH_LIBRARY_IMPL(recbole_tinykg, CUDA, m) {
  m.impl("normalize_backward", TORCH_BOX(&tinykg::normalize_backward));
}

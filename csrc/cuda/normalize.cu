// normalize_backward on a GPU; the kernel is in normalize.cuh.
#include <algorithm>

#include "arguments.h"
#include "cuda/launch.h"
#include "normalize.cuh"

namespace tinykg {

Tensor normalize_backward(const Tensor& grad, const Tensor& x, const Tensor& shrink, double eps) {
  check_normalize(grad, x, shrink);
  check_device("grad", grad, x);
  check_device("shrink", shrink, x);
  Tensor out = new_like(x);
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

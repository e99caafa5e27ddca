// Sign masks, LeakyReLU's derivative and dropout on a GPU; the kernels are in activation.cuh.
#include <cmath>
#include <optional>
#include <tuple>

#include "activation.cuh"
#include "arguments.h"
#include "cuda/launch.h"

namespace tinykg {
namespace {

template <typename T>
Dropout<Compute<T>> make_dropout(const Noise& noise, double probability) {
  check_probability(probability);
  const DropoutRate rate = dropout_rate(probability);
  return {noise, rate.num_dropped, static_cast<Compute<T>>(rate.keep_scale)};
}

Work work_on(const Tensor& x) { return Work(x.size(0), x.size(1)); }

WriteMask write_mask(const Tensor& mask, const Tensor& x) {
  return {mask.mutable_data_ptr<uint8_t>(), x.size(1)};
}

// The mask, checked and contiguous.
Tensor packed_mask(const Tensor& mask, const Tensor& grad) {
  check_mask(mask, grad);
  check_device("mask", mask, grad);
  return as_contiguous(mask);
}

ReadMask read_mask(const Tensor& mask, const Tensor& grad) {
  return {mask.const_data_ptr<uint8_t>(), grad.size(1)};
}

}  // namespace

Tensor sign_mask(const Tensor& x) {
  check_matrix("x", x);
  Tensor mask = new_mask(x);
  dispatch_float(x.scalar_type(), [&](auto example) {
    using T = decltype(example);
    launch(x, work_on(x), SignMaskJob<T>{read_matrix<T>(x), write_mask(mask, x)});
  });
  return mask;
}

Tensor leaky_relu_backward(const Tensor& grad, const Tensor& mask, double negative_slope) {
  const Tensor packed = packed_mask(mask, grad);
  Tensor out = new_like(grad);
  dispatch_float(grad.scalar_type(), [&](auto example) {
    using T = decltype(example);
    launch(grad, work_on(grad),
           LeakyReluBackwardJob<T>{read_matrix<T>(grad), read_mask(packed, grad),
                                   static_cast<Compute<T>>(negative_slope), write_matrix<T>(out)});
  });
  return out;
}

Tensor dropout(const Tensor& x, const Tensor& stream, double probability, int64_t first_row) {
  check_matrix("x", x);
  const Noise noise = read_noise(stream, x, first_row);
  Tensor out = new_like(x);
  dispatch_float(x.scalar_type(), [&](auto example) {
    using T = decltype(example);
    launch(x, work_on(x),
           DropoutJob<T>{read_matrix<T>(x), make_dropout<T>(noise, probability),
                         write_matrix<T>(out)});
  });
  return out;
}

Tensor leaky_relu_dropout_(Tensor x, const Tensor& stream, std::optional<Tensor> addend,
                           double negative_slope, double probability, int64_t first_row) {
  check_matrix("x", x);
  if (addend) {
    check_addend(*addend, x);
    check_device("addend", *addend, x);
  }
  const Noise noise = read_noise(stream, x, first_row);
  Tensor mask = new_mask(x);
  dispatch_float(x.scalar_type(), [&](auto example) {
    using T = decltype(example);
    launch(x, work_on(x),
           LeakyReluDropoutJob<T>{write_matrix<T>(x),
                                  addend ? read_matrix<T>(*addend) : Matrix<const T>{},
                                  static_cast<Compute<T>>(negative_slope),
                                  make_dropout<T>(noise, probability), write_mask(mask, x)});
  });
  return mask;
}

std::tuple<Tensor, Tensor> leaky_relu_dropout_backward(const Tensor& grad, const Tensor& mask,
                                                       const Tensor& stream, double negative_slope,
                                                       double probability, int64_t first_row) {
  const Tensor packed = packed_mask(mask, grad);
  const Noise noise = read_noise(stream, grad, first_row);
  Tensor grad_x = new_like(grad), grad_addend = new_like(grad);
  dispatch_float(grad.scalar_type(), [&](auto example) {
    using T = decltype(example);
    launch(grad, work_on(grad),
           LeakyReluDropoutBackwardJob<T>{read_matrix<T>(grad), read_mask(packed, grad),
                                          static_cast<Compute<T>>(negative_slope),
                                          make_dropout<T>(noise, probability),
                                          write_matrix<T>(grad_x), write_matrix<T>(grad_addend)});
  });
  return {grad_x, grad_addend};
}

}  // namespace tinykg

STABLE_TORCH_LIBRARY_IMPL(recbole_tinykg, CUDA, m) {
  m.impl("sign_mask", TORCH_BOX(&tinykg::sign_mask));
  m.impl("leaky_relu_backward", TORCH_BOX(&tinykg::leaky_relu_backward));
  m.impl("dropout", TORCH_BOX(&tinykg::dropout));
  m.impl("leaky_relu_dropout_", TORCH_BOX(&tinykg::leaky_relu_dropout_));
  m.impl("leaky_relu_dropout_backward", TORCH_BOX(&tinykg::leaky_relu_dropout_backward));
}

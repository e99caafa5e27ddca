// Sign masks, LeakyReLU's derivative and dropout on the CPU, alone and in one sweep. A mask has a
// bit per element; the mask of dropout is drawn from the stream, in forward and again in backward.
#include <cmath>
#include <optional>
#include <tuple>

#include "rows.h"

namespace tinykg {

// The arguments of all five operators; each leaves some of them empty.
template <typename T>
struct ActivationJob {
  Matrix<const T> x{};
  int64_t num_columns;
  T* out = nullptr;
  uint8_t* mask = nullptr;
  Compute<T> negative_slope = 0;
  Matrix<T> target{};  // of leaky_relu_dropout_, which works in place
  Matrix<const T> addend{};
  T* grad_addend = nullptr;
  int64_t first_row = 0;
  Stream stream{};
  int32_t num_dropped = 0;  // of the 2^16 values of the random bits
  Compute<T> keep_scale = 1;
};

}  // namespace tinykg

#define TINYKG_ROWS "cpu/activation_rows.h"
#include "simd/each_target.h"

namespace tinykg {
namespace {

template <typename T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// Runs rows(job, begin, end), one of the loops of activation_rows.h.
#define TINYKG_RUN(rows, job, num_rows)     \
  run_parallel(num_rows, (job).num_columns, \
               [&](int64_t begin, int64_t end) { TINYKG_FOR_THIS_CPU(rows(job, begin, end)); })

template <typename T>
void set_dropout(ActivationJob<T>& job, const Tensor& stream, double probability,
                 int64_t first_row) {
  check_probability(probability);
  const DropoutRate rate = dropout_rate(probability);
  job.first_row = first_row;
  job.stream = read_stream(stream);
  job.num_dropped = rate.num_dropped;
  job.keep_scale = static_cast<Compute<T>>(rate.keep_scale);
}

}  // namespace

Tensor sign_mask(const Tensor& x) {
  check_matrix("x", x);
  Tensor mask = new_mask(x);
  dispatch_float(x.scalar_type(), [&](auto example) {
    using T = decltype(example);
    ActivationJob<T> job{read_matrix<T>(x), x.size(1)};
    job.mask = data<uint8_t>(mask);
    TINYKG_RUN(sign_mask_rows, job, x.size(0));
  });
  return mask;
}

Tensor leaky_relu_backward(const Tensor& grad, const Tensor& mask, double negative_slope) {
  check_mask(mask, grad);
  Tensor out = new_like(grad), packed = as_contiguous(mask);
  dispatch_float(grad.scalar_type(), [&](auto example) {
    using T = decltype(example);
    ActivationJob<T> job{read_matrix<T>(grad), grad.size(1), data<T>(out), data<uint8_t>(packed)};
    job.negative_slope = static_cast<Compute<T>>(negative_slope);
    TINYKG_RUN(leaky_relu_backward_rows, job, grad.size(0));
  });
  return out;
}

Tensor dropout(const Tensor& x, const Tensor& stream, double probability, int64_t first_row) {
  check_matrix("x", x);
  Tensor out = new_like(x);
  dispatch_float(x.scalar_type(), [&](auto example) {
    using T = decltype(example);
    ActivationJob<T> job{read_matrix<T>(x), x.size(1), data<T>(out)};
    set_dropout(job, stream, probability, first_row);
    TINYKG_RUN(dropout_rows, job, x.size(0));
  });
  return out;
}

Tensor leaky_relu_dropout_(Tensor x, const Tensor& stream, std::optional<Tensor> addend,
                           double negative_slope, double probability, int64_t first_row) {
  check_matrix("x", x);
  if (addend) check_addend(*addend, x);
  Tensor mask = new_mask(x);
  dispatch_float(x.scalar_type(), [&](auto example) {
    using T = decltype(example);
    ActivationJob<T> job{.num_columns = x.size(1), .mask = data<uint8_t>(mask)};
    job.target = write_matrix<T>(x);
    job.negative_slope = static_cast<Compute<T>>(negative_slope);
    if (addend) job.addend = read_matrix<T>(*addend);
    set_dropout(job, stream, probability, first_row);
    TINYKG_RUN(leaky_relu_dropout_in_place_rows, job, x.size(0));
  });
  return mask;
}

std::tuple<Tensor, Tensor> leaky_relu_dropout_backward(const Tensor& grad, const Tensor& mask,
                                                       const Tensor& stream, double negative_slope,
                                                       double probability, int64_t first_row) {
  check_mask(mask, grad);
  Tensor grad_x = new_like(grad), grad_addend = new_like(grad), packed = as_contiguous(mask);
  dispatch_float(grad.scalar_type(), [&](auto example) {
    using T = decltype(example);
    ActivationJob<T> job{read_matrix<T>(grad), grad.size(1), data<T>(grad_x),
                         data<uint8_t>(packed)};
    job.negative_slope = static_cast<Compute<T>>(negative_slope);
    job.grad_addend = data<T>(grad_addend);
    set_dropout(job, stream, probability, first_row);
    TINYKG_RUN(leaky_relu_dropout_backward_rows, job, grad.size(0));
  });
  return {grad_x, grad_addend};
}

}  // namespace tinykg

STABLE_TORCH_LIBRARY_IMPL(recbole_tinykg, CPU, m) {
  m.impl("sign_mask", TORCH_BOX(&tinykg::sign_mask));
  m.impl("leaky_relu_backward", TORCH_BOX(&tinykg::leaky_relu_backward));
  m.impl("dropout", TORCH_BOX(&tinykg::dropout));
  m.impl("leaky_relu_dropout_", TORCH_BOX(&tinykg::leaky_relu_dropout_));
  m.impl("leaky_relu_dropout_backward", TORCH_BOX(&tinykg::leaky_relu_dropout_backward));
}

// Turns tensors into what kernels take, on every device: C++ types, matrices, outputs.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <type_traits>

#include "float_types.h"
#include "quantize_core.h"

namespace tinykg {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline Tensor as_contiguous(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

// Calls function(T{}) with the C++ type of a float dtype.
template <typename Function>
void dispatch_float(ScalarType dtype, const Function& function) {
  switch (dtype) {
    case ScalarType::Float:
      return function(float{});
    case ScalarType::Double:
      return function(double{});
    case ScalarType::Half:
      return function(Half{});
    case ScalarType::BFloat16:
      return function(BFloat16{});
    default:
      STD_TORCH_CHECK(false, "expected a floating-point dtype of 16, 32 or 64 bits");
  }
}

// The dtypes of Compute<T> and Step<T>.
inline ScalarType compute_type(ScalarType dtype) {
  return dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}
inline ScalarType step_type(ScalarType dtype) {
  return dtype == ScalarType::Double ? ScalarType::Double : ScalarType::BFloat16;
}

// A matrix of any strides, as kernels take it: of cpu/rows.h or of cuda/memory.cuh.
template <typename T>
struct Matrix;

template <typename T>
Matrix<const T> read_matrix(const Tensor& tensor) {
  return {static_cast<const T*>(tensor.const_data_ptr()), tensor.stride(0), tensor.stride(1)};
}

template <typename T>
Matrix<T> write_matrix(const Tensor& tensor) {
  return {static_cast<T*>(tensor.mutable_data_ptr()), tensor.stride(0), tensor.stride(1)};
}

// An uninitialised matrix with a row for each row of `like`: of cpu/rows.h or of cuda/arguments.h.
inline Tensor new_matrix(const Tensor& like, int64_t num_columns, ScalarType dtype);

inline Tensor new_like(const Tensor& x) { return new_matrix(x, x.size(1), x.scalar_type()); }

inline Tensor new_mask(const Tensor& x) {
  return new_matrix(x, packed_bytes(x.size(1), 1), ScalarType::Byte);
}

}  // namespace tinykg

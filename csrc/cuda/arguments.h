// From tensors to what jobs hold. ops/ has checked all arguments; what would corrupt memory if an
// operator were called past it is checked here again.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <vector>

#include "../tensors.h"
#include "codes.cuh"
#include "memory.cuh"

namespace tinykg {

inline void check_device(const char* name, const Tensor& tensor, const Tensor& other) {
  STD_TORCH_CHECK(
      tensor.is_cpu() == other.is_cpu() && tensor.get_device_index() == other.get_device_index(),
      name, " must be on the device of the other arguments");
}

inline Tensor new_matrix(const Tensor& like, int64_t num_columns, ScalarType dtype) {
  return torch::stable::new_empty(like, std::vector<int64_t>{like.size(0), num_columns}, dtype);
}

template <typename T>
Matrix<const T> read_matrix(const Tensor& tensor) {
  return {static_cast<const T*>(tensor.const_data_ptr()), tensor.stride(0), tensor.stride(1)};
}

template <typename T>
Matrix<T> write_matrix(const Tensor& tensor) {
  return {static_cast<T*>(tensor.mutable_data_ptr()), tensor.stride(0), tensor.stride(1)};
}

// The noise of a matrix whose first row is first_row of the stream.
inline Noise read_noise(const Tensor& stream, const Tensor& x, int64_t first_row) {
  STD_TORCH_CHECK(stream.dim() == 1 && stream.size(0) == 2, "stream must have shape (2,)");
  STD_TORCH_CHECK(stream.scalar_type() == ScalarType::Long, "stream must be int64");
  check_device("stream", stream, x);
  return {stream.const_data_ptr<int64_t>(), stream.stride(0), first_row,
          (x.size(1) + kBlockColumns - 1) / kBlockColumns};
}

// Calls function(std::integral_constant<int, bits>{}).
template <typename Function>
void dispatch_bits(int64_t bits, const Function& function) {
  switch (bits) {
    case 1:
      return function(std::integral_constant<int, 1>{});
    case 2:
      return function(std::integral_constant<int, 2>{});
    case 4:
      return function(std::integral_constant<int, 4>{});
    case 8:
      return function(std::integral_constant<int, 8>{});
    default:
      STD_TORCH_CHECK(false, "bits must be 1, 2, 4 or 8");
  }
}

}  // namespace tinykg

// Turns tensors into what jobs hold, and checks that all are on one device.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <vector>

#include "blocks.cuh"
#include "checks.h"
#include "codes.cuh"
#include "memory.cuh"
#include "tensors.h"

namespace tinykg {

inline void check_device(const char* name, const Tensor& tensor, const Tensor& other) {
  STD_TORCH_CHECK(
      tensor.is_cpu() == other.is_cpu() && tensor.get_device_index() == other.get_device_index(),
      name, " must be on the device of the other arguments");
}

inline Tensor new_matrix(const Tensor& like, int64_t num_columns, ScalarType dtype) {
  return torch::stable::new_empty(like, std::vector<int64_t>{like.size(0), num_columns}, dtype);
}

// The noise of a matrix whose first row is first_row of the stream.
inline Noise read_noise(const Tensor& stream, const Tensor& x, int64_t first_row) {
  check_stream(stream);
  check_device("stream", stream, x);
  return {stream.const_data_ptr<int64_t>(), stream.stride(0), first_row, blocks_of(x.size(1))};
}

template <typename T>
List<T> read_list(const Tensor& tensor) {
  return {tensor.const_data_ptr<T>(), tensor.stride(0)};
}

template <typename T>
List<T> read_list(const std::optional<Tensor>& tensor) {
  return tensor ? read_list<T>(*tensor) : List<T>{};
}

// Calls function(int32_t{}) or function(int64_t{}).
template <typename Function>
void dispatch_index(ScalarType dtype, const Function& function) {
  if (dtype == ScalarType::Int) return function(int32_t{});
  STD_TORCH_CHECK(dtype == ScalarType::Long, "crow must be int32 or int64");
  function(int64_t{});
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

// What the CPU kernels share: matrices of any strides, outputs and threads.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "checks.h"
#include "quantize_core.h"
#include "simd/pack.h"
#include "tensors.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace tinykg {

static_assert(std::endian::native == std::endian::little, "packing and noise assume little endian");

constexpr int64_t kTaskElements = 16384;  // least work worth a thread
constexpr int64_t kHugePageBytes = 2 << 20;

// A matrix of any strides, read or written.
template <typename T>
struct Matrix {
  T* data;
  int64_t row_stride, column_stride;

  T* at(int64_t row, int64_t column) const {
    return data + row * row_stride + column * column_stride;
  }
};

// [seed, position] as a kernel takes it.
inline Stream read_stream(const Tensor& stream) {
  check_stream(stream);
  const int64_t* data = stream.const_data_ptr<int64_t>();
  return make_stream(data[0], data[stream.stride(0)]);
}

// An uninitialised tensor. The first touch of a fresh page costs more than writing to it, so large
// tensors ask the system for huge pages (a fresh 47 MB took 14 ms without and 4 ms with them).
inline Tensor new_output(const Tensor& like, const std::vector<int64_t>& sizes, ScalarType dtype) {
  Tensor out = torch::stable::new_empty(like, sizes, dtype);
#if defined(__linux__)
  const auto num_bytes = static_cast<uintptr_t>(out.numel() * out.element_size());
  if (num_bytes >= 2 * kHugePageBytes) {
    const auto start = reinterpret_cast<uintptr_t>(out.mutable_data_ptr());
    const uintptr_t first = (start + kHugePageBytes - 1) & ~uintptr_t{kHugePageBytes - 1};
    const uintptr_t last = (start + num_bytes) & ~uintptr_t{kHugePageBytes - 1};
    madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // a hint: may fail
  }
#endif
  return out;
}

inline Tensor new_matrix(const Tensor& like, int64_t num_columns, ScalarType dtype) {
  return new_output(like, {like.size(0), num_columns}, dtype);
}

// Calls rows(begin, end) for ranges of rows, on PyTorch's threads.
template <typename Rows>
void run_parallel(int64_t num_rows, int64_t num_columns, const Rows& rows) {
  const int64_t grain = std::max<int64_t>(1, kTaskElements / std::max<int64_t>(1, num_columns));
  torch::stable::parallel_for(0, num_rows, grain, rows);
}

}  // namespace tinykg

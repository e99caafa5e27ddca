// What the CPU kernels share: matrices of any strides, outputs, threads and the choice
// of instruction set.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "quantize_core.h"
#include "simd/pack.h"
#include "tensors.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace tinykg {

static_assert(std::endian::native == std::endian::little, "packing and noise assume little endian");

constexpr int64_t kTaskElements = 16384;  // least work worth a thread
constexpr int64_t kNoiseBlocks = 8;       // generator blocks that are drawn at a time
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

template <typename T>
Matrix<const T> read_matrix(const Tensor& tensor) {
  return {static_cast<const T*>(tensor.const_data_ptr()), tensor.stride(0), tensor.stride(1)};
}

template <typename T>
Matrix<T> write_matrix(const Tensor& tensor) {
  return {static_cast<T*>(tensor.mutable_data_ptr()), tensor.stride(0), tensor.stride(1)};
}

// [seed, position] as a kernel takes it.
inline Stream read_stream(const Tensor& stream) {
  STD_TORCH_CHECK(stream.dim() == 1 && stream.size(0) == 2, "stream must have shape (2,)");
  STD_TORCH_CHECK(stream.scalar_type() == ScalarType::Long, "stream must be int64");
  const int64_t* data = stream.const_data_ptr<int64_t>();
  return make_stream(data[0], data[stream.stride(0)]);
}

// An uninitialised tensor. The first touch of a fresh page costs more than what we write to it, so
// large ones ask the kernel for huge pages (measured: a fresh 47 MB, 14 ms without and 4 ms with).
inline Tensor new_output(const Tensor& like, const std::vector<int64_t>& sizes, ScalarType dtype) {
  Tensor out = torch::stable::new_empty(like, sizes, dtype);
#if defined(__linux__)
  const auto num_bytes = static_cast<uintptr_t>(out.numel() * out.element_size());
  if (num_bytes >= 2 * kHugePageBytes) {
    const auto start = reinterpret_cast<uintptr_t>(out.mutable_data_ptr());
    const uintptr_t first = (start + kHugePageBytes - 1) & ~uintptr_t{kHugePageBytes - 1};
    const uintptr_t last = (start + num_bytes) & ~uintptr_t{kHugePageBytes - 1};
    madvise(reinterpret_cast<void*>(first), last - first,
            MADV_HUGEPAGE);  // refused: slower, no more
  }
#endif
  return out;
}

enum class InstructionSet : int { kPortable = 0, kAvx2 = 1, kAvx512 = 2 };

// The best one of this machine, or a lesser one that a test asked for.
InstructionSet instruction_set();

// Calls rows(begin, end) for ranges of rows, on PyTorch's threads.
template <typename Rows>
void run_parallel(int64_t num_rows, int64_t num_columns, const Rows& rows) {
  const int64_t grain = std::max<int64_t>(1, kTaskElements / std::max<int64_t>(1, num_columns));
  torch::stable::parallel_for(0, num_rows, grain, rows);
}

}  // namespace tinykg

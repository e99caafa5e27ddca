// What the CPU kernels share: the float types, row views of tensors, noise and run-time dispatch.
//
// A kernel is a job: a struct of pointers whose member rows(begin, end) treats a range of rows, 256
// columns at a time, through buffers on the stack. run() compiles it once per instruction set and
// picks one at run time; all give the same bits, as nothing is reassociated or contracted.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <bit>

#include "quantize_core.h"

namespace tinykg {

static_assert(std::endian::native == std::endian::little, "packing and noise assume little endian");

using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Arithmetic type and type of stored steps.
template <typename T>
using Compute = std::conditional_t<std::is_same_v<T, double>, double, float>;
template <typename T>
using Step = std::conditional_t<std::is_same_v<T, double>, double, BFloat16>;

constexpr int64_t kTaskElements = 16384;  // least work worth a thread

// A matrix of any strides.
template <typename T>
struct Matrix {
  const T* data;
  int64_t row_stride, column_stride;

  explicit Matrix(const Tensor& tensor)
      : data(static_cast<const T*>(tensor.const_data_ptr())),
        row_stride(tensor.stride(0)),
        column_stride(tensor.stride(1)) {}

  // Elements [column, column + count) of a row in the arithmetic type: in place where possible,
  // else in buffer.
  TINYKG_INLINE const Compute<T>* load(int64_t row, int64_t column, int64_t count,
                                       Compute<T>* buffer) const {
    const T* source = data + row * row_stride + column * column_stride;
    if constexpr (std::is_same_v<T, Compute<T>>) {
      if (column_stride == 1) return source;
    }
    if (column_stride == 1) {
      for (int64_t i = 0; i < count; ++i) buffer[i] = static_cast<Compute<T>>(source[i]);
    } else {
      for (int64_t i = 0; i < count; ++i)
        buffer[i] = static_cast<Compute<T>>(source[i * column_stride]);
    }
    return buffer;
  }
};

// Random bits of consecutive blocks, generated many at a time: rows follow each other without a
// gap, so one batch serves several short rows.
class Noise {
 public:
  TINYKG_INLINE explicit Noise(const Stream& stream) : stream_(stream) {}

  // 16 random bits for each element of blocks [block, block + count), count <= 32.
  TINYKG_INLINE const uint16_t* at(int64_t block, int64_t count) {
    if (block < first_ || block + count > first_ + kBlocks) generate(block);
    return random_ + kBlockColumns * (block - first_);
  }

 private:
  static constexpr int64_t kBlocks = 128;

  TINYKG_INLINE void generate(int64_t block) {
    first_ = block;
    alignas(64) uint32_t words[4 * kBlocks];
    for (int64_t i = 0; i < kBlocks; ++i)
      philox(stream_, static_cast<uint64_t>(block) + static_cast<uint64_t>(i), words + 4 * i);
    std::memcpy(random_, words, sizeof(random_));  // little endian: the low half of a word first
  }

  Stream stream_;
  int64_t first_ = -kBlocks - 1;
  alignas(64) uint16_t random_[kBlockColumns * kBlocks];
};

// [seed, position] as a kernel takes it.
inline Stream read_stream(const Tensor& stream) {
  STD_TORCH_CHECK(stream.dim() == 1 && stream.size(0) == 2, "stream must have shape (2,)");
  const int64_t* data = stream.const_data_ptr<int64_t>();
  return make_stream(data[0], data[stream.stride(0)]);
}

inline Tensor as_contiguous(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

// Calls function(T{}) with the C++ type of a float dtype.
template <typename Function>
void dispatch_float(ScalarType dtype, Function&& function) {
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

#if defined(__x86_64__)
// Vectors of 256 bits: with 512 rows of 16 or 32 columns are shorter than one step of a loop.
#if defined(__clang__)
#define TINYKG_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#else
#define TINYKG_AVX512 \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=256")))
#endif

template <typename Job>
TINYKG_AVX512 void run_avx512(const Job& job, int64_t begin, int64_t end) {
  job.rows(begin, end);
}

template <typename Job>
__attribute__((target("avx2"))) void run_avx2(const Job& job, int64_t begin, int64_t end) {
  job.rows(begin, end);
}

inline const bool kHasAvx512 =
    __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
inline const bool kHasAvx2 = __builtin_cpu_supports("avx2");

template <typename Job>
void run(const Job& job, int64_t begin, int64_t end) {
  if (kHasAvx512) return run_avx512(job, begin, end);
  if (kHasAvx2) return run_avx2(job, begin, end);
  job.rows(begin, end);
}
#else
template <typename Job>
void run(const Job& job, int64_t begin, int64_t end) {
  job.rows(begin, end);
}
#endif

template <typename Job>
void run_parallel(const Job& job, int64_t num_rows, int64_t num_columns) {
  const int64_t grain = std::max<int64_t>(1, kTaskElements / std::max<int64_t>(1, num_columns));
  torch::stable::parallel_for(0, num_rows, grain,
                              [&](int64_t begin, int64_t end) { run(job, begin, end); });
}

}  // namespace tinykg

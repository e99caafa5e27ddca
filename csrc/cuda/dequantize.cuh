// dequantize, dequantize_ and dequantize_add_ on a GPU: per element bits / 8 bytes are read and a
// number is written, or added to the one there.
#pragma once

#include <cassert>

#include "codes.cuh"
#include "memory.cuh"

namespace tinykg {

template <typename T, int kBits, bool kAdd>
struct DequantizeJob {
  using C = Compute<T>;

  Codes<kBits, const uint8_t> codes;
  const C* minimum;
  const Step<T>* step;
  int64_t num_groups;
  Matrix<T> out;
  int64_t num_out_rows;
  const int64_t* index;  // rows of out; null: row by row
  int64_t index_stride;

  __device__ __forceinline__ void operator()(const Octet& octet) const {
    Eight<T> eight{};
    T* target = nullptr;
    if (octet.count) {
      target = out.at(row_of_out(octet.row), octet.column);
      decode(octet, target, eight);
    }
    out.store(target, octet.count, eight);
  }

  // A number that is not a row stops the kernel, as in PyTorch's own index operators.
  __device__ __forceinline__ int64_t row_of_out(int64_t row) const {
    if (!kAdd || index == nullptr) return row;
    row = index[row * index_stride];
    assert(row >= 0 && row < num_out_rows && "index must hold rows of out");
    return row;
  }

 private:
  __device__ __forceinline__ void decode(const Octet& octet, const T* target,
                                         Eight<T>& eight) const {
    const C largest = static_cast<C>(std::numeric_limits<T>::max());
    C before[kBlockColumns];
    if constexpr (kAdd) out.load(target, octet.count, before);
    const auto word = codes.load(octet);
    const int64_t at = octet.row * num_groups + octet.group();
    const Group<C> group(Metadata<C>{minimum[at], static_cast<C>(step[at])});
#pragma unroll
    for (int i = 0; i < kBlockColumns; ++i) {
      C value = clamp_finite(group.value(code_of<kBits>(word, i)), largest);
      if constexpr (kAdd) value = before[i] + value;
      eight[i] = static_cast<T>(value);
    }
  }
};

}  // namespace tinykg

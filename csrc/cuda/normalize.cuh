// normalize_backward on a GPU: the gradient of x through y = x / max(|x|, eps), row by row.
//
// A row has the lanes of one group, however long it is, and they walk along it twice: for the two
// sums, and for the result, when the row is in a cache.
#pragma once

#include "memory.cuh"

namespace tinykg {

// Launched for the first group of columns alone.
template <typename T>
struct NormalizeBackwardJob {
  using C = Compute<T>;

  Matrix<const T> grad, x;
  const T* shrink;
  int64_t shrink_stride;
  C eps;
  int64_t num_columns;
  Matrix<T> out;

  __device__ __forceinline__ void operator()(const Octet& first) const {
    C square = 0, product = 0;
    for (int64_t base = 0; base < num_columns; base += kGroupColumns)
      add_up(along(first, base), square, product);
    for (int distance = first.lanes / 2; distance > 0; distance /= 2) {
      square += from_partner(square, distance);
      product += from_partner(product, distance);
    }
    const C norm = std::sqrt(square);
    const C length = norm < eps ? eps : norm;  // NaN stays NaN
    C factor = -product / length;
    if (first.count && norm < eps) factor = static_cast<C>(shrink[first.row * shrink_stride]);
    for (int64_t base = 0; base < num_columns; base += kGroupColumns)
      write(along(first, base), factor / length, C(1) / length);
  }

 private:
  // The octet of the same lane, base columns further.
  __device__ __forceinline__ Octet along(Octet octet, int64_t base) const {
    octet.column += base;
    const int64_t left = num_columns - octet.column;
    if (left < octet.count) octet.count = static_cast<int>(left > 0 ? left : 0);
    return octet;
  }

  __device__ __forceinline__ void add_up(const Octet& octet, C& square, C& product) const {
    if (octet.count == 0) return;
    C value[kBlockColumns], slope[kBlockColumns];
    x.load(x.at(octet.row, octet.column), octet.count, value);
    grad.load(grad.at(octet.row, octet.column), octet.count, slope);
#pragma unroll
    for (int i = 0; i < kBlockColumns; ++i) {
      square += i < octet.count ? value[i] * value[i] : C(0);
      product += i < octet.count ? slope[i] * value[i] : C(0);
    }
  }

  // (grad + pull * x) * unit
  __device__ __forceinline__ void write(const Octet& octet, C pull, C unit) const {
    C value[kBlockColumns], slope[kBlockColumns];
    if (octet.count) {
      x.load(x.at(octet.row, octet.column), octet.count, value);
      grad.load(grad.at(octet.row, octet.column), octet.count, slope);
#pragma unroll
      for (int i = 0; i < kBlockColumns; ++i) value[i] = (slope[i] + pull * value[i]) * unit;
    }
    store_values(out, octet, value);
  }
};

}  // namespace tinykg

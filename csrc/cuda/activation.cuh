// Sign masks, LeakyReLU's derivative and dropout on a GPU, alone and in one sweep: a number read
// and one written per element and matrix, and a bit for a mask. The mask of dropout is drawn from
// the stream, in forward and again in backward.
#pragma once

#include "codes.cuh"
#include "memory.cuh"

namespace tinykg {

using ReadMask = Codes<1, const uint8_t>;
using WriteMask = Codes<1, uint8_t>;

template <typename C>
TINYKG_INLINE uint32_t positive_bits(const C* value) {
  uint32_t bits = 0;
#pragma unroll
  for (int i = 0; i < kBlockColumns; ++i) bits |= uint32_t{value[i] > C(0)} << i;
  return bits;
}

template <typename C>
TINYKG_INLINE void leak(C* value, uint32_t positive, C negative_slope) {
#pragma unroll
  for (int i = 0; i < kBlockColumns; ++i)
    value[i] = positive >> i & 1 ? value[i] : value[i] * negative_slope;
}

template <typename C>
struct Dropout {
  Noise noise;
  int32_t num_dropped;  // of the 2^16 values of the random bits
  C keep_scale;

  __device__ __forceinline__ void apply(const Octet& octet, C* value) const {
    if (num_dropped == 0) return;
    uint32_t random[4];
    noise.draw(octet, random);
#pragma unroll
    for (int i = 0; i < kBlockColumns; ++i)
      value[i] *= random_half(random, i) >= num_dropped ? keep_scale : C(0);
  }
};

template <typename T>
struct SignMaskJob {
  Matrix<const T> x;
  WriteMask mask;

  __device__ __forceinline__ void operator()(const Octet& octet) const {
    if (octet.count == 0) return;
    Compute<T> value[kBlockColumns];
    x.load(x.at(octet.row, octet.column), octet.count, value);
    mask.store(octet, positive_bits(value));
  }
};

template <typename T>
struct LeakyReluBackwardJob {
  Matrix<const T> grad;
  ReadMask mask;
  Compute<T> negative_slope;
  Matrix<T> out;

  __device__ __forceinline__ void operator()(const Octet& octet) const {
    Compute<T> value[kBlockColumns];
    if (octet.count) {
      grad.load(grad.at(octet.row, octet.column), octet.count, value);
      leak(value, mask.load(octet), negative_slope);
    }
    store_values(out, octet, value);
  }
};

template <typename T>
struct DropoutJob {
  Matrix<const T> x;
  Dropout<Compute<T>> dropout;
  Matrix<T> out;

  __device__ __forceinline__ void operator()(const Octet& octet) const {
    Compute<T> value[kBlockColumns];
    if (octet.count) {
      x.load(x.at(octet.row, octet.column), octet.count, value);
      dropout.apply(octet, value);
    }
    store_values(out, octet, value);
  }
};

template <typename T>
struct LeakyReluDropoutJob {
  Matrix<T> x;             // changed in place
  Matrix<const T> addend;  // or null
  Compute<T> negative_slope;
  Dropout<Compute<T>> dropout;
  WriteMask mask;

  __device__ __forceinline__ void operator()(const Octet& octet) const {
    Compute<T> value[kBlockColumns];
    if (octet.count) {
      x.load(x.at(octet.row, octet.column), octet.count, value);
      const uint32_t positive = positive_bits(value);
      mask.store(octet, positive);
      leak(value, positive, negative_slope);
      if (addend.data != nullptr) add(octet, value);
      dropout.apply(octet, value);
    }
    store_values(x, octet, value);
  }

 private:
  __device__ __forceinline__ void add(const Octet& octet, Compute<T>* value) const {
    Compute<T> added[kBlockColumns];
    addend.load(addend.at(octet.row, octet.column), octet.count, added);
#pragma unroll
    for (int i = 0; i < kBlockColumns; ++i) value[i] = value[i] + added[i];
  }
};

template <typename T>
struct LeakyReluDropoutBackwardJob {
  Matrix<const T> grad;
  ReadMask mask;
  Compute<T> negative_slope;
  Dropout<Compute<T>> dropout;
  Matrix<T> grad_x, grad_addend;

  __device__ __forceinline__ void operator()(const Octet& octet) const {
    Compute<T> value[kBlockColumns];
    if (octet.count) {
      grad.load(grad.at(octet.row, octet.column), octet.count, value);
      dropout.apply(octet, value);
    }
    store_values(grad_addend, octet, value);
    if (octet.count) leak(value, mask.load(octet), negative_slope);
    store_values(grad_x, octet, value);
  }
};

}  // namespace tinykg

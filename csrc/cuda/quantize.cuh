// quantize on a GPU, one pass: a lane keeps its eight values in registers, the lanes of a group
// find its extremes by shuffles, and each lane rounds and packs what it holds. Per element a float
// is read and bits / 8 bytes are written; per group 6 bytes of metadata (16 for double).
//
// On fast GPUs the generator and the rounding cost more than the memory, hence rounding in
// integers.
#pragma once

#include "codes.cuh"
#include "memory.cuh"

namespace tinykg {

// ceil(2^17 v) for 0 <= v <= 2^kBits. Conversions have an eighth of the rate of additions or less,
// so where it fits the sum is rounded: floats in [64, 128) are multiples of 2^-17.
template <int kBits>
__device__ __forceinline__ int32_t scaled_ceiling(float v) {
  static_assert(kThresholdBits == 17, "64 belongs to 17 bits");
  if constexpr (kBits == 8) return __float2int_ru(v * 131072.0f);
  return __float_as_int(__fadd_ru(v, 64.0f)) - __float_as_int(64.0f);
}
template <int kBits>
__device__ __forceinline__ int32_t scaled_ceiling(double v) {
  return __double2int_ru(v * 131072.0);
}

template <typename T, int kBits>
struct QuantizeJob {
  using C = Compute<T>;
  using Word = typename Codes<kBits, uint8_t>::Word;
  static constexpr int32_t kLevels = (1 << kBits) - 1;

  Matrix<const T> x;
  Noise noise;
  bool stochastic;
  int64_t num_groups;
  Codes<kBits, uint8_t> codes;
  C* minimum;
  Step<T>* step;

  __device__ __forceinline__ void operator()(const Octet& octet) const {
    C value[kBlockColumns];
    if (octet.count) x.load(x.at(octet.row, octet.column), octet.count, value);
    const Metadata<C> metadata = measure(octet, value);
    if (octet.count == 0) return;
    if (octet.lane == 0) {
      const int64_t at = octet.row * num_groups + octet.group();
      minimum[at] = metadata.minimum;
      step[at] = static_cast<Step<T>>(metadata.step);
    }
    const bool broken = !(metadata.step == metadata.step);
    codes.store(octet, broken ? 0 : encode(octet, value, Group<C>(metadata)));
  }

 private:
  __device__ __forceinline__ Metadata<C> measure(const Octet& octet, const C* value) const {
    constexpr C kInfinity = std::numeric_limits<C>::infinity();
    C low = kInfinity, high = -kInfinity;
    if (octet.count) {
      C zero = 0;  // or NaN, once a NaN or an Inf has been added
#pragma unroll
      for (int i = 0; i < kBlockColumns; ++i) {
        low = std::fmin(low, value[i]);
        high = std::fmax(high, value[i]);
        zero = std::fma(value[i], C(0), zero);
      }
      if (!(zero == C(0))) low = -kInfinity;
    }
    for (int distance = octet.lanes / 2; distance > 0; distance /= 2) {
      low = std::fmin(low, from_partner(low, distance));
      high = std::fmax(high, from_partner(high, distance));
    }
    return make_metadata<C>(low, high, low > -kInfinity && high < kInfinity, kBits);
  }

  __device__ __forceinline__ Word encode(const Octet& octet, const C* value,
                                         const Group<C>& group) const {
    Word word = 0;
    if (stochastic) {
      uint32_t random[4];
      noise.draw(octet, random);
#pragma unroll
      for (int i = 0; i < kBlockColumns; ++i) {
        const int32_t ceiling = scaled_ceiling<kBits>(group.position(value[i]));
        const int32_t code = (ceiling + 2 * (65535 - random_half(random, i))) >> kThresholdBits;
        word |= static_cast<Word>(code < kLevels ? code : kLevels) << (i * kBits);
      }
    } else {
#pragma unroll
      for (int i = 0; i < kBlockColumns; ++i)
        word |= static_cast<Word>(round_nearest(group.position(value[i]), kLevels)) << (i * kBits);
    }
    return word;
  }
};

}  // namespace tinykg

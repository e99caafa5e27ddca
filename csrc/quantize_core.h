// The arithmetic of the quantizer, shared by CPU and CUDA kernels: Philox, metadata of a group, one
// element.
//
// recbole_tinykg/ops/reference is the definition and docs/quantizer.md explains it; every function
// here agrees with it bit for bit, which needs floating-point contraction off (-ffp-contract=off,
// -fmad=false). C is the arithmetic type: float, or double for double input.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#if defined(__CUDACC__)
#define TINYKG_INLINE __host__ __device__ __forceinline__
#else
#define TINYKG_INLINE inline __attribute__((always_inline))
#endif

namespace tinykg {

constexpr int64_t kGroupColumns = 256;  // columns of a row that share a minimum and a step
constexpr int64_t kBlockColumns = 8;    // columns that share a generator call
constexpr int kPhiloxRounds = 7;
constexpr uint32_t kPhiloxMultiplier0 = 0xD2511F53, kPhiloxMultiplier1 = 0xCD9E8D57;
constexpr uint32_t kPhiloxWeyl0 = 0x9E3779B9, kPhiloxWeyl1 = 0xBB67AE85;

// Bytes of a row of codes: it ends with a whole byte.
constexpr int64_t packed_bytes(int64_t num_columns, int bits) {
  return (num_columns * bits + 7) / 8;
}

// Generator calls of a row.
constexpr int64_t blocks_of(int64_t num_columns) {
  return (num_columns + kBlockColumns - 1) / kBlockColumns;
}

// Groups of a row.
constexpr int64_t groups_of(int64_t num_columns) {
  return (num_columns + kGroupColumns - 1) / kGroupColumns;
}

// A probability of dropout in units of 2^-16, and the factor of the elements that stay.
struct DropoutRate {
  int32_t num_dropped;  // of the 2^16 values of the random bits
  double keep_scale;
};

inline DropoutRate dropout_rate(double probability) {
  const double dropped = std::nearbyint(probability * 65536);
  return {static_cast<int32_t>(dropped), dropped < 65536 ? 65536 / (65536 - dropped) : 0};
}

// One (seed, position) of the random stream, split into the words that Philox takes.
struct Stream {
  uint32_t key0, key1;
  uint32_t position0, position1;
};

TINYKG_INLINE Stream make_stream(int64_t seed, int64_t position) {
  const auto s = static_cast<uint64_t>(seed);
  const auto p = static_cast<uint64_t>(position);
  return {static_cast<uint32_t>(s), static_cast<uint32_t>(s >> 32), static_cast<uint32_t>(p),
          static_cast<uint32_t>(p >> 32)};
}

// The 64-bit product of two words. nvcc adds a zero to the upper half of one that it is left to
// recognize.
TINYKG_INLINE uint64_t wide_product(uint32_t a, uint32_t b) {
#if defined(__CUDA_ARCH__)
  uint64_t product;
  asm("mul.wide.u32 %0, %1, %2;" : "=l"(product) : "r"(a), "r"(b));
  return product;
#else
  return uint64_t{a} * b;
#endif
}

// Philox 4x32: the four words of an eight-element block. Element j takes 16 bits of words[j / 2],
// the low half for even j.
TINYKG_INLINE void philox(const Stream& stream, uint64_t block, uint32_t* words) {
  uint32_t c0 = static_cast<uint32_t>(block), c1 = static_cast<uint32_t>(block >> 32);
  uint32_t c2 = stream.position0, c3 = stream.position1;
  uint32_t key0 = stream.key0, key1 = stream.key1;
#if defined(__CUDACC__)
#pragma unroll
#else
#pragma GCC unroll 7
#endif
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint64_t product0 = wide_product(kPhiloxMultiplier0, c0);
    const uint64_t product1 = wide_product(kPhiloxMultiplier1, c2);
    c0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ key0;
    c1 = static_cast<uint32_t>(product1);
    c2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ key1;
    c3 = static_cast<uint32_t>(product0);
    key0 += kPhiloxWeyl0;
    key1 += kPhiloxWeyl1;
  }
  words[0] = c0;
  words[1] = c1;
  words[2] = c2;
  words[3] = c3;
}

// The next bfloat16 at or above a non-negative float; a double stays as it is.
TINYKG_INLINE float round_step_up(float step) {
  uint32_t bits;
  std::memcpy(&bits, &step, sizeof(bits));
  bits = (bits + 0xFFFFu) & ~0xFFFFu;
  std::memcpy(&step, &bits, sizeof(bits));
  return step;
}

TINYKG_INLINE double round_step_up(double step) { return step; }

// What is stored of a group besides its codes. A negative step marks a group scaled by 1/4.
template <typename C>
struct Metadata {
  C minimum;
  C step;
};

// Metadata of a group from its extremes; `finite` is false when it holds a NaN or an Inf.
template <typename C>
TINYKG_INLINE Metadata<C> make_metadata(C low, C high, bool finite, int bits) {
  using Limits = std::numeric_limits<C>;
  low += C(0);  // -0 becomes +0
  const bool wide = high - low > Limits::max() / 4;
  const C scale = wide ? C(0.25) : C(1);
  const C span = high * scale - low * scale;
  C step = round_step_up(span / C((1 << bits) - 1));
  step = step < Limits::min() ? Limits::min() : step;
  step = wide ? -step : step;
  step = span > C(0) ? step : C(0);
  return {finite ? low : Limits::quiet_NaN(), finite ? step : Limits::quiet_NaN()};
}

// A group ready to map values to codes and back.
template <typename C>
struct Group {
  C low;      // minimum * scale
  C scale;    // 1, or 1/4 where the range is too wide for the type
  C step;     // of scaled values
  C inverse;  // 1 / step, 0 for a constant group

  TINYKG_INLINE explicit Group(const Metadata<C>& metadata)
      : scale(metadata.step < C(0) ? C(0.25) : C(1)) {
    low = metadata.minimum * scale;
    step = metadata.step < C(0) ? -metadata.step : metadata.step;
    inverse = step == C(0) ? C(0) : C(1) / step;
  }

  TINYKG_INLINE C position(C x) const { return (x * scale - low) * inverse; }

  TINYKG_INLINE C value(int32_t code) const {
    return (low + C(code) * step) * (scale == C(1) ? C(1) : C(4));
  }
};

// Stochastic rounding in integers: up if (random + 0.5) / 2^16 < fraction of v, hence if and only
// if ceil(2^17 v) + 2 (65535 - random) passes the next multiple of 2^17. Nothing in it is rounded,
// so it is the rule of round_stochastic.
constexpr int kThresholdBits = 17;

// Up with the probability of the fraction of v >= 0, to a resolution of 16 bits and without bias.
template <typename C>
TINYKG_INLINE int32_t round_stochastic(C v, uint16_t random, int32_t levels) {
  const auto floor = static_cast<int32_t>(v);
  const C threshold = (C(static_cast<int32_t>(random)) + C(0.5)) * C(1.0 / 65536);
  const int32_t code = floor + (v - C(floor) > threshold ? 1 : 0);
  return code < levels ? code : levels;
}

template <typename C>
TINYKG_INLINE int32_t round_nearest(C v, int32_t levels) {
  const auto code = static_cast<int32_t>(v + C(0.5));
  return code < levels ? code : levels;
}

// Clamps to [-largest, largest]; NaN stays NaN.
template <typename C>
TINYKG_INLINE C clamp_finite(C value, C largest) {
  value = value > largest ? largest : value;
  return value < -largest ? -largest : value;
}

}  // namespace tinykg

// quantize on a GPU where rows are dense: stochastic rounding of float, bfloat16 or half rows of
// whole octets, aligned to 16 bytes. Other matrices take quantize.cuh; the bits are the same.
//
// Instructions are the limit here, not bytes, so this kernel is made of few, and of those that run
// at the full rate (floating-point) rather than at half of it (comparisons, logic, shifts):
//
// * A lane has two octets of a row, so metadata and shuffles are for sixteen elements.
// * What does not depend on the row is computed once: keys, products of the stream's position,
//   addresses of the first row. Rows are counted in 32 bits.
// * A minimum that keeps a NaN makes a check of each element unnecessary.
// * Groups without special care ("plain") need neither scale nor clamp. The largest position of a
//   group tells: all others are at most that.
// * Rounding has no conversions and no comparisons: see code_at.
#pragma once

#include "quantize.cuh"

namespace tinykg {

constexpr int kOctetsPerLane = 2;

// a or b, whichever is smaller (larger); NaN if either one is.
__device__ __forceinline__ float smaller(float a, float b) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  float result;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
#else
  return a < b || a != a ? a : b;
#endif
}
__device__ __forceinline__ float larger(float a, float b) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
#else
  return a > b || a != a ? a : b;
#endif
}

// span / levels, correctly rounded wherever it exceeds the smallest normal number: a quotient and
// one correction by its remainder, which is exact.
template <int kBits>
__device__ __forceinline__ float divide_by_levels(float span) {
  constexpr float kLevels = (1 << kBits) - 1, kInverse = 1 / kLevels;
  if constexpr (kBits == 1) return span;
  const float quotient = span * kInverse;
  return std::fma(std::fma(-kLevels, quotient, span), kInverse, quotient);
}

// 1 / step, correctly rounded for a normal bfloat16 below 2^126. The hardware's reciprocal is off
// by one unit in the last place at most; one step of Newton's method from there rounds correctly
// for every such number.
__device__ __forceinline__ float reciprocal_of_step(float step) {
#if defined(__CUDA_ARCH__)
  float inverse;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(step));
#else
  const float inverse = 1 / step;
#endif
  return std::fma(std::fma(-step, inverse, 1.0f), inverse, inverse);
}

// The code of position v in the lowest bits, for the half of `words` that belongs to column i:
// ceil(v - (u + 1/2) 2^-16), which is above floor(v) if and only if its fraction exceeds the
// threshold. The bits 00 uu uu 80 are the float (u + 1/2) 2^-141. A difference that is rounded up
// passes no integer, and neither does the next sum: floats from 2^23 to 2^24 are integers.
constexpr uint32_t kCodeBias = 0x4B400000;  // 1.5 * 2^23 as bits

__device__ __forceinline__ uint32_t code_at(float v, const uint32_t* words, int i) {
  const uint32_t threshold = __byte_perm(words[i / 2], 0x80, i % 2 ? 0x5324 : 0x5104);
  const float above = __fmaf_ru(__uint_as_float(threshold), -0x1p125f, v);
  return __float_as_uint(__fadd_ru(above, 0x1.8p23f));
}

template <typename T, int kBits>
struct DenseQuantizeJob {
  static_assert(std::is_same_v<Compute<T>, float>, "steps must be bfloat16");
  using Stored = typename Codes<kBits, uint8_t>::Stored;
  static constexpr int kColumns = kOctetsPerLane * kBlockColumns;
  static constexpr float kLevels = (1 << kBits) - 1;

  const T* x;
  uint32_t row_bytes;
  Noise noise;
  uint8_t* codes;
  uint32_t code_row_bytes;
  float* minimum;
  BFloat16* step;
  uint32_t num_groups;

  explicit DenseQuantizeJob(const QuantizeJob<T, kBits>& job)
      : x(job.x.data),
        row_bytes(static_cast<uint32_t>(job.x.row_stride * sizeof(T))),
        noise(job.noise),
        codes(job.codes.data),
        code_row_bytes(static_cast<uint32_t>(job.codes.row_bytes)),
        minimum(job.minimum),
        step(job.step),
        num_groups(static_cast<uint32_t>(job.num_groups)) {}

  // Whether this kernel is for such a matrix: its rows, and counters within one upper half.
  static bool fits(const Work& work, const Matrix<const T>& x, const Noise& noise,
                   const Codes<kBits, uint8_t>& codes) {
    constexpr int64_t kLimit = int64_t{1} << 31;
    const auto first = static_cast<uint64_t>(noise.first_row * noise.row_blocks);
    const auto end = first + static_cast<uint64_t>(work.num_rows * noise.row_blocks);
    return x.by_chunks && codes.by_words && work.num_columns % kBlockColumns == 0 &&
           work.num_rows < kLimit && work.num_columns < kLimit && x.row_stride >= 0 &&
           x.row_stride * static_cast<int64_t>(sizeof(T)) < kLimit && first >> 32 == end >> 32;
  }

  // Every row of a group of columns, for the octets of this lane.
  __device__ __forceinline__ void walk(const Work& work) const {
    const Stream stream = noise.read();
    for (int64_t group = blockIdx.y; group * kGroupColumns < work.num_columns; group += gridDim.y)
      walk_group(work, stream, group);
  }

 private:
  // Where a lane reads and writes in the first row, and which octets it has there.
  struct Place {
    const char* source[kOctetsPerLane];
    uint8_t* target[kOctetsPerLane];
    uint32_t octet[kOctetsPerLane];
    uint32_t lane, lanes;
    bool has_any;
  };

  // A lane without a second octet repeats its first: the same numbers, codes and addresses. One
  // without any, at the end of a row of several groups, repeats lane 0 and stores nothing.
  __device__ __forceinline__ Place place(const Work& work, int64_t group) const {
    Place at;
    at.lanes = 1u << work.lane_bits;
    at.lane = threadIdx.x & (at.lanes - 1);
    const int64_t first = group * (kGroupColumns / kBlockColumns);
    const int64_t left = work.num_columns / kBlockColumns - first;
    at.has_any = at.lane < left;
#pragma unroll
    for (int k = 0; k < kOctetsPerLane; ++k) {
      const uint32_t octet = at.lane + k * at.lanes;
      at.octet[k] = static_cast<uint32_t>(first) + (octet < left ? octet
                                                    : at.has_any ? at.lane
                                                                 : 0);
      at.source[k] = reinterpret_cast<const char*>(x + uint64_t{at.octet[k]} * kBlockColumns);
      at.target[k] = codes + uint64_t{at.octet[k]} * kBits;
    }
    return at;
  }

  __device__ __forceinline__ void walk_group(const Work& work, const Stream& stream,
                                             int64_t group) const {
    const Place at = place(work, group);
    const auto num_rows = static_cast<uint32_t>(work.num_rows);
    const auto row_step = static_cast<uint32_t>(gridDim.x * work.rows_per_block());
    const uint64_t block = static_cast<uint64_t>(noise.first_row * noise.row_blocks);
    const uint32_t row_in_block = threadIdx.x >> work.lane_bits;
    for (auto first = static_cast<uint32_t>(blockIdx.x * work.rows_per_block()); first < num_rows;
         first += row_step) {
      const uint32_t row = first + row_in_block < num_rows ? first + row_in_block : num_rows - 1;
      const bool exists = first + row_in_block < num_rows && at.has_any;
      float value[kColumns];
      load(at, row, value);
      const Metadata<float> metadata = to_positions(at.lanes, value);
      if (exists && at.lane == 0) {
        const uint64_t place = wide_product(row, num_groups) + static_cast<uint64_t>(group);
        minimum[place] = metadata.minimum;
        step[place] = static_cast<BFloat16>(metadata.step);
      }
#pragma unroll
      for (int k = 0; k < kOctetsPerLane; ++k) {
        const uint32_t low = static_cast<uint32_t>(block) +
                             row * static_cast<uint32_t>(noise.row_blocks) + at.octet[k];
        uint32_t random[4];
        philox(stream, block >> 32 << 32 | low, random);
        const Stored word = encode(value + k * kBlockColumns, random);
        if (exists)
          *reinterpret_cast<Stored*>(at.target[k] + wide_product(row, code_row_bytes)) = word;
      }
    }
  }

  __device__ __forceinline__ void load(const Place& at, uint32_t row, float* value) const {
#pragma unroll
    for (int k = 0; k < kOctetsPerLane; ++k) {
      const auto* chunks =
          reinterpret_cast<const Chunk<T>*>(at.source[k] + wide_product(row, row_bytes));
      Eight<T> eight;
#pragma unroll
      for (int i = 0; i < Eight<T>::kChunks; ++i) eight.chunk[i] = chunks[i];
#pragma unroll
      for (int i = 0; i < kBlockColumns; ++i)
        value[k * kBlockColumns + i] = static_cast<float>(eight[i]);
    }
  }

  // Metadata of the group; values become positions between 0 and the number of levels.
  __device__ __forceinline__ static Metadata<float> to_positions(uint32_t lanes, float* value) {
    using Limits = std::numeric_limits<float>;
    float low = value[0], high = value[0];
#pragma unroll
    for (int i = 1; i < kColumns; ++i) {
      low = smaller(low, value[i]);
      high = larger(high, value[i]);
    }
    for (int distance = lanes / 2; distance > 0; distance /= 2) {
      low = smaller(low, from_partner(low, distance));
      high = larger(high, from_partner(high, distance));
    }
    low += 0.0f;  // -0 becomes +0
    const float span = high - low;
    const float rounded = std::fmax(round_step_up(divide_by_levels<kBits>(span)), Limits::min());
    const float inverse = reciprocal_of_step(rounded);
    if (span <= Limits::max() / 8 && span * inverse <= kLevels) {
#pragma unroll
      for (int i = 0; i < kColumns; ++i) value[i] = (value[i] - low) * inverse;
      return {low, span > 0 ? rounded : 0};
    }
    return to_positions_with_care(low, high, value);
  }

  // Any group: of a huge range, with a NaN or an Inf, or with a position rounded past the last.
  __device__ __forceinline__ static Metadata<float> to_positions_with_care(float low, float high,
                                                                           float* value) {
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    const bool finite = low > -kInfinity && high < kInfinity;
    const Metadata<float> metadata = make_metadata(low, high, finite, kBits);
    const Group<float> group(metadata);
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      const float v = group.position(value[i]);
      value[i] = !finite ? 0 : v > kLevels ? kLevels : v;
    }
    return metadata;
  }

  __device__ __forceinline__ static Stored encode(const float* position, const uint32_t* random) {
    constexpr int kWords = (kBits + 3) / 4, kInWord = kBlockColumns / kWords;
    Stored all = 0;
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      uint32_t word = 0, bias = 0;
#pragma unroll
      for (int i = kInWord - 1; i >= 0; --i) {
        word = (word << kBits) + code_at(position[w * kInWord + i], random, w * kInWord + i);
        bias = (bias << kBits) + kCodeBias;
      }
      if constexpr (kWords == 1)
        all = static_cast<Stored>(word - bias);
      else
        all |= static_cast<Stored>(word - bias) << (32 * w);
    }
    return all;
  }
};

}  // namespace tinykg

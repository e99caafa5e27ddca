// dequantize, dequantize_ and dequantize_add_ on a GPU into dense rows: float, bfloat16 or half
// rows aligned to 16 bytes. Other matrices take dequantize.cuh; the bits are the same.
//
// A lane writes chunks of 16 bytes, lanes of a row side by side, so sectors are written whole
// without a trade between lanes, and groups without special care ("plain") need neither scale nor
// clamp. There a number takes three instructions, none of them a conversion:
//
// * a code at bit s of a word becomes a float: 2^23 + code 2^s has it in its lowest bits;
// * minus 2^23, exactly;
// * times step 2^-s, plus minimum. A code has 8 bits and a step 8, so their product is exact and a
//   fused multiply-add gives the bits of a product and a sum.
#pragma once

#include "dequantize.cuh"

namespace tinykg {

template <typename T, int kBits, bool kAdd>
struct DenseDequantizeJob {
  static_assert(std::is_same_v<Compute<T>, float>, "steps must be bfloat16");
  static constexpr int kElements = Chunk<T>::kElements;
  static constexpr int kChunks = 2;  // of a lane
  static constexpr int kOctets = kChunks * kElements / kBlockColumns;
  static constexpr int kCodeBits = kElements * kBits;  // of a chunk: half a byte at least
  using Stored = std::conditional_t<
      kCodeBits <= 8, uint8_t,
      std::conditional_t<kCodeBits == 16, uint16_t,
                         std::conditional_t<kCodeBits == 32, uint32_t, uint64_t>>>;

  DequantizeJob<T, kBits, kAdd> any;
  uint32_t num_groups, code_row_bytes, out_row_bytes;

  explicit DenseDequantizeJob(const DequantizeJob<T, kBits, kAdd>& job)
      : any(job),
        num_groups(static_cast<uint32_t>(job.num_groups)),
        code_row_bytes(static_cast<uint32_t>(job.codes.row_bytes)),
        out_row_bytes(static_cast<uint32_t>(job.out.row_stride * sizeof(T))) {}

  // Whether this kernel is for such a matrix; rows are counted in 32 bits.
  static bool fits(const Work& work, const DequantizeJob<T, kBits, kAdd>& job) {
    constexpr int64_t kLimit = int64_t{1} << 31;
    return job.out.by_chunks && work.num_columns % kElements == 0 && work.num_rows < kLimit &&
           work.num_columns < kLimit && job.num_out_rows < kLimit && job.out.row_stride >= 0 &&
           job.out.row_stride * static_cast<int64_t>(sizeof(T)) < kLimit &&
           job.codes.row_bytes % sizeof(Stored) == 0 &&
           reinterpret_cast<uintptr_t>(job.codes.data) % sizeof(Stored) == 0;
  }

  __device__ __forceinline__ void walk(const Work& work) const {
    const uint32_t lanes = 1u << work.lane_bits, lane = threadIdx.x & (lanes - 1);
    for (int64_t group = blockIdx.y; group * kGroupColumns < work.num_columns; group += gridDim.y) {
      const int64_t end = (group + 1) * kGroupColumns;
      const int64_t columns = end < work.num_columns ? end : work.num_columns;
      const auto first = static_cast<uint32_t>(group * (kGroupColumns / kElements)) + lane;
      walk_group(work, static_cast<uint32_t>(group), first, first + lanes,
                 static_cast<uint32_t>(columns / kElements));
    }
  }

 private:
  // Every row of a group, for the chunks of this lane. One without a second chunk decodes its first
  // twice; one without any, at the end of a row, has nothing to do.
  __device__ __forceinline__ void walk_group(const Work& work, uint32_t group, uint32_t first,
                                             uint32_t second, uint32_t end) const {
    if (first >= end) return;
    const uint32_t numbers[kChunks] = {first, second < end ? second : first};
    const auto num_rows = static_cast<uint32_t>(work.num_rows);
    const auto row_step = static_cast<uint32_t>(gridDim.x * work.rows_per_block());
    const auto first_row = static_cast<uint32_t>(blockIdx.x * work.rows_per_block());
    for (uint32_t row = first_row + (threadIdx.x >> work.lane_bits); row < num_rows;
         row += row_step) {
      const auto out_row = static_cast<uint32_t>(any.row_of_out(row));
      char* const target =
          reinterpret_cast<char*>(any.out.data) + wide_product(out_row, out_row_bytes);
      const uint64_t at = wide_product(row, num_groups) + group;
      write(any.minimum[at], any.step[at], any.codes.data + wide_product(row, code_row_bytes),
            reinterpret_cast<Chunk<T>*>(target), numbers);
    }
  }

  __device__ __forceinline__ static void write(float minimum, float step, const uint8_t* source,
                                               Chunk<T>* target, const uint32_t* numbers) {
    Chunk<T> chunk[kChunks];
    Stored codes[kChunks];
    float value[kChunks][kElements];
#pragma unroll
    for (int k = 0; k < kChunks; ++k) {
      if constexpr (kAdd) chunk[k] = target[numbers[k]];
      codes[k] = load(source, numbers[k]);
    }
    decode({minimum, step}, codes, value);
#pragma unroll
    for (int k = 0; k < kChunks; ++k) {
#pragma unroll
      for (int i = 0; i < kElements; ++i) {
        if constexpr (kAdd) value[k][i] = static_cast<float>(chunk[k].element[i]) + value[k][i];
        chunk[k].element[i] = static_cast<T>(value[k][i]);
      }
      target[numbers[k]] = chunk[k];
    }
  }

  // The codes of a chunk in the lowest bits.
  __device__ __forceinline__ static Stored load(const uint8_t* source, uint32_t number) {
    if constexpr (kCodeBits == 4) return source[number / 2] >> (number % 2 * 4);
    return reinterpret_cast<const Stored*>(source)[number];
  }

  __device__ __forceinline__ static void decode(const Metadata<float>& metadata,
                                                const Stored* codes, float (*value)[kElements]) {
    if (is_plain(metadata)) {
#pragma unroll
      for (int k = 0; k < kChunks; ++k) decode_plain(metadata, codes[k], value[k]);
    } else {
#pragma unroll
      for (int k = 0; k < kChunks; ++k) decode_with_care(metadata, codes[k], value[k]);
    }
  }

  // Whether no value leaves the finite range, on the way or in the end: values lie between those of
  // the first and the last code.
  __device__ __forceinline__ static bool is_plain(const Metadata<float>& metadata) {
    const float largest = static_cast<float>(std::numeric_limits<T>::max());
    const float span = metadata.step * ((1 << kBits) - 1);
    return metadata.step >= 0 && span <= largest && metadata.minimum >= -largest &&
           metadata.minimum + span <= largest;
  }

  __device__ __forceinline__ static void decode_plain(const Metadata<float>& metadata, Stored codes,
                                                      float* value) {
    constexpr uint32_t kBias = 0x4B000000;  // 2^23 as bits
#pragma unroll
    for (int i = 0; i < kElements; ++i) {
      const int bit = i * kBits, shift = kBits == 8 ? 0 : bit % 16;
      const uint32_t mask = ((1u << kBits) - 1) << shift;
      const uint32_t word = static_cast<uint32_t>(codes >> (bit - shift)) | kBias;
      const float code = __uint_as_float(word & (mask | kBias)) - 0x1p23f;
      value[i] = std::fma(code, metadata.step / (1 << shift), metadata.minimum);
    }
  }

  __device__ __forceinline__ static void decode_with_care(const Metadata<float>& metadata,
                                                          Stored codes, float* value) {
    const float largest = static_cast<float>(std::numeric_limits<T>::max());
    const Group<float> group(metadata);
#pragma unroll
    for (int i = 0; i < kElements; ++i)
      value[i] = clamp_finite(group.value(code_of<kBits>(codes, i)), largest);
  }
};

}  // namespace tinykg

// Codes of an octet: kBits bytes, packed from the low bits upwards, element j of a row at bit j *
// kBits. A row ends with a byte, so the last octet of a row may have fewer bytes.
#pragma once

#include <type_traits>

#include "octets.cuh"

namespace tinykg {

// Rows of codes; Byte is uint8_t, or const uint8_t to read.
template <int kBits, typename Byte>
struct Codes {
  // Holds the codes of an octet, and the part of it that is stored where rows allow it.
  using Word = std::conditional_t<kBits == 8, uint64_t, uint32_t>;
  using Stored = std::conditional_t<
      kBits == 1, uint8_t,
      std::conditional_t<kBits == 2, uint16_t, std::conditional_t<kBits == 4, uint32_t, uint64_t>>>;

  Byte* data;
  int64_t row_bytes;
  bool by_words;  // every octet starts on a multiple of its size

  Codes() = default;
  Codes(Byte* data, int64_t num_columns)
      : data(data),
        row_bytes(packed_bytes(num_columns, kBits)),
        by_words(row_bytes % kBits == 0 && reinterpret_cast<uintptr_t>(data) % kBits == 0) {}

  __device__ __forceinline__ Byte* at(const Octet& octet) const {
    return data + octet.row * row_bytes + octet.column / kBlockColumns * kBits;
  }

  __device__ __forceinline__ Word load(const Octet& octet) const {
    const uint8_t* source = at(octet);
    if (by_words && octet.count == kBlockColumns) return *reinterpret_cast<const Stored*>(source);
    Word word = 0;
    const int num_bytes = (octet.count * kBits + 7) / 8;
#pragma unroll
    for (int i = 0; i < kBits; ++i)
      if (i < num_bytes) word |= static_cast<Word>(source[i]) << (8 * i);
    return word;
  }

  // Bits beyond the last column are stored as 0.
  __device__ __forceinline__ void store(const Octet& octet, Word word) const {
    uint8_t* target = at(octet);
    if (by_words && octet.count == kBlockColumns) {
      *reinterpret_cast<Stored*>(target) = static_cast<Stored>(word);
      return;
    }
    const int num_bits = octet.count * kBits;
    if (octet.count < kBlockColumns) word &= (Word{1} << num_bits) - 1;
#pragma unroll
    for (int i = 0; i < kBits; ++i)
      if (8 * i < num_bits) target[i] = static_cast<uint8_t>(word >> (8 * i));
  }
};

template <int kBits, typename Word>
TINYKG_INLINE int32_t code_of(Word word, int i) {
  return static_cast<int32_t>(word >> (i * kBits)) & ((1 << kBits) - 1);
}

}  // namespace tinykg

// Codes of 1, 2, 4 or 8 bits, packed from the low bits of each byte upwards: element j of a row at
// byte j * bits / 8. A whole machine word of codes is packed at a time, in loops that compilers
// vectorise.
#pragma once

#include <type_traits>

#include "quantize_core.h"

#if defined(__clang__)
#define TINYKG_KEEP_LOOP _Pragma("clang loop unroll(disable)")
#else
#define TINYKG_KEEP_LOOP _Pragma("GCC unroll 1")
#endif

namespace tinykg {

constexpr int64_t packed_bytes(int64_t num_columns, int bits) {
  return (num_columns * bits + 7) / 8;
}

template <typename Word>
TINYKG_INLINE Word load_word(const uint8_t* source) {
  Word word;
  std::memcpy(&word, source, sizeof(word));
  return word;
}

// Packs count codes, one per byte; the bytes behind them up to a multiple of 8 must be zero.
TINYKG_INLINE void pack(const uint8_t* code, int64_t count, int bits, uint8_t* packed) {
  const int64_t bytes = packed_bytes(count, bits);
  if (bits == 1) {
    for (int64_t i = 0; i < bytes; ++i)
      packed[i] = (load_word<uint64_t>(code + 8 * i) * 0x0102040810204080u) >> 56;
  } else if (bits == 2) {
    for (int64_t i = 0; i < bytes; ++i) {
      uint32_t word = load_word<uint32_t>(code + 4 * i);
      packed[i] = static_cast<uint8_t>(word * 0x01041040u >> 24);
    }
  } else if (bits == 4) {
    for (int64_t i = 0; i < bytes; ++i) {
      const uint16_t word = load_word<uint16_t>(code + 2 * i);
      packed[i] = static_cast<uint8_t>(word | word >> 4);
    }
  } else {
    std::memcpy(packed, code, bytes);
  }
}

// Calls use(i, code) for each of count codes. The codes of a word differ only in their shift, so
// that the inner loop, if it is left a loop, becomes one vector operation.
template <int kBits, typename Use>
TINYKG_INLINE void for_each_code(const uint8_t* packed, int64_t count, const Use& use) {
  using Word =
      std::conditional_t<kBits == 1, uint16_t, std::conditional_t<kBits == 8, uint8_t, uint32_t>>;
  constexpr int kLanes = 8 * sizeof(Word) / kBits;
  constexpr uint32_t kMask = (1u << kBits) - 1;
  const int64_t words = count / kLanes;
  for (int64_t i = 0; i < words; ++i) {
    const uint32_t word = load_word<Word>(packed + i * sizeof(Word));
    TINYKG_KEEP_LOOP
    for (int lane = 0; lane < kLanes; ++lane)
      use(i * kLanes + lane, word >> (lane * kBits) & kMask);
  }
  for (int64_t i = words * kLanes; i < count; ++i)
    use(i, static_cast<uint32_t>(packed[i * kBits / 8] >> (i * kBits % 8)) & kMask);
}

}  // namespace tinykg

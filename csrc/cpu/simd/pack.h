// Codes of 1, 2, 4 or 8 bits, packed from the low bits of each byte upwards: element j of a row at
// byte j * bits / 8. A whole machine word of codes is packed at a time.
#pragma once

#include "quantize_core.h"

namespace tinykg {

template <typename Word>
TINYKG_INLINE Word load_word(const uint8_t* source) {
  Word word;
  std::memcpy(&word, source, sizeof(word));
  return word;
}

// Packs count codes, one per byte; count * bits is a multiple of 8.
inline void pack_words(const uint8_t* code, int64_t count, int bits, uint8_t* packed) {
  const int64_t bytes = count * bits / 8;
  if (bits == 1) {
    for (int64_t i = 0; i < bytes; ++i)
      packed[i] = (load_word<uint64_t>(code + 8 * i) * 0x0102040810204080u) >> 56;
  } else if (bits == 2) {
    for (int64_t i = 0; i < bytes; ++i) {
      const uint32_t word = load_word<uint32_t>(code + 4 * i);
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

}  // namespace tinykg

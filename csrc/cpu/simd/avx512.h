// Sixteen floats and sixteen integers in a register each, with AVX-512 (F, BW, DQ, VL).

using Floats = __m512;
using Ints = __m512i;

inline __m256i load_half_words(const void* source) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(source));
}
inline Ints load_words(const uint16_t* source) {
  return _mm512_cvtepu16_epi32(load_half_words(source));
}

inline Floats load(const float* source) { return _mm512_loadu_ps(source); }
inline Floats load(const Half* source) { return _mm512_cvtph_ps(load_half_words(source)); }
inline Floats load(const BFloat16* source) {
  const Ints words = _mm512_cvtepu16_epi32(load_half_words(source));
  return _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
}

inline void store(float* target, Floats a) { _mm512_storeu_ps(target, a); }
inline void store(Half* target, Floats a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(target),
                      _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline void store(BFloat16* target, Floats a) {  // to nearest, ties to even; NaN stays NaN
  const Ints bits = _mm512_castps_si512(a);
  const Ints odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  Ints high = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF)), odd);
  const __mmask16 nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
  high = _mm512_mask_mov_epi32(high, nan, _mm512_set1_epi32(0x7FC00000));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(target),
                      _mm512_cvtepi32_epi16(_mm512_srli_epi32(high, 16)));
}
inline void store_past_cache(float* target, Floats a) { _mm512_stream_ps(target, a); }
inline void finish_stores() { _mm_sfence(); }
inline Floats fill(float value) { return _mm512_set1_ps(value); }

inline Floats round_step_up_lanes(Floats a) {
  const Ints bits = _mm512_add_epi32(_mm512_castps_si512(a), _mm512_set1_epi32(0xFFFF));
  const Ints mask = _mm512_set1_epi32(static_cast<int32_t>(0xFFFF0000));
  return _mm512_castsi512_ps(_mm512_and_si512(bits, mask));
}
inline Floats smaller(Floats a, Floats b) { return _mm512_min_ps(a, b); }
inline Floats larger(Floats a, Floats b) { return _mm512_max_ps(a, b); }

// The smallest number of each of sixteen rows, and the largest: rows are halved and interleaved in
// pairs, four times, until a lane is a row.
template <Floats (*pick)(Floats, Floats)>
inline Floats reduce_rows(const Floats* row) {
  Floats pair[8], quad[4], octet[2];
  for (int i = 0; i < 8; ++i) {
    const Floats a = row[2 * i], b = row[2 * i + 1];
    pair[i] = pick(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  }
  for (int i = 0; i < 4; ++i) {
    const __m512d a = _mm512_castps_pd(pair[2 * i]), b = _mm512_castps_pd(pair[2 * i + 1]);
    quad[i] = pick(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)),
                   _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
  }
  for (int i = 0; i < 2; ++i) {
    const Floats a = quad[2 * i], b = quad[2 * i + 1];
    octet[i] = pick(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xDD));
  }
  const Floats even = _mm512_shuffle_f32x4(octet[0], octet[1], 0x88);
  return pick(even, _mm512_shuffle_f32x4(octet[0], octet[1], 0xDD));
}
inline Floats smallest_of_rows(const Floats* row) { return reduce_rows<smaller>(row); }
inline Floats largest_of_rows(const Floats* row) { return reduce_rows<larger>(row); }
inline Floats add(Floats a, Floats b) { return a + b; }
inline Floats sums_of_rows(const Floats* row) { return reduce_rows<add>(row); }
inline Floats root(Floats a) { return _mm512_sqrt_ps(a); }

inline bool all_zero(Floats a) {
  return _mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_NEQ_UQ) == 0;
}
inline uint32_t positive_bits(Floats a) {
  return _mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_GT_OQ);
}
inline Floats choose(uint32_t bits, Floats set, Floats clear) {
  return _mm512_mask_blend_ps(static_cast<__mmask16>(bits), clear, set);
}

inline Ints truncate(Floats a) { return _mm512_cvttps_epi32(a); }
inline Ints ceil(Floats a) {
  return _mm512_cvt_roundps_epi32(a, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC);
}
inline Ints truncate(const Array<double>& a) { return _mm512_loadu_si512(truncate_lanes(a).lane); }
inline Ints ceil(const Array<double>& a) { return _mm512_loadu_si512(ceil_lanes(a).lane); }

inline void store_nearest(uint8_t* code, Ints value, int32_t levels) {
  value = _mm512_min_epi32(value, _mm512_set1_epi32(levels));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(code), _mm512_cvtepi32_epi8(value));
}

// (ceiling + 2 (65535 - random)) / 2^17, at most levels, a byte each.
inline void store_stochastic(uint8_t* code, Ints ceiling, Ints random, int32_t levels) {
  const Ints raised = _mm512_add_epi32(ceiling, _mm512_set1_epi32(2 * 65535));
  const Ints sum = _mm512_sub_epi32(raised, _mm512_slli_epi32(random, 1));
  store_nearest(code, _mm512_srli_epi32(sum, kThresholdBits), levels);
}

// Bit i is random[i] >= first_kept.
inline uint32_t at_least(const uint16_t* random, int32_t first_kept) {
  return _mm512_cmpge_epi32_mask(load_words(random), _mm512_set1_epi32(first_kept));
}

// The random halves of eight generator blocks at a time. A 64-bit lane holds one word of one block:
// a multiplication reads the lower half and ignores the upper one, which may hold anything until
// the end.
class Generator {
 public:
  explicit Generator(const Stream& stream)
      : position0_(_mm512_set1_epi64(stream.position0)),
        position1_(_mm512_set1_epi64(stream.position1)) {
    for (uint32_t round = 0; round < kPhiloxRounds; ++round) {
      key0_[round] = _mm512_set1_epi64(stream.key0 + round * kPhiloxWeyl0);
      key1_[round] = _mm512_set1_epi64(stream.key1 + round * kPhiloxWeyl1);
    }
  }

  void draw(int64_t block, uint16_t* random) const {
    Ints c0 = _mm512_add_epi64(_mm512_set1_epi64(block), _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0));
    Ints c1 = _mm512_srli_epi64(c0, 32), c2 = position0_, c3 = position1_;
    const Ints multiplier0 = _mm512_set1_epi64(kPhiloxMultiplier0);
    const Ints multiplier1 = _mm512_set1_epi64(kPhiloxMultiplier1);
#pragma GCC unroll 7
    for (int round = 0; round < kPhiloxRounds; ++round) {
      const Ints product0 = _mm512_mul_epu32(c0, multiplier0);
      const Ints product1 = _mm512_mul_epu32(c2, multiplier1);
      constexpr int kXor = 0x96;  // of three operands
      const Ints high0 = _mm512_srli_epi64(product0, 32), high1 = _mm512_srli_epi64(product1, 32);
      c0 = _mm512_ternarylogic_epi64(high1, c1, key0_[round], kXor);
      c2 = _mm512_ternarylogic_epi64(high0, c3, key1_[round], kXor);
      c1 = product1;
      c3 = product0;
    }
    const Ints first = _mm512_mask_shuffle_epi32(c0, 0xAAAA, c1, _MM_PERM_CCAA);   // words 0, 1
    const Ints second = _mm512_mask_shuffle_epi32(c2, 0xAAAA, c3, _MM_PERM_CCAA);  // words 2, 3
    const Ints low = _mm512_set_epi64(11, 3, 10, 2, 9, 1, 8, 0);
    const Ints high = _mm512_set_epi64(15, 7, 14, 6, 13, 5, 12, 4);
    _mm512_storeu_si512(random, _mm512_permutex2var_epi64(first, low, second));
    _mm512_storeu_si512(random + 32, _mm512_permutex2var_epi64(first, high, second));
  }

 private:
  Ints key0_[kPhiloxRounds], key1_[kPhiloxRounds], position0_, position1_;
};

// Packs 64 codes.
inline void pack_64(const uint8_t* code, int bits, uint8_t* packed) {
  const Ints codes = _mm512_loadu_si512(code);
  if (bits == 1) {
    const uint64_t mask = _mm512_test_epi8_mask(codes, codes);
    std::memcpy(packed, &mask, sizeof(mask));
  } else if (bits == 2) {
    const Ints pairs = _mm512_maddubs_epi16(codes, _mm512_set1_epi16(0x0401));
    const Ints quads = _mm512_madd_epi16(pairs, _mm512_set1_epi32(0x00100001));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(packed), _mm512_cvtepi32_epi8(quads));
  } else {
    const Ints pairs = _mm512_maddubs_epi16(codes, _mm512_set1_epi16(0x1001));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(packed), _mm512_cvtepi16_epi8(pairs));
  }
}

// Packs count codes; count * bits is a multiple of 8.
inline void pack(const uint8_t* code, int64_t count, int bits, uint8_t* packed) {
  int64_t done = 0;
  if (bits < 8)
    for (; done + 64 <= count; done += 64) pack_64(code + done, bits, packed + done * bits / 8);
  pack_words(code + done, count - done, bits, packed + done * bits / 8);
}

inline Floats to_floats(Ints a) { return _mm512_cvtepi32_ps(a); }

// Sixteen codes of 8 bits as integers.
template <int kBits>
inline Ints unpack(const uint8_t* packed) {
  static_assert(kBits == 8, "fewer bits go through a table");
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(packed)));
}

constexpr int kTableBits = 4;

// The value of every code of a group, in a register. Lanes repeat after 2^kBits, and a permutation
// reads the low four bits of an index: the bits above a code in its lane need no masking.
template <int kBits>
struct Table {
  Floats value;

  explicit Table(Floats values) : value(values) {}

  Floats at(const uint8_t* packed) const {
    if constexpr (kBits == 1) {
      uint16_t bits;
      std::memcpy(&bits, packed, sizeof(bits));
      const Floats one = _mm512_permute_ps(value, 0x55), zero = _mm512_permute_ps(value, 0);
      return choose(bits, one, zero);
    } else if constexpr (kBits == 2) {
      int32_t word;
      std::memcpy(&word, packed, sizeof(word));
      const Ints shifts =
          _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
      return _mm512_permutexvar_ps(_mm512_srlv_epi32(_mm512_set1_epi32(word), shifts), value);
    } else {
      int64_t words;
      std::memcpy(&words, packed, sizeof(words));
      const Ints shifts = _mm512_set_epi64(60, 56, 52, 48, 44, 40, 36, 32);
      const Ints odd_shifts = _mm512_set_epi64(28, 24, 20, 16, 12, 8, 4, 0);
      const Ints both = _mm512_set1_epi64(words);
      const Ints low = _mm512_srlv_epi64(both, odd_shifts);
      const Ints high = _mm512_srlv_epi64(both, shifts);
      const Ints lanes =
          _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
      return _mm512_permutexvar_ps(_mm512_permutex2var_epi32(low, lanes, high), value);
    }
  }
};

// Sixteen floats and sixteen integers in two registers each, with AVX2 and F16C.

struct Floats {
  __m256 low, high;
};
struct Ints {
  __m256i low, high;
};

inline __m256i widen(const void* eight_words) {
  return _mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(eight_words)));
}
inline Ints load_words(const uint16_t* source) { return {widen(source), widen(source + 8)}; }
inline Ints load_integers(const int32_t* source) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(source)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source + 8))};
}

inline Floats load(const float* source) {
  return {_mm256_loadu_ps(source), _mm256_loadu_ps(source + 8)};
}
inline Floats load(const Half* source) {
  const auto* words = reinterpret_cast<const __m128i*>(source);
  return {_mm256_cvtph_ps(_mm_loadu_si128(words)), _mm256_cvtph_ps(_mm_loadu_si128(words + 1))};
}
inline Floats load(const BFloat16* source) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(widen(source), 16)),
          _mm256_castsi256_ps(_mm256_slli_epi32(widen(source + 8), 16))};
}

inline void store(float* target, Floats a) {
  _mm256_storeu_ps(target, a.low);
  _mm256_storeu_ps(target + 8, a.high);
}
inline void store(Half* target, Floats a) {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  auto* words = reinterpret_cast<__m128i*>(target);
  _mm_storeu_si128(words, _mm256_cvtps_ph(a.low, kNearest));
  _mm_storeu_si128(words + 1, _mm256_cvtps_ph(a.high, kNearest));
}
inline __m256i round_to_bfloat16(__m256 a) {  // to nearest, ties to even; NaN stays NaN
  const __m256i bits = _mm256_castps_si256(a);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i high = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd);
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  const __m256i kept = _mm256_blendv_epi8(high, _mm256_set1_epi32(0x7FC00000), nan);
  return _mm256_srli_epi32(kept, 16);
}
inline void store(BFloat16* target, Floats a) {
  const __m256i words = _mm256_packus_epi32(round_to_bfloat16(a.low), round_to_bfloat16(a.high));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), _mm256_permute4x64_epi64(words, 0xD8));
}
inline void store_past_cache(float* target, Floats a) {
  _mm256_stream_ps(target, a.low);
  _mm256_stream_ps(target + 8, a.high);
}
inline void finish_stores() { _mm_sfence(); }
inline Floats fill(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }

inline Floats operator+(Floats a, Floats b) {
  return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
inline Floats operator-(Floats a, Floats b) {
  return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
inline Floats operator*(Floats a, Floats b) {
  return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
inline Floats operator/(Floats a, Floats b) {
  return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}
inline __m256 round_eight_up(__m256 a) {
  const __m256i bits = _mm256_add_epi32(_mm256_castps_si256(a), _mm256_set1_epi32(0xFFFF));
  const __m256i mask = _mm256_set1_epi32(static_cast<int32_t>(0xFFFF0000));
  return _mm256_castsi256_ps(_mm256_and_si256(bits, mask));
}
inline Floats round_step_up_lanes(Floats a) {
  return {round_eight_up(a.low), round_eight_up(a.high)};
}
inline Floats smaller(Floats a, Floats b) {
  return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
}
inline Floats larger(Floats a, Floats b) {
  return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
inline float smallest(Floats a) {
  const __m256 eight = _mm256_min_ps(a.low, a.high);
  __m128 four = _mm_min_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_min_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_min_ss(four, _mm_movehdup_ps(four)));
}
inline float largest(Floats a) {
  const __m256 eight = _mm256_max_ps(a.low, a.high);
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}
// The smallest number of each of sixteen rows, and the largest.
inline Floats smallest_of_rows(const Floats* row) {
  float lane[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) lane[i] = smallest(row[i]);
  return load(lane);
}
inline Floats largest_of_rows(const Floats* row) {
  float lane[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) lane[i] = largest(row[i]);
  return load(lane);
}

// The sum of each of sixteen rows, in the order of array.h.
inline Floats sums_of_rows(const Floats* row) {
  Array<float> array[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) store(array[i].lane, row[i]);
  return load(sums_of_rows(array).lane);
}
inline Floats root(Floats a) { return {_mm256_sqrt_ps(a.low), _mm256_sqrt_ps(a.high)}; }

inline uint32_t mask_bits(__m256 low, __m256 high) {
  return static_cast<uint32_t>(_mm256_movemask_ps(low)) |
         static_cast<uint32_t>(_mm256_movemask_ps(high)) << 8;
}
inline bool all_zero(Floats a) {
  const __m256 zero = _mm256_setzero_ps();
  return mask_bits(_mm256_cmp_ps(a.low, zero, _CMP_NEQ_UQ),
                   _mm256_cmp_ps(a.high, zero, _CMP_NEQ_UQ)) == 0;
}
inline uint32_t positive_bits(Floats a) {
  const __m256 zero = _mm256_setzero_ps();
  return mask_bits(_mm256_cmp_ps(a.low, zero, _CMP_GT_OQ), _mm256_cmp_ps(a.high, zero, _CMP_GT_OQ));
}
inline __m256 choose_eight(uint32_t bits, __m256 set, __m256 clear) {
  const __m256i lane_bits = _mm256_set_epi32(128, 64, 32, 16, 8, 4, 2, 1);
  const __m256i own = _mm256_and_si256(_mm256_set1_epi32(static_cast<int32_t>(bits)), lane_bits);
  return _mm256_blendv_ps(clear, set, _mm256_castsi256_ps(_mm256_cmpeq_epi32(own, lane_bits)));
}
inline Floats choose(uint32_t bits, Floats set, Floats clear) {
  return {choose_eight(bits, set.low, clear.low), choose_eight(bits >> 8, set.high, clear.high)};
}

inline Ints truncate(Floats a) { return {_mm256_cvttps_epi32(a.low), _mm256_cvttps_epi32(a.high)}; }
inline Ints ceil(Floats a) {
  return {_mm256_cvttps_epi32(_mm256_ceil_ps(a.low)), _mm256_cvttps_epi32(_mm256_ceil_ps(a.high))};
}
inline Ints truncate(const Array<double>& a) { return load_integers(truncate_lanes(a).lane); }
inline Ints ceil(const Array<double>& a) { return load_integers(ceil_lanes(a).lane); }

inline void store_nearest(uint8_t* code, Ints value, int32_t levels) {
  const __m256i words = _mm256_packus_epi32(value.low, value.high);  // halves of each 128 bits
  const __m256i ordered = _mm256_permute4x64_epi64(words, 0xD8);
  const __m128i bytes =
      _mm_packus_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1));
  const __m128i most = _mm_set1_epi8(static_cast<char>(levels));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(code), _mm_min_epu8(bytes, most));
}

inline __m256i add_noise(__m256i ceiling, __m256i random) {
  const __m256i raised = _mm256_add_epi32(ceiling, _mm256_set1_epi32(2 * 65535));
  const __m256i sum = _mm256_sub_epi32(raised, _mm256_slli_epi32(random, 1));
  return _mm256_srli_epi32(sum, kThresholdBits);
}
// (ceiling + 2 (65535 - random)) / 2^17, at most levels, a byte each.
inline void store_stochastic(uint8_t* code, Ints ceiling, Ints random, int32_t levels) {
  store_nearest(code, {add_noise(ceiling.low, random.low), add_noise(ceiling.high, random.high)},
                levels);
}

// Bit i is random[i] >= first_kept.
inline uint32_t at_least(const uint16_t* random, int32_t first_kept) {
  const Ints words = load_words(random);
  const __m256i below = _mm256_set1_epi32(first_kept - 1);
  return mask_bits(_mm256_castsi256_ps(_mm256_cmpgt_epi32(words.low, below)),
                   _mm256_castsi256_ps(_mm256_cmpgt_epi32(words.high, below)));
}

// The random halves of eight generator blocks at a time. A 64-bit lane holds one word of one block:
// a multiplication reads the lower half and ignores the upper one, which may hold anything until
// the end.
class Generator {
 public:
  explicit Generator(const Stream& stream)
      : position0_(_mm256_set1_epi64x(stream.position0)),
        position1_(_mm256_set1_epi64x(stream.position1)) {
    for (uint32_t round = 0; round < kPhiloxRounds; ++round) {
      key0_[round] = _mm256_set1_epi64x(stream.key0 + round * kPhiloxWeyl0);
      key1_[round] = _mm256_set1_epi64x(stream.key1 + round * kPhiloxWeyl1);
    }
  }

  void draw(int64_t block, uint16_t* random) const {
    draw_four(block, random);
    draw_four(block + 4, random + 32);
  }

 private:
  void draw_four(int64_t block, uint16_t* random) const {
    __m256i c0 = _mm256_add_epi64(_mm256_set1_epi64x(block), _mm256_set_epi64x(3, 2, 1, 0));
    __m256i c1 = _mm256_srli_epi64(c0, 32), c2 = position0_, c3 = position1_;
    const __m256i multiplier0 = _mm256_set1_epi64x(kPhiloxMultiplier0);
    const __m256i multiplier1 = _mm256_set1_epi64x(kPhiloxMultiplier1);
#pragma GCC unroll 7
    for (int round = 0; round < kPhiloxRounds; ++round) {
      const __m256i product0 = _mm256_mul_epu32(c0, multiplier0);
      const __m256i product1 = _mm256_mul_epu32(c2, multiplier1);
      c0 = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(product1, 32), c1), key0_[round]);
      c2 = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(product0, 32), c3), key1_[round]);
      c1 = product1;
      c3 = product0;
    }
    const __m256i first = _mm256_blend_epi32(c0, _mm256_slli_epi64(c1, 32), 0xAA);   // words 0, 1
    const __m256i second = _mm256_blend_epi32(c2, _mm256_slli_epi64(c3, 32), 0xAA);  // words 2, 3
    const __m256i even = _mm256_unpacklo_epi64(first, second);                       // blocks 0, 2
    const __m256i odd = _mm256_unpackhi_epi64(first, second);                        // blocks 1, 3
    auto* target = reinterpret_cast<__m256i*>(random);
    _mm256_storeu_si256(target, _mm256_permute2x128_si256(even, odd, 0x20));
    _mm256_storeu_si256(target + 1, _mm256_permute2x128_si256(even, odd, 0x31));
  }

  __m256i key0_[kPhiloxRounds], key1_[kPhiloxRounds], position0_, position1_;
};

// Packs 32 codes.
inline void pack_32(const uint8_t* code, int bits, uint8_t* packed) {
  const __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(code));
  if (bits == 1) {
    const int mask = _mm256_movemask_epi8(_mm256_slli_epi16(codes, 7));
    std::memcpy(packed, &mask, sizeof(mask));
    return;
  }
  const __m256i factors = _mm256_set1_epi16(bits == 2 ? 0x0401 : 0x1001);
  const __m256i pairs = _mm256_maddubs_epi16(codes, factors);
  if (bits == 2) {
    const __m256i quads = _mm256_madd_epi16(pairs, _mm256_set1_epi32(0x00100001));
    const __m256i words = _mm256_packus_epi32(quads, quads);
    const __m256i bytes = _mm256_packus_epi16(words, words);
    const int low = _mm256_extract_epi32(bytes, 0), high = _mm256_extract_epi32(bytes, 4);
    std::memcpy(packed, &low, sizeof(low));
    std::memcpy(packed + sizeof(low), &high, sizeof(high));
  } else {
    const __m256i bytes = _mm256_packus_epi16(pairs, pairs);
    const __m256i ordered = _mm256_permute4x64_epi64(bytes, 0xD8);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(packed), _mm256_castsi256_si128(ordered));
  }
}

// Packs count codes; count * bits is a multiple of 8.
inline void pack(const uint8_t* code, int64_t count, int bits, uint8_t* packed) {
  int64_t done = 0;
  if (bits < 8)
    for (; done + 32 <= count; done += 32) pack_32(code + done, bits, packed + done * bits / 8);
  pack_words(code + done, count - done, bits, packed + done * bits / 8);
}

inline Floats to_floats(Ints a) { return {_mm256_cvtepi32_ps(a.low), _mm256_cvtepi32_ps(a.high)}; }

// Sixteen codes of 4 or 8 bits as integers.
template <int kBits>
inline Ints unpack(const uint8_t* packed) {
  static_assert(kBits >= 4, "fewer bits go through a table");
  if constexpr (kBits == 8) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(packed));
    return {_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8))};
  } else {
    int32_t words[2];
    std::memcpy(words, packed, sizeof(words));
    const __m256i shifts = _mm256_set_epi32(28, 24, 20, 16, 12, 8, 4, 0);
    const __m256i mask = _mm256_set1_epi32(15);
    return {_mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32(words[0]), shifts), mask),
            _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32(words[1]), shifts), mask)};
  }
}

constexpr int kTableBits = 2;

// The value of every code of a group, in a register. Lanes repeat after 2^kBits, and a permutation
// reads the low three bits of an index: the bits above a code in its lane need no masking.
template <int kBits>
struct Table {
  static_assert(kBits <= 2, "a register has eight lanes");
  __m256 value;

  explicit Table(Floats values) : value(values.low) {}

  Floats at(const uint8_t* packed) const {
    uint32_t word = 0;
    std::memcpy(&word, packed, 2 * kBits);
    const __m256i step = _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
    const __m256i shifts = kBits == 1 ? step : _mm256_slli_epi32(step, 1);
    const __m256i codes = _mm256_set1_epi32(static_cast<int32_t>(word));
    const __m256i low = _mm256_srlv_epi32(codes, shifts);
    const __m256i high = _mm256_srli_epi32(low, 8 * kBits);
    return {_mm256_permutevar8x32_ps(value, low), _mm256_permutevar8x32_ps(value, high)};
  }
};

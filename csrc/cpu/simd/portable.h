// Sixteen floats and sixteen integers for any machine: plain loops over arrays.

using Floats = Array<float>;
using Ints = Array<int32_t>;

template <typename T>
inline Floats load(const T* source) {
  return load_lanes<float>(source);
}
template <typename T>
inline void store(T* target, const Floats& a) {
  store_lanes(target, a);
}
inline void store_past_cache(float* target, const Floats& a) { store_lanes(target, a); }
inline void finish_stores() {}
inline Floats fill(float value) { return fill_lanes(value); }

template <typename C>
inline Ints truncate(const Array<C>& a) {
  return truncate_lanes(a);
}
template <typename C>
inline Ints ceil(const Array<C>& a) {
  return ceil_lanes(a);
}

inline Ints load_words(const uint16_t* source) { return load_lanes<int32_t>(source); }

// (ceiling + 2 (65535 - random)) / 2^17, at most levels, a byte each.
inline void store_stochastic(uint8_t* code, const Ints& ceiling, const Ints& random,
                             int32_t levels) {
  for (int64_t i = 0; i < kLanes; ++i) {
    const int32_t value = (ceiling.lane[i] + 2 * (65535 - random.lane[i])) >> kThresholdBits;
    code[i] = static_cast<uint8_t>(value < levels ? value : levels);
  }
}

inline void store_nearest(uint8_t* code, const Ints& value, int32_t levels) {
  for (int64_t i = 0; i < kLanes; ++i)
    code[i] = static_cast<uint8_t>(value.lane[i] < levels ? value.lane[i] : levels);
}

// Bit i is random[i] >= first_kept.
inline uint32_t at_least(const uint16_t* random, int32_t first_kept) {
  uint32_t bits = 0;
  for (int64_t i = 0; i < kLanes; ++i) bits |= uint32_t{random[i] >= first_kept} << i;
  return bits;
}

// The random halves of eight generator blocks at a time.
class Generator {
 public:
  explicit Generator(const Stream& stream) : stream_(stream) {}

  void draw(int64_t block, uint16_t* random) const {
    uint32_t words[4 * kNoiseBlocks];
    for (int64_t i = 0; i < kNoiseBlocks; ++i)
      philox(stream_, static_cast<uint64_t>(block) + static_cast<uint64_t>(i), words + 4 * i);
    std::memcpy(random, words, sizeof(words));  // little endian: the low half of a word first
  }

 private:
  Stream stream_;
};

// Packs count codes; count * bits is a multiple of 8.
inline void pack(const uint8_t* code, int64_t count, int bits, uint8_t* packed) {
  pack_words(code, count, bits, packed);
}

template <int kBits>
inline Ints unpack(const uint8_t* packed) {
  return unpack_lanes<kBits>(packed);
}

inline Floats to_floats(const Ints& a) { return load_lanes<float>(a.lane); }

constexpr int kTableBits = 4;

// The value of every code of a group, where there are few.
template <int kBits>
struct Table {
  float value[1 << kBits];

  explicit Table(const Floats& values) { std::memcpy(value, values.lane, sizeof(value)); }

  Floats at(const uint8_t* packed) const {
    const Ints code = unpack<kBits>(packed);
    Floats out;
    for (int64_t i = 0; i < kLanes; ++i) out.lane[i] = value[code.lane[i]];
    return out;
  }
};

// What the row loops share: reading and writing up to sixteen elements of a row, of any type and
// stride, and the noise of a row. Included once per instruction set, inside its namespace, after
// its vectors.

// The vector of an arithmetic type.
template <typename C>
struct LanesOf {
  using type = Floats;
};
template <>
struct LanesOf<double> {
  using type = Array<double>;
};
template <typename C>
using Lanes = typename LanesOf<C>::type;

inline int64_t lanes_left(int64_t count, int64_t done) { return std::min(kLanes, count - done); }

// Elements 0 to count - 1 of a strided row, count <= 16; lanes after them repeat the first.
template <typename T>
inline Lanes<Compute<T>> load_row(const T* source, int64_t stride, int64_t count) {
  if (count == kLanes && stride == 1) return load(source);
  Compute<T> lane[kLanes];
  for (int64_t i = 0; i < kLanes; ++i)
    lane[i] = static_cast<Compute<T>>(source[i < count ? i * stride : 0]);
  return load(lane);
}

// The same with zeros after the end.
template <typename T>
inline Lanes<Compute<T>> load_or_zero(const T* source, int64_t stride, int64_t count) {
  const auto value = load_row(source, stride, count);
  return count == kLanes ? value : choose((1u << count) - 1, value, fill(Compute<T>(0)));
}

// The inverse of load_row: the first count lanes.
template <typename T>
inline void store_row(T* target, int64_t stride, int64_t count, const Lanes<Compute<T>>& value) {
  if (count == kLanes && stride == 1) return store(target, value);
  Compute<T> lane[kLanes];
  store(lane, value);
  for (int64_t i = 0; i < count; ++i) target[i * stride] = static_cast<T>(lane[i]);
}

inline uint32_t read_bits(const uint8_t* mask, int64_t count) {
  uint16_t bits = mask[0];
  if (count > 8) std::memcpy(&bits, mask, sizeof(bits));
  return bits;
}

inline void write_bits(uint8_t* mask, int64_t count, uint32_t bits) {
  const auto own = static_cast<uint16_t>(bits & ((1u << count) - 1));
  mask[0] = static_cast<uint8_t>(own);
  if (count > 8) std::memcpy(mask, &own, sizeof(own));
}

// Random bits of consecutive generator blocks, drawn many at a time: rows follow each other without
// a gap, so that one draw serves several short rows.
class Noise {
 public:
  explicit Noise(const Stream& stream) : generator_(stream) {}

  // 16 random bits for each element of blocks [block, block + count), count <= 32; readable for 16
  // elements beyond.
  const uint16_t* at(int64_t block, int64_t count) {
    if (block < first_ || block + count > first_ + kBlocks) draw(block);
    return random_ + kBlockColumns * (block - first_);
  }

 private:
  static constexpr int64_t kBlocks = 128;

  void draw(int64_t block) {
    first_ = block;
    for (int64_t i = 0; i < kBlocks; i += kNoiseBlocks)
      generator_.draw(block + i, random_ + kBlockColumns * i);
  }

  Generator generator_;
  int64_t first_ = -kBlocks - 1;
  alignas(64) uint16_t random_[kBlockColumns * kBlocks + kLanes] = {};
};

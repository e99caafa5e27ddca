// Sixteen lanes as an array, in plain loops: the vector functions that kernels are written with.
// It serves doubles everywhere, and floats where we have no intrinsics (the compiler vectorises the
// loops, NEON included). Included once per instruction set, inside its namespace.

constexpr int64_t kLanes = 16;
constexpr int64_t kNoiseBlocks = 8;  // generator blocks that are drawn at a time

template <typename Number>
struct Array {
  Number lane[kLanes];
};

template <typename Number>
inline Array<Number> operator+(const Array<Number>& a, const Array<Number>& b) {
  Array<Number> out;
  for (int64_t i = 0; i < kLanes; ++i) out.lane[i] = a.lane[i] + b.lane[i];
  return out;
}

template <typename Number>
inline Array<Number> operator-(const Array<Number>& a, const Array<Number>& b) {
  Array<Number> out;
  for (int64_t i = 0; i < kLanes; ++i) out.lane[i] = a.lane[i] - b.lane[i];
  return out;
}

template <typename Number>
inline Array<Number> operator*(const Array<Number>& a, const Array<Number>& b) {
  Array<Number> out;
  for (int64_t i = 0; i < kLanes; ++i) out.lane[i] = a.lane[i] * b.lane[i];
  return out;
}

template <typename Number>
inline Array<Number> operator/(const Array<Number>& a, const Array<Number>& b) {
  Array<Number> out;
  for (int64_t i = 0; i < kLanes; ++i) out.lane[i] = a.lane[i] / b.lane[i];
  return out;
}

template <typename Number>
inline Array<Number> round_step_up_lanes(const Array<Number>& a) {
  Array<Number> out;
  for (int64_t i = 0; i < kLanes; ++i) out.lane[i] = round_step_up(a.lane[i]);
  return out;
}

// The smaller and the larger number; where one is NaN, b.
template <typename Number>
inline Array<Number> smaller(const Array<Number>& a, const Array<Number>& b) {
  Array<Number> out;
  for (int64_t i = 0; i < kLanes; ++i) out.lane[i] = a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i];
  return out;
}

template <typename Number>
inline Array<Number> larger(const Array<Number>& a, const Array<Number>& b) {
  Array<Number> out;
  for (int64_t i = 0; i < kLanes; ++i) out.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i];
  return out;
}

template <typename Number>
inline Number smallest(const Array<Number>& a) {
  return *std::min_element(a.lane, a.lane + kLanes);
}

template <typename Number>
inline Number largest(const Array<Number>& a) {
  return *std::max_element(a.lane, a.lane + kLanes);
}

// The smallest number of each of sixteen rows, and the largest.
template <typename Number>
inline Array<Number> smallest_of_rows(const Array<Number>* row) {
  Array<Number> out;
  for (int64_t i = 0; i < kLanes; ++i) out.lane[i] = smallest(row[i]);
  return out;
}
template <typename Number>
inline Array<Number> largest_of_rows(const Array<Number>* row) {
  Array<Number> out;
  for (int64_t i = 0; i < kLanes; ++i) out.lane[i] = largest(row[i]);
  return out;
}

// The sum of each of sixteen rows, in one order on every machine: of four neighbours 0 + 2 and 1 +
// 3 first, then of the four fours.
template <typename Number>
inline Array<Number> sums_of_rows(const Array<Number>* row) {
  Array<Number> out;
  for (int64_t i = 0; i < kLanes; ++i) {
    Number four[4];
    for (int64_t k = 0; k < 4; ++k) {
      const Number* lane = row[i].lane + 4 * k;
      four[k] = (lane[0] + lane[2]) + (lane[1] + lane[3]);
    }
    out.lane[i] = (four[0] + four[1]) + (four[2] + four[3]);
  }
  return out;
}

template <typename Number>
inline Array<Number> root(const Array<Number>& a) {
  Array<Number> out;
  for (int64_t i = 0; i < kLanes; ++i) out.lane[i] = std::sqrt(a.lane[i]);
  return out;
}

// Whether every lane is 0: false if one is NaN.
template <typename Number>
inline bool all_zero(const Array<Number>& a) {
  Number sum = 0;
  for (int64_t i = 0; i < kLanes; ++i) sum += a.lane[i] == Number(0) ? Number(0) : Number(1);
  return sum == Number(0);
}

// Bit i is a.lane[i] > 0.
template <typename Number>
inline uint32_t positive_bits(const Array<Number>& a) {
  uint32_t bits = 0;
  for (int64_t i = 0; i < kLanes; ++i) bits |= uint32_t{a.lane[i] > Number(0)} << i;
  return bits;
}

template <typename Number>
inline Array<Number> choose(uint32_t bits, const Array<Number>& set, const Array<Number>& clear) {
  Array<Number> out;
  for (int64_t i = 0; i < kLanes; ++i) out.lane[i] = bits >> i & 1 ? set.lane[i] : clear.lane[i];
  return out;
}

template <typename Number>
inline Array<int32_t> truncate_lanes(const Array<Number>& a) {
  Array<int32_t> out;
  for (int64_t i = 0; i < kLanes; ++i) out.lane[i] = static_cast<int32_t>(a.lane[i]);
  return out;
}

template <typename Number>
inline Array<int32_t> ceil_lanes(const Array<Number>& a) {
  Array<int32_t> out;
  for (int64_t i = 0; i < kLanes; ++i) {
    const auto down = static_cast<int32_t>(a.lane[i]);
    out.lane[i] = down + (Number(down) < a.lane[i] ? 1 : 0);
  }
  return out;
}

template <typename Number, typename T>
inline Array<Number> load_lanes(const T* source) {
  Array<Number> out;
  for (int64_t i = 0; i < kLanes; ++i) out.lane[i] = static_cast<Number>(source[i]);
  return out;
}

template <typename Number, typename T>
inline void store_lanes(T* target, const Array<Number>& a) {
  for (int64_t i = 0; i < kLanes; ++i) target[i] = static_cast<T>(a.lane[i]);
}

template <typename Number>
inline Array<Number> fill_lanes(Number value) {
  Array<Number> out;
  std::fill(out.lane, out.lane + kLanes, value);
  return out;
}

// Sixteen codes as integers.
template <int kBits>
inline Array<int32_t> unpack_lanes(const uint8_t* packed) {
  Array<int32_t> out;
  for (int64_t i = 0; i < kLanes; ++i)
    out.lane[i] = packed[i * kBits / 8] >> (i * kBits % 8) & ((1 << kBits) - 1);
  return out;
}

inline Array<double> load(const double* source) { return load_lanes<double>(source); }
inline void store(double* target, const Array<double>& a) { store_lanes(target, a); }
inline Array<double> fill(double value) { return fill_lanes(value); }

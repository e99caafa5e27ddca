// Rows of dequantize, for one instruction set (each_target.h). A group of few bits has few values:
// they are computed once, and codes select among them.

#include "simd/lanes.h"

// minimum + code * step, clamped to the range of T, of a group.
template <typename T>
struct Formula {
  using C = Compute<T>;
  Lanes<C> low, step, unscale, lowest, highest;

  explicit Formula(const Group<C>& group)
      : low(fill(group.low)),
        step(fill(group.step)),
        unscale(fill(C(1) / group.scale)),
        lowest(fill(static_cast<C>(std::numeric_limits<T>::lowest()))),
        highest(fill(static_cast<C>(std::numeric_limits<T>::max()))) {}

  Lanes<C> value(const Lanes<C>& code) const {
    return larger(lowest, smaller(highest, (low + code * step) * unscale));  // NaN stays NaN
  }
};

inline Array<double> to_lanes(const Array<int32_t>& code, double) {
  return load_lanes<double>(code.lane);
}
inline Floats to_lanes(const Ints& code, float) { return to_floats(code); }

template <int kBits>
inline Array<int32_t> unpack_for(const uint8_t* packed, double) {
  return unpack_lanes<kBits>(packed);
}
template <int kBits>
inline Ints unpack_for(const uint8_t* packed, float) {
  return unpack<kBits>(packed);
}

// Sixteen values of a group from their packed codes.
template <typename T, int kBits, bool kByTable>
struct Decoder {
  using C = Compute<T>;
  Formula<T> formula;

  explicit Decoder(const Group<C>& group) : formula(group) {}

  Lanes<C> at(const uint8_t* packed) const {
    return formula.value(to_lanes(unpack_for<kBits>(packed, C{}), C{}));
  }
};

template <typename T, int kBits>
struct Decoder<T, kBits, true> {
  Table<kBits> table;

  explicit Decoder(const Group<float>& group) : table(Formula<T>(group).value(codes())) {}

  static Floats codes() {
    alignas(64) static constexpr float kCodes[kLanes] = {0, 1, 2,  3,  4,  5,  6,  7,
                                                         8, 9, 10, 11, 12, 13, 14, 15};
    alignas(64) static constexpr float kCodesOfTwoBits[kLanes] = {0, 1, 2, 3, 0, 1, 2, 3,
                                                                  0, 1, 2, 3, 0, 1, 2, 3};
    alignas(64) static constexpr float kCodesOfOneBit[kLanes] = {0, 1, 0, 1, 0, 1, 0, 1,
                                                                 0, 1, 0, 1, 0, 1, 0, 1};
    return load(kBits == 1 ? kCodesOfOneBit : kBits == 2 ? kCodesOfTwoBits : kCodes);
  }

  Floats at(const uint8_t* packed) const { return table.at(packed); }
};

// Writes sixteen values, or count of them, or adds them to what is there.
template <bool kAdd, typename T>
inline void put(T* target, int64_t stride, int64_t count, bool past_cache,
                const Lanes<Compute<T>>& value) {
  if constexpr (kAdd) {
    store_row(target, stride, count, load_row<T>(target, stride, count) + value);
  } else {
    if constexpr (std::is_same_v<T, float>) {
      if (past_cache) return store_past_cache(target, value);
    }
    store_row(target, stride, count, value);
  }
}

template <typename T, int kBits, bool kAdd>
inline void dequantize_group(const DequantizeJob<T>& job, int64_t row, int64_t index) {
  using C = Compute<T>;
  constexpr bool kByTable = !std::is_same_v<T, double> && kBits <= kTableBits;
  const int64_t column = index * kGroupColumns;
  const int64_t count = std::min(kGroupColumns, job.num_columns - column);
  const int64_t at = row * job.num_groups + index;
  const Metadata<C> metadata{job.minimum[at], static_cast<C>(job.step[at])};
  const Decoder<T, kBits, kByTable> decoder{Group<C>(metadata)};
  const uint8_t* packed =
      job.codes + row * packed_bytes(job.num_columns, kBits) + column * kBits / 8;
  const int64_t target_row = job.index == nullptr ? row : job.index[row];
  T* target = job.out.at(target_row, column);
  const int64_t stride = job.out.column_stride;
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    put<kAdd>(target + i * stride, stride, kLanes, job.past_cache,
              decoder.at(packed + i * kBits / 8));
  if (i == count) return;
  uint8_t rest[2 * kBits] = {};
  std::memcpy(rest, packed + i * kBits / 8, packed_bytes(count - i, kBits));
  put<kAdd>(target + i * stride, stride, count - i, false, decoder.at(rest));
}

template <typename T, int kBits, bool kAdd>
void dequantize_rows_of(const DequantizeJob<T>& job, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row)
    for (int64_t index = 0; index < job.num_groups; ++index)
      dequantize_group<T, kBits, kAdd>(job, row, index);
  if (job.past_cache) finish_stores();
}

template <typename T, bool kAdd>
void dequantize_rows(const DequantizeJob<T>& job, int64_t begin, int64_t end) {
  switch (job.bits) {
    case 1:
      return dequantize_rows_of<T, 1, kAdd>(job, begin, end);
    case 2:
      return dequantize_rows_of<T, 2, kAdd>(job, begin, end);
    case 4:
      return dequantize_rows_of<T, 4, kAdd>(job, begin, end);
    default:
      return dequantize_rows_of<T, 8, kAdd>(job, begin, end);
  }
}

// Rows of quantize, for one instruction set (each_target.h).
//
// Groups are taken in batches that stay in the L1 cache. First come extremes, metadata and codes (a
// byte each) of all groups of a batch; then the batch is packed in one go, since its packed rows
// follow each other, however short they are.

#include "simd/lanes.h"

constexpr int64_t kBatch = kLanes;  // groups: their metadata is a vector
constexpr int64_t kCacheLine = 64;  // bytes

// A step that is rounded already, as it is stored: a bfloat16 is the upper half of a float.
inline BFloat16 stored_step(float step) {
  return BFloat16(static_cast<uint16_t>(std::bit_cast<uint32_t>(step) >> 16),
                  BFloat16::from_bits());
}
inline double stored_step(double step) { return step; }

// A group in the arithmetic type: in place where possible, otherwise copied to buffer.
template <typename T>
inline const Compute<T>* group_values(const T* source, int64_t stride, int64_t count,
                                      Compute<T>* buffer) {
  if constexpr (std::is_same_v<T, Compute<T>>) {
    if (stride == 1) return source;
  }
  for (int64_t i = 0; i < count; i += kLanes)
    store(buffer + i, load_row(source + i * stride, stride, lanes_left(count, i)));
  return buffer;
}

// Lanes of extremes of a group, and whether all its numbers are finite.
template <typename C>
struct Extremes {
  Lanes<C> low, high;
  bool finite;
};

template <typename V>
TINYKG_INLINE void add_to_extremes(const V& x, V& low, V& high, V& broken) {
  low = smaller(x, low);
  high = larger(x, high);
  broken = broken + (x - x);
}

template <typename C>
TINYKG_INLINE Extremes<C> measure(const C* values, int64_t count) {
  auto low = load_row(values, 1, lanes_left(count, 0)), high = low;
  auto broken = low - low;  // 0, or NaN from a NaN or an Inf on
  int64_t i = kLanes;
  for (; i + kLanes <= count; i += kLanes) add_to_extremes(load(values + i), low, high, broken);
  if (i < count) add_to_extremes(load_row(values + i, 1, count - i), low, high, broken);
  return {low, high, all_zero(broken)};
}

// make_metadata of sixteen groups, a lane each, and 1 / step (0 for a constant group).
// Returns the groups that need care: scaled ones, and those whose 2^17 / step may overflow.
template <typename C>
inline uint32_t make_metadata_lanes(const Lanes<C>& smallest, const Lanes<C>& high, uint32_t finite,
                                    int bits, C* minimum, C* step, C* inverse) {
  using Limits = std::numeric_limits<C>;
  const auto zero = fill(C(0)), one = fill(C(1)), nan = fill(Limits::quiet_NaN());
  const auto low = smallest + zero;  // -0 becomes +0
  const uint32_t wide = positive_bits(high - low - fill(Limits::max() / 4));
  const auto scale = choose(wide, fill(C(0.25)), one);
  const auto span = high * scale - low * scale;
  const auto rounded =
      larger(fill(Limits::min()), round_step_up_lanes(span / fill(C((1 << bits) - 1))));
  const uint32_t varied = positive_bits(span);
  const auto signed_step = choose(varied, choose(wide, zero - rounded, rounded), zero);
  store(minimum, choose(finite, low, nan));
  store(step, choose(finite, signed_step, nan));
  store(inverse, choose(varied, one / rounded, zero));
  const uint32_t tiny = positive_bits(fill(Limits::min() * C(1 << 20)) - rounded);
  return wide | (tiny & varied);
}

// The codes of a group, element by element, whatever its range.
template <typename C>
inline void encode_with_care(const C* values, int64_t count, const Group<C>& group, int32_t levels,
                             const uint16_t* random, uint8_t* code) {
  for (int64_t i = 0; i < count; ++i) {
    const C v = group.position(values[i]);
    code[i] = static_cast<uint8_t>(random == nullptr ? round_nearest(v, levels)
                                                     : round_stochastic(v, random[i], levels));
  }
}

// The codes of a group, sixteen at a time.
template <typename C>
class Encoder {
 public:
  using V = Lanes<C>;

  Encoder(C low, C inverse, int32_t levels, const uint16_t* random)
      : random_(random),
        origin_(fill(low)),
        factor_(fill(random == nullptr ? inverse : inverse * C(1 << kThresholdBits))),
        levels_(levels) {}

  TINYKG_INLINE void encode(const C* values, int64_t count, uint8_t* code) const {
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) put(load(values + i), i, code);
    if (i < count) put(load_row(values + i, 1, count - i), i, code);
  }

 private:
  TINYKG_INLINE void put(const V& x, int64_t i, uint8_t* code) const {
    const V v = (x - origin_) * factor_;
    if (random_ == nullptr)
      store_nearest(code + i, truncate(v + fill(C(0.5))), levels_);
    else
      store_stochastic(code + i, ceil(v), load_words(random_ + i), levels_);
  }

  const uint16_t* random_;  // null: to nearest
  V origin_, factor_;
  int32_t levels_;
};

// Consecutive groups, counted over all rows, and their values, metadata and codes.
template <typename T, int kBits>
class QuantizeBatch {
 public:
  using C = Compute<T>;

  explicit QuantizeBatch(const QuantizeJob<T>& job) : job_(job), noise_(job.stream) {
    if (job.x.column_stride != 1) return;
    const auto size = static_cast<int64_t>(sizeof(T));
    ahead_bytes_ = kBatch / job.num_groups * job.x.row_stride * size;
    group_bytes_ = std::min(kGroupColumns, job.num_columns) * size;
  }

  void run(int64_t group, int64_t count) {
    const int64_t row = group / job_.num_groups, index = group % job_.num_groups;
    const int64_t row_bytes = packed_bytes(job_.num_columns, kBits);
    uint8_t* packed = job_.codes + row * row_bytes + index * kGroupColumns * kBits / 8;
    find_groups(row, index, count);
    write_metadata(group, count);
    const bool in_place = kBits == 8 && job_.num_columns % kLanes == 0;
    uint8_t* const first = in_place ? packed : code_;
    uint8_t* code = first;
    for (int64_t i = 0; i < count; ++i) {
      fetch_ahead(i);
      code += encode(i, code);
    }
    if (!in_place) pack(first, code - first, kBits, packed);
  }

 private:
  // Values, columns and generator block of each group from group `index` of `row` on.
  void find_groups(int64_t row, int64_t index, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      const int64_t column = index * kGroupColumns;
      num_columns_[i] = std::min(kGroupColumns, job_.num_columns - column);
      block_[i] = (job_.first_row + row) * blocks_of(job_.num_columns) + column / kBlockColumns;
      source_[i] = job_.x.at(row, column);
      values_[i] = group_values(source_[i], job_.x.column_stride, num_columns_[i],
                                buffer_ + i * kGroupColumns);
      if (++index == job_.num_groups) {
        index = 0;
        ++row;
      }
    }
  }

  void write_metadata(int64_t group, int64_t count) {
    finite_ = 0;
    for (int64_t i = 0; i < count; ++i) {
      const Extremes<C> extremes = measure(values_[i], num_columns_[i]);
      low_[i] = extremes.low;
      high_[i] = extremes.high;
      finite_ |= uint32_t{extremes.finite} << i;
    }
    careful_ = make_metadata_lanes<C>(smallest_of_rows(low_), largest_of_rows(high_), finite_,
                                      kBits, minimum_, step_, inverse_);
    std::copy_n(minimum_, count, job_.minimum + group);
    for (int64_t i = 0; i < count; ++i) job_.step[group + i] = stored_step(step_[i]);
  }

  // Prefetches the group one batch later, which arrives while codes are made.
  void fetch_ahead(int64_t i) const {
    const auto* next = reinterpret_cast<const char*>(source_[i]) + ahead_bytes_;
    for (int64_t byte = 0; byte < group_bytes_; byte += kCacheLine) __builtin_prefetch(next + byte);
  }

  // Writes a code per element and fills the last byte of them; returns the number of codes.
  int64_t encode(int64_t i, uint8_t* code) {
    const int64_t count = num_columns_[i];
    const int64_t num_codes = packed_bytes(count, kBits) * 8 / kBits;
    const int32_t levels = (1 << kBits) - 1;
    const uint16_t* random = job_.stochastic ? noise_.at(block_[i], blocks_of(count)) : nullptr;
    if (!(finite_ >> i & 1))
      std::memset(code, 0, count);
    else if (careful_ >> i & 1)
      encode_with_care(values_[i], count, Group<C>(Metadata<C>{minimum_[i], step_[i]}), levels,
                       random, code);
    else
      Encoder<C>(minimum_[i], inverse_[i], levels, random).encode(values_[i], count, code);
    if (num_codes > count) std::memset(code + count, 0, num_codes - count);
    return num_codes;
  }

  const QuantizeJob<T>& job_;
  Noise noise_;
  int64_t ahead_bytes_ = 0, group_bytes_ = 0;  // for fetch_ahead
  const T* source_[kBatch];
  const C* values_[kBatch];
  int64_t num_columns_[kBatch], block_[kBatch];
  uint32_t finite_ = 0, careful_ = 0;  // a bit per group
  Lanes<C> low_[kBatch] = {}, high_[kBatch] = {};
  alignas(64) C minimum_[kBatch], step_[kBatch], inverse_[kBatch];
  alignas(64) C buffer_[kBatch * kGroupColumns];
  alignas(64) uint8_t code_[kBatch * kGroupColumns + kLanes];
};

template <typename T, int kBits>
void quantize_rows_of(const QuantizeJob<T>& job, int64_t begin, int64_t end) {
  QuantizeBatch<T, kBits> batch(job);
  const int64_t last = end * job.num_groups;
  for (int64_t group = begin * job.num_groups; group < last; group += kBatch)
    batch.run(group, std::min(kBatch, last - group));
}

template <typename T>
void quantize_rows(const QuantizeJob<T>& job, int64_t begin, int64_t end) {
  if (job.num_groups == 0) return;
  switch (job.bits) {
    case 1:
      return quantize_rows_of<T, 1>(job, begin, end);
    case 2:
      return quantize_rows_of<T, 2>(job, begin, end);
    case 4:
      return quantize_rows_of<T, 4>(job, begin, end);
    default:
      return quantize_rows_of<T, 8>(job, begin, end);
  }
}

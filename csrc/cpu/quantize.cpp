// quantize and dequantize on the CPU.
//
// Each row is treated group by group: extremes, metadata, codes (one byte each, on the stack),
// packing. Bytes kept per group: 256 * bits / 8 of codes and 6 of metadata (16 for double).
#include <limits>
#include <tuple>
#include <vector>

#include "pack.h"
#include "rows.h"

namespace tinykg {
namespace {

// Integers that order as the floats of the same bits do: their extremes vectorise, and a NaN or an
// Inf comes out beyond every finite number.
TINYKG_INLINE int32_t order_key(float x) {
  const auto bits = std::bit_cast<int32_t>(x);
  return bits ^ (bits >> 31 & 0x7FFFFFFF);
}
TINYKG_INLINE int64_t order_key(double x) {
  const auto bits = std::bit_cast<int64_t>(x);
  return bits ^ (bits >> 63 & 0x7FFFFFFFFFFFFFFF);
}
TINYKG_INLINE float from_order_key(int32_t key) {
  return std::bit_cast<float>(key ^ (key >> 31 & 0x7FFFFFFF));
}
TINYKG_INLINE double from_order_key(int64_t key) {
  return std::bit_cast<double>(key ^ (key >> 63 & 0x7FFFFFFFFFFFFFFF));
}

template <typename C>
TINYKG_INLINE Metadata<C> measure(const C* x, int64_t count, int bits) {
  using Key = decltype(order_key(C{}));
  Key low = std::numeric_limits<Key>::max();
  Key high = std::numeric_limits<Key>::min();
  for (int64_t i = 0; i < count; ++i) {
    const Key key = order_key(x[i]);
    low = key < low ? key : low;
    high = key > high ? key : high;
  }
  const Key infinity = order_key(std::numeric_limits<C>::infinity());
  const bool finite = high < infinity && low > order_key(-std::numeric_limits<C>::infinity());
  return make_metadata<C>(from_order_key(low), from_order_key(high), finite, bits);
}

template <typename T>
struct QuantizeJob {
  using C = Compute<T>;
  Matrix<T> x;
  int64_t num_columns, first_row;
  Stream stream;
  int bits;
  bool stochastic;
  uint8_t* codes;
  C* minimum;
  Step<T>* step;

  TINYKG_INLINE void rows(int64_t begin, int64_t end) const {
    const int64_t num_groups = (num_columns + kGroupColumns - 1) / kGroupColumns;
    const int64_t row_blocks = (num_columns + kBlockColumns - 1) / kBlockColumns;
    const int64_t row_bytes = packed_bytes(num_columns, bits);
    Noise noise(stream);
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t group = 0; group < num_groups; ++group) {
        const int64_t column = group * kGroupColumns;
        const int64_t count = std::min(kGroupColumns, num_columns - column);
        C buffer[kGroupColumns];
        const C* values = x.load(row, column, count, buffer);
        const Metadata<C> metadata = measure(values, count, bits);
        minimum[row * num_groups + group] = metadata.minimum;
        step[row * num_groups + group] = static_cast<Step<T>>(metadata.step);
        const int64_t block = (first_row + row) * row_blocks + column / kBlockColumns;
        encode(values, count, metadata, block, noise, codes + row * row_bytes + column * bits / 8);
      }
    }
  }

  TINYKG_INLINE void encode(const C* values, int64_t count, const Metadata<C>& metadata,
                            int64_t block, Noise& noise, uint8_t* packed) const {
    if (!(metadata.step < C(0) || metadata.step > C(0))) {  // constant, or NaN
      std::memset(packed, 0, packed_bytes(count, bits));
      return;
    }
    const Group<C> group(metadata);
    const int32_t levels = (1 << bits) - 1;
    alignas(64) uint8_t code[kGroupColumns + kBlockColumns];
    if (stochastic) {
      const uint16_t* random = noise.at(block, (count + kBlockColumns - 1) / kBlockColumns);
      for (int64_t i = 0; i < count; ++i)
        code[i] = round_stochastic(group.position(values[i]), random[i], levels);
    } else {
      for (int64_t i = 0; i < count; ++i)
        code[i] = round_nearest(group.position(values[i]), levels);
    }
    std::memset(code + count, 0, kBlockColumns);
    pack(code, count, bits, packed);
  }
};

template <typename T>
struct DequantizeJob {
  using C = Compute<T>;
  const uint8_t* codes;
  const C* minimum;
  const Step<T>* step;
  int64_t num_columns;
  int bits;
  T* out;

  TINYKG_INLINE void rows(int64_t begin, int64_t end) const {
    const int64_t num_groups = (num_columns + kGroupColumns - 1) / kGroupColumns;
    const int64_t row_bytes = packed_bytes(num_columns, bits);
    const C largest = static_cast<C>(std::numeric_limits<T>::max());
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t index = 0; index < num_groups; ++index) {
        const int64_t column = index * kGroupColumns;
        const int64_t count = std::min(kGroupColumns, num_columns - column);
        const int64_t at = row * num_groups + index;
        const Group<C> group(Metadata<C>{minimum[at], static_cast<C>(step[at])});
        T* target = out + row * num_columns + column;
        const auto decode = [=](int64_t i, uint32_t code) {
          target[i] =
              static_cast<T>(clamp_finite(group.value(static_cast<int32_t>(code)), largest));
        };
        const uint8_t* packed = codes + row * row_bytes + column * bits / 8;
        switch (bits) {
          case 1:
            for_each_code<1>(packed, count, decode);
            break;
          case 2:
            for_each_code<2>(packed, count, decode);
            break;
          case 4:
            for_each_code<4>(packed, count, decode);
            break;
          default:
            for_each_code<8>(packed, count, decode);
            break;
        }
      }
    }
  }
};

}  // namespace

std::tuple<Tensor, Tensor, Tensor> quantize(const Tensor& x, const Tensor& stream, int64_t bits,
                                            bool stochastic, int64_t first_row) {
  STD_TORCH_CHECK(x.dim() == 2, "x must be a matrix");
  STD_TORCH_CHECK(bits == 1 || bits == 2 || bits == 4 || bits == 8, "bits must be 1, 2, 4 or 8");
  const int64_t num_rows = x.size(0), num_columns = x.size(1);
  const bool is_double = x.scalar_type() == ScalarType::Double;
  const std::vector<int64_t> packed{num_rows, packed_bytes(num_columns, static_cast<int>(bits))};
  const std::vector<int64_t> groups{num_rows, (num_columns + kGroupColumns - 1) / kGroupColumns};
  Tensor codes = torch::stable::new_empty(x, packed, ScalarType::Byte);
  Tensor minimum =
      torch::stable::new_empty(x, groups, is_double ? ScalarType::Double : ScalarType::Float);
  Tensor step =
      torch::stable::new_empty(x, groups, is_double ? ScalarType::Double : ScalarType::BFloat16);
  dispatch_float(x.scalar_type(), [&](auto example) {
    using T = decltype(example);
    const QuantizeJob<T> job{Matrix<T>(x),
                             num_columns,
                             first_row,
                             read_stream(stream),
                             static_cast<int>(bits),
                             stochastic,
                             codes.mutable_data_ptr<uint8_t>(),
                             static_cast<Compute<T>*>(minimum.mutable_data_ptr()),
                             static_cast<Step<T>*>(step.mutable_data_ptr())};
    run_parallel(job, num_rows, num_columns);
  });
  return {codes, minimum, step};
}

Tensor dequantize(const Tensor& codes, const Tensor& minimum, const Tensor& step,
                  int64_t num_columns, int64_t bits, ScalarType dtype) {
  STD_TORCH_CHECK(bits == 1 || bits == 2 || bits == 4 || bits == 8, "bits must be 1, 2, 4 or 8");
  const int64_t num_rows = codes.size(0);
  const int64_t num_groups = (num_columns + kGroupColumns - 1) / kGroupColumns;
  const bool is_double = dtype == ScalarType::Double;
  STD_TORCH_CHECK(codes.size(1) == packed_bytes(num_columns, static_cast<int>(bits)) &&
                      minimum.numel() == num_rows * num_groups &&
                      step.numel() == num_rows * num_groups,
                  "codes, minimum and step must fit num_columns and bits");
  STD_TORCH_CHECK(is_double == (minimum.scalar_type() == ScalarType::Double) &&
                      is_double == (step.scalar_type() == ScalarType::Double),
                  "metadata must be double if and only if dtype is");
  const Tensor packed = as_contiguous(codes), low = as_contiguous(minimum),
               steps = as_contiguous(step);
  Tensor out = torch::stable::new_empty(codes, std::vector<int64_t>{num_rows, num_columns}, dtype);
  dispatch_float(dtype, [&](auto example) {
    using T = decltype(example);
    const DequantizeJob<T> job{packed.const_data_ptr<uint8_t>(),
                               static_cast<const Compute<T>*>(low.const_data_ptr()),
                               static_cast<const Step<T>*>(steps.const_data_ptr()),
                               num_columns,
                               static_cast<int>(bits),
                               static_cast<T*>(out.mutable_data_ptr())};
    run_parallel(job, num_rows, num_columns);
  });
  return out;
}

}  // namespace tinykg

STABLE_TORCH_LIBRARY_IMPL(recbole_tinykg, CPU, m) {
  m.impl("quantize", TORCH_BOX(&tinykg::quantize));
  m.impl("dequantize", TORCH_BOX(&tinykg::dequantize));
}

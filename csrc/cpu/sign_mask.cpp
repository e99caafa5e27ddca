// sign_mask and leaky_relu_backward on the CPU: one bit per element says whether it was positive.
#include <vector>

#include "pack.h"
#include "rows.h"

namespace tinykg {
namespace {

template <typename T>
struct SignMaskJob {
  using C = Compute<T>;
  Matrix<T> x;
  int64_t num_columns;
  uint8_t* mask;

  TINYKG_INLINE void rows(int64_t begin, int64_t end) const {
    const int64_t row_bytes = packed_bytes(num_columns, 1);
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t column = 0; column < num_columns; column += kGroupColumns) {
        const int64_t count = std::min(kGroupColumns, num_columns - column);
        C buffer[kGroupColumns];
        alignas(64) uint8_t positive[kGroupColumns + kBlockColumns];
        const C* values = x.load(row, column, count, buffer);
        for (int64_t i = 0; i < count; ++i) positive[i] = values[i] > C(0);
        std::memset(positive + count, 0, kBlockColumns);
        pack(positive, count, 1, mask + row * row_bytes + column / 8);
      }
    }
  }
};

template <typename T>
struct LeakyReluBackwardJob {
  using C = Compute<T>;
  Matrix<T> grad;
  const uint8_t* mask;
  int64_t num_columns;
  C negative_slope;
  T* out;

  TINYKG_INLINE void rows(int64_t begin, int64_t end) const {
    const int64_t row_bytes = packed_bytes(num_columns, 1);
    // The factor is chosen by masking bits: a branch on signs would be mispredicted half of the
    // time.
    using Bits = std::conditional_t<sizeof(C) == 4, uint32_t, uint64_t>;
    const Bits slope = std::bit_cast<Bits>(negative_slope);
    const Bits difference = slope ^ std::bit_cast<Bits>(C(1));
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t column = 0; column < num_columns; column += kGroupColumns) {
        const int64_t count = std::min(kGroupColumns, num_columns - column);
        C buffer[kGroupColumns];
        const C* values = grad.load(row, column, count, buffer);
        T* target = out + row * num_columns + column;
        for_each_code<1>(mask + row * row_bytes + column / 8, count, [=](int64_t i, uint32_t bit) {
          const C factor = std::bit_cast<C>(slope ^ (difference & (Bits{0} - bit)));
          target[i] = static_cast<T>(values[i] * factor);
        });
      }
    }
  }
};

}  // namespace

Tensor sign_mask(const Tensor& x) {
  STD_TORCH_CHECK(x.dim() == 2, "x must be a matrix");
  const int64_t num_rows = x.size(0), num_columns = x.size(1);
  Tensor mask = torch::stable::new_empty(
      x, std::vector<int64_t>{num_rows, packed_bytes(num_columns, 1)}, ScalarType::Byte);
  dispatch_float(x.scalar_type(), [&](auto example) {
    using T = decltype(example);
    const SignMaskJob<T> job{Matrix<T>(x), num_columns, mask.mutable_data_ptr<uint8_t>()};
    run_parallel(job, num_rows, num_columns);
  });
  return mask;
}

Tensor leaky_relu_backward(const Tensor& grad, const Tensor& mask, double negative_slope) {
  STD_TORCH_CHECK(grad.dim() == 2, "grad must be a matrix");
  const int64_t num_rows = grad.size(0), num_columns = grad.size(1);
  STD_TORCH_CHECK(mask.numel() == num_rows * packed_bytes(num_columns, 1),
                  "mask must have one bit per element of grad");
  const Tensor packed = as_contiguous(mask);
  Tensor out = torch::stable::new_empty(grad, std::vector<int64_t>{num_rows, num_columns});
  dispatch_float(grad.scalar_type(), [&](auto example) {
    using T = decltype(example);
    const LeakyReluBackwardJob<T> job{Matrix<T>(grad), packed.const_data_ptr<uint8_t>(),
                                      num_columns, static_cast<Compute<T>>(negative_slope),
                                      static_cast<T*>(out.mutable_data_ptr())};
    run_parallel(job, num_rows, num_columns);
  });
  return out;
}

}  // namespace tinykg

STABLE_TORCH_LIBRARY_IMPL(recbole_tinykg, CPU, m) {
  m.impl("sign_mask", TORCH_BOX(&tinykg::sign_mask));
  m.impl("leaky_relu_backward", TORCH_BOX(&tinykg::leaky_relu_backward));
}

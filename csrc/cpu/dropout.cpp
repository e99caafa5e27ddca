// dropout on the CPU: the mask is drawn from the stream, in forward and again in backward, and
// never stored.
#include <cmath>
#include <vector>

#include "rows.h"

namespace tinykg {
namespace {

template <typename T>
struct DropoutJob {
  using C = Compute<T>;
  Matrix<T> x;
  int64_t num_columns, first_row;
  Stream stream;
  int32_t num_dropped;  // of the 2**16 values of the random bits
  C keep_scale;
  T* out;

  TINYKG_INLINE void rows(int64_t begin, int64_t end) const {
    const int64_t row_blocks = (num_columns + kBlockColumns - 1) / kBlockColumns;
    const int32_t first_kept = num_dropped;
    const C scale = keep_scale;
    Noise noise(stream);
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t column = 0; column < num_columns; column += kGroupColumns) {
        const int64_t count = std::min(kGroupColumns, num_columns - column);
        C buffer[kGroupColumns];
        const C* values = x.load(row, column, count, buffer);
        const int64_t block = (first_row + row) * row_blocks + column / kBlockColumns;
        const uint16_t* random = noise.at(block, (count + kBlockColumns - 1) / kBlockColumns);
        T* target = out + row * num_columns + column;
        for (int64_t i = 0; i < count; ++i)
          target[i] = static_cast<T>(values[i] * (random[i] >= first_kept ? scale : C(0)));
      }
    }
  }
};

}  // namespace

Tensor dropout(const Tensor& x, const Tensor& stream, double probability, int64_t first_row) {
  STD_TORCH_CHECK(x.dim() == 2, "x must be a matrix");
  STD_TORCH_CHECK(probability >= 0 && probability <= 1, "probability must be in [0, 1]");
  const int64_t num_rows = x.size(0), num_columns = x.size(1);
  const double num_dropped = std::nearbyint(probability * 65536);
  const double keep_scale = num_dropped < 65536 ? 65536 / (65536 - num_dropped) : 0;
  Tensor out = torch::stable::new_empty(x, std::vector<int64_t>{num_rows, num_columns});
  dispatch_float(x.scalar_type(), [&](auto example) {
    using T = decltype(example);
    const DropoutJob<T> job{Matrix<T>(x),
                            num_columns,
                            first_row,
                            read_stream(stream),
                            static_cast<int32_t>(num_dropped),
                            static_cast<Compute<T>>(keep_scale),
                            static_cast<T*>(out.mutable_data_ptr())};
    run_parallel(job, num_rows, num_columns);
  });
  return out;
}

}  // namespace tinykg

STABLE_TORCH_LIBRARY_IMPL(recbole_tinykg, CPU, m) {
  m.impl("dropout", TORCH_BOX(&tinykg::dropout));
}

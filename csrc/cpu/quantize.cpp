// quantize on the CPU: codes, minimum and step of every group, in one pass over x.
//
// Bytes stored per group: count * bits / 8 of codes and 6 of metadata (16 for double).
#include <limits>
#include <tuple>

#include "rows.h"

namespace tinykg {

template <typename T>
struct QuantizeJob {
  Matrix<const T> x;
  int64_t num_columns, num_groups, first_row;
  Stream stream;
  int bits;
  bool stochastic;
  uint8_t* codes;
  Compute<T>* minimum;
  Step<T>* step;
};

}  // namespace tinykg

#define TINYKG_ROWS "cpu/quantize_rows.h"
#include "simd/each_target.h"

namespace tinykg {

std::tuple<Tensor, Tensor, Tensor> quantize(const Tensor& x, const Tensor& stream, int64_t bits,
                                            bool stochastic, int64_t first_row) {
  check_matrix("x", x);
  check_bits(bits);
  const int64_t num_rows = x.size(0), num_columns = x.size(1), num_groups = groups_of(num_columns);
  Tensor codes = new_matrix(x, packed_bytes(num_columns, static_cast<int>(bits)), ScalarType::Byte);
  Tensor minimum = new_matrix(x, num_groups, compute_type(x.scalar_type()));
  Tensor step = new_matrix(x, num_groups, step_type(x.scalar_type()));
  dispatch_float(x.scalar_type(), [&](auto example) {
    using T = decltype(example);
    const QuantizeJob<T> job{read_matrix<T>(x),
                             num_columns,
                             num_groups,
                             first_row,
                             read_stream(stream),
                             static_cast<int>(bits),
                             stochastic,
                             codes.mutable_data_ptr<uint8_t>(),
                             static_cast<Compute<T>*>(minimum.mutable_data_ptr()),
                             static_cast<Step<T>*>(step.mutable_data_ptr())};
    run_parallel(num_rows, num_columns, [&](int64_t begin, int64_t end) {
      TINYKG_FOR_THIS_CPU(quantize_rows(job, begin, end));
    });
  });
  return {codes, minimum, step};
}

}  // namespace tinykg

STABLE_TORCH_LIBRARY_IMPL(recbole_tinykg, CPU, m) {
  m.impl("quantize", TORCH_BOX(&tinykg::quantize));
}

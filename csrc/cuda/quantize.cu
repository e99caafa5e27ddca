// quantize on a GPU; the kernel is in quantize.cuh.
#include <tuple>

#include "arguments.h"
#include "cuda/launch.h"
#include "quantize.cuh"

namespace tinykg {

std::tuple<Tensor, Tensor, Tensor> quantize(const Tensor& x, const Tensor& stream, int64_t bits,
                                            bool stochastic, int64_t first_row) {
  check_matrix("x", x);
  check_bits(bits);
  const int64_t num_rows = x.size(0), num_columns = x.size(1), num_groups = groups_of(num_columns);
  const Noise noise = read_noise(stream, x, first_row);
  Tensor codes = new_matrix(x, packed_bytes(num_columns, static_cast<int>(bits)), ScalarType::Byte);
  Tensor minimum = new_matrix(x, num_groups, compute_type(x.scalar_type()));
  Tensor step = new_matrix(x, num_groups, step_type(x.scalar_type()));
  dispatch_float(x.scalar_type(), [&](auto example) {
    dispatch_bits(bits, [&](auto kBits) {
      using T = decltype(example);
      launch(x, Work(num_rows, num_columns),
             QuantizeJob<T, kBits>{read_matrix<T>(x),
                                   noise,
                                   stochastic,
                                   num_groups,
                                   {codes.mutable_data_ptr<uint8_t>(), num_columns},
                                   static_cast<Compute<T>*>(minimum.mutable_data_ptr()),
                                   static_cast<Step<T>*>(step.mutable_data_ptr())});
    });
  });
  return {codes, minimum, step};
}

}  // namespace tinykg

STABLE_TORCH_LIBRARY_IMPL(recbole_tinykg, CUDA, m) {
  m.impl("quantize", TORCH_BOX(&tinykg::quantize));
}

// quantize on a GPU; the kernel is in quantize.cuh.
#include <tuple>

#include "arguments.h"
#include "cuda/launch.h"
#include "quantize_dense.cuh"

namespace tinykg {

// Starts the kernel for dense rows where it fits, and otherwise the one for any matrix.
template <typename T, int kBits>
void start(const Tensor& x, const QuantizeJob<T, kBits>& job) {
  if constexpr (!std::is_same_v<T, double>) {
    using Dense = DenseQuantizeJob<T, kBits>;
    const Work work(x.size(0), x.size(1), kOctetsPerLane);
    if (job.stochastic && Dense::fits(work, job.x, job.noise, job.codes))
      return launch(x, work, Dense(job));
  }
  launch(x, Work(x.size(0), x.size(1)), job);
}

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
      start(x, QuantizeJob<decltype(example), kBits>{
                   read_matrix<decltype(example)>(x),
                   noise,
                   stochastic,
                   num_groups,
                   {codes.mutable_data_ptr<uint8_t>(), num_columns},
                   static_cast<Compute<decltype(example)>*>(minimum.mutable_data_ptr()),
                   static_cast<Step<decltype(example)>*>(step.mutable_data_ptr())});
    });
  });
  return {codes, minimum, step};
}

}  // namespace tinykg

STABLE_TORCH_LIBRARY_IMPL(recbole_tinykg, CUDA, m) {
  m.impl("quantize", TORCH_BOX(&tinykg::quantize));
}

// dequantize, dequantize_ and dequantize_add_ on a GPU; the kernel is in dequantize.cuh.
#include <optional>

#include "arguments.h"
#include "cuda/launch.h"
#include "dequantize_dense.cuh"

namespace tinykg {
namespace {

struct Quantized {
  const Tensor codes, minimum, step;
};

// The codes and metadata of num_rows rows like those of out, checked and contiguous.
Quantized read_quantized(const Tensor& out, const Tensor& codes, const Tensor& minimum,
                         const Tensor& step, int64_t num_rows, int64_t bits) {
  check_quantized(codes, minimum, step, out, num_rows, bits);
  check_device("codes", codes, out);
  check_device("minimum", minimum, out);
  check_device("step", step, out);
  return {as_contiguous(codes), as_contiguous(minimum), as_contiguous(step)};
}

// Starts the kernel for dense rows where it fits, and otherwise the one for any matrix.
template <typename T, int kBits, bool kAdd>
void start(const Tensor& on, const Work& any_rows, const DequantizeJob<T, kBits, kAdd>& job) {
  if constexpr (!std::is_same_v<T, double>) {
    using Dense = DenseDequantizeJob<T, kBits, kAdd>;
    const Work work(any_rows.num_rows, any_rows.num_columns, Dense::kOctets);
    if (Dense::fits(work, job)) return launch(on, work, Dense(job));
  }
  launch(on, any_rows, job);
}

template <bool kAdd>
void run(const Tensor& out, const Quantized& x, const std::optional<Tensor>& index, int64_t bits) {
  const int64_t num_rows = x.codes.size(0), num_columns = out.size(1);
  dispatch_float(out.scalar_type(), [&](auto example) {
    dispatch_bits(bits, [&](auto kBits) {
      using T = decltype(example);
      start(
          out, Work(num_rows, num_columns),
          DequantizeJob<T, kBits, kAdd>{{x.codes.const_data_ptr<uint8_t>(), num_columns},
                                        static_cast<const Compute<T>*>(x.minimum.const_data_ptr()),
                                        static_cast<const Step<T>*>(x.step.const_data_ptr()),
                                        groups_of(num_columns),
                                        write_matrix<T>(out),
                                        out.size(0),
                                        index ? index->const_data_ptr<int64_t>() : nullptr,
                                        index ? index->stride(0) : 0});
    });
  });
}

}  // namespace

Tensor dequantize(const Tensor& codes, const Tensor& minimum, const Tensor& step,
                  int64_t num_columns, int64_t bits, ScalarType dtype) {
  check_matrix("codes", codes);
  Tensor out = new_matrix(codes, num_columns, dtype);
  run<false>(out, read_quantized(out, codes, minimum, step, out.size(0), bits), std::nullopt, bits);
  return out;
}

void dequantize_(Tensor out, const Tensor& codes, const Tensor& minimum, const Tensor& step,
                 int64_t bits) {
  run<false>(out, read_quantized(out, codes, minimum, step, out.size(0), bits), std::nullopt, bits);
}

void dequantize_add_(Tensor out, const Tensor& codes, const Tensor& minimum, const Tensor& step,
                     std::optional<Tensor> index, int64_t bits) {
  if (index) {
    check_index(*index);
    check_device("index", *index, out);
  }
  const int64_t num_rows = index ? index->size(0) : out.size(0);
  run<true>(out, read_quantized(out, codes, minimum, step, num_rows, bits), index, bits);
}

}  // namespace tinykg

STABLE_TORCH_LIBRARY_IMPL(recbole_tinykg, CUDA, m) {
  m.impl("dequantize", TORCH_BOX(&tinykg::dequantize));
  m.impl("dequantize_", TORCH_BOX(&tinykg::dequantize_));
  m.impl("dequantize_add_", TORCH_BOX(&tinykg::dequantize_add_));
}

// dequantize, dequantize_ and dequantize_add_ on a GPU; the kernel is in dequantize.cuh.
#include <optional>

#include "arguments.h"
#include "cuda/launch.h"
#include "dequantize.cuh"

namespace tinykg {
namespace {

struct Kept {
  const Tensor codes, minimum, step;
};

// What quantize gave for num_rows rows like those of out.
Kept check_kept(const Tensor& out, const Tensor& codes, const Tensor& minimum, const Tensor& step,
                int64_t num_rows, int64_t bits) {
  STD_TORCH_CHECK(out.dim() == 2 && codes.dim() == 2, "out and codes must be matrices");
  STD_TORCH_CHECK(codes.size(0) == num_rows, "codes must have a row per row of out, or of index");
  const int64_t num_columns = out.size(1);
  STD_TORCH_CHECK(codes.size(1) == packed_bytes(num_columns, static_cast<int>(bits)) &&
                      minimum.numel() == num_rows * groups_of(num_columns) &&
                      step.numel() == num_rows * groups_of(num_columns),
                  "codes, minimum and step must fit the number of columns and bits");
  const bool is_double = out.scalar_type() == ScalarType::Double;
  STD_TORCH_CHECK(
      codes.scalar_type() == ScalarType::Byte &&
          minimum.scalar_type() == (is_double ? ScalarType::Double : ScalarType::Float) &&
          step.scalar_type() == (is_double ? ScalarType::Double : ScalarType::BFloat16),
      "codes must be uint8, and metadata double if and only if the result is");
  check_device("codes", codes, out);
  check_device("minimum", minimum, out);
  check_device("step", step, out);
  return {as_contiguous(codes), as_contiguous(minimum), as_contiguous(step)};
}

template <bool kAdd>
void run(const Tensor& out, const Kept& kept, const std::optional<Tensor>& index, int64_t bits) {
  const int64_t num_rows = kept.codes.size(0), num_columns = out.size(1);
  dispatch_float(out.scalar_type(), [&](auto example) {
    dispatch_bits(bits, [&](auto kBits) {
      using T = decltype(example);
      launch(out, Work(num_rows, num_columns),
             DequantizeJob<T, kBits, kAdd>{
                 {kept.codes.const_data_ptr<uint8_t>(), num_columns},
                 static_cast<const Compute<T>*>(kept.minimum.const_data_ptr()),
                 static_cast<const Step<T>*>(kept.step.const_data_ptr()),
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
  STD_TORCH_CHECK(codes.dim() == 2, "codes must be a matrix");
  Tensor out = new_matrix(codes, num_columns, dtype);
  run<false>(out, check_kept(out, codes, minimum, step, out.size(0), bits), std::nullopt, bits);
  return out;
}

void dequantize_(Tensor out, const Tensor& codes, const Tensor& minimum, const Tensor& step,
                 int64_t bits) {
  run<false>(out, check_kept(out, codes, minimum, step, out.size(0), bits), std::nullopt, bits);
}

void dequantize_add_(Tensor out, const Tensor& codes, const Tensor& minimum, const Tensor& step,
                     std::optional<Tensor> index, int64_t bits) {
  if (index) {
    STD_TORCH_CHECK(index->dim() == 1 && index->scalar_type() == ScalarType::Long,
                    "index must be int64, of shape (N,)");
    check_device("index", *index, out);
  }
  const int64_t num_rows = index ? index->size(0) : out.size(0);
  run<true>(out, check_kept(out, codes, minimum, step, num_rows, bits), index, bits);
}

}  // namespace tinykg

STABLE_TORCH_LIBRARY_IMPL(recbole_tinykg, CUDA, m) {
  m.impl("dequantize", TORCH_BOX(&tinykg::dequantize));
  m.impl("dequantize_", TORCH_BOX(&tinykg::dequantize_));
  m.impl("dequantize_add_", TORCH_BOX(&tinykg::dequantize_add_));
}

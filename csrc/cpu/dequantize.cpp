// dequantize, dequantize_ and dequantize_add_ on the CPU: per element bits / 8 bytes are read and a
// number is written, or added to the one there.
#include <limits>
#include <optional>

#include "rows.h"

namespace tinykg {

template <typename T>
struct DequantizeJob {
  const uint8_t* codes;
  const Compute<T>* minimum;
  const Step<T>* step;
  int64_t num_columns, num_groups;
  int bits;
  Matrix<T> out;
  const int64_t* index;  // rows of out; null: row by row
  bool past_cache;       // out is large, dense and aligned: too large to be in a cache later
};

}  // namespace tinykg

#define TINYKG_ROWS "cpu/dequantize_rows.h"
#include "simd/each_target.h"

namespace tinykg {
namespace {

// More than the last-level cache of most machines.
constexpr int64_t kLargeBytes = 32 << 20;

bool skips_cache(const Tensor& out) {
  const auto address = reinterpret_cast<uintptr_t>(out.const_data_ptr());
  return out.scalar_type() == ScalarType::Float && out.is_contiguous() && address % 64 == 0 &&
         out.size(1) % 16 == 0 && out.numel() * 4 >= kLargeBytes;
}

template <bool kAdd>
void run_dequantize(const Tensor& out, const Tensor& codes, const Tensor& minimum,
                    const Tensor& step, const int64_t* index, int64_t bits) {
  const int64_t num_rows = codes.size(0), num_columns = out.size(1);
  const Tensor packed = as_contiguous(codes), low = as_contiguous(minimum),
               steps = as_contiguous(step);
  dispatch_float(out.scalar_type(), [&](auto example) {
    using T = decltype(example);
    const DequantizeJob<T> job{packed.const_data_ptr<uint8_t>(),
                               static_cast<const Compute<T>*>(low.const_data_ptr()),
                               static_cast<const Step<T>*>(steps.const_data_ptr()),
                               num_columns,
                               groups_of(num_columns),
                               static_cast<int>(bits),
                               write_matrix<T>(out),
                               index,
                               !kAdd && skips_cache(out)};
    run_parallel(num_rows, num_columns, [&](int64_t begin, int64_t end) {
      TINYKG_FOR_THIS_CPU(dequantize_rows<T, kAdd>(job, begin, end));
    });
  });
}

}  // namespace

Tensor dequantize(const Tensor& codes, const Tensor& minimum, const Tensor& step,
                  int64_t num_columns, int64_t bits, ScalarType dtype) {
  check_matrix("codes", codes);
  Tensor out = new_matrix(codes, num_columns, dtype);
  check_quantized(codes, minimum, step, out, out.size(0), bits);
  run_dequantize<false>(out, codes, minimum, step, nullptr, bits);
  return out;
}

void dequantize_(Tensor out, const Tensor& codes, const Tensor& minimum, const Tensor& step,
                 int64_t bits) {
  check_quantized(codes, minimum, step, out, out.size(0), bits);
  run_dequantize<false>(out, codes, minimum, step, nullptr, bits);
}

void dequantize_add_(Tensor out, const Tensor& codes, const Tensor& minimum, const Tensor& step,
                     std::optional<Tensor> index, int64_t bits) {
  if (index) check_index(*index);
  const int64_t num_rows = index ? index->size(0) : out.size(0);
  check_quantized(codes, minimum, step, out, num_rows, bits);
  if (!index) return run_dequantize<true>(out, codes, minimum, step, nullptr, bits);
  const Tensor rows = as_contiguous(*index);
  const int64_t* first = rows.const_data_ptr<int64_t>();
  const bool inside = std::all_of(first, first + num_rows,
                                  [&](int64_t row) { return row >= 0 && row < out.size(0); });
  STD_TORCH_CHECK(inside, "index must hold rows of out, which has ", out.size(0));
  run_dequantize<true>(out, codes, minimum, step, first, bits);
}

}  // namespace tinykg

STABLE_TORCH_LIBRARY_IMPL(recbole_tinykg, CPU, m) {
  m.impl("dequantize", TORCH_BOX(&tinykg::dequantize));
  m.impl("dequantize_", TORCH_BOX(&tinykg::dequantize_));
  m.impl("dequantize_add_", TORCH_BOX(&tinykg::dequantize_add_));
}

// Checks of arguments, the same on every device. The functions of `ops` have checked everything;
// this catches what would corrupt memory when an operator is called directly.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>

#include "quantize_core.h"
#include "tensors.h"

namespace tinykg {

inline void check_matrix(const char* name, const Tensor& x) {
  STD_TORCH_CHECK(x.dim() == 2, name, " must be a matrix");
}

inline void check_bits(int64_t bits) {
  STD_TORCH_CHECK(bits == 1 || bits == 2 || bits == 4 || bits == 8, "bits must be 1, 2, 4 or 8");
}

inline void check_stream(const Tensor& stream) {
  STD_TORCH_CHECK(stream.dim() == 1 && stream.size(0) == 2, "stream must have shape (2,)");
  STD_TORCH_CHECK(stream.scalar_type() == ScalarType::Long, "stream must be int64");
}

inline void check_probability(double probability) {
  STD_TORCH_CHECK(probability >= 0 && probability <= 1, "probability must be in [0, 1]");
}

inline void check_mask(const Tensor& mask, const Tensor& grad) {
  check_matrix("grad", grad);
  STD_TORCH_CHECK(mask.scalar_type() == ScalarType::Byte &&
                      mask.numel() == grad.size(0) * packed_bytes(grad.size(1), 1),
                  "mask must be uint8 and have one bit per element of grad");
}

inline void check_addend(const Tensor& addend, const Tensor& x) {
  STD_TORCH_CHECK(addend.dim() == 2 && addend.size(0) == x.size(0) && addend.size(1) == x.size(1) &&
                      addend.scalar_type() == x.scalar_type(),
                  "addend must have the shape and dtype of x");
}

inline void check_index(const Tensor& index) {
  STD_TORCH_CHECK(index.dim() == 1 && index.scalar_type() == ScalarType::Long,
                  "index must be int64, of shape (N,)");
}

// Checks that these are what quantize returns for num_rows rows with out's columns and dtype.
inline void check_quantized(const Tensor& codes, const Tensor& minimum, const Tensor& step,
                            const Tensor& out, int64_t num_rows, int64_t bits) {
  check_bits(bits);
  STD_TORCH_CHECK(out.dim() == 2 && codes.dim() == 2, "out and codes must be matrices");
  STD_TORCH_CHECK(codes.size(0) == num_rows, "codes must have a row per row of out, or of index");
  const int64_t num_columns = out.size(1);
  STD_TORCH_CHECK(codes.size(1) == packed_bytes(num_columns, static_cast<int>(bits)) &&
                      minimum.numel() == num_rows * groups_of(num_columns) &&
                      step.numel() == num_rows * groups_of(num_columns),
                  "codes, minimum and step must fit the number of columns and bits");
  STD_TORCH_CHECK(codes.scalar_type() == ScalarType::Byte &&
                      minimum.scalar_type() == compute_type(out.scalar_type()) &&
                      step.scalar_type() == step_type(out.scalar_type()),
                  "codes must be uint8, and metadata double if and only if the result is");
}

// Checks a CSR matrix and its right-hand side.
inline void check_csr(const Tensor& crow, const Tensor& col, const Tensor& values,
                      const Tensor& dense) {
  STD_TORCH_CHECK(crow.dim() == 1 && crow.size(0) > 0, "crow must have shape (M + 1,)");
  STD_TORCH_CHECK(dense.dim() == 2 && col.dim() == 1 && values.dim() == 1,
                  "dense must be a matrix");
  STD_TORCH_CHECK(col.scalar_type() == crow.scalar_type() && col.size(0) == values.size(0) &&
                      values.scalar_type() == dense.scalar_type(),
                  "col must have crow's type and values' length, and values dense's type");
  STD_TORCH_CHECK(crow.scalar_type() == ScalarType::Int || crow.scalar_type() == ScalarType::Long,
                  "crow must be int32 or int64");
}

inline void check_product(const Tensor& crow, const Tensor& col, const Tensor& values,
                          const Tensor& dense, const std::optional<Tensor>& rows,
                          const std::optional<Tensor>& places) {
  check_csr(crow, col, values, dense);
  STD_TORCH_CHECK(!rows || (rows->dim() == 1 && rows->scalar_type() == ScalarType::Long),
                  "rows must be a list of int64");
  STD_TORCH_CHECK(!places || (places->dim() == 1 && places->scalar_type() == ScalarType::Int),
                  "places must be a list of int32");
}

// Checks what a product is added to.
inline void check_out(const Tensor& out, const Tensor& dense, int64_t num_rows) {
  STD_TORCH_CHECK(out.scalar_type() == dense.scalar_type() && out.dim() == 2 &&
                      out.size(0) == num_rows && out.size(1) == dense.size(1),
                  "out must have dense's type and the shape of the product");
}

inline void check_product_backward(const Tensor& out, const Tensor& crow, const Tensor& col,
                                   const Tensor& values, const Tensor& dense, const Tensor& grad) {
  check_csr(crow, col, values, dense);
  const ScalarType dtype = dense.scalar_type();
  STD_TORCH_CHECK(out.dim() == 2 && out.size(0) == dense.size(0) && out.size(1) == dense.size(1) &&
                      out.scalar_type() == dtype,
                  "out must have dense's shape and type");
  STD_TORCH_CHECK(grad.dim() == 2 && grad.size(0) == crow.size(0) - 1 &&
                      grad.size(1) == dense.size(1) && grad.scalar_type() == dtype,
                  "grad must have a row for each of crow's, and dense's columns and type");
}

inline void check_normalize(const Tensor& grad, const Tensor& x, const Tensor& shrink) {
  STD_TORCH_CHECK(grad.dim() == 2 && x.dim() == 2 && grad.size(0) == x.size(0) &&
                      grad.size(1) == x.size(1) && shrink.dim() == 1 && shrink.size(0) == x.size(0),
                  "grad must have the shape of x, and shrink a number per row");
  STD_TORCH_CHECK(grad.scalar_type() == x.scalar_type() && shrink.scalar_type() == x.scalar_type(),
                  "grad and shrink must have the dtype of x");
}

}  // namespace tinykg

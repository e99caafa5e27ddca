// Rows of the activation operators, for one instruction set (each_target.h): sixteen elements and
// their mask bits at a time; the noise of dropout is drawn again wherever it is needed.

#include "simd/lanes.h"

template <typename T>
void sign_mask_rows(const ActivationJob<T>& job, int64_t begin, int64_t end) {
  const int64_t count = job.num_columns, row_bytes = packed_bytes(count, 1);
  for (int64_t row = begin; row < end; ++row)
    for (int64_t i = 0; i < count; i += kLanes) {
      const int64_t left = lanes_left(count, i);
      const auto x = load_row(job.x.at(row, i), job.x.column_stride, left);
      write_bits(job.mask + row * row_bytes + i / 8, left, positive_bits(x));
    }
}

template <typename T>
void leaky_relu_backward_rows(const ActivationJob<T>& job, int64_t begin, int64_t end) {
  const int64_t count = job.num_columns, row_bytes = packed_bytes(count, 1);
  const auto one = fill(Compute<T>(1)), slope = fill(job.negative_slope);
  for (int64_t row = begin; row < end; ++row)
    for (int64_t i = 0; i < count; i += kLanes) {
      const int64_t left = lanes_left(count, i);
      const auto grad = load_row(job.x.at(row, i), job.x.column_stride, left);
      const uint32_t bits = read_bits(job.mask + row * row_bytes + i / 8, left);
      store_row(job.out + row * count + i, 1, left, grad * choose(bits, one, slope));
    }
}

// The factors of dropout along a row, sixteen at a time.
template <typename T>
class Dropping {
 public:
  using C = Compute<T>;

  explicit Dropping(const ActivationJob<T>& job)
      : job_(job), noise_(job.stream), scale_(fill(job.keep_scale)), zero_(fill(C(0))) {}

  void start_row(int64_t row) { block_ = (job_.first_row + row) * blocks_of(job_.num_columns); }

  // x * factor of the elements from column i on, i a multiple of 16, in order.
  Lanes<C> drop(const Lanes<C>& x, int64_t i) {
    if (job_.num_dropped == 0) return x;
    if (i % kGroupColumns == 0) {
      const int64_t count = std::min(kGroupColumns, job_.num_columns - i);
      random_ = noise_.at(block_ + i / kBlockColumns, blocks_of(count));
    }
    const uint32_t kept = at_least(random_ + i % kGroupColumns, job_.num_dropped);
    return x * choose(kept, scale_, zero_);
  }

 private:
  const ActivationJob<T>& job_;
  Noise noise_;
  Lanes<C> scale_, zero_;
  int64_t block_ = 0;
  const uint16_t* random_ = nullptr;
};

template <typename T>
void dropout_rows(const ActivationJob<T>& job, int64_t begin, int64_t end) {
  const int64_t count = job.num_columns;
  Dropping<T> dropping(job);
  for (int64_t row = begin; row < end; ++row) {
    dropping.start_row(row);
    for (int64_t i = 0; i < count; i += kLanes) {
      const int64_t left = lanes_left(count, i);
      const auto x = load_row(job.x.at(row, i), job.x.column_stride, left);
      store_row(job.out + row * count + i, 1, left, dropping.drop(x, i));
    }
  }
}

template <typename T>
void leaky_relu_dropout_in_place_rows(const ActivationJob<T>& job, int64_t begin, int64_t end) {
  const int64_t count = job.num_columns, row_bytes = packed_bytes(count, 1);
  const auto one = fill(Compute<T>(1)), slope = fill(job.negative_slope);
  Dropping<T> dropping(job);
  for (int64_t row = begin; row < end; ++row) {
    dropping.start_row(row);
    for (int64_t i = 0; i < count; i += kLanes) {
      const int64_t left = lanes_left(count, i);
      T* target = job.target.at(row, i);
      const auto x = load_row(target, job.target.column_stride, left);
      const uint32_t bits = positive_bits(x);
      write_bits(job.mask + row * row_bytes + i / 8, left, bits);
      auto value = x * choose(bits, one, slope);
      if (job.addend.data != nullptr)
        value = value + load_row(job.addend.at(row, i), job.addend.column_stride, left);
      store_row(target, job.target.column_stride, left, dropping.drop(value, i));
    }
  }
}

template <typename T>
void leaky_relu_dropout_backward_rows(const ActivationJob<T>& job, int64_t begin, int64_t end) {
  const int64_t count = job.num_columns, row_bytes = packed_bytes(count, 1);
  const auto one = fill(Compute<T>(1)), slope = fill(job.negative_slope);
  Dropping<T> dropping(job);
  for (int64_t row = begin; row < end; ++row) {
    dropping.start_row(row);
    for (int64_t i = 0; i < count; i += kLanes) {
      const int64_t left = lanes_left(count, i);
      const auto grad = load_row(job.x.at(row, i), job.x.column_stride, left);
      const auto dropped = dropping.drop(grad, i);
      const uint32_t bits = read_bits(job.mask + row * row_bytes + i / 8, left);
      store_row(job.out + row * count + i, 1, left, dropped * choose(bits, one, slope));
      store_row(job.grad_addend + row * count + i, 1, left, dropped);
    }
  }
}

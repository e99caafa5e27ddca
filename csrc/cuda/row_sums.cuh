// Sums of multiples of rows: sum over p of value(p) * source[row(p)], which is what a sparse
// product and its backward consist of.
//
// A team of lanes shares the columns, 16 bytes each, so that a row is read in full sectors. Where
// rows are not aligned and dense, a lane has two columns, as far apart as the team has lanes, which
// is coalesced for unit strides. The terms are shared among groups of such lanes: group g takes the
// terms g, g + num_groups, ..., four at a time, so that each lane waits for four rows at once and
// not for one after the other. The groups' sums meet in an order that depends on their number only;
// so a sum has the same bits in every run.
#pragma once

#include "blocks.cuh"
#include "memory.cuh"

namespace tinykg {

constexpr int kTermsInFlight = 4;

// Columns of a lane: those of one chunk, or (not kChunks) two that are `step` apart.
template <typename T, bool kChunks>
struct Columns {
  static constexpr int kEach = kChunks ? Chunk<T>::kElements : 2;
  using Piece = std::conditional_t<kChunks, Chunk<T>, T[kEach]>;

  int64_t first;
  int step, count;

  // Of the lane among 2^lane_bits lanes that share the columns from `start` on.
  __device__ __forceinline__ Columns(int64_t start, int lane, int lane_bits, int64_t num_columns)
      : first(start + (kChunks ? lane * kEach : lane)), step(kChunks ? 1 : 1 << lane_bits) {
    const int64_t left = num_columns - first;
    const int64_t there = kChunks ? left : (left + step - 1) >> lane_bits;
    count = static_cast<int>(left <= 0 ? 0 : there < kEach ? there : kEach);
  }

  TINYKG_INLINE static T& element(Piece& piece, int k) {
    if constexpr (kChunks)
      return piece.element[k];
    else
      return piece[k];
  }

  // Called by lanes that have columns; missing elements repeat the first.
  __device__ __forceinline__ void load(const Matrix<const T>& matrix, int64_t row,
                                       Piece& piece) const {
    const T* source = matrix.at(row, first);
    if constexpr (kChunks) {
      piece = *reinterpret_cast<const Chunk<T>*>(source);
    } else {
      const int64_t distance = count < 2 ? 0 : step * matrix.column_stride;
      piece[0] = source[0];
      piece[1] = source[distance];
    }
  }

  // Writes the sums of a row of out, or adds them to it.
  __device__ __forceinline__ void store(const Matrix<T>& out, int64_t row, bool add,
                                        const Compute<T>* sum) const {
    using C = Compute<T>;
    if (count == 0) return;
    T* target = out.at(row, first);
    if (kChunks && out.by_chunks) {
      auto* whole = reinterpret_cast<Chunk<T>*>(target);
      Chunk<T> chunk;
      if (add) chunk = *whole;
#pragma unroll
      for (int k = 0; k < chunk.kElements; ++k)
        chunk.element[k] = static_cast<T>(add ? static_cast<C>(chunk.element[k]) + sum[k] : sum[k]);
      *whole = chunk;
      return;
    }
    const int64_t distance = step * out.column_stride;
#pragma unroll
    for (int k = 0; k < kEach; ++k) {
      if (k >= count) continue;
      T& element = target[k * distance];
      element = static_cast<T>(add ? static_cast<C>(element) + sum[k] : sum[k]);
    }
  }
};

// Whether rows can be read in chunks, up to their last column.
template <typename T>
bool has_whole_chunks(const Matrix<const T>& matrix, int64_t num_columns) {
  return matrix.by_chunks && num_columns % Chunk<T>::kElements == 0;
}

// Adds the terms at, at + step, ... below last, four at most; with kAll there are four.
template <bool kAll, typename Terms, typename T, bool kChunks>
__device__ __forceinline__ void add_some_terms(const Terms& terms, const Matrix<const T>& source,
                                               const Columns<T, kChunks>& columns, unsigned at,
                                               unsigned last, unsigned step, Compute<T>* sum) {
  using Own = Columns<T, kChunks>;
  typename Terms::Row row[kTermsInFlight];  // negative for none
  Compute<T> value[kTermsInFlight];
  terms.template fetch<kAll>(at, last, step, row, value);
  typename Own::Piece piece[kTermsInFlight];
#pragma unroll
  for (int u = 0; u < kTermsInFlight; ++u) {
#pragma unroll
    for (int k = 0; k < Own::kEach; ++k) Own::element(piece[u], k) = static_cast<T>(0.0f);
    if (row[u] >= 0) columns.load(source, row[u], piece[u]);
  }
#pragma unroll
  for (int u = 0; u < kTermsInFlight; ++u) {
    const Compute<T> factor = row[u] >= 0 ? value[u] : Compute<T>(0);
#pragma unroll
    for (int k = 0; k < Own::kEach; ++k)
      sum[k] = sum[k] + factor * static_cast<Compute<T>>(Own::element(piece[u], k));
  }
}

// Adds a lane's terms at, at + step, ... below last, which is below 2^31.
template <typename Terms, typename T, bool kChunks>
__device__ __forceinline__ void add_terms(const Terms& terms, const Matrix<const T>& source,
                                          const Columns<T, kChunks>& columns, unsigned at,
                                          unsigned last, unsigned step, Compute<T>* sum) {
  if (columns.count == 0) return;
  for (; at < last && last - at > (kTermsInFlight - 1) * step; at += kTermsInFlight * step)
    add_some_terms<true>(terms, source, columns, at, last, step, sum);
  if (at < last) add_some_terms<false>(terms, source, columns, at, last, step, sum);
}

// Adds up the sums of lanes whose numbers differ in the bits from `first` to `last`, exclusive: of
// the groups of a team. All lanes of a warp call it together, and all get the sum.
template <int kEach, typename C>
__device__ __forceinline__ void meet(C* sum, int first, int last) {
  for (int distance = first; distance < last; distance *= 2) {
#pragma unroll
    for (int k = 0; k < kEach; ++k) sum[k] = sum[k] + from_partner(sum[k], distance);
  }
}

// Sums of the warps of a block, for a team of up to kLanes lanes that is alone in its block.
template <typename T, int kThreads, int kLanes>
struct Partials {
  static constexpr int kWarps = kThreads / kWarpLanes, kEach = Chunk<T>::kElements;
  Compute<T> of[kWarps][kLanes * kEach];
};

// Adds up a long list of terms, [first, last), with all threads of a block, in the columns of a
// team of 2^lane_bits lanes. Its first lanes get the sum; called by all, it ends with a barrier.
template <int kThreads, int kLanes, typename Terms, typename T, bool kChunks>
__device__ __forceinline__ void add_terms_together(const Terms& terms,
                                                   const Matrix<const T>& source,
                                                   const Columns<T, kChunks>& columns,
                                                   unsigned first, unsigned last, int lane_bits,
                                                   Partials<T, kThreads, kLanes>& partials,
                                                   Compute<T>* sum) {
  constexpr int kEach = Columns<T, kChunks>::kEach;
  const unsigned group = threadIdx.x >> lane_bits;
  add_terms(terms, source, columns, first + group, last, unsigned{kThreads} >> lane_bits, sum);
  meet<kEach>(sum, 1 << lane_bits, kWarpLanes);
  const int lane = lane_of_thread();
  if (lane < 1 << lane_bits) {
#pragma unroll
    for (int k = 0; k < kEach; ++k) partials.of[warp_of_thread()][lane * kEach + k] = sum[k];
  }
  __syncthreads();
  if (threadIdx.x < 1u << lane_bits) {
    for (int warp = 1; warp < kThreads / kWarpLanes; ++warp) {
#pragma unroll
      for (int k = 0; k < kEach; ++k) sum[k] = sum[k] + partials.of[warp][lane * kEach + k];
    }
  }
  __syncthreads();
}

}  // namespace tinykg

// Reads and writes octets: 16 bytes at a time where rows are aligned and dense, otherwise
// element by element, at any strides.
//
// Eight floats are two 16-byte chunks. If each lane stored its two in turn, every store of the warp
// would fill only half of each 32-byte sector, and L2 would see twice the sectors. So neighbouring
// lanes trade: together they store first the even lane's octet, then the odd one's.
#pragma once

#include <type_traits>

#include "float_types.h"
#include "octets.cuh"

namespace tinykg {

constexpr int kChunkBytes = 16;

template <typename T>
struct alignas(kChunkBytes) Chunk {
  static constexpr int kElements = kChunkBytes / sizeof(T);
  T element[kElements];
};

template <typename T>
struct Eight {
  static constexpr int kChunks = kBlockColumns / Chunk<T>::kElements;
  Chunk<T> chunk[kChunks];

  TINYKG_INLINE T& operator[](int i) {
    return chunk[i / Chunk<T>::kElements].element[i % Chunk<T>::kElements];
  }
};

template <typename T>
__device__ __forceinline__ Chunk<T> from_partner(const Chunk<T>& chunk) {
  uint32_t words[kChunkBytes / sizeof(uint32_t)];
  std::memcpy(words, &chunk, kChunkBytes);
#pragma unroll
  for (uint32_t& word : words) word = from_partner(word, 1);
  Chunk<T> partners;
  std::memcpy(&partners, words, kChunkBytes);
  return partners;
}

// Element by element: choosing between two addresses would put both chunks into memory.
template <typename T>
__device__ __forceinline__ Chunk<T> choose(bool first, const Chunk<T>& a, const Chunk<T>& b) {
  Chunk<T> chosen;
#pragma unroll
  for (int i = 0; i < Chunk<T>::kElements; ++i)
    chosen.element[i] = first ? a.element[i] : b.element[i];
  return chosen;
}

// Elements [begin, begin + kElements) of an octet of which count exist.
template <typename T>
__device__ __forceinline__ void store_chunk(T* target, int begin, int count,
                                            const Chunk<T>& chunk) {
  if (begin + Chunk<T>::kElements <= count) {
    *reinterpret_cast<Chunk<T>*>(target + begin) = chunk;
    return;
  }
#pragma unroll
  for (int i = 0; i < Chunk<T>::kElements; ++i)
    if (begin + i < count) target[begin + i] = chunk.element[i];
}

// A matrix of any strides.
template <typename T>
struct Matrix {
  T* data;
  int64_t row_stride, column_stride;
  bool by_chunks;  // rows are dense and start on multiples of 16 bytes

  Matrix() = default;
  Matrix(T* data, int64_t row_stride, int64_t column_stride)
      : data(data),
        row_stride(row_stride),
        column_stride(column_stride),
        by_chunks(column_stride == 1 && reinterpret_cast<uintptr_t>(data) % kChunkBytes == 0 &&
                  row_stride * static_cast<int64_t>(sizeof(T)) % kChunkBytes == 0) {}

  TINYKG_INLINE T* at(int64_t row, int64_t column) const {
    return data + row * row_stride + column * column_stride;
  }

  // The count > 0 elements from source on, in the arithmetic type; missing ones repeat the first.
  __device__ __forceinline__ void load(const T* source, int count, Compute<T>* value) const {
    Eight<std::remove_const_t<T>> eight;
    if (by_chunks && count == kBlockColumns) {
      const auto* chunks = reinterpret_cast<const Chunk<std::remove_const_t<T>>*>(source);
#pragma unroll
      for (int i = 0; i < eight.kChunks; ++i) eight.chunk[i] = chunks[i];
    } else {
#pragma unroll
      for (int i = 0; i < kBlockColumns; ++i)
        eight[i] = source[(i < count ? i : 0) * column_stride];
    }
#pragma unroll
    for (int i = 0; i < kBlockColumns; ++i) value[i] = static_cast<Compute<T>>(eight[i]);
  }

  // Writes count elements from target on. All lanes of a warp call it, with a count of 0 if idle.
  __device__ __forceinline__ void store(T* target, int count, Eight<T>& eight) const {
    if (!by_chunks) {
#pragma unroll
      for (int i = 0; i < kBlockColumns; ++i)
        if (i < count) target[i * column_stride] = eight[i];
    } else if constexpr (Eight<T>::kChunks == 1) {
      store_chunk(target, 0, count, eight.chunk[0]);
    } else {
      store_in_pairs(target, count, eight);
    }
  }

 private:
  __device__ __forceinline__ static void store_in_pairs(T* target, int count,
                                                        const Eight<T>& eight) {
    const bool odd = threadIdx.x % 2;
    const auto address = reinterpret_cast<unsigned long long>(target);
    T* const partner = reinterpret_cast<T*>(from_partner(address, 1));
    const int partner_count = from_partner(count, 1);
    T* const even_target = odd ? partner : target;
    T* const odd_target = odd ? target : partner;
    const int even_count = odd ? partner_count : count, odd_count = odd ? count : partner_count;
#pragma unroll
    for (int i = 0; i < Eight<T>::kChunks; i += 2) {
      const Chunk<T>& low = eight.chunk[i];
      const Chunk<T>& high = eight.chunk[i + 1];
      const Chunk<T> taken = from_partner(choose(odd, low, high));
      const int begin = (i + odd) * Chunk<T>::kElements;
      store_chunk(even_target, begin, even_count, choose(odd, taken, low));
      store_chunk(odd_target, begin, odd_count, choose(odd, high, taken));
    }
  }
};

// Stores an octet of the arithmetic type; all lanes of a warp call it.
template <typename T>
__device__ __forceinline__ void store_values(const Matrix<T>& out, const Octet& octet,
                                             const Compute<T>* value) {
  Eight<T> eight{};
  T* target = nullptr;
  if (octet.count) {
    target = out.at(octet.row, octet.column);
#pragma unroll
    for (int i = 0; i < kBlockColumns; ++i) eight[i] = static_cast<T>(value[i]);
  }
  out.store(target, octet.count, eight);
}

}  // namespace tinykg

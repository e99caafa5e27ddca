// Takes the place of csrc/cuda/launch.h: jobs run on the CPU, and the operators are registered for
// CPU tensors in a namespace of their own. Few blocks where they start strided loops, so that these
// are walked.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>

#include "cuda/blocks.cuh"

#undef STABLE_TORCH_LIBRARY_IMPL
#define STABLE_TORCH_LIBRARY_IMPL(ns, key, m) \
  _STABLE_TORCH_LIBRARY_IMPL(recbole_tinykg_emulated, CPU, m, C10_UID)

// How many launches had a job that walks its rows itself: which kernel an operator chose.
extern "C" __attribute__((visibility("default"), weak)) int64_t num_walks = 0;

namespace tinykg {

template <typename Job>
void launch(const torch::stable::Tensor&, const Work& work, const Job& job) {
  if (work.num_rows == 0 || work.num_columns == 0) return;
  if constexpr (requires { job.walk(work); }) ++num_walks;
  const emulation::Index blocks{std::min(work.blocks_of_rows(), 3u),
                                std::min(work.blocks_of_groups(), 2u)};
  emulation::launch(blocks, kBlockThreads, [&] { treat(work, job); });
}

template <typename Job>
void launch(const torch::stable::Tensor&, const Blocks& blocks, const Job& job) {
  if (!blocks.fit() || blocks.x == 0 || blocks.y == 0) emulation::fail("a launch has no such size");
  emulation::launch({static_cast<unsigned>(blocks.x), static_cast<unsigned>(blocks.y)},
                    Job::kThreads, [&] { perform(job); });
}

}  // namespace tinykg

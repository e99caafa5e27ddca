// Starts a job on the current stream of a tensor's device, without waiting for anything.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/tensor.h>

#include <string>

#include "blocks.cuh"

namespace tinykg {

// The GPUs that this library has code for: "7.5, 8.0, 9.0".
inline std::string built_for() {
  std::string list;
  for (const int architecture : {__CUDA_ARCH_LIST__})
    list += (list.empty() ? "" : ", ") + std::to_string(architecture / 100) + "." +
            std::to_string(architecture / 10 % 10);
  return list;
}

// Raises an error that names the GPU without code in this library, and the remedy.
[[noreturn]] inline void refuse(int32_t device, cudaError_t error) {
  cudaDeviceProp properties{};
  cudaGetDeviceProperties(&properties, device);
  const std::string capability =
      std::to_string(properties.major) + "." + std::to_string(properties.minor);
  STD_TORCH_CHECK(false, "recbole_tinykg's CUDA kernels do not run on ", properties.name,
                  " (compute capability ", capability, "): they were built for ", built_for(), " (",
                  cudaGetErrorString(error),
                  "); build them again with TORCH_CUDA_ARCH_LIST=", capability,
                  " and a CUDA toolkit and driver that know this GPU, or without them: ",
                  "RECBOLE_TINYKG_CUDA=0");
}

inline void check_launch(int32_t device) {
  const cudaError_t error = cudaPeekAtLastError();
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction ||
      error == cudaErrorUnsupportedPtxVersion) {
    cudaGetLastError();  // forget it: the next launch starts clean
    refuse(device, error);
  }
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// Calls start(stream) with the current stream of a tensor's device.
template <typename Start>
void launch_on(const torch::stable::Tensor& on, const Start& start) {
  const int32_t device = on.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  start(static_cast<cudaStream_t>(stream));
  check_launch(device);
}

template <typename Job>
void launch(const torch::stable::Tensor& on, const Work& work, const Job& job) {
  if (work.num_rows == 0 || work.num_columns == 0) return;
  const dim3 blocks(work.blocks_of_rows(), work.blocks_of_groups());
  launch_on(on,
            [&](cudaStream_t stream) { treat<<<blocks, kBlockThreads, 0, stream>>>(work, job); });
}

template <typename Job>
void launch(const torch::stable::Tensor& on, const Blocks& blocks, const Job& job) {
  STD_TORCH_CHECK(blocks.fit(), "a matrix must not have more rows or columns than a GPU counts; got ",
                  blocks.x, " x ", blocks.y, " blocks");
  const dim3 grid(static_cast<unsigned>(blocks.x), static_cast<unsigned>(blocks.y));
  launch_on(on, [&](cudaStream_t stream) { perform<<<grid, Job::kThreads, 0, stream>>>(job); });
}

}  // namespace tinykg

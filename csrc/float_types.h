// The types of numbers: of the input, of the arithmetic, and of what is stored.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <type_traits>

namespace tinykg {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

// Arithmetic type and type of stored steps.
template <typename T>
using Compute = std::conditional_t<std::is_same_v<std::remove_const_t<T>, double>, double, float>;
template <typename T>
using Step = std::conditional_t<std::is_same_v<T, double>, double, BFloat16>;

}  // namespace tinykg

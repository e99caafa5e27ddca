// The instruction sets that kernels are compiled for, and the one they run on.
#pragma once

namespace tinykg {

enum class InstructionSet : int { kPortable = 0, kAvx2 = 1, kAvx512 = 2 };

// The best one of this machine, or a lesser one that a test asked for.
InstructionSet instruction_set();

}  // namespace tinykg

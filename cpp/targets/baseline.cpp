// What every processor of the architecture has (SSE2 on x86-64).
#define GRADSTEP_TARGET baseline
#define GRADSTEP_FEW_LOOPS
#include "../kernels.inl"

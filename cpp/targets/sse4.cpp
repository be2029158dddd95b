// SSE4.1: x86-64 from 2008 on.
#define GRADSTEP_TARGET sse4
#define GRADSTEP_FEW_LOOPS
#include "../kernels.inl"

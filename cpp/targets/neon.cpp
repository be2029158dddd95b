// NEON, which every arm64 processor has.
#define GRADSTEP_TARGET neon
#include "../kernels.inl"

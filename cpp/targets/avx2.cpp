// AVX2: x86-64 from 2013 on.
#define GRADSTEP_TARGET avx2
#include "../kernels.inl"

// AVX-512 F, BW, DQ, VL: x86-64 servers from 2017 on, Zen from 4 on.
#define GRADSTEP_TARGET avx512
#include "../kernels.inl"

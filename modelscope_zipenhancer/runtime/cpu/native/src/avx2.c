/* For x86-64 processors with AVX2 and FMA. */
#if defined(__x86_64__) || defined(_M_X64)
#define VARIANT avx2
#define SIMD_AVX2
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#elif defined(__GNUC__)
#pragma GCC target("avx2,fma")
#endif
#include "kernels.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif

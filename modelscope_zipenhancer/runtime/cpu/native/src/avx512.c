/* For x86-64 processors with AVX-512 F. */
#if defined(__x86_64__) || defined(_M_X64)
#define VARIANT avx512
#define SIMD_AVX512
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,fma"))), apply_to = function)
#elif defined(__GNUC__)
#pragma GCC target("avx512f,fma")
#endif
#include "kernels.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif

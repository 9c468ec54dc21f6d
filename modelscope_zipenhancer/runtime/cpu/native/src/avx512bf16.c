/* For x86-64 processors with AVX-512 BF16, whose products are of bfloat16. */
#if defined(__x86_64__) && (defined(__clang__) || __GNUC__ >= 10)
#define VARIANT avx512bf16
#define SIMD_AVX512
#define SIMD_BF16
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bf16,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bf16,fma")
#endif
#include "kernels.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif

/* Vectors of floats, as wide as the processor's registers: the only file that knows its instructions.

   A variant (avx2.c, ...) says which by SIMD_...; without one, GCC's and Clang's own vectors of WIDTH numbers
   stand in: slow, for tests. In all of them min and max return their second operand where one is NaN. */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(_MSC_VER)
#define INLINE static __forceinline
#define EXPORT __declspec(dllexport)
#define UNROLL
#else
#define INLINE static inline __attribute__((always_inline))
#define EXPORT __attribute__((visibility("default")))
#define UNROLL _Pragma("GCC unroll 16")
#endif

#if defined(SIMD_AVX512)
#include <immintrin.h>
#define WIDTH 16
#define ROWS 8 /* of a tile of a product; with the panel they fill the registers */
typedef __m512 vec;
#define load(p) _mm512_loadu_ps(p)
#define store(p, v) _mm512_storeu_ps(p, v)
#define all(x) _mm512_set1_ps(x)
#define add(a, b) _mm512_add_ps(a, b)
#define sub(a, b) _mm512_sub_ps(a, b)
#define mul(a, b) _mm512_mul_ps(a, b)
#define quotient(a, b) _mm512_div_ps(a, b)
#define min(a, b) _mm512_min_ps(a, b)
#define max(a, b) _mm512_max_ps(a, b)
#define fma3(a, b, c) _mm512_fmadd_ps(a, b, c)
/* 2 ** n of a number 1.5 * 2 ** 23 + n, n from -127 to 128: its lowest bits are n */
#define power_of_two(x)                                                                              \
    _mm512_castsi512_ps(                                                                             \
        _mm512_slli_epi32(_mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(127)), 23))

#elif defined(SIMD_AVX2)
#include <immintrin.h>
#define WIDTH 8
#define ROWS 6
typedef __m256 vec;
#define load(p) _mm256_loadu_ps(p)
#define store(p, v) _mm256_storeu_ps(p, v)
#define all(x) _mm256_set1_ps(x)
#define add(a, b) _mm256_add_ps(a, b)
#define sub(a, b) _mm256_sub_ps(a, b)
#define mul(a, b) _mm256_mul_ps(a, b)
#define quotient(a, b) _mm256_div_ps(a, b)
#define min(a, b) _mm256_min_ps(a, b)
#define max(a, b) _mm256_max_ps(a, b)
#define fma3(a, b, c) _mm256_fmadd_ps(a, b, c)
#define power_of_two(x)                                                                              \
    _mm256_castsi256_ps(                                                                             \
        _mm256_slli_epi32(_mm256_add_epi32(_mm256_castps_si256(x), _mm256_set1_epi32(127)), 23))

#elif defined(SIMD_NEON)
#include <arm_neon.h>
#define WIDTH 4
#define ROWS 6
typedef float32x4_t vec;
#define load(p) vld1q_f32(p)
#define store(p, v) vst1q_f32(p, v)
#define all(x) vdupq_n_f32(x)
#define add(a, b) vaddq_f32(a, b)
#define sub(a, b) vsubq_f32(a, b)
#define mul(a, b) vmulq_f32(a, b)
#define quotient(a, b) vdivq_f32(a, b)
INLINE vec min(vec a, vec b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
INLINE vec max(vec a, vec b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
#define fma3(a, b, c) vfmaq_f32(c, a, b)
#define power_of_two(x)                                                                              \
    vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vreinterpretq_s32_f32(x), vdupq_n_s32(127)), 23))

#else
#ifndef WIDTH
#define WIDTH 4
#endif
#define ROWS 4
typedef float vec __attribute__((vector_size(4 * WIDTH)));
typedef int32_t bits __attribute__((vector_size(4 * WIDTH)));
INLINE vec load(const float *p) {
    vec x;
    memcpy(&x, p, sizeof x);
    return x;
}
INLINE void store(float *p, vec x) { memcpy(p, &x, sizeof x); }
INLINE vec choose(bits which, vec a, vec b) { return (vec)(((bits)a & which) | ((bits)b & ~which)); }
#define all(x) ((x) - (vec){0})
#define add(a, b) ((a) + (b))
#define sub(a, b) ((a) - (b))
#define mul(a, b) ((a) * (b))
#define quotient(a, b) ((a) / (b))
INLINE vec min(vec a, vec b) { return choose(a < b, a, b); }
INLINE vec max(vec a, vec b) { return choose(a > b, a, b); }
#define fma3(a, b, c) ((a) * (b) + (c))
#define power_of_two(x) ((vec)(((bits)(x) + 127) << 23))
#endif

/* What products take: floats, or (SIMD_BF16) bfloat16, two in the place of a float. Sums are of floats in any case. */
#if defined(SIMD_BF16)
#define NUMBERS 2 /* in a float's place */
INLINE vec multiply_add(const float *x, vec y, vec sum) { /* of integers, which the compiler leaves in memory */
    int32_t numbers;
    memcpy(&numbers, x, sizeof numbers);
    return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_castps_si512(y), (__m512bh)_mm512_set1_epi32(numbers));
}
INLINE __m256i rounded(vec x) { return (__m256i)_mm512_cvtneps_pbh(x); }
INLINE void store_factors(float *row, int64_t c, vec x) { _mm256_storeu_si256((__m256i *)(row + c / 2), rounded(x)); }
INLINE vec paired(vec first, vec second) {
    const __m512i low = _mm512_cvtepu16_epi32(rounded(first)), high = _mm512_cvtepu16_epi32(rounded(second));
    return _mm512_castsi512_ps(_mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
}
#else
#define NUMBERS 1
#define multiply_add(x, y, sum) fma3(all(*(x)), y, sum)
INLINE void store_factors(float *row, int64_t c, vec x) { store(row + c, x); }
INLINE vec paired(vec first, vec second) { return (void)second, first; }
#endif

#define PANEL 16               /* columns of a matrix that lie together */
#define VECTORS (PANEL / WIDTH) /* of a row of a panel */
#define FLOATS_OF_A_LINE 16     /* of the cache */

INLINE int64_t padded(int64_t columns) { return (columns + PANEL - 1) / PANEL * PANEL; }
INLINE int64_t places(int64_t numbers) { return (numbers + NUMBERS - 1) / NUMBERS; }

/* x as what products take, to out, which may be where x is; count: a multiple of WIDTH */
INLINE void to_factors(const float *x, int64_t count, float *out) {
    for (int64_t i = 0; i < count; i += WIDTH) store_factors(out, i, load(x + i));
}

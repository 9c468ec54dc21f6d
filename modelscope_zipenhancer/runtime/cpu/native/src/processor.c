/* Which variant is for this processor. */
#if defined(_MSC_VER) && defined(_M_X64)
#include <immintrin.h>
#include <intrin.h>
#endif

#if defined(_MSC_VER)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

/* Raised with each change of what Python hands over: library.py refuses what was compiled before it. */
EXPORT int zipenhancer_interface(void) { return 2; }

/* The variant's name, or "" for none. */
EXPORT const char *zipenhancer_variant(void) {
#if defined(__aarch64__) || defined(_M_ARM64)
    return "neon";
#elif defined(_MSC_VER) && defined(_M_X64)
    int leaf1[4], leaf7[4];
    __cpuid(leaf1, 1);
    __cpuidex(leaf7, 7, 0);
    if (!(leaf1[2] >> 27 & 1)) return ""; /* the system saves no vector registers */
    const unsigned long long saved = _xgetbv(0);
    const int fma = leaf1[2] >> 12 & 1;
    if ((saved & 0xe6) == 0xe6 && fma && leaf7[1] >> 16 & 1) return "avx512";
    return (saved & 6) == 6 && fma && leaf7[1] >> 5 & 1 ? "avx2" : "";
#elif defined(__x86_64__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("fma")) return "";
    if (__builtin_cpu_supports("avx512f")) return "avx512";
    return __builtin_cpu_supports("avx2") ? "avx2" : "";
#else
    return "";
#endif
}

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
EXPORT int zipenhancer_interface(void) { return 4; }

/* Names of the variants that this processor runs, the best first. Registers that the system doesn't save count as
   absent. avx512.c needs no more than F, but what has only that (Xeon Phi) is served by avx2. */
EXPORT const char *zipenhancer_variants(void) {
#if defined(__aarch64__) || defined(_M_ARM64)
    return "neon";
#elif defined(__x86_64__) || defined(_M_X64)
#if defined(_MSC_VER)
    int leaf1[4], leaf7[4];
    __cpuid(leaf1, 1);
    __cpuidex(leaf7, 7, 0);
    const unsigned vector = (unsigned)leaf7[1], f_dq_bw_vl = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;
    const unsigned long long saved = leaf1[2] >> 27 & 1 ? _xgetbv(0) : 0;
    const int avx2 = (saved & 6) == 6 && leaf1[2] >> 12 & 1 && vector >> 5 & 1;
    const int avx512 = avx2 && (saved & 0xe6) == 0xe6 && (vector & f_dq_bw_vl) == f_dq_bw_vl;
#else
    __builtin_cpu_init();
    const int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const int avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                       __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
#endif
#if defined(__clang__) || __GNUC__ >= 10 /* as in avx512bf16.c */
    if (avx512 && __builtin_cpu_supports("avx512bf16")) return "avx512 avx2 avx512bf16";
#endif
    return avx512 ? "avx512 avx2" : avx2 ? "avx2" : "";
#else
    return "";
#endif
}

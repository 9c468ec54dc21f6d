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

/* The variant's name, or "" for none. avx512 is there for who asks for it (library.py's VARIABLE): it hasn't been
   run on such a processor yet, which avx2 serves. */
EXPORT const char *zipenhancer_variant(void) {
#if defined(__aarch64__) || defined(_M_ARM64)
    return "neon";
#elif defined(_MSC_VER) && defined(_M_X64)
    int leaf1[4], leaf7[4];
    __cpuid(leaf1, 1);
    __cpuidex(leaf7, 7, 0);
    if (!(leaf1[2] >> 27 & 1)) return ""; /* the system saves no vector registers */
    const unsigned long long saved = _xgetbv(0);
    return (saved & 6) == 6 && leaf1[2] >> 12 & 1 && leaf7[1] >> 5 & 1 ? "avx2" : "";
#elif defined(__x86_64__)
    __builtin_cpu_init();
    return __builtin_cpu_supports("fma") && __builtin_cpu_supports("avx2") ? "avx2" : "";
#else
    return "";
#endif
}

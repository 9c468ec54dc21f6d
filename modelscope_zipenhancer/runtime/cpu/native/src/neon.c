/* For 64-bit Arm processors, all of which have these instructions. */
#if defined(__aarch64__) || defined(_M_ARM64)
#define VARIANT neon
#define SIMD_NEON
#include "kernels.h"
#endif

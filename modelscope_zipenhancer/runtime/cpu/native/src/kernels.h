/* All of a variant, which defines VARIANT and SIMD_... before. */

#define JOIN2(name, variant) zipenhancer_##name##_##variant
#define JOIN(name, variant) JOIN2(name, variant)
#define NAME(name) JOIN(name, VARIANT)

#include "simd.h"
#include "functions.h"
#include "product.h"
#include "layer.h"
#include "convolution.h"

/* ---- functions by themselves, for tests ---- */

#define ELEMENTWISE(name, function)                                                                  \
    EXPORT void NAME(name)(const float *x, float *out, int64_t count) {                              \
        for (int64_t i = 0; i < count; i += WIDTH) {                                                 \
            const int64_t rest = count - i < WIDTH ? count - i : WIDTH;                              \
            float numbers[WIDTH] = {0};                                                              \
            memcpy(numbers, x + i, rest * sizeof(float));                                            \
            store(numbers, function(load(numbers)));                                                 \
            memcpy(out + i, numbers, rest * sizeof(float));                                          \
        }                                                                                            \
    }
ELEMENTWISE(exp2, exp2_of)
ELEMENTWISE(softplus2, softplus2)
ELEMENTWISE(swoosh2, swoosh2)
ELEMENTWISE(sigmoid2, sigmoid2)

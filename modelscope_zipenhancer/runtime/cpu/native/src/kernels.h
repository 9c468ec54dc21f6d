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

/* out (rows, columns), of factors after SWOOSH, = mode of x (rows, padded(depth)), which it spoils */
EXPORT void NAME(linear)(const Matrix *matrix, int64_t mode, float *x, int64_t rows, float *out) {
    void (*const modes[])(const Matrix *, Left, int64_t, float *, ptrdiff_t) = {
        linear_store, linear_add, linear_swoosh, linear_sigmoid, linear_tanh};
    const int64_t width = padded(matrix->depth), columns = matrix->columns;
    to_factors(x, rows * width, x);
    modes[mode](matrix, rows_of(x, width / NUMBERS), rows, out, mode == SWOOSH ? columns / NUMBERS : columns);
}

/* norm_and_bypass of tokens (length, width), in place */
EXPORT void NAME(bias_norm)(const Layer *layer, float *tokens, float *origin, int64_t length) {
    const Memory memory = {.tokens = tokens, .origin = origin};
    norm_and_bypass(layer, &memory, length, padded(layer->channels));
}

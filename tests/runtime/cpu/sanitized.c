/* Every function of a variant on memory that ends where it should: compiled with sanitizers by test_native.py,
   which defines SOURCE. */

#include SOURCE

#include <stdio.h>
#include <stdlib.h>

static uint32_t state = 1;

static float noise(void) {
    state = state * 1664525u + 1013904223u;
    return (float)(state >> 8) / (1 << 24) - 0.5f;
}

static void *kept[1000];
static int count;

/* So many numbers, which end where their memory ends. */
static float *numbers(int64_t floats, float scale) {
    float *x = kept[count++] = malloc(floats * sizeof(float));
    for (int64_t i = 0; i < floats; i++) x[i] = scale * noise();
    return x;
}

static Matrix matrix(int64_t depth, int64_t columns) {
    const Matrix made = {numbers(depth * padded(columns), 0.2f), numbers(padded(columns), 0.2f), depth, padded(columns)};
    return made;
}

static void layer(int64_t length, int64_t channels, int64_t heads, int64_t query, int64_t hidden, int64_t kernel) {
    const int64_t width = padded(channels), sequences = 2;
    Layer made = {channels, heads, query, 3, 5, 3 * channels / 4, kernel, .norm_scale = 1};
    made.scores = matrix(channels, heads * (2 * query + 3));
    for (int i = 0; i < 3; i++) {
        const FeedForward module = {matrix(channels, hidden + i), matrix(hidden + i, channels)};
        made.feed_forwards[i] = module;
    }
    made.gated_gate = matrix(channels, made.gated);
    made.gated_value = matrix(channels, made.gated);
    made.gated_output = matrix(channels, made.gated);
    made.gated_out = matrix(made.gated, channels);
    for (int i = 0; i < 2; i++) {
        const Attention attention = {matrix(channels, heads * 5), matrix(heads * 5, channels)};
        const Convolution convolution = {
            matrix(channels, channels), matrix(channels, channels), matrix(channels, channels),
            numbers(kernel * width, 0.2f), numbers(width, 0.2f)};
        made.attentions[i] = attention;
        made.convolutions[i] = convolution;
    }
    made.bypass = numbers(width, 1), made.offset = numbers(width, 1);
    made.norm_bias = numbers(width, 1), made.out_bypass = numbers(width, 1);
    const int64_t row = length - 1 + padded(length);
    float *x = numbers(sequences * length * channels, 1), *scratch = numbers(NAME(layer_floats)(&made, length), 1);
    NAME(layer)(
        &made, x, sequences, length * channels, length, channels, numbers(heads * 3 * row, 1), row, scratch
    );
    for (int64_t i = 0; i < sequences * length * channels; i++)
        if (!isfinite(x[i])) printf("not finite: length %d, %d\n", (int)length, (int)i), exit(1);
    while (count) free(kept[--count]);
}

int main(void) {
    for (int64_t length = 1; length <= 34; length++) layer(length, 16, 2, 3, 20, 7);
    layer(50, 10, 1, 5, 12, 3);
    layer(97, 64, 4, 12, 50, 15);
    for (int64_t i = 1; i <= 100; i++) {
        float *x = numbers(i + 1, 100), *y = numbers(i + 1, 0);
        NAME(exp2)(x + 1, y + 1, i);
        NAME(softplus2)(x + 1, y + 1, i);
        NAME(swoosh2)(x + 1, y + 1, i);
        NAME(sigmoid2)(x + 1, y + 1, i);
        while (count) free(kept[--count]);
    }
    puts("fine");
    return 0;
}

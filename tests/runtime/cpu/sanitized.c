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

static void all_finite(const float *x, int64_t floats, const char *name) {
    for (int64_t i = 0; i < floats; i++)
        if (!isfinite(x[i])) printf("not finite: %s, %d\n", name, (int)i), exit(1);
}

/* Panels, what products take, in so many places. */
static float *panels(int64_t at, float scale) {
    float *x = numbers(at, scale), twice[2 * WIDTH];
    for (int64_t i = 0; NUMBERS > 1 && i < at; i += WIDTH) {
        for (int j = 0; j < 2 * WIDTH; j++) twice[j] = scale * noise();
        to_factors(twice, 2 * WIDTH, x + i);
    }
    return x;
}

static Matrix matrix(int64_t depth, int64_t columns) {
    const int64_t width = padded(columns);
    const Matrix made = {panels(places(depth) * width, 0.2f), numbers(width, 0.2f), depth, width};
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
    all_finite(x, sequences * length * channels, "layer");
    while (count) free(kept[--count]);
}

/* What is before and after the body, with a body of `bins` (2 bins - 1 before it). */
static void convolutions(int64_t frames, int64_t bins, int64_t channels) {
    const int64_t width = padded(channels), wide = 2 * bins - 1;
    double *moments = kept[count++] = malloc((1 + 3 * width) * sizeof(double));
    double *weight = kept[count++] = calloc(channels, sizeof(double));
    Rows sources[4] = {{numbers(frames * wide * 2, 1), wide * 2, 2, NULL, NULL, NULL, NULL}};
    sources[0].shift = numbers(width, 1), sources[0].slope = numbers(width, 1);
    sources[0].scale = sources[0].shift, sources[0].lift = numbers(2 * width, 1);
    for (int64_t i = 0; i < 4; i++) {
        const int64_t depth = 2 * (i + 1) * places(channels);
        DenseLayer layer = {channels, wide, (int64_t)1 << i, i + 1, panels(6 * width * depth, 0.1f)};
        float *out = numbers(frames * wide * width, 0), *scratch = numbers(NAME(dense_layer_floats)(&layer), 0);
        NAME(dense_layer)(&layer, sources, 0, (frames + 1) / 2, out, moments, scratch);
        if (frames > 1) NAME(dense_layer)(&layer, sources, (frames + 1) / 2, frames, out, moments, scratch);
        all_finite(out, frames * wide * width, "dense layer");
        if (i == 3) continue;
        const Rows read = {out, wide * width, width, numbers(width, 1), numbers(width, 1), numbers(width, 1), NULL};
        sources[i + 1] = read;
        NAME(norm)(moments, 1, channels, weight, weight, 1e-5, (float *)read.scale, (float *)read.shift);
    }
    Conv conv = {channels, wide, 2, 1, panels(width * 3 * places(channels), 0.1f), NULL};
    float *body = numbers(frames * bins * channels, 0);
    NAME(conv)(&conv, &sources[1], 0, frames, body, channels, moments, numbers(NAME(conv_floats)(&conv), 0));
    const Rows of_body = {body, bins * channels, channels, numbers(width, 1), numbers(width, 1), numbers(width, 1), NULL};
    NAME(settle)(&of_body, 0, frames, bins, channels, body, numbers(bins * width, 0));
    all_finite(body, frames * bins * channels, "body");
    Conv up = {channels, bins, 1, 2, panels(2 * width * 3 * places(channels), 0.1f), numbers(2 * width, 1)};
    const Rows plain = {body, bins * channels, channels, NULL, NULL, NULL, NULL};
    float *twice = numbers(frames * 2 * bins * width, 0), *outs[2];
    NAME(conv)(&up, &plain, 0, frames, twice, width, moments, numbers(NAME(conv_floats)(&up), 0));
    const Rows of_twice = {twice, 2 * bins * width, width, numbers(width, 1), numbers(width, 1), numbers(width, 1), NULL};
    for (int i = 0; i < 2; i++) outs[i] = numbers(frames * wide, 0);
    Matrix heads = matrix(channels, 4);
    heads.bias = NULL;
    float *scratch = numbers(2 * bins * (width + PANEL), 0);
    NAME(heads)(&of_twice, 0, frames, 2 * bins, &heads, numbers(2, 1), 2, outs, frames, scratch);
    all_finite(outs[0], frames * wide, "head"), all_finite(outs[1], frames * wide, "head");
    while (count) free(kept[--count]);
}

int main(void) {
    for (int64_t bins = 1; bins <= 9; bins++) convolutions(11, bins, 8);
    convolutions(1, 5, 10);
    convolutions(20, 11, 64);

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

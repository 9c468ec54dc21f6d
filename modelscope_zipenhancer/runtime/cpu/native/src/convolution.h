/* Convolutions with instance norms, of frames of bins (T, F, width), width = padded(C), zeros beyond C.

   The output of a convolution needs the statistics of all of it before it can be normalised: so it is
   normalised, and activated, when it is read. */

typedef struct {
    const float *x;
    int64_t frame, channels;           /* floats between frames, and between bins */
    const float *scale, *shift, *slope; /* (width,) of norm and PReLU; NULL: x as it is */
    const float *lift;                 /* (2, width): of two numbers a bin, x @ lift + shift is what is activated */
} Rows;

static void read_row(const Rows *rows, int64_t t, int64_t bins, int64_t width, float *out) {
    const float *x = rows->x + t * rows->frame;
    for (int64_t f = 0; f < bins; f++, x += rows->channels, out += width) {
        if (rows->lift) {
            const vec first = all(x[0]), second = all(x[1]);
            for (int64_t c = 0; c < width; c += WIDTH) {
                vec y = fma3(load(rows->lift + c), first, load(rows->shift + c));
                y = fma3(load(rows->lift + width + c), second, y);
                store(out + c, prelu(y, load(rows->slope + c)));
            }
            continue;
        }
        const float *from = x;
        if (rows->channels < width) {
            memcpy(out, x, rows->channels * sizeof(float));
            memset(out + rows->channels, 0, (width - rows->channels) * sizeof(float));
            from = out;
        }
        if (!rows->scale) {
            if (from == x) memcpy(out, x, width * sizeof(float));
            continue;
        }
        for (int64_t c = 0; c < width; c += WIDTH) {
            const vec y = fma3(load(from + c), load(rows->scale + c), load(rows->shift + c));
            store(out + c, prelu(y, load(rows->slope + c)));
        }
    }
}

/* Moments of some frames for each channel: how many numbers, then a number near the mean, and the sums of the
   distances from it and of their squares, (width,) each. */
typedef struct {
    double *count, *pivot, *sum, *squares;
    float *near, *row_sum, *row_squares; /* (width,) each: what a frame adds */
} Moments;

static Moments moments_in(double *memory, int64_t width, float *scratch) {
    memset(memory, 0, (1 + 3 * width) * sizeof(double));
    memset(scratch, 0, 3 * width * sizeof(float));
    const Moments made = {memory, memory + 1, memory + 1 + width, memory + 1 + 2 * width,
                          scratch, scratch + width, scratch + 2 * width};
    return made;
}

static void end_of_row(const Moments *moments, int64_t bins, int64_t width) {
    *moments->count += (double)bins;
    for (int64_t c = 0; c < width; c++) {
        moments->pivot[c] = moments->near[c];
        moments->sum[c] += moments->row_sum[c];
        moments->squares[c] += moments->row_squares[c];
        moments->row_sum[c] = moments->row_squares[c] = 0;
    }
}

INLINE void count_in(const Moments *moments, int64_t c, const int count, const vec *x) {
    const vec near = load(moments->near + c);
    vec sum = load(moments->row_sum + c), squares = load(moments->row_squares + c);
    UNROLL
    for (int i = 0; i < count; i++) {
        const vec y = sub(x[i], near);
        sum = add(sum, y);
        squares = fma3(y, y, squares);
    }
    store(moments->row_sum + c, sum);
    store(moments->row_squares + c, squares);
}

/* Scale and shift (width,) of an instance norm, of the moments (parts, 1 + 3 width) of its frames. */
EXPORT void NAME(norm)(
    const double *moments, int64_t parts, int64_t channels, const double *weight, const double *bias, double eps,
    float *scale, float *shift
) {
    const int64_t width = padded(channels), part = 1 + 3 * width;
    for (int64_t c = 0; c < width; c++) {
        double count = 0, mean = 0, variance = 0;
        for (int64_t i = 0; i < parts; i++) {
            const double *of = moments + i * part;
            count += of[0];
            mean += of[0] * of[1 + c] + of[1 + width + c];
        }
        mean /= count;
        for (int64_t i = 0; i < parts; i++) {
            const double *of = moments + i * part, far = mean - of[1 + c];
            variance += of[1 + 2 * width + c] - 2 * far * of[1 + width + c] + of[0] * far * far;
        }
        variance = variance / count > 0 ? variance / count : 0 * variance; /* NaN stays */
        const double factor = c < channels ? weight[c] / sqrt(variance + eps) : 0;
        scale[c] = (float)factor;
        shift[c] = c < channels ? (float)(bias[c] - mean * factor) : 0;
    }
}

/* One function for each, so that its code is there once. */
#define PRODUCT(name, mode)                                                                          \
    static void name(                                                                                \
        Lefts lefts, int64_t rows, const float *panel, const float *bias, float *out, ptrdiff_t out_row \
    ) {                                                                                              \
        product(mode, lefts, rows, panel, bias, out, out_row);                                       \
    }
PRODUCT(product_store, STORE)
PRODUCT(product_add, ADD)

/* ---- dense blocks, by Winograd's F(4, 3) along frequency: see ../../winograd.py ----

   The points are 0, A, -A, B, -B and infinity: with 5/8 and 3/2 the error is 1.3 times that of direct sums,
   with 1 and 2 twice that. */

enum { OUTPUTS = 4, PRODUCTS = 6 };
#define A 0.625f
#define B 1.5f
#define DEPTH 256   /* places of a product at most: its panel fits the first-level cache */
#define SOURCES 4   /* that a layer reads at most */

typedef struct {
    int64_t channels, bins, dilation, sources;
    const float *panels; /* (6, width / PANEL, sources * 2 * places(C), PANEL): of each source the older frame's first */
} DenseLayer;

static int64_t tiles_of(int64_t bins) { return (bins + OUTPUTS - 1) / OUTPUTS; }

/* row (4 tiles + 2, width), the first before bin 0 -> out (6, tiles, width), factors */
static void transform(const float *row, int64_t tiles, int64_t width, float *out) {
    const vec aa = all(A * A), bb = all(B * B), a = all(A), b = all(B);
    const vec product = all(A * A * B * B), sum = all(A * A + B * B);
    const int64_t part = width / NUMBERS, plane = tiles * part;
    for (int64_t tile = 0; tile < tiles; tile++, row += OUTPUTS * width, out += part)
        for (int64_t c = 0; c < width; c += WIDTH) {
            const float *at = row + c;
            const vec x0 = load(at), x1 = load(at + width), x2 = load(at + 2 * width);
            const vec x3 = load(at + 3 * width), x4 = load(at + 4 * width), x5 = load(at + 5 * width);
            const vec even_a = sub(x4, mul(bb, x2)), odd_a = mul(a, sub(x3, mul(bb, x1)));
            const vec even_b = sub(x4, mul(aa, x2)), odd_b = mul(b, sub(x3, mul(aa, x1)));
            store_factors(out, c, fma3(product, x0, sub(x4, mul(sum, x2))));
            store_factors(out + plane, c, add(even_a, odd_a));
            store_factors(out + 2 * plane, c, sub(even_a, odd_a));
            store_factors(out + 3 * plane, c, add(even_b, odd_b));
            store_factors(out + 4 * plane, c, sub(even_b, odd_b));
            store_factors(out + 5 * plane, c, fma3(product, x1, sub(x5, mul(sum, x3))));
        }
}

/* products (6, tiles, width) -> out (bins, width), counted in */
static void inverse(
    const float *products, int64_t bins, int64_t width, float *out, const Moments *moments, int first_row
) {
    const vec a1 = all(A), a2 = all(A * A), a3 = all(A * A * A), b1 = all(B), b2 = all(B * B), b3 = all(B * B * B);
    const int64_t tiles = tiles_of(bins), plane = tiles * width;
    for (int64_t tile = 0; tile < tiles; tile++) {
        const int64_t f = tile * OUTPUTS;
        for (int64_t c = 0; c < width; c += WIDTH) {
            const float *at = products + tile * width + c;
            const vec m1 = load(at + plane), m2 = load(at + 2 * plane);
            const vec m3 = load(at + 3 * plane), m4 = load(at + 4 * plane);
            const vec even_a = add(m1, m2), odd_a = sub(m1, m2), even_b = add(m3, m4), odd_b = sub(m3, m4);
            vec y[OUTPUTS];
            y[0] = add(load(at), add(even_a, even_b));
            y[1] = fma3(b1, odd_b, mul(a1, odd_a));
            y[2] = fma3(b2, even_b, mul(a2, even_a));
            y[3] = fma3(b3, odd_b, fma3(a3, odd_a, load(at + 5 * plane)));
            if (first_row && !tile) store(moments->near + c, y[0]);
            float *to = out + f * width + c;
            if (f + OUTPUTS <= bins) {
                UNROLL
                for (int j = 0; j < OUTPUTS; j++) store(to + j * width, y[j]);
                count_in(moments, c, OUTPUTS, y);
            } else {
                for (int j = 0; f + j < bins; j++) {
                    store(to + j * width, y[j]);
                    count_in(moments, c, 1, y + j);
                }
            }
        }
    }
    end_of_row(moments, bins, width);
}

EXPORT int64_t NAME(dense_layer_floats)(const DenseLayer *layer) {
    const int64_t width = padded(layer->channels), tiles = tiles_of(layer->bins);
    const int64_t kept = layer->sources * (layer->dilation + 1); /* and the zeros */
    return width * ((kept + 1) * PRODUCTS * tiles / NUMBERS + PRODUCTS * tiles + OUTPUTS * tiles + 2 + 3);
}

/* Frames from start to stop of a layer, before its norm, to out (T, bins, width); their moments to moments.

   sources: in the order of the weights' input channels. Each frame of a source is transformed once, and kept
   until it has been the older of the two. */
EXPORT void NAME(dense_layer)(
    const DenseLayer *layer, const Rows *sources, int64_t start, int64_t stop, float *out, double *moments,
    float *scratch
) {
    const int64_t channels = layer->channels, width = padded(channels), part = width / NUMBERS;
    const int64_t tiles = tiles_of(layer->bins), transformed = PRODUCTS * tiles * part;
    const int64_t dilation = layer->dilation, kept = dilation + 1, depth = places(channels);
    const int64_t together = DEPTH / depth > 2 ? DEPTH / depth / 2 * 2 : 2; /* left factors of a product */
    float *frames = scratch, *zeros = frames + layer->sources * kept * transformed;
    float *products = zeros + transformed, *row = products + PRODUCTS * tiles * width;
    const int64_t row_floats = (OUTPUTS * tiles + 2) * width;
    const Moments counted = moments_in(moments, width, row + row_floats);
    memset(zeros, 0, transformed * sizeof(float));
    memset(row, 0, row_floats * sizeof(float));
    for (int64_t t = start > dilation ? start - dilation : 0; t < stop; t++) {
        for (int64_t i = 0; i < layer->sources; i++) {
            read_row(&sources[i], t, layer->bins, width, row + width);
            transform(row, tiles, width, frames + (i * kept + t % kept) * transformed);
        }
        if (t < start) continue;
        for (int64_t p = 0; p < PRODUCTS; p++) {
            const float *lefts[2 * SOURCES];
            for (int64_t i = 0; i < layer->sources; i++) {
                const float *of = frames + i * kept * transformed;
                lefts[2 * i] = (t < dilation ? zeros : of + (t - dilation) % kept * transformed) + p * tiles * part;
                lefts[2 * i + 1] = of + t % kept * transformed + p * tiles * part;
            }
            for (int64_t i = 0; i < 2 * layer->sources; i += together) {
                const int64_t count = 2 * layer->sources - i < together ? 2 * layer->sources - i : together;
                const Lefts some = {lefts + i, count, channels, part, 1};
                for (int64_t c = 0; c < width; c += PANEL) {
                    const float *panel = layer->panels + ((p * width + c) * 2 * layer->sources + i * PANEL) * depth;
                    float *to = products + p * tiles * width + c;
                    (i ? product_add : product_store)(some, tiles, panel, NULL, to, width);
                }
            }
        }
        inverse(products, layer->bins, width, out + t * layer->bins * width, &counted, t == start);
    }
}

/* ---- convolutions of 1 x 3, before and after the body ---- */

typedef struct {
    int64_t channels, bins, stride, outputs; /* bins that are read; outputs: (width,) so many times side by side */
    const float *panels;                     /* (outputs * width / PANEL, 3 * places(C), PANEL) */
    const float *bias;                       /* (outputs * width,) or NULL */
} Conv;

static int64_t bins_out(const Conv *conv) { return (conv->bins - 1) / conv->stride + 1; }

EXPORT int64_t NAME(conv_floats)(const Conv *conv) {
    return padded(conv->channels) * (conv->bins + 2 + bins_out(conv) * conv->outputs + 3);
}

/* Frames from start to stop, before the norm, to out (T, outputs * bins, out_channels); their moments. */
EXPORT void NAME(conv)(
    const Conv *conv, const Rows *source, int64_t start, int64_t stop, float *out, int64_t out_channels,
    double *moments, float *scratch
) {
    const int64_t channels = conv->channels, width = padded(channels), columns = conv->outputs * width;
    const int64_t bins = bins_out(conv), all_bins = bins * conv->outputs;
    float *row = scratch, *made = row + (conv->bins + 2) * width;
    const Moments counted = moments_in(moments, width, made + bins * columns);
    const int64_t part = width / NUMBERS;
    const float *const taps[3] = {row, row + part, row + 2 * part};
    const Lefts lefts = {taps, 3, channels, conv->stride * part, 1};
    memset(row + (conv->bins + 1) * width, 0, width * sizeof(float));
    for (int64_t t = start; t < stop; t++) {
        memset(row, 0, width * sizeof(float));
        read_row(source, t, conv->bins, width, row + width);
        if (NUMBERS > 1) to_factors(row, (conv->bins + 2) * width, row);
        for (int64_t c = 0; c < columns; c += PANEL)
            product_store(
                lefts, bins, conv->panels + c * 3 * places(channels), conv->bias ? conv->bias + c : NULL, made + c,
                columns
            );
        if (t == start) memcpy(counted.near, made, width * sizeof(float));
        for (int64_t f = 0; f < all_bins; f++) {
            for (int64_t c = 0; c < width; c += WIDTH) {
                const vec y = load(made + f * width + c);
                count_in(&counted, c, 1, &y);
            }
            memcpy(out + (t * all_bins + f) * out_channels, made + f * width, out_channels * sizeof(float));
        }
        end_of_row(&counted, all_bins, width);
    }
}

/* What is read, to x (T, bins, C), which may be where it is read from. scratch: bins * width floats */
EXPORT void NAME(settle)(
    const Rows *source, int64_t start, int64_t stop, int64_t bins, int64_t channels, float *x, float *scratch
) {
    const int64_t width = padded(channels);
    for (int64_t t = start; t < stop; t++) {
        read_row(source, t, bins, width, scratch);
        for (int64_t f = 0; f < bins; f++)
            memcpy(x + (t * bins + f) * channels, scratch + f * width, channels * sizeof(float));
    }
}

/* The last convolutions, 1 x 2 with one output: of heads (C, 2 a head) and biases, from bins to outs of
   (bins - 1, frames) one after the other. scratch: bins * (width + PANEL) floats; at most 8 heads. */
EXPORT void NAME(heads)(
    const Rows *source, int64_t start, int64_t stop, int64_t bins, const Matrix *matrix, const float *biases,
    int64_t heads, float *const *outs, int64_t frames, float *scratch
) {
    const int64_t width = padded(matrix->depth);
    float *made = scratch + bins * width;
    for (int64_t t = start; t < stop; t++) {
        read_row(source, t, bins, width, scratch);
        if (NUMBERS > 1) to_factors(scratch, bins * width, scratch);
        linear_store(matrix, rows_of(scratch, width / NUMBERS), bins, made, PANEL);
        for (int64_t i = 0; i < heads; i++)
            for (int64_t f = 0; f + 1 < bins; f++)
                outs[i][f * frames + t] = made[f * PANEL + 2 * i] + made[(f + 1) * PANEL + 2 * i + 1] + biases[i];
    }
}

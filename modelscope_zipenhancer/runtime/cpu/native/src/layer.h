/* A Zipformer layer with folded weights (../../fold.py), one sequence after the other.

   L positions, C channels; tokens lie as (L, width), width = padded(C), zeros beyond C. Attention weights lie
   transposed, in strips of PANEL queries, (L keys, PANEL): so a strip is a panel that values are multiplied by,
   and a sum over keys needs no sum over a vector's lanes. */

typedef struct {
    Matrix in, out;
} FeedForward;

typedef struct {
    Matrix value, out;
} Attention;

typedef struct {
    Matrix value, gate, out;
    const float *taps; /* (kernel, width) */
    const float *bias; /* (width,) */
} Convolution;

typedef struct {
    int64_t channels, heads, query, positional, value, gated, kernel; /* the three after heads: of a head */
    Matrix scores;                                                   /* queries, keys, positional queries */
    FeedForward feed_forwards[3];
    Matrix gated_gate, gated_value, gated_output, gated_out;
    Attention attentions[2];
    Convolution convolutions[2];
    const float *bypass, *offset, *norm_bias, *out_bypass; /* (width,) each */
    double norm_scale;
} Layer;

typedef struct {
    float *origin, *tokens, *weights, *norms, *factors;       /* of all the layer; factors: the tokens again */
    float *projected, *queries, *positional;                  /* of its attention scores */
    float *gate, *output, *attended;                          /* of gated attention */
    float *values, *values_attended;                          /* of attention */
    float *gated, *activated;                                 /* of the convolution */
    float *hidden;                                            /* of feed-forward modules */
} Memory;

#define DEPTHWISE_ROWS 8

/* Where all lies, from base on; returns how many floats that takes. */
static int64_t lay_out(const Layer *layer, int64_t length, float *base, Memory *memory) {
    const int64_t width = padded(layer->channels), lanes = padded(length), heads = layer->heads;
    const int64_t gated = padded(layer->gated), values = heads * layer->value;
    int64_t hidden = 0, at = 0, end = 0;
    for (int i = 0; i < 3; i++)
        if (layer->feed_forwards[i].in.columns > hidden) hidden = layer->feed_forwards[i].in.columns;
#define PLACE(name, floats) (memory->name = base ? base + at : NULL, at += padded(floats))
    PLACE(origin, length * width);
    PLACE(tokens, length * width);
    PLACE(weights, heads * lanes * length);
    PLACE(norms, heads * lanes);
    PLACE(factors, NUMBERS > 1 ? length * width / NUMBERS : 0);
    const int64_t shared = at; /* what follows is of one module each, all in the same place */
#define BEGIN (end = at > end ? at : end, at = shared)
    PLACE(projected, length * layer->scores.columns);
    PLACE(queries, heads * lanes * layer->query);
    PLACE(positional, heads * lanes * layer->positional);
    BEGIN;
    PLACE(gate, length * gated);
    PLACE(output, length * gated);
    PLACE(attended, layer->gated * lanes);
    BEGIN;
    PLACE(values, length * padded(values));
    PLACE(values_attended, values * lanes);
    BEGIN;
    PLACE(gated, (length + layer->kernel + DEPTHWISE_ROWS) * width);
    PLACE(activated, (BLOCK + DEPTHWISE_ROWS) * width / NUMBERS);
    BEGIN;
    PLACE(hidden, BLOCK * hidden / NUMBERS);
    BEGIN;
#undef PLACE
#undef BEGIN
    return end;
}

/* Columns of x (length, row) from `column` on, transposed: strips (depth, PANEL) of positions, zeros beyond. */
static void to_strips(
    const float *x, ptrdiff_t row, int64_t length, int64_t column, int64_t depth, float *out
) {
    for (int64_t strip = 0; strip < length; strip += PANEL) {
        const int64_t count = length - strip < PANEL ? length - strip : PANEL;
        for (int64_t d = 0; d < depth; d++, out += PANEL) {
            const float *from = x + strip * row + column + d;
            for (int64_t i = 0; i < count; i++) out[i] = from[i * row];
            for (int64_t i = count; i < PANEL; i++) out[i] = 0;
        }
    }
}

/* Some tokens as a left factor. */
static Left factors_of(const Memory *memory, int64_t row, int64_t rows, int64_t width) {
    if (NUMBERS == 1) return rows_of(memory->tokens + row * width, width);
    to_factors(memory->tokens + row * width, rows * width, memory->factors);
    return rows_of(memory->factors, width / NUMBERS);
}

/* x (depth, lanes), in place, as a left factor (lanes, depth) */
static Left transposed(float *x, int64_t depth, int64_t lanes) {
    const Left left = {x, 1, lanes};
    for (int64_t d = 0; NUMBERS > 1 && d < depth; d += NUMBERS)
        for (int64_t i = 0; i < lanes; i += WIDTH) {
            const float *first = x + d * lanes + i;
            const vec second = d + 1 < depth ? load(first + lanes) : all(0.0f);
            store(x + d / NUMBERS * lanes + i, paired(load(first), second));
        }
    return left;
}

enum { EXP2, EXP2_SHIFTED, MAXIMUM };

/* Scores of some keys by a strip of queries, in log2: 2 to their power, and the sums of that, or their maxima. */
INLINE void score_tile(
    const int keys, const int mode, Left key, const float *queries, int64_t query, const float *positional,
    int64_t positional_depth, const float *offsets, ptrdiff_t offsets_row, const float *shift, float *out,
    float *sums
) {
    vec acc[ROWS][VECTORS];
    UNROLL
    for (int r = 0; r < keys; r++) {
        UNROLL
        for (int v = 0; v < VECTORS; v++) acc[r][v] = all(0.0f);
    }
    multiply(keys, 0, acc, key, query, queries);
    for (int64_t d = 0; d < positional_depth; d++) {
        UNROLL
        for (int v = 0; v < VECTORS; v++) {
            const vec p = load(positional + d * PANEL + v * WIDTH);
            UNROLL
            for (int r = 0; r < keys; r++)
                acc[r][v] = fma3(p, load(offsets + d * offsets_row + v * WIDTH - r), acc[r][v]);
        }
    }
    UNROLL
    for (int v = 0; v < VECTORS; v++) {
        vec total = load(sums + v * WIDTH);
        UNROLL
        for (int r = 0; r < keys; r++) {
            vec y = acc[r][v];
            if (mode == MAXIMUM) {
                total = max(y, total);
                continue;
            }
            y = exp2_of(mode == EXP2_SHIFTED ? sub(y, load(shift + v * WIDTH)) : y);
            total = add(total, y);
            store(out + r * PANEL + v * WIDTH, y);
        }
        store(sums + v * WIDTH, total);
    }
}

INLINE void score_strip(
    const int mode, const Layer *layer, int64_t length, int64_t head, const float *keys,
    const float *queries, const float *positional, const float *offsets, ptrdiff_t offsets_row,
    const float *shift, float *out, float *sums
) {
    const ptrdiff_t row = layer->scores.columns;
    for (int i = 0; i < PANEL; i++) sums[i] = mode == MAXIMUM ? -INFINITY : 0.0f;
    for (EACH_TILE(i, first, count, length)) {
        const Left key = {keys + first * row + head * layer->query, row, 1};
#define CASE(r)                                                                                      \
    case r:                                                                                          \
        score_tile(                                                                                  \
            r, mode, key, queries, layer->query, positional, layer->positional, offsets - first,     \
            offsets_row, shift, out + first * PANEL, sums                                            \
        );                                                                                           \
        break;
        BY_ROWS(count, CASE)
#undef CASE
    }
}

#define SCORE_STRIP(name, mode)                                                                      \
    static void name(                                                                                \
        const Layer *layer, int64_t length, int64_t head, const float *keys, const float *queries,   \
        const float *positional, const float *offsets, ptrdiff_t offsets_row, const float *shift,    \
        float *out, float *sums                                                                      \
    ) {                                                                                              \
        score_strip(                                                                                 \
            mode, layer, length, head, keys, queries, positional, offsets, offsets_row, shift, out,  \
            sums                                                                                     \
        );                                                                                           \
    }
SCORE_STRIP(score_exp2, EXP2)
SCORE_STRIP(score_exp2_shifted, EXP2_SHIFTED)
SCORE_STRIP(score_maximum, MAXIMUM)

/* Softmax without its division: weights, and 1 / their sums, norms (H, lanes).

   The maximum is subtracted only where 2 to the power of the scores is out of range; Zipformers are trained to
   keep them within 36. offsets: (H, positional, offsets_row) of the offset L - 1 - m at m. */
static void attention_weights(
    const Layer *layer, const Memory *memory, int64_t length, const float *offsets, ptrdiff_t offsets_row
) {
    const int64_t query = layer->query, positional = layer->positional, columns = layer->scores.columns;
    const int64_t heads = layer->heads, lanes = padded(length);
    const Left tokens = factors_of(memory, 0, length, padded(layer->channels));
    linear_store(&layer->scores, tokens, length, memory->projected, columns);
    const float *keys = memory->projected + heads * query;
    for (int64_t head = 0; head < heads; head++) {
        float *queries = memory->queries + head * query * lanes;
        float *positionals = memory->positional + head * positional * lanes;
        to_strips(memory->projected, columns, length, head * query, query, queries);
        to_strips(
            memory->projected, columns, length, 2 * heads * query + head * positional, positional, positionals
        );
        for (int64_t strip = 0; strip < lanes; strip += PANEL) {
            const float *q = queries + strip * query, *p = positionals + strip * positional;
            const float *o = offsets + head * positional * offsets_row + strip + length - 1;
            float *out = memory->weights + (head * lanes + strip) * length;
            float *norms = memory->norms + head * lanes + strip, shift[PANEL];
            score_exp2(layer, length, head, keys, q, p, o, offsets_row, NULL, out, norms);
            int in_range = 1;
            for (int i = 0; i < PANEL; i++) in_range &= norms[i] > 1e-30f && norms[i] < 1e30f;
            if (!in_range) {
                score_maximum(layer, length, head, keys, q, p, o, offsets_row, NULL, NULL, shift);
                score_exp2_shifted(layer, length, head, keys, q, p, o, offsets_row, shift, out, norms);
            }
            for (int i = 0; i < PANEL; i++) norms[i] = 1.0f / norms[i];
        }
    }
}

INLINE void attend_tile(
    const int rows, Left values, int64_t length, const float *weights, const float *norms, float *out,
    ptrdiff_t lanes
) {
    vec acc[ROWS][VECTORS];
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int v = 0; v < VECTORS; v++) acc[r][v] = all(0.0f);
    }
    multiply(rows, 0, acc, values, length, weights);
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int v = 0; v < VECTORS; v++)
            store(out + r * lanes + v * WIDTH, mul(acc[r][v], load(norms + v * WIDTH)));
    }
}

/* The weights of a head on values (L, row), of which it takes `count` columns: out (count, lanes). */
static void attend(
    const Memory *memory, int64_t length, int64_t head, const float *values, ptrdiff_t row, int64_t count,
    float *out
) {
    const int64_t lanes = padded(length);
    for (int64_t strip = 0; strip < lanes; strip += PANEL) {
        const float *weights = memory->weights + (head * lanes + strip) * length;
        const float *norms = memory->norms + head * lanes + strip;
        for (EACH_TILE(i, first, rows, count)) {
            const Left left = {values + first, 1, row};
            float *to = out + first * lanes + strip;
#define CASE(r)                                                                                      \
    case r:                                                                                          \
        attend_tile(r, left, length, weights, norms, to, lanes);                                     \
        break;
            BY_ROWS(rows, CASE)
#undef CASE
        }
    }
}

static void feed_forward(const FeedForward *module, const Memory *memory, int64_t length, int64_t width) {
    for (int64_t row = 0; row < length; row += BLOCK) {
        const int64_t rows = length - row < BLOCK ? length - row : BLOCK, columns = module->in.columns / NUMBERS;
        linear_swoosh(&module->in, factors_of(memory, row, rows, width), rows, memory->hidden, columns);
        linear_add(&module->out, rows_of(memory->hidden, columns), rows, memory->tokens + row * width, width);
    }
}

static void gated_attention(const Layer *layer, const Memory *memory, int64_t length, int64_t width) {
    const Left tokens = factors_of(memory, 0, length, width);
    const int64_t columns = padded(layer->gated), lanes = padded(length);
    linear_store(&layer->gated_gate, tokens, length, memory->gate, columns);
    linear_tanh(&layer->gated_value, tokens, length, memory->gate, columns);
    attend(memory, length, 0, memory->gate, columns, layer->gated, memory->attended);
    linear_store(&layer->gated_output, tokens, length, memory->output, columns);
    for (int64_t d = 0; d < layer->gated; d++)
        for (int64_t i = 0; i < length; i++)
            memory->attended[d * lanes + i] *= memory->output[i * columns + d];
    const Left attended = transposed(memory->attended, layer->gated, lanes);
    linear_add(&layer->gated_out, attended, length, memory->tokens, width);
}

static void attention(
    const Layer *layer, const Attention *module, const Memory *memory, int64_t length, int64_t width
) {
    const int64_t columns = module->value.columns, lanes = padded(length), value = layer->value;
    linear_store(&module->value, factors_of(memory, 0, length, width), length, memory->values, columns);
    for (int64_t head = 0; head < layer->heads; head++) {
        float *out = memory->values_attended + head * value * lanes;
        attend(memory, length, head, memory->values + head * value, columns, value, out);
    }
    const Left attended = transposed(memory->values_attended, layer->heads * value, lanes);
    linear_add(&module->out, attended, length, memory->tokens, width);
}

/* out (DEPTHWISE_ROWS, width), factors, = swoosh2 of the depthwise convolution of x (that and kernel - 1 more, width) */
static void depthwise(const Convolution *module, int64_t kernel, const float *x, int64_t width, float *out) {
    for (int64_t c = 0; c < width; c += WIDTH) {
        vec acc[DEPTHWISE_ROWS];
        UNROLL
        for (int r = 0; r < DEPTHWISE_ROWS; r++) acc[r] = load(module->bias + c);
        for (int64_t k = 0; k < kernel; k++) {
            const vec tap = load(module->taps + k * width + c);
            UNROLL
            for (int r = 0; r < DEPTHWISE_ROWS; r++)
                acc[r] = fma3(tap, load(x + (k + r) * width + c), acc[r]);
        }
        UNROLL
        for (int r = 0; r < DEPTHWISE_ROWS; r++) store_factors(out + r * width / NUMBERS, c, swoosh2(acc[r]));
    }
}

static void convolution(
    const Layer *layer, const Convolution *module, const Memory *memory, int64_t length, int64_t width
) {
    const Left tokens = factors_of(memory, 0, length, width);
    const int64_t part = width / NUMBERS, around = layer->kernel / 2;
    float *x = memory->gated + around * width;
    memset(memory->gated, 0, around * width * sizeof(float));
    memset(x + length * width, 0, (around + DEPTHWISE_ROWS) * width * sizeof(float));
    linear_store(&module->gate, tokens, length, x, width);
    linear_sigmoid(&module->value, tokens, length, x, width);
    for (int64_t row = 0; row < length; row += BLOCK) {
        const int64_t rows = length - row < BLOCK ? length - row : BLOCK;
        for (int64_t i = 0; i < rows; i += DEPTHWISE_ROWS)
            depthwise(module, layer->kernel, memory->gated + (row + i) * width, width, memory->activated + i * part);
        linear_add(&module->out, rows_of(memory->activated, part), rows, memory->tokens + row * width, width);
    }
}

/* BiasNorm, and the bypass from the layer's input: tokens, in place */
static void norm_and_bypass(const Layer *layer, const Memory *memory, int64_t length, int64_t width) {
    for (int64_t i = 0; i < length; i++) {
        float *x = memory->tokens + i * width, squares[WIDTH], sum = 0;
        const float *origin = memory->origin + i * width;
        vec total = all(0.0f);
        for (int64_t c = 0; c < width; c += WIDTH) {
            const vec y = add(load(x + c), load(layer->offset + c)), centred = sub(y, load(layer->norm_bias + c));
            store(x + c, y);
            total = fma3(centred, centred, total);
        }
        store(squares, total);
        for (int j = 0; j < WIDTH; j++) sum += squares[j];
        const vec scale = all((float)(layer->norm_scale / sqrtf(sum)));
        for (int64_t c = 0; c < width; c += WIDTH) {
            const vec from = load(origin + c), way = sub(mul(load(x + c), scale), from);
            store(x + c, fma3(way, load(layer->out_bypass + c), from));
        }
    }
}

static void mid_bypass(const Layer *layer, const Memory *memory, int64_t length, int64_t width) {
    for (int64_t i = 0; i < length * width; i += width)
        for (int64_t c = 0; c < width; c += WIDTH) {
            const vec from = load(memory->origin + i + c), way = sub(load(memory->tokens + i + c), from);
            store(memory->tokens + i + c, fma3(way, load(layer->bypass + c), from));
        }
}

EXPORT int64_t NAME(layer_floats)(const Layer *layer, int64_t length) {
    Memory memory;
    return lay_out(layer, length, NULL, &memory);
}

/* x: sequences of `length` positions of `channels` floats, in place; strides in floats. offsets: see
   attention_weights. scratch: layer_floats(layer, length) floats. */
EXPORT void NAME(layer)(
    const Layer *layer, float *x, int64_t sequences, int64_t sequence_stride, int64_t length,
    int64_t position_stride, const float *offsets, int64_t offsets_row, float *scratch
) {
    const int64_t channels = layer->channels, width = padded(channels);
    Memory memory;
    lay_out(layer, length, scratch, &memory);
    for (; sequences > 0; sequences--, x += sequence_stride) {
        for (int64_t i = 0; i < length; i++) {
            float *origin = memory.origin + i * width;
            memcpy(origin, x + i * position_stride, channels * sizeof(float));
            memset(origin + channels, 0, (width - channels) * sizeof(float));
        }
        memcpy(memory.tokens, memory.origin, length * width * sizeof(float));
        attention_weights(layer, &memory, length, offsets, offsets_row);
        feed_forward(&layer->feed_forwards[0], &memory, length, width);
        gated_attention(layer, &memory, length, width);
        attention(layer, &layer->attentions[0], &memory, length, width);
        convolution(layer, &layer->convolutions[0], &memory, length, width);
        feed_forward(&layer->feed_forwards[1], &memory, length, width);
        mid_bypass(layer, &memory, length, width);
        attention(layer, &layer->attentions[1], &memory, length, width);
        convolution(layer, &layer->convolutions[1], &memory, length, width);
        feed_forward(&layer->feed_forwards[2], &memory, length, width);
        norm_and_bypass(layer, &memory, length, width);
        for (int64_t i = 0; i < length; i++)
            memcpy(x + i * position_stride, memory.tokens + i * width, channels * sizeof(float));
    }
}

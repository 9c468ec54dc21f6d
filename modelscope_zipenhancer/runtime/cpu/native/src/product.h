/* Products of matrices, with what follows done while a tile of the result is in the registers.

   A matrix of weights lies in panels of PANEL columns: (columns / PANEL, places(depth), PANEL), columns filled up
   with zeros. A left factor has any strides, so that a transposed one needs no copy. */

typedef struct {
    const float *panels;
    const float *bias; /* (columns,) or NULL */
    int64_t depth, columns;
} Matrix;

enum {
    STORE,   /* out = product */
    ADD,     /* out += product */
    SWOOSH,  /* out = swoosh2(product), as factors */
    SIGMOID, /* out = product * sigmoid2(out) */
    TANH,    /* out = product * (1 - 2 sigmoid2(out)): minus tanh, of out / (2 log2(e)) */
};

#define BLOCK 48 /* rows that go through a module together: they and what is made of them fit the cache */

typedef struct {
    const float *start;
    ptrdiff_t row, step; /* floats between rows, and between columns */
} Left;

/* acc += rows of a left factor, depth deep, times a panel; both of floats, or of what products take */
INLINE void multiply(
    const int rows, const int factors, vec acc[ROWS][VECTORS], Left left, int64_t depth, const float *panel
) {
    const float *a = left.start;
    for (int64_t k = 0; k < depth; k++) {
        vec b[VECTORS];
        UNROLL
        for (int v = 0; v < VECTORS; v++) b[v] = load(panel + v * WIDTH);
        UNROLL
        for (int r = 0; r < rows; r++) {
            const float *x = a + r * left.row;
            UNROLL
            for (int v = 0; v < VECTORS; v++)
                acc[r][v] = factors ? multiply_add(x, b[v], acc[r][v]) : fma3(all(*x), b[v], acc[r][v]);
        }
        a += left.step;
        panel += PANEL;
    }
}

/* Left factors side by side, of the same strides, and each of the same depth. */
typedef struct {
    const float *const *starts;
    int64_t count, depth;
    ptrdiff_t row, step;
} Lefts;

INLINE void product_tile(
    const int rows, const int mode, Lefts lefts, int64_t first, const float *panel, const float *bias, float *out,
    ptrdiff_t out_row
) {
    const int64_t depth = places(lefts.depth);
    vec acc[ROWS][VECTORS];
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int v = 0; v < VECTORS; v++)
            acc[r][v] = bias ? load(bias + v * WIDTH) : all(0.0f);
    }
    for (int64_t i = 0; i < lefts.count; i++) {
        const Left left = {lefts.starts[i] + first * lefts.row, lefts.row, lefts.step};
        multiply(rows, 1, acc, left, depth, panel + i * depth * PANEL);
    }
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int v = 0; v < VECTORS; v++) {
            float *to = out + (first + r) * out_row + v * WIDTH;
            vec y = acc[r][v];
            if (mode == SWOOSH) {
                store_factors(out + (first + r) * out_row, v * WIDTH, swoosh2(y));
                continue;
            }
            if (mode == ADD) y = add(y, load(to)); /* last: what is there may be large, and be rounded to */
            if (mode == SIGMOID) y = mul(y, sigmoid2(load(to)));
            if (mode == TANH) y = mul(y, fma3(all(-2.0f), sigmoid2(load(to)), all(1.0f)));
            store(to, y);
        }
    }
}

/* A switch over the rows of a tile, each with code of its own. */
#if ROWS == 4
#define BY_ROWS(rows, CASE) switch (rows) { CASE(1) CASE(2) CASE(3) CASE(4) }
#elif ROWS == 6
#define BY_ROWS(rows, CASE) switch (rows) { CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) }
#else
#define BY_ROWS(rows, CASE)                                                                          \
    switch (rows) { CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) }
#endif

/* Rows are shared out to as few tiles as they need, as evenly as can be: for (EACH_TILE(i, from, count, rows)) */
#define EACH_TILE(tile, first, count, rows)                                                          \
    int64_t tile = 0, tiles_##tile = ((rows) + ROWS - 1) / ROWS, first = 0,                          \
            count = tiles_##tile ? (rows) / tiles_##tile : 0;                                        \
    tile < tiles_##tile;                                                                             \
    tile++, first += count, count = (rows) * (tile + 1) / tiles_##tile - first

/* out (rows, PANEL) = mode of lefts @ panel + bias */
INLINE void product(
    const int mode, Lefts lefts, int64_t rows, const float *panel, const float *bias, float *out, ptrdiff_t out_row
) {
    for (EACH_TILE(i, first, count, rows)) {
#define CASE(r)                                                                                      \
    case r:                                                                                          \
        product_tile(r, mode, lefts, first, panel, bias, out, out_row);                              \
        break;
        BY_ROWS(count, CASE)
#undef CASE
    }
}

/* out (rows, columns) = mode of left (rows, depth) @ matrix + bias */
INLINE void linear(const Matrix *matrix, const int mode, Left left, int64_t rows, float *out, ptrdiff_t out_row) {
    for (int64_t block = 0; block < rows; block += BLOCK) {
        const int64_t height = rows - block < BLOCK ? rows - block : BLOCK;
        const float *const start = left.start + block * left.row;
        const Lefts lefts = {&start, 1, matrix->depth, left.row, left.step};
        for (int64_t column = 0; column < matrix->columns; column += PANEL) {
            const float *panel = matrix->panels + column * places(matrix->depth);
            const float *bias = matrix->bias ? matrix->bias + column : NULL;
            float *to = out + block * out_row + (mode == SWOOSH ? column / NUMBERS : column);
            product(mode, lefts, height, panel, bias, to, out_row);
        }
    }
}

/* One function for each mode, so that its code is there once. */
#define LINEAR(name, mode)                                                                           \
    static void name(const Matrix *matrix, Left left, int64_t rows, float *out, ptrdiff_t out_row) { \
        linear(matrix, mode, left, rows, out, out_row);                                              \
    }
LINEAR(linear_store, STORE)
LINEAR(linear_add, ADD)
LINEAR(linear_swoosh, SWOOSH)
LINEAR(linear_sigmoid, SIGMOID)
LINEAR(linear_tanh, TANH)

INLINE Left rows_of(const float *start, ptrdiff_t row) {
    const Left left = {start, row, 1};
    return left;
}

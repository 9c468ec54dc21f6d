/* Functions of vectors. Polynomials are minimax, of relative error; all errors are below 5e-7. */

/* 2 ** x; 0 below -126.5, infinite above 127.5. */
INLINE vec exp2_of(vec x) {
    const vec round = all(12582912.0f); /* 1.5 * 2 ** 23: adding it rounds to a whole number */
    x = max(all(-127.0f), min(all(128.0f), x));
    vec whole = add(x, round), rest = sub(x, sub(whole, round));
    vec y = all(0.000153458118f);
    y = fma3(y, rest, all(0.00133999312f));
    y = fma3(y, rest, all(0.00961848896f));
    y = fma3(y, rest, all(0.0555032878f));
    y = fma3(y, rest, all(0.240226469f));
    y = fma3(y, rest, all(0.693147206f));
    y = fma3(y, rest, all(1.0f));
    return mul(y, power_of_two(whole));
}

/* log2(1 + 2 ** x) */
INLINE vec softplus2(vec x) {
    vec y = exp2_of(min(x, sub(all(0.0f), x))); /* of -|x| */
    vec z = all(0.00754917801f); /* log2(1 + y) / y */
    z = fma3(z, y, all(-0.0425670454f));
    z = fma3(z, y, all(0.112856166f));
    z = fma3(z, y, all(-0.197118947f));
    z = fma3(z, y, all(0.275641401f));
    z = fma3(z, y, all(-0.35840847f));
    z = fma3(z, y, all(0.480692957f));
    z = fma3(z, y, all(-0.721340208f));
    z = fma3(z, y, all(1.442695f));
    return fma3(z, y, max(all(0.0f), x));
}

/* Swoosh over log 2, of log2(e) times its argument: log2(1 + 2 ** x) - 0.08 x. */
INLINE vec swoosh2(vec x) { return fma3(x, all(-0.08f), softplus2(x)); }

/* 1 / (1 + 2 ** -x): the logistic function of x / log2(e). */
INLINE vec sigmoid2(vec x) {
    return quotient(all(1.0f), add(all(1.0f), exp2_of(sub(all(0.0f), x))));
}

INLINE vec prelu(vec x, vec slope) { return fma3(slope, min(all(0.0f), x), max(all(0.0f), x)); }

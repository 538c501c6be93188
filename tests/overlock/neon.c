/* The kernels as a program: numbers and arrays from stdin, results to stdout, in the order of test_neon.py. */
#include "kernels.c"
#include <stdio.h>

static float *in(long n) {
    float *to = aligned_alloc(64, (n + 15) / 16 * 64);
    if (!to || fread(to, sizeof(float), n, stdin) != (size_t)n)
        exit(3);
    return to;
}

static float *room(long n) { return aligned_alloc(64, (n + 15) / 16 * 64); }

static void out(const float *from, long n) { fwrite(from, sizeof(float), n, stdout); }

int main(void) {
    int64_t n[9];
    if (LANES != 4 || !MANY || fread(n, sizeof(int64_t), 9, stdin) != 9)
        return 2;
    long b = n[0], g = n[1], cq = n[2], c = n[3], h = n[4], w = n[5], k = n[6], large = n[7], channels = n[8];
    long tokens = b * h * w, taps = k * k + large * large;
    long spans[2] = {(2 * k - 1) * (2 * k - 1), (2 * large - 1) * (2 * large - 1)};
    Contmix m = {in(tokens * g * cq), in(tokens * 2 * g * c), in(b * g * cq * taps), in(taps), {in(g * spans[0]), in(g * spans[1])},
                 NULL, b, g, cq, c, h, w, {k, large}, 0, 2};
    float *mixed = room(tokens * 2 * g * c);
    if (contmix_forward(&m, mixed))
        return 1;
    out(mixed, tokens * 2 * g * c);
    Gradients d = {in(tokens * 2 * g * c), room(tokens * g * cq), room(tokens * 2 * g * c), room(b * g * cq * taps), room(b * g * taps),
                   {room(b * g * spans[0]), room(b * g * spans[1])}};
    if (contmix_backward(&m, &d))
        return 1;
    out(d.q, tokens * g * cq);
    out(d.v, tokens * 2 * g * c);
    out(d.projected, b * g * cq * taps);
    out(d.proj_bias, b * g * taps);
    out(d.rpb[0], b * g * spans[0]);
    out(d.rpb[1], b * g * spans[1]);
    float *x = in(tokens * channels), *grad = in(tokens * channels), *large_taps = in(large * large * channels);
    float *small_taps = in(9 * channels), *bias = in(channels), *gamma = in(channels), *y = room(tokens * channels);
    Convolution conv = {x, y, large_taps, bias, b, h, w, channels, large, 0, 0, 2};
    if (depthwise_convolution(&conv))
        return 1;
    out(y, tokens * channels);
    float *weight = room(large * large * channels);
    Depthwise dw = {x, grad, weight, b, h, w, channels, large, 1, 0, 2};
    if (depthwise_weight_gradient(&dw))
        return 1;
    out(weight, large * large * channels);
    Grn grn = {x, small_taps, bias, gamma, NULL, b, h, w, channels, 0, 2};
    if (grn_(&grn))
        return 1;
    out(x, tokens * channels);
    long middle = 2 * channels, inner = 16;
    const float *down = in(channels * inner), *down_bias = in(inner), *up = in(inner * channels);
    const float *widen = in(middle * channels), *widen_bias = in(middle), *middle_taps = in(9 * middle);
    const float *narrow = in(middle * channels);
    float *packed_widen = room(packed_floats(middle, channels, 0)), *packed_narrow = room(packed_floats(channels, middle, 0));
    pack_product(widen, packed_widen, middle, channels, 0);
    pack_product(narrow, packed_narrow, channels, middle, 0);
    RepConv block = {.channels = channels, .dwconv = {small_taps, bias, 3}, .large = {large_taps, bias, large},
                     .norm = {gamma, bias, 1e-6f}, .se = {down, down_bias, up, bias, inner}, .residual_scale = gamma};
    block.mlp = (Mlp){{packed_widen, widen_bias, channels, middle}, {packed_narrow, bias, middle, channels},
                      {middle_taps, widen_bias, 3}, widen_bias};
    Images images = {b, h, w, 0, 2};
    if (rep_conv_block(&block, &images, grad, y, (char *)room(rep_conv_block_bytes(&block, &images) / 4)))
        return 1;
    out(y, tokens * channels);
    long taps9 = b * 9 * channels, per_image = b * channels;
    Hidden hidden = {in(tokens * channels), small_taps, bias, gamma, in(channels), room(per_image), b, h, w, channels, 0, 2};
    HiddenGradients of = {grad, room(tokens * channels), room(taps9), room(per_image), room(per_image), room(per_image)};
    if (hidden_forward(&hidden, y) || hidden_backward(&hidden, &of))
        return 1;
    out(y, tokens * channels);
    out(of.x, tokens * channels);
    out(of.taps, taps9);
    out(of.bias, per_image);
    out(of.gamma, per_image);
    out(of.beta, per_image);
    long all = large * large + 9; /* two branches: the large kernel, and the small one at a dilation of 2 */
    Branches branches = {hidden.x, in(all * channels), b, h, w, channels, 2, {large, 3}, {1, 2}, 0, 2};
    float *means = in(2 * channels), *image_means = room(2 * per_image), *squares = room(2 * per_image);
    float *sums = room(per_image), *products = room(2 * per_image), *d_taps = room(b * all * channels);
    if (branch_statistics(&branches, image_means, squares) || branch_products(&branches, grad, means, sums, products) ||
        branch_gradients(&branches, grad, in(6 * channels), b, x, d_taps))
        return 1;
    out(image_means, 2 * per_image);
    out(squares, 2 * per_image);
    out(sums, per_image);
    out(products, 2 * per_image);
    out(x, tokens * channels);
    out(d_taps, b * all * channels);
    Residual residual = {bias, gamma, in(b), b, h * w, channels, 0, 2};
    float *d_weight = room(b * channels), *d_bias = room(b * channels);
    if (residual_forward(&residual, hidden.x, grad, y) ||
        residual_backward(&residual, grad, hidden.x, b, x, of.x, d_weight, d_bias))
        return 1;
    out(y, tokens * channels);
    out(x, tokens * channels);
    out(of.x, tokens * channels);
    out(d_weight, b * channels);
    out(d_bias, b * channels);
    return 0;
}

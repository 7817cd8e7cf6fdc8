/* SPDX-License-Identifier: Apache-2.0 */
/* The arithmetic of a transformer layer, on plain float arrays. Rows are tokens; nothing here can
 * fail. */
#ifndef LLAMA_OPS_H
#define LLAMA_OPS_H

#include <stddef.h>

/*
 * Inner loops run over a fixed number of independent sums, which compilers turn into vector
 * instructions at -O2. A single running sum they may not reorder, so it would stay scalar.
 */
#define LLAMA_DOT_LANES 8u      /* partial sums of a dot product; divides head_dim */
#define LLAMA_PANEL_OUTPUTS 32u /* outputs of a matrix that are computed side by side */

/*
 * A weight matrix, arranged for llama_matmul(): panels of LLAMA_PANEL_OUTPUTS outputs, in each
 * panel [input][output in panel], the last panel filled up with zeros.
 */
typedef struct llama_matrix {
	float *panels;
	size_t n_in, n_out;
} llama_matrix;

/* y[token][n_out] = x[token][n_in] times the matrix. x and y must not overlap. */
void llama_matmul(const llama_matrix *matrix, const float *x, size_t n_tokens, float *y);

/* y = x / rms(x) * weight, for each row of `width`. */
void llama_rms_norm(
    const float *weight, float eps, const float *x, size_t n_tokens, size_t width, float *y);

/*
 * Rotates one head's vector: element i with element i + head_dim / 2 by angle i of its position.
 * cos_sin holds the position's head_dim / 2 cosines, then as many sines.
 */
void llama_rope(const float *cos_sin, size_t head_dim, float *x);

float llama_dot(const float *a, const float *b, size_t n); /* n: a multiple of LLAMA_DOT_LANES */

/* sum += weight * x; n: a multiple of LLAMA_DOT_LANES. x and sum must not overlap. */
void llama_add_scaled(float weight, const float *restrict x, size_t n, float *restrict sum);

void llama_softmax(float *x, size_t n);                    /* in place, n >= 1 */
void llama_swiglu(const float *up, size_t n, float *gate); /* gate = silu(gate) * up */
void llama_add(const float *x, size_t n, float *sum);      /* sum += x */

#endif
